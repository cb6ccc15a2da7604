//! The processor that measurements are held against.

use std::fs;

use serde::{Deserialize, Serialize};
use tracknet_kernels::peak;

/// The machine of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor, as the system calls it.
    pub processor: String,
    /// Threads that the workloads use.
    pub threads: usize,
    /// Products and sums of 32-bit floats that all threads reach together, in GFLOP/s.
    pub peak_f32: f64,
    /// Likewise with bfloat16 factors and 32-bit sums.
    pub peak_bf16: f64,
    /// The instruction sets that reach these peaks.
    pub instructions: [String; 2],
}

impl Machine {
    /// The machine that this runs on; takes about a second.
    pub fn measure() -> Self {
        let (f32, bf16) = (peak::f32(), peak::bf16());
        Self {
            processor: processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            threads: rayon::current_num_threads(),
            peak_f32: f32.gflops,
            peak_bf16: bf16.gflops,
            instructions: [f32.instructions.to_owned(), bf16.instructions.to_owned()],
        }
    }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(name.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}
