//! The table, as Markdown and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Arithmetic, Machine, Measurement};

/// What was measured on a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this program.
    pub version: String,
    /// Where.
    pub machine: Machine,
    /// What computed: `cpu`, or the name of a GPU as `--device` takes it.
    pub device: String,
    /// In the order of the table.
    pub workloads: Vec<Measurement>,
}

impl Report {
    /// An empty report of this version.
    pub fn new(machine: Machine, device: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, machine, device: device.to_owned(), workloads: Vec::new() }
    }

    /// A line about the machine, and the heads of the table's columns.
    pub fn heading(&self) -> String {
        let Machine { processor, threads, peak_f32, peak_bf16, instructions: [f32, bf16] } = &self.machine;
        format!(
            "tracknet {}, {} on {processor}, {threads} threads; measured peak {peak_f32:.0} GFLOP/s in f32 ({f32}), \
             {peak_bf16:.0} in bf16 ({bf16})\n\n\
             | workload | median ms | min | max | cores | frames/s | GFLOP/s | of peak | GB/s | peak MiB | backbone MiB |\n\
             |---|---|---|---|---|---|---|---|---|---|---|",
            self.version, self.device
        )
    }

    /// The line of a workload in the table. On a GPU the peak is that of the memory on it.
    pub fn row(&self, of: &Measurement) -> String {
        let seconds = of.time.median_ms / 1e3;
        let dash = || "–".to_owned();
        let gflops = of.flop.map(|flop| flop / 1e9 / seconds);
        // The peak that was measured is the processor's.
        let peak = match of.compute {
            _ if self.device != "cpu" => None,
            Some(Arithmetic::Bf16) => Some(self.machine.peak_bf16),
            _ => Some(self.machine.peak_f32),
        };
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let columns = [
            of.name.clone(),
            significant(of.time.median_ms),
            significant(of.time.min_ms),
            significant(of.time.max_ms),
            of.time.cores.map_or_else(dash, |cores| format!("{cores:.1}")),
            if of.frames > 0 { significant(of.frames as f64 / seconds) } else { dash() },
            gflops.map_or_else(dash, |rate| format!("{rate:.0}")),
            gflops.zip(peak).map_or_else(dash, |(rate, peak)| format!("{:.0} %", 100.0 * rate / peak)),
            of.input_bytes.map_or_else(dash, |bytes| format!("{:.2}", bytes as f64 / 1e9 / seconds)),
            of.device_bytes.or(of.peak_bytes).map_or_else(dash, |bytes| format!("{:.0}", mib(bytes as f64))),
            of.backbone_bytes.map_or_else(dash, |bytes| format!("{:.1}", mib(bytes as f64))),
        ];
        format!("| {} |", columns.join(" | "))
    }
}

/// Three significant digits, or two decimals below 1.
fn significant(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.heading())?;
        self.workloads.iter().try_for_each(|workload| write!(f, "\n{}", self.row(workload)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timing;

    #[test]
    fn a_row_has_rates_of_the_median_and_a_dash_where_there_is_nothing_to_say() {
        let machine = Machine {
            processor: "P".to_owned(),
            threads: 2,
            peak_f32: 100.0,
            peak_bf16: 400.0,
            instructions: ["fma".to_owned(), "dot".to_owned()],
        };
        let mut report = Report::new(machine, "cpu");
        let time = Timing { median_ms: 500.0, min_ms: 80.25, max_ms: 1.234, repetitions: 5, cores: Some(1.96) };
        let base = Measurement { name: "a".to_owned(), ..Measurement::new(time) };
        let train = Measurement {
            frames: 4,
            flop: Some(100e9),
            compute: Some(Arithmetic::Bf16),
            peak_bytes: Some(300 << 20),
            backbone_bytes: Some(3 << 19),
            ..base.clone()
        };
        let quantize = Measurement { name: "b".to_owned(), input_bytes: Some(1_000_000_000), ..base };
        assert_eq!(report.row(&train), "| a | 500 | 80.2 | 1.23 | 2.0 | 8.00 | 200 | 50 % | – | 300 | 1.5 |");
        assert_eq!(report.row(&quantize), "| b | 500 | 80.2 | 1.23 | 2.0 | – | – | – | 2.00 | – | – |");
        report.workloads = vec![train, quantize];
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert_eq!(report.to_string().lines().count(), 6);
        let elsewhere = Report { device: "cuda".to_owned(), ..report.clone() };
        assert!(elsewhere.row(&report.workloads[0]).contains("| 200 | – | – |"));
    }
}
