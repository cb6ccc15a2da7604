//! Wall time for Criterion, with rates as a share of the measured peak.

use std::fmt;

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use tracknet_kernels::peak::{self, Peak};

/// Wall time, and what the processor can reach.
pub(crate) struct Roofline {
    time: WallTime,
    rates: Rates,
}

#[derive(Clone, Copy)]
struct Rates {
    f32: Peak,
    bf16: Peak,
    /// GB/s, reading and writing.
    memory: f64,
}

/// Operations in 32-bit floats (`f32`) or with bfloat16 factors (`bf16`).
pub(crate) fn operations(count: usize, dtype: &str) -> Throughput {
    // Criterion has three kinds of counts, and no names of one's own for them.
    match dtype {
        "bf16" => Throughput::BytesDecimal(count as u64),
        _ => Throughput::Elements(count as u64),
    }
}

/// Bytes read and written.
pub(crate) fn bytes(count: usize) -> Throughput {
    Throughput::Bytes(count as u64)
}

impl Roofline {
    pub(crate) fn measure() -> Self {
        Self { time: WallTime, rates: Rates { f32: peak::f32(), bf16: peak::bf16(), memory: peak::memory() } }
    }
}

impl fmt::Display for Roofline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rates { f32, bf16, memory } = &self.rates;
        write!(
            f,
            "measured peak: {:.0} GFLOP/s in f32 ({}), {:.0} in bf16 ({}), {memory:.1} GB/s of memory",
            f32.gflops, f32.instructions, bf16.gflops, bf16.instructions
        )
    }
}

impl Measurement for Roofline {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = <WallTime as Measurement>::Value;

    fn start(&self) -> Self::Intermediate {
        self.time.start()
    }

    fn end(&self, start: Self::Intermediate) -> Self::Value {
        self.time.end(start)
    }

    fn add(&self, a: &Self::Value, b: &Self::Value) -> Self::Value {
        self.time.add(a, b)
    }

    fn zero(&self) -> Self::Value {
        self.time.zero()
    }

    fn to_f64(&self, value: &Self::Value) -> f64 {
        self.time.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl Roofline {
    /// Billions of what `throughput` counts, what they are called, and their peak. `nanoseconds` is a time.
    fn rate(&self, throughput: &Throughput, nanoseconds: f64) -> (f64, &'static str, f64) {
        let Rates { f32, bf16, memory } = &self.rates;
        match throughput {
            Throughput::BytesDecimal(count) => (*count as f64 / nanoseconds, "GFLOP/s", bf16.gflops),
            Throughput::Bytes(count) => (*count as f64 / nanoseconds, "GB/s", *memory),
            Throughput::Elements(count) => (*count as f64 / nanoseconds, "GFLOP/s", f32.gflops),
            _ => (0.0, "", f64::INFINITY),
        }
    }
}

impl ValueFormatter for Roofline {
    fn format_throughput(&self, throughput: &Throughput, value: f64) -> String {
        let (rate, unit, peak) = self.rate(throughput, value);
        format!("{rate:.1} {unit} ({:.0} %)", 100.0 * rate / peak)
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        self.time.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, _typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        let mut unit = "";
        for value in values {
            (*value, unit, _) = self.rate(throughput, *value);
        }
        unit
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        self.time.formatter().scale_for_machines(values)
    }
}
