//! SIGINT, SIGTERM and SIGHUP: the work at hand is finished and saved, and the program leaves with 130, 143 or 129.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// What the signals have asked for so far.
pub(crate) struct Interrupt {
    /// Set by the first signal; loops read it between steps.
    pub(crate) stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and, unless the program was started with `nohup`, SIGHUP. A second signal ends the
    /// process at once.
    pub(crate) fn listen() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
            // The order matters: the shutdown looks at the flag that the handler after it sets.
            signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&stop))
                .context("cannot listen for signals")?;
            signal_hook::flag::register(number, Arc::clone(&stop)).context("cannot listen for signals")?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
                .context("cannot listen for signals")?;
        }
        Ok(Self { stop, signal })
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

/// SIGHUP, unless it is ignored: `nohup` asks for that, and a handler would undo it.
fn hangup() -> Option<i32> {
    #[cfg(unix)]
    {
        use signal_hook::consts::SIGHUP;
        // Linux tells which signals are ignored; elsewhere none is taken to be.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        (ignored & 1 << (SIGHUP - 1) == 0).then_some(SIGHUP)
    }
    #[cfg(not(unix))]
    None
}
