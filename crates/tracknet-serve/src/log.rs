//! Lines on standard error that never hold up a request: whoever reads them may be slow, or gone.

use std::sync::mpsc::{SyncSender, sync_channel};

use tracknet::console;

/// Lines that wait to be written; more are dropped.
const WAITING: usize = 1024;

/// Writes lines from a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    lines: Option<SyncSender<String>>,
}

impl Log {
    /// # Errors
    /// No thread can be had.
    pub(crate) fn start(quiet: bool) -> std::io::Result<Self> {
        if quiet {
            return Ok(Self { lines: None });
        }
        let (lines, waiting) = sync_channel::<String>(WAITING);
        let write = move || waiting.into_iter().for_each(console::say);
        std::thread::Builder::new().name("log".to_owned()).spawn(write)?;
        Ok(Self { lines: Some(lines) })
    }

    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            // A log that nobody reads is not worth waiting for.
            let _full = lines.try_send(line());
        }
    }
}
