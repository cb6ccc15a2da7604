//! SIGINT, SIGTERM and SIGHUP: the work at hand is finished and saved, and the program leaves with 130, 143 or 129.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
#[cfg(target_os = "linux")]
use signal_hook::consts::SIGHUP;
use signal_hook::consts::{SIGINT, SIGTERM};

/// What the signals have asked for so far.
pub(crate) struct Interrupt {
    /// Set by the first signal; loops read it between steps.
    pub(crate) stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and, on Linux, SIGHUP, unless it is ignored already, as `nohup` asks for. The first
    /// signal sets the flag, a second one ends the process at once.
    pub(crate) fn listen() -> Result<Self> {
        let (stop, at_once) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let signal = Arc::new(AtomicUsize::new(0));
        for number in signals() {
            // The order matters: the shutdown looks at the flag that the handler after it sets.
            signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&at_once))
                .context("cannot listen for signals")?;
            for flag in [&stop, &at_once] {
                signal_hook::flag::register(number, Arc::clone(flag)).context("cannot listen for signals")?;
            }
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
                .context("cannot listen for signals")?;
        }
        Ok(Self { stop, signal, at_once })
    }

    /// Whether already the next signal ends the process, with the same exit code: where nothing would be saved.
    pub(crate) fn end_at_once(&self, at_once: bool) {
        self.at_once.store(at_once || self.stop.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The exit code of an interrupted run, 128 plus the signal's number; `None` when no signal came.
    pub(crate) fn exit_code_if_any(&self) -> Option<ExitCode> {
        self.stop.load(Ordering::SeqCst).then(|| self.exit_code())
    }

    /// The exit code of an interrupted run: 128 plus the signal's number.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let number = self.signal.load(Ordering::SeqCst) as u8;
        ExitCode::from(128 + number)
    }
}

/// What asks for an end.
fn signals() -> Vec<std::ffi::c_int> {
    #[cfg(target_os = "linux")]
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|status| !is_ignored(&status, SIGHUP)) {
        return vec![SIGINT, SIGTERM, SIGHUP];
    }
    vec![SIGINT, SIGTERM]
}

/// Whether a process with this status ignores a signal.
#[cfg(target_os = "linux")]
fn is_ignored(status: &str, signal: std::ffi::c_int) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_nohup_ignores_is_found_in_the_status_of_the_process() {
        let status = |mask: &str| format!("Name:\ttracknet\nSigBlk:\t0000000000000000\nSigIgn:\t{mask}\n");
        assert!(is_ignored(&status("0000000000001001"), SIGHUP));
        assert!(!is_ignored(&status("0000000000001000"), SIGHUP));
        assert!(!is_ignored(&status("0000000000001001"), SIGINT));
    }
}
