//! Every problem of a configuration in one error: a run that fails ten times for ten typos wastes ten starts.

use std::fmt;

use tracknet_io::console::excerpt;

/// The most problems that a message lists.
const MOST_PROBLEMS: usize = 50;
/// The most bytes of a source and of a message that are shown: both may quote a file.
const LONGEST_SOURCE: usize = 1024;
const LONGEST_MESSAGE: usize = 2048;

/// Why a configuration was refused: every problem that was found, in the order of the files and keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The problems; never empty.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// An error with one problem that has no line.
    pub fn new(source: impl Into<String>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { problems: vec![Problem::new(source, key, message)] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().take(MOST_PROBLEMS).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.problems.len().saturating_sub(MOST_PROBLEMS) {
            0 => Ok(()),
            1 => f.write_str("\n… and 1 more problem"),
            more => write!(f, "\n… and {more} more problems"),
        }
    }
}

/// One thing that is wrong, where it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A file, an override (`override training.epochs=many`) or a flag.
    pub source: String,
    /// Line of the file, from 1.
    pub line: Option<u64>,
    /// Full path of the key (`model.lora.r`); empty when the problem is about the file as a whole.
    pub key: String,
    /// What was found, what was expected, what to do.
    pub message: String,
}

impl Problem {
    /// A problem that has no line.
    pub(crate) fn new(source: impl Into<String>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { source: source.into(), line: None, key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, message) = (excerpt(&self.source, LONGEST_SOURCE), excerpt(&self.message, LONGEST_MESSAGE));
        match self.line {
            Some(line) => write!(f, "{source}:{line}: {message}"),
            None => write!(f, "{source}: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_rendered_with_its_file_and_line() {
        let at_line = Problem { line: Some(12), ..Problem::new("a.yaml", "model.x", "unknown key") };
        let mut error = ConfigError::new("flag --seed", "", "too large");
        error.problems.insert(0, at_line);
        assert_eq!(error.to_string(), "a.yaml:12: unknown key\nflag --seed: too large");
    }

    #[test]
    fn long_lists_and_messages_are_cut_and_say_so() {
        let mut error = ConfigError::new("a.yaml", "", "x".repeat(1 << 20));
        for i in 0..1000 {
            error.problems.push(Problem { line: Some(i), ..Problem::new("a.yaml", "", "y") });
        }
        let text = error.to_string();
        assert!(text.ends_with("a.yaml:48: y\n… and 951 more problems"), "{text}");
        assert!(text.len() < 4096 && text.contains("xxx…\n"), "{}", text.len());
    }
}
