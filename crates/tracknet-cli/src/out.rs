//! Standard output whose reader may leave early: `tracknet … | head` ends quietly instead of with a panic.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, Result};
use tracknet::console::printable;

/// Nobody reads standard output any more. Not a failure: `main` ends the program with exit code 0.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for Closed {}

/// `print!` that returns an error instead of panicking.
macro_rules! out {
    ($($arg:tt)*) => { $crate::out::write(format_args!($($arg)*)) };
}

/// `println!` that returns an error instead of panicking.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::out::write(format_args!("{}\n", format_args!($($arg)*))) };
}

pub(crate) use {out, outln};

/// Writes to standard output at once, without what could steer a terminal.
pub(crate) fn write(text: fmt::Arguments<'_>) -> Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

fn write_to(stream: &mut impl Write, text: fmt::Arguments<'_>) -> Result<()> {
    let text = text.to_string();
    match stream.write_all(printable(&text).as_bytes()).and_then(|()| stream.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as it is told to.
    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_told_apart_from_a_full_disk() {
        let text = format_args!("text");
        assert!(write_to(&mut Failing(io::ErrorKind::BrokenPipe), text).unwrap_err().is::<Closed>());
        let full = write_to(&mut Failing(io::ErrorKind::StorageFull), text).unwrap_err();
        assert!(!full.is::<Closed>());
        assert!(full.to_string().contains("standard output"), "{full}");
    }
}
