//! Patterns over the paths of modules: regular expressions of Python, as PEFT reads them.

use fancy_regex::{Regex, RegexBuilder};

/// Steps that are taken back before a match is given up: look-around and back-references can ask for exponentially many.
const MOST_STEPS_BACK: usize = 100_000;

/// A regular expression over paths, with the look-around and back-references that Python has.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    regex: Regex,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{pattern}` {problem}")]
pub struct PatternError {
    /// As it was written.
    pub pattern: String,
    /// What follows it in a sentence.
    pub problem: String,
}

impl PathPattern {
    /// A pattern for a whole path: `re.fullmatch`.
    ///
    /// # Errors
    /// No regular expression.
    pub fn whole(text: &str) -> Result<Self, PatternError> {
        Self::new(text, &format!("^(?:{text})$"))
    }

    /// A pattern for a whole path or the end of one from a `.` on, as the keys of `rank_pattern` are. The group before it
    /// is the first, as in PEFT.
    ///
    /// # Errors
    /// No regular expression.
    pub fn ending(text: &str) -> Result<Self, PatternError> {
        Self::new(text, &format!(r"^(.*\.)?({text})$"))
    }

    /// A pattern for the components before the number of a layer.
    ///
    /// # Errors
    /// No regular expression.
    pub fn before_index(text: &str) -> Result<Self, PatternError> {
        Self::new(text, &format!(r"^(?:|.*?\.)(?:{text})\.(?P<idx>\d+)\."))
    }

    /// The first number that two components come before, as a layer's.
    ///
    /// # Errors
    /// None; the pattern is fixed.
    pub fn first_index() -> Result<Self, PatternError> {
        Self::new("", r"^.*?\.[^.]*\.(?P<idx>\d+)\.")
    }

    fn new(text: &str, whole: &str) -> Result<Self, PatternError> {
        // Alone first: what closes a group of this program's is no expression by itself.
        let compile = |source: &str| RegexBuilder::new(source).backtrack_limit(MOST_STEPS_BACK).build();
        match compile(text).and_then(|_| compile(whole)) {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(e) => Err(problem(text, format!("is not a regular expression: {e}"))),
        }
    }

    /// Whether `path` matches.
    ///
    /// # Errors
    /// The match takes too many steps.
    pub fn matches(&self, path: &str) -> Result<bool, PatternError> {
        self.regex.is_match(path).map_err(|e| self.gave_up(path, &e))
    }

    /// The number of the layer that `path` names; patterns that look for one only.
    ///
    /// # Errors
    /// The match takes too many steps.
    pub fn index(&self, path: &str) -> Result<Option<usize>, PatternError> {
        let captures = self.regex.captures(path).map_err(|e| self.gave_up(path, &e))?;
        Ok(captures.and_then(|captures| captures.name("idx")?.as_str().parse().ok()))
    }

    fn gave_up(&self, path: &str, error: &fancy_regex::Error) -> PatternError {
        problem(&self.text, format!("could not be matched with {path}: {error}"))
    }
}

fn problem(pattern: &str, problem: String) -> PatternError {
    PatternError { pattern: pattern.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `re.fullmatch` of Python 3.11 says.
    #[test]
    fn look_around_and_back_references_match_as_in_python() {
        for (pattern, path, expected) in [
            (r"(?!.*\.0\.).*q_proj", "layer.1.attention.q_proj", true),
            (r"(?!.*\.0\.).*q_proj", "layer.0.attention.q_proj", false),
            (r".*(?<!up)_proj", "layer.0.mlp.up_proj", false),
            (r".*(?<=down)_proj", "layer.0.mlp.down_proj", true),
            (r"layer\.(\d)\1\..*", "layer.11.mlp.up_proj", true),
            (r"layer\.(\d)\1\..*", "layer.12.mlp.up_proj", false),
            (r"layer\.(?P<n>\d)\.(?:mlp|attention)\.(?P=n)", "layer.2.mlp.2", true),
            ("q_proj", "layer.0.attention.q_proj", false),
            ("a|b", "ab", false),
        ] {
            assert_eq!(PathPattern::whole(pattern).unwrap().matches(path).unwrap(), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_match_that_takes_for_ever_is_an_error_that_names_the_pattern() {
        let pattern = PathPattern::whole(r"(?:(\w+)\1?)+!").unwrap();
        let message = pattern.matches(&"a".repeat(60)).unwrap_err().to_string();
        assert!(message.contains(r"`(?:(\w+)\1?)+!` could not be matched"), "{message}");
    }

    #[test]
    fn what_is_no_expression_by_itself_is_refused_wherever_it_is_put() {
        for text in ["(", "a)(b", "*"] {
            for pattern in [PathPattern::whole(text), PathPattern::ending(text), PathPattern::before_index(text)] {
                assert!(pattern.unwrap_err().to_string().contains("is not a regular expression"), "{text}");
            }
        }
    }

    #[test]
    fn the_number_of_a_layer_is_the_first_that_fits() {
        let index = |pattern: PathPattern, path: &str| pattern.index(path).unwrap();
        let path = "model.layer.3.attention.q_proj";
        assert_eq!(index(PathPattern::before_index("layer").unwrap(), path), Some(3));
        assert_eq!(index(PathPattern::before_index("blocks").unwrap(), path), None);
        assert_eq!(index(PathPattern::first_index().unwrap(), path), Some(3));
        assert_eq!(index(PathPattern::first_index().unwrap(), "layers.3.x"), None);
    }
}
