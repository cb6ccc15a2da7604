//! What the program says to people: on standard error, and never the end of a run.
//!
//! Standard error may be closed, full or a pipe that nobody reads any more; a line that cannot be written is dropped.
//! Text from files is printed as text: whatever could steer a terminal is shown by its code.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::Write as _;

/// The most bytes of one message; more of it helps nobody.
const MESSAGE_BYTES: usize = 64 << 10;

/// Writes a line, or several, to standard error.
pub fn say(text: impl fmt::Display) {
    let text = text.to_string();
    let text = excerpt(&text, MESSAGE_BYTES);
    // Nobody can be told about a failure to tell.
    let _ = std::io::stderr().lock().write_all(format!("{}\n", printable(&text)).as_bytes());
}

/// Writes `note: …` to standard error.
pub fn note(text: impl fmt::Display) {
    say(format_args!("note: {text}"));
}

/// The text without what could steer a terminal: control characters other than line ends and tabs, and the marks that
/// turn the direction of writing, are shown as `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut printed = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            // Writing to a string cannot fail.
            let _ = write!(printed, "{}", c.escape_unicode());
        } else {
            printed.push(c);
        }
    }
    Cow::Owned(printed)
}

fn steers(c: char) -> bool {
    let direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    direction || c.is_control() && c != '\n' && c != '\t'
}

/// At most `bytes` of a text, cut between characters, with an ellipsis where something was cut off.
pub fn excerpt(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(bytes);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// Text of a file in a message: shortened to one line, and without control characters, so that a file cannot flood or steer
/// the terminal.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut short = String::new();
    for c in text.chars().take(LONGEST) {
        match c {
            '"' | '\'' | '\\' => short.push(c),
            c => short.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// The first few of a list and how many more there are: `a, b, … and 3 more`.
pub fn listing<T: fmt::Display>(items: impl IntoIterator<Item = T>, most: usize) -> String {
    let mut items = items.into_iter();
    let mut shown: Vec<String> = items.by_ref().take(most).map(|item| item.to_string()).collect();
    match items.count() {
        0 => {}
        more => shown.push(format!("… and {more} more")),
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_file_steers_the_terminal() {
        assert_eq!(printable("game1/Clip 1 – ä球\n\tx"), "game1/Clip 1 – ä球\n\tx");
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{202e}d\u{9b}"), "a\\u{1b}[2Jb\\u{d}c\\u{202e}d\\u{9b}");
    }

    #[test]
    fn long_texts_and_lists_are_cut_and_say_so() {
        assert_eq!(excerpt("aä", 2), "a…");
        assert_eq!(excerpt("aä", 3), "aä");
        assert_eq!(listing([1, 2, 3], 3), "1, 2, 3");
        assert_eq!(listing(1..=5, 2), "1, 2, … and 3 more");
    }

    #[test]
    fn text_of_a_file_is_shortened_and_cannot_steer_the_terminal() {
        assert_eq!(shown("layer.0"), "layer.0");
        assert_eq!(shown("\u{1b}[2J"), "\\u{1b}[2J");
        assert_eq!(shown(r#"{"a": "\d"}"#), r#"{"a": "\d"}"#);
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 121);
    }
}
