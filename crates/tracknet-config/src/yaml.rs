//! YAML text ↔ a tree in which every node knows its layer and line.
//!
//! The tree stands between the text and the structs because a plain deserializer stops at the first problem, and
//! because interpolation and overrides need the values before they have types.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Options, Spanned};

use super::scalars;
use tracknet_io::console::shown;

/// The most values of one document; what an alias stands for counts wherever it stands.
const MOST_VALUES: usize = 20_000;
/// The most bytes of their texts together.
const MOST_TEXT: usize = 8 << 20;
/// The most levels that they are nested. Each takes stack, in a program without optimization some 30 KB.
const DEEPEST: usize = 20;
/// The most bytes of a key.
const LONGEST_KEY: usize = 1024;

/// Where a node was written: the index of a layer (a file, an override, a flag) and a line of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) layer: usize,
    pub(crate) line: Option<u64>,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Origin,
}

/// A YAML value; mappings keep the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key itself stands.
    pub(crate) at: Origin,
    pub(crate) node: Node,
}

/// Something wrong with the text itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct YamlProblem {
    pub(crate) line: Option<u64>,
    /// The key that it is about, if it is about one.
    pub(crate) key: String,
    /// A sentence, or what follows "key … is".
    pub(crate) message: String,
}

/// Reads one YAML document. An empty document is null. Repeated keys are reported, and the first one is kept; a value that
/// cannot be read is reported and left out.
pub(crate) fn parse(text: &str, layer: usize, problems: &mut Vec<YamlProblem>) -> Option<Node> {
    parse_at(text, "", layer, problems)
}

/// [`parse`] of the value of the key at `path`.
pub(crate) fn parse_at(text: &str, path: &str, layer: usize, problems: &mut Vec<YamlProblem>) -> Option<Node> {
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options()) {
        Ok(raw) => Reader { text, layer, problems }.node(raw, path),
        Err(error) => {
            problems.push(syntax_problem(&error));
            None
        }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_VALUES,
            max_events: 4 * MOST_VALUES,
            max_aliases: MOST_VALUES,
            max_anchors: MOST_VALUES,
            max_recorded_anchor_events: 4 * MOST_VALUES,
            max_total_scalar_bytes: MOST_TEXT,
            max_depth: DEEPEST,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 4 * MOST_VALUES },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        reject_unsupported_tags: true,
    }
}

/// Reads text as one YAML scalar, as if it stood unquoted in a file; anything else is text.
pub(crate) fn parse_scalar(text: &str) -> Value {
    match parse(text, 0, &mut Vec::new()) {
        Some(Node { value: Value::List(_) | Value::Map(_), .. }) | None => Value::Text(text.to_owned()),
        Some(node) => node.value,
    }
}

fn syntax_problem(error: &Error) -> YamlProblem {
    let place = error.location();
    let message = match too_much(error.without_snippet()) {
        Some(message) => message,
        None => format!("not valid YAML: {}", syntax_message(error, place)),
    };
    YamlProblem { line: place.map(|p| p.line()).filter(|&line| line > 0), key: String::new(), message }
}

/// What a document has too much of.
fn too_much(error: &Error) -> Option<String> {
    Some(match error {
        Error::AliasError { error, .. } => return too_much(error),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("values are nested deeper than {DEEPEST} levels")
        }
        Error::Budget { breach: BudgetBreach::ScalarBytes { .. }, .. } => {
            let most = MOST_TEXT >> 20;
            format!("holds more than {most} MiB of text; what an alias stands for counts wherever it stands")
        }
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("holds more than {MOST_VALUES} values; what an alias stands for counts wherever it stands")
        }
        _ => return None,
    })
}

