//! SIGINT and SIGTERM: the run finishes its step, writes a checkpoint and leaves with 130 or 143.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// What the signals have asked for so far.
pub(crate) struct Interrupt {
    /// Set by the first signal; the training loop reads it between steps.
    pub(crate) stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens for SIGINT and SIGTERM. A second signal ends the process at once.
    pub(crate) fn listen() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM] {
            // The order matters: the shutdown looks at the flag that the handler after it sets.
            signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&stop))
                .context("cannot listen for signals")?;
            signal_hook::flag::register(number, Arc::clone(&stop)).context("cannot listen for signals")?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
                .context("cannot listen for signals")?;
        }
        Ok(Self { stop, signal })
    }

    /// The exit code of an interrupted run: 128 plus the signal's number.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let number = self.signal.load(Ordering::SeqCst) as u8;
        ExitCode::from(128 + number)
    }
}
