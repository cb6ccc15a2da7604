//! What the system says about this process and machine.

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
    /// The same with bfloat16 factors.
    pub peak_bf16: f64,
    /// The instructions that reach these.
    pub instructions: [String; 2],
}

impl Machine {
    /// This one, measured for about a second.
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

/// Largest resident memory of this process since its start (in workloads: since the model was built), in bytes; where the
/// system tells.
pub fn peak_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Forgets what building the model took. Where the system cannot, the peak is that of the whole process.
pub(super) fn reset_peak() {
    // See proc_pid_clear_refs(5): 5 sets the peak to the current resident size.
    let _unsupported = fs::write("/proc/self/clear_refs", "5");
}

/// Processor time that all threads of this process took, in seconds.
pub(super) fn cpu_seconds() -> Option<f64> {
    // The system counts in hundredths (USER_HZ of proc_pid_stat(5) is 100 on every Linux that is in use).
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; user and system time are 14 and 15.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let [user, system] = [fields.next()?, fields.next()?].map(|field| field.parse::<u64>().ok());
    Some((user? + system?) as f64 / TICKS)
}