fn syntax_message(error: &Error, place: Option<Location>) -> String {
    let mut message = error.without_snippet().to_string();
    if let Some(place) = place {
        let suffix = format!(" at line {}, column {}", place.line(), place.column());
        message = message.replace(&suffix, "");
    }
    if message.contains("multiple YAML documents") {
        message = "a configuration file holds one YAML document; remove the second `---`".to_owned();
    }
    if message.contains("into string") || message.contains("expected string scalar") {
        message = "a key must be plain text".to_owned();
    }
    if message.contains("recursion limit") {
        // A document of nothing but brackets meets the scanner's own bound first, which is far above `DEEPEST`.
        message = format!("values are nested deeper than {DEEPEST} levels");
    }
    if message.contains("tabs disallowed") {
        message = "a line is indented by a tab; use spaces".to_owned();
    }
    let column = place.map(|p| format!(" (column {})", p.column())).unwrap_or_default();
    message + &column
}

/// Turns parsed values into [`Node`]s: with their layer and line, and with the meaning that they have in Python.
struct Reader<'a> {
    text: &'a str,
    layer: usize,
    problems: &'a mut Vec<YamlProblem>,
}

impl Reader<'_> {
    fn origin(&self, place: Location) -> Origin {
        Origin { layer: self.layer, line: Some(place.line()).filter(|&line| line > 0) }
    }

    /// The node of a value; `None` when it was reported as a problem.
    fn node(&mut self, raw: Spanned<Raw>, path: &str) -> Option<Node> {
        let at = self.origin(raw.defined);
        let value = match raw.value {
            Raw::Scalar(value) => self.scalar(value, raw.defined, path)?,
            Raw::List(items) => {
                let items = items.into_iter().enumerate();
                // Collected first, so that every element is read.
                let items: Vec<_> = items.map(|(i, item)| self.node(item, &format!("{path}[{i}]"))).collect();
                Value::List(items.into_iter().collect::<Option<_>>()?)
            }
            Raw::Map(pairs) => Value::Map(self.entries(pairs, path)),
        };
        Some(Node { value, at })
    }

    fn scalar(&mut self, value: Value, place: Location, path: &str) -> Option<Value> {
        let Some(written) = plain(self.text, place) else { return Some(value) };
        match scalars::in_python(written, value) {
            Ok(value) => Some(value),
            Err(why) => {
                let message = format!("`{}`: {why}", shown(written));
                let line = self.origin(place).line;
                self.problems.push(YamlProblem { line, key: path.to_owned(), message });
                None
            }
        }
    }

    fn entries(&mut self, pairs: Vec<(Spanned<String>, Spanned<Raw>)>, path: &str) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
        let mut lines: HashMap<String, Option<u64>> = HashMap::with_capacity(pairs.len());
        for (key, raw) in pairs {
            let at = self.origin(key.defined);
            let key = key.value;
            if key.len() > LONGEST_KEY {
                let message = format!("`{}` is no key: it has {} bytes", shown(&key), key.len());
                self.problems.push(YamlProblem { line: at.line, key: String::new(), message });
                continue;
            }
            let key_path = join(path, &key);
            let node = self.node(raw, &key_path);
            if let Some(first) = lines.get(&key) {
                let earlier = first.map(|line| format!(" on line {line}")).unwrap_or_default();
                let message = format!("already given{earlier}; keep one of the two");
                self.problems.push(YamlProblem { line: at.line, key: key_path, message });
                continue;
            }
            lines.insert(key.clone(), at.line);
            if let Some(node) = node {
                entries.push(Entry { key, at, node });
            }
        }
        entries
    }
}

/// The tag and anchor of a scalar are looked for in this many bytes before it.
const LOOK_BACK: usize = 1 << 10;

/// The text of a plain scalar at a place of the document; `None` for one with quotes, a tag or a block indicator.
fn plain(text: &str, place: Location) -> Option<&str> {
    let (start, length) = (place.span().byte_offset()?, place.span().byte_len()?);
    let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
    let written = text.get(start..start.checked_add(length)?)?;
    let near = text.floor_char_boundary(start.saturating_sub(LOOK_BACK));
    let mut before = text.get(near..start)?.split_ascii_whitespace().rev().skip_while(|word| word.starts_with('&'));
    let marked = before.next().is_some_and(|word| word.starts_with(['!', '|', '>']));
    (!marked && !written.starts_with(['"', '\''])).then_some(written)
}

