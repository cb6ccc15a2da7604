//! What the system tells about this process.

use std::fs;

/// Largest resident memory of this process since its start, or since [`reset_peak`], in bytes; where the system tells.
pub fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Resident memory of this process now, in bytes; where the system tells.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// A size of proc_pid_status(5), which gives kibibytes.
fn status_bytes(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Lets [`peak_bytes`] count from what is resident now. Where the system cannot, the peak stays that of the whole process.
pub fn reset_peak() {
    // See proc_pid_clear_refs(5): 5 sets the peak to the current resident size.
    let _unsupported = fs::write("/proc/self/clear_refs", "5");
}

/// Processor time that all threads of this process took, in seconds; where the system tells.
pub fn cpu_seconds() -> Option<f64> {
    // The system counts in hundredths (USER_HZ of proc_pid_stat(5) is 100 on every Linux that is in use).
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; user and system time are 14 and 15.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let [user, system] = [fields.next()?, fields.next()?].map(|field| field.parse::<u64>().ok());
    Some((user? + system?) as f64 / TICKS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_touched_raises_the_peak_and_work_takes_time() {
        reset_peak();
        let before = peak_bytes().unwrap();
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak_bytes().unwrap() >= before + (32 << 20));
        let resident = resident_bytes().unwrap();
        assert!((32 << 20..=peak_bytes().unwrap()).contains(&resident), "{resident}");
        drop(touched);
        let clock = cpu_seconds().unwrap();
        let mut sum = 0u64;
        while cpu_seconds().unwrap() < clock + 0.02 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
