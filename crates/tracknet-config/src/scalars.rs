//! What a plain YAML scalar means to the users of OmegaConf, which reads with PyYAML by the rules of YAML 1.1.
//!
//! The parser here follows YAML 1.2 with some of 1.1. Where both agree there is nothing to do; where PyYAML has text the text
//! is taken; where one file would be two numbers it is refused, because no choice is right for everybody.

use super::yaml::Value;

/// The meaning of `written`, which the parser took for `read`.
///
/// # Errors
/// Says what the readers make of it, and what to write.
pub(crate) fn in_python(written: &str, read: Value) -> Result<Value, String> {
    match read {
        Value::Bool(_) if !is_flag(written) => Ok(Value::Text(written.to_owned())),
        Value::Float(x) if x.is_infinite() && !written.to_ascii_lowercase().ends_with("inf") => {
            Err("larger than any number here; the largest is 1.8e308".to_owned())
        }
        read => match two_readings(written, &read) {
            Some(readings) => {
                Err(format!("{readings}; write the number that is meant in plain digits, or text in quotes"))
            }
            None => Ok(read),
        },
    }
}

/// The words that YAML 1.1 and PyYAML take for flags; other spellings, and a single letter, are text.
fn is_flag(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let title =
        |lower: &str| lower.get(..1).unwrap_or_default().to_ascii_uppercase() + lower.get(1..).unwrap_or_default();
    ["true", "false", "yes", "no", "on", "off"].contains(&lower.as_str())
        && (word == lower || word == lower.to_ascii_uppercase() || word == title(&lower))
}

/// What PyYAML and YAML 1.2 make of a number that they do not agree on.
fn two_readings(written: &str, read: &Value) -> Option<String> {
    let digits = written.strip_prefix(['+', '-']).unwrap_or(written);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let sign = if written.starts_with('-') { "-" } else { "" };
    let is_text = matches!(read, Value::Text(_));
    let only = |set: &str| digits.chars().all(|c| set.contains(c));
    let decimal = || digits.trim_start_matches(['0', '_']).replace('_', "");
    if ["0o", "0O", "0X", "0B"].iter().any(|prefix| digits.starts_with(prefix)) && !is_text {
        return Some("text to PyYAML, and a number in YAML 1.2".to_owned());
    }
    if digits.starts_with('0') && only("0123456789_") && !only("0_") {
        return Some(match i128::from_str_radix(&decimal(), 8) {
            Ok(octal) => {
                let decimal = decimal();
                format!(
                    "{sign}{octal} to PyYAML, for which a zero in front means octal, and {sign}{decimal} in YAML 1.2"
                )
            }
            Err(_) => format!("text to PyYAML, and {sign}{} in YAML 1.2", decimal()),
        });
    }
    if is_text && is_base_60(digits) {
        return Some("a number in base 60 to PyYAML, and text in YAML 1.2".to_owned());
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let without = format!("{}e{exponent}", mantissa.replace('_', ""));
    if is_text && mantissa.contains('_') && only("0123456789_.eE+-") && without.parse::<f64>().is_ok() {
        return Some("a number to PyYAML, and text in YAML 1.2".to_owned());
    }
    None
}

/// `1:30`, `1:05:30`, `1:30.5`.
fn is_base_60(digits: &str) -> bool {
    let whole = digits.split_once('.').map_or(digits, |(whole, fraction)| {
        if fraction.chars().all(|c| c.is_ascii_digit() || c == '_') { whole } else { "" }
    });
    let mut places = whole.split(':');
    let first = places.next().unwrap_or_default();
    let mut rest = places.peekable();
    rest.peek().is_some()
        && first.chars().all(|c| c.is_ascii_digit() || c == '_')
        && rest.all(|place| (1..=2).contains(&place.len()) && place.parse::<u8>().is_ok_and(|n| n < 60))
}

#[cfg(test)]
mod tests {
    use super::super::yaml::{Node, Value, YamlProblem, parse};

    fn read(scalar: &str) -> Result<Value, String> {
        let mut problems: Vec<YamlProblem> = Vec::new();
        match parse(&format!("k: {scalar}\n"), 0, &mut problems) {
            Some(Node { value: Value::Map(mut entries), .. }) if !entries.is_empty() => {
                Ok(entries.remove(0).node.value)
            }
            _ => Err(problems.remove(0).message),
        }
    }

    /// Every value is what `OmegaConf.load` of OmegaConf 2.3 gives.
    #[test]
    fn scalars_mean_what_they_mean_to_omegaconf() {
        let text = |text: &str| Value::Text(text.to_owned());
        let cases = [
            ("8", Value::Int(8)),
            ("+8", Value::Int(8)),
            ("-8", Value::Int(-8)),
            ("0", Value::Int(0)),
            ("-0", Value::Int(0)),
            ("1_000", Value::Int(1000)),
            ("0x1F", Value::Int(31)),
            ("0b101", Value::Int(5)),
            ("18446744073709551615", Value::Int(u64::MAX.into())),
            ("1.", Value::Float(1.0)),
            ("1.5", Value::Float(1.5)),
            ("00.5", Value::Float(0.5)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("5e-4", Value::Float(5e-4)),
            ("1.5E+3", Value::Float(1500.0)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            (".Inf", Value::Float(f64::INFINITY)),
            ("inf", text("inf")),
            ("nan", text("nan")),
            ("Infinity", text("Infinity")),
            ("null", Value::Null),
            ("Null", Value::Null),
            ("~", Value::Null),
            ("", Value::Null),
            ("None", text("None")),
            ("nULL", text("nULL")),
            ("true", Value::Bool(true)),
            ("TRUE", Value::Bool(true)),
            ("Yes", Value::Bool(true)),
            ("on", Value::Bool(true)),
            ("OFF", Value::Bool(false)),
            ("no", Value::Bool(false)),
            ("y", text("y")),
            ("N", text("N")),
            ("tRUE", text("tRUE")),
            ("yEs", text("yEs")),
            ("'yes'", text("yes")),
            ("'5'", text("5")),
            ("2024-05-01", text("2024-05-01")),
            ("1.2.3", text("1.2.3")),
            ("1:90", text("1:90")),
            ("game1:2", text("game1:2")),
            ("12abc", text("12abc")),
            ("_1", text("_1")),
            ("1,000", text("1,000")),
            ("1e1_0", text("1e1_0")),
        ];
        for (scalar, expected) in cases {
            assert_eq!(read(scalar).as_ref(), Ok(&expected), "{scalar}");
        }
        assert!(matches!(read(".NaN"), Ok(Value::Float(x)) if x.is_nan()));
    }

    #[test]
    fn what_would_be_two_numbers_is_refused_with_both() {
        let cases = [
            ("010", "8 to PyYAML, for which a zero in front means octal, and 10 in YAML 1.2"),
            ("-0_17", "-15 to PyYAML"),
            ("08", "text to PyYAML, and 8 in YAML 1.2"),
            ("0o17", "text to PyYAML, and a number in YAML 1.2"),
            ("0X1F", "text to PyYAML"),
            ("1:30", "a number in base 60 to PyYAML"),
            ("1:30:00.5", "a number in base 60 to PyYAML"),
            ("1__0", "a number to PyYAML, and text"),
            ("1_0.5", "a number to PyYAML, and text"),
            ("1e400", "larger than any number here"),
            ("-9e999", "larger than any number here"),
        ];
        for (scalar, expected) in cases {
            let message = read(scalar).unwrap_err();
            assert!(message.starts_with(&format!("`{scalar}`: ")) && message.contains(expected), "{message}");
        }
    }
}