/// `a.b` from `a` and `b`; `b` from the root.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A value as the parser gives it; the layer is added after.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(Raw::Map(pairs))
    }
}

impl Entry {
    pub(crate) fn new(key: &str, value: Value, at: Origin) -> Self {
        Self { key: key.to_owned(), at, node: Node { value, at } }
    }
}

impl Node {
    /// The entries of a mapping.
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The node at a dotted path; list elements by their number.
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        path.split('.').filter(|part| !part.is_empty()).try_fold(self, |node, part| match &node.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == part).map(|e| &e.node),
            Value::List(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => None,
        })
    }
}

impl Value {
    /// How a value is quoted in a message: "`many` (text)".
    pub(crate) fn found(&self) -> String {
        match self {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => format!("{value} (a flag)"),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => float_text(*value),
            Value::Text(text) => format!("`{}` (text)", shown(text)),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(entries) => {
                let keys: Vec<_> = entries.iter().map(|e| e.key.as_str()).collect();
                format!("a section with keys {}", shown(&keys.join(", ")))
            }
        }
    }

    /// A number, to the precision of 64 bits.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// Scalars as plain text, as an interpolation pastes them; `None` for lists and mappings.
    pub(crate) fn scalar_text(&self) -> Option<String> {
        match self {
            Value::Null => Some("null".to_owned()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(float_text(*value)),
            Value::Text(text) => Some(text.clone()),
            Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// The shortest text that reads back as the same float, and as a float.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() {
        ".nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf".to_owned() } else { "-.inf".to_owned() }
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        let mut problems = Vec::new();
        let node = parse(text, 0, &mut problems).unwrap();
        assert_eq!(problems, []);
        node
    }

    #[test]
    fn anchors_and_merges_are_expanded_and_point_at_the_line_that_defines_the_value() {
        let node = read("base: &b\n  q: 1\n  r: 2\nd:\n  <<: *b\n  r: 3\n");
        assert_eq!(node.get("d.q").unwrap().at.line, Some(2));
        assert_eq!(node.get("d.r").unwrap().value, Value::Int(3));
        assert_eq!(node.get("d.r").unwrap().at.line, Some(6));
    }

    #[test]
    fn every_repeated_key_is_reported_with_its_line() {
        let mut problems = Vec::new();
        parse("a: 1\nb:\n  x: 1\n  x: 2\na: 3\n", 0, &mut problems).unwrap();
        let seen: Vec<_> = problems.iter().map(|p| (p.line, p.key.as_str(), p.message.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Some(4), "b.x", "already given on line 3; keep one of the two"),
                (Some(5), "a", "already given on line 1; keep one of the two"),
            ]
        );
    }

    #[test]
    fn broken_yaml_is_a_problem_with_a_line_and_a_column() {
        let mut problems = Vec::new();
        assert_eq!(parse("a: 1\nb: [1, 2\nc: 3", 0, &mut problems), None);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, Some(3));
        assert!(problems[0].message.starts_with("not valid YAML: ") && problems[0].message.ends_with("(column 2)"));
    }

    #[test]
    fn bombs_are_refused_at_once_with_what_they_have_too_much_of() {
        let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let inner = format!("*a{}, ", i - 1).repeat(9);
            aliases += &format!("a{i}: &a{i} [{inner}]\n");
        }
        let texts = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(1000));
        let merges: String = (0..2000).map(|i| format!("b{i}: {{<<: *a}}\n")).collect();
        let wide: String = (0..1000).map(|i| format!("k{i}: 1, ")).collect();
        let values = "holds more than 20000 values";
        let cases = [
            (aliases, values),
            (texts, "holds more than 8 MiB of text"),
            (format!("a: &a {{{wide}}}\n{merges}"), values),
            ((0..30_000).map(|i| format!("k{i}: 1\n")).collect(), values),
            (format!("a: [{}]", "1, ".repeat(30_000)), values),
            ((0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect(), "nested deeper than 20 levels"),
            (format!("a: {}", "[".repeat(100_000)), "nested deeper than 20 levels"),
            ("[".repeat(100_000), "nested deeper than 20 levels"),
        ];
        for (text, expected) in cases {
            let mut problems = Vec::new();
            assert_eq!(parse(&text, 0, &mut problems), None);
            assert_eq!(problems.len(), 1);
            // An expanded bomb would take hours.
            assert!(problems[0].message.contains(expected), "{:?}", problems[0]);
        }
    }

    #[test]
    fn a_key_that_is_far_too_long_is_cut_where_it_is_reported() {
        let mut problems = Vec::new();
        let node = parse(&format!("? {}\n: 1\nb: 2\n", "k".repeat(1 << 20)), 0, &mut problems).unwrap();
        assert_eq!(node.get("b").unwrap().value, Value::Int(2));
        assert!(problems[0].message.len() < 200 && problems[0].message.contains("1048576 bytes"), "{problems:?}");
    }

    #[test]
    fn quoted_tagged_and_block_texts_are_text_whatever_they_look_like() {
        let node = read("a: \"010\"\nb: '1:30'\nc: !!str 010\nd: &x !!str 08\ne: |-\n  010\nf: >\n  0o10\ng: *x\n");
        for (key, text) in
            [("a", "010"), ("b", "1:30"), ("c", "010"), ("d", "08"), ("e", "010"), ("f", "0o10\n"), ("g", "08")]
        {
            assert_eq!(node.get(key).unwrap().value, Value::Text(text.into()), "{key}");
        }
        assert_eq!(read("!!int \"5\"").value, Value::Int(5));
    }

    #[test]
    fn a_value_that_python_reads_otherwise_is_named_with_its_key_and_line() {
        let mut problems = Vec::new();
        let node = parse("a: 1\nb:\n  c: [1, 010]\n  d: 2\n", 0, &mut problems).unwrap();
        assert_eq!(node.get("b.c"), None);
        assert_eq!(node.get("b.d").unwrap().value, Value::Int(2));
        assert_eq!((problems.len(), problems[0].line, problems[0].key.as_str()), (1, Some(3), "b.c[1]"));
        assert!(problems[0].message.starts_with("`010`: 8 to PyYAML"), "{problems:?}");
        assert_eq!(parse_scalar("010"), Value::Text("010".into()));
    }

    #[test]
    fn tags_of_programs_are_refused() {
        for text in ["a: !foo 1", "a: !!python/tuple [1]", "a: !!python/object/apply:os.system [ls]"] {
            let mut problems = Vec::new();
            assert_eq!(parse(text, 0, &mut problems), None, "{text}");
            assert!(problems[0].message.contains("unsupported tag"), "{problems:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_change_nothing_and_comments_are_null() {
        assert_eq!((read("").value, read("# only a comment\n").value), (Value::Null, Value::Null));
        let node = read("\u{feff}a: 1\r\nb: [2,\r\n  3]\r\nc: text\r\n");
        assert_eq!(node.get("a").unwrap().value, Value::Int(1));
        assert_eq!(
            (node.get("b.1").unwrap().value.clone(), node.get("b.1").unwrap().at.line),
            (Value::Int(3), Some(3))
        );
        assert_eq!(node.get("c").unwrap().value, Value::Text("text".into()));
    }

    #[test]
    fn a_tab_in_the_indentation_is_called_a_tab() {
        let mut problems = Vec::new();
        parse("a:\n\tb: 1\n", 0, &mut problems);
        assert!(problems[0].message.contains("indented by a tab; use spaces"), "{problems:?}");
        assert_eq!(problems[0].line, Some(2));
    }
}
