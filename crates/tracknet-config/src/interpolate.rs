//! `${…}` in values, as users of OmegaConf expect it.
//!
//! `${oc.env:VAR}`, `${oc.env:VAR,default}`, `${oc.decode:text}`, `${training.output_dir}`, `${.sibling}`,
//! `${..uncle}`, nested (`${oc.env:${.name}}`), and `\${` for a literal `${`. A value that is one `${…}` keeps the
//! type of what it names; inside other text it is pasted as text.

use super::key;
use super::layers::Layers;
use super::yaml::{self, Entry, Node, Origin, Value, join};

/// References that lead through more keys than this are a mistake.
const MAX_DEPTH: usize = 32;
/// Bounds the work and the memory that references to references can ask for.
const MAX_STEPS: usize = 10_000;
const MAX_TEXT: usize = 1 << 20;
const MAX_PASTED: usize = 16 << 20;

/// Looks up an environment variable.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Resolves every `${…}` of the tree. A value that cannot be resolved is reported and taken out.
pub(crate) fn resolve(layers: &mut Layers, defaults: &Node, env: Env<'_>) {
    let mut resolver = Resolver::new(&layers.tree, defaults, env);
    let resolved = resolver.part(&layers.tree, "");
    let problems = resolver.problems.into_iter();
    let problems: Vec<_> =
        problems.map(|(at, path, why)| layers.problem(at, &path, format!("{path}: {why}"))).collect();
    layers.problems.extend(problems);
    if let Ok(Some(tree)) = resolved {
        layers.tree = tree;
    }
}

/// The resolved value at one path, without reports.
pub(crate) fn value_at(root: &Node, defaults: &Node, env: Env<'_>, path: &str) -> Option<Value> {
    Resolver::new(root, defaults, env).key(path, "").ok()
}

/// Writes `${` so that it is read back as text.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut backslashes = 0;
    for (i, c) in text.char_indices() {
        if c == '$' && text.get(i..).is_some_and(|rest| rest.starts_with("${")) {
            out.extend(std::iter::repeat_n('\\', backslashes + 1));
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
        out.push(c);
    }
    out
}

/// Why a value has no resolution.
enum Failure {
    /// The text of one key is wrong; the message is reported at that key.
    Because(String),
    /// No single key is wrong (a limit was met); the message is reported at the key that was being resolved.
    Throughout(String),
    /// Already reported at another key.
    Elsewhere,
}

struct Resolver<'a> {
    root: &'a Node,
    defaults: &'a Node,
    env: Env<'a>,
    /// Keys whose values are being resolved.
    stack: Vec<String>,
    /// Keys of a cycle that is reported already.
    cycled: Vec<String>,
    steps: usize,
    /// Bytes of the texts that were pasted or read so far.
    pasted: usize,
    /// What cannot be resolved: where it stands, its path, why.
    problems: Vec<(Origin, String, String)>,
}

impl<'a> Resolver<'a> {
    fn new(root: &'a Node, defaults: &'a Node, env: Env<'a>) -> Self {
        let (stack, cycled, problems) = (Vec::new(), Vec::new(), Vec::new());
        Self { root, defaults, env, stack, cycled, steps: 0, pasted: 0, problems }
    }

    /// A part of the tree, resolved. Unless a reference leads to it, its failure is reported and it is left out.
    fn part(&mut self, node: &Node, path: &str) -> Result<Option<Node>, Failure> {
        let is_referred_to = !self.stack.is_empty();
        match self.value(node, path) {
            Ok(value) => Ok(Some(Node { value, at: node.at })),
            Err(failure) if is_referred_to => Err(failure),
            Err(Failure::Because(why) | Failure::Throughout(why)) => {
                self.problems.push((node.at, path.to_owned(), why));
                Ok(None)
            }
            Err(Failure::Elsewhere) => Ok(None),
        }
    }

    fn value(&mut self, node: &Node, path: &str) -> Result<Value, Failure> {
        let is_referred_to = !self.stack.is_empty();
        self.steps += usize::from(is_referred_to);
        if self.steps > MAX_STEPS {
            return Err(Failure::Throughout("interpolation is nested too deeply".to_owned()));
        }
        match &node.value {
            Value::Text(text) if text.contains("${") => {
                if is_referred_to {
                    return self.text(text, path, 0);
                }
                self.stack = vec![path.to_owned()];
                let value = self.text(text, path, 0);
                self.stack.clear();
                value
            }
            Value::List(items) => {
                let mut resolved = Vec::with_capacity(items.len());
                for (i, item) in items.iter().enumerate() {
                    resolved.extend(self.part(item, &join(path, &i.to_string()))?);
                }
                Ok(Value::List(resolved))
            }
            Value::Map(entries) => {
                let mut resolved = Vec::with_capacity(entries.len());
                for Entry { key, at, node } in entries {
                    let node = self.part(node, &join(path, key))?;
                    resolved.extend(node.map(|node| Entry { key: key.clone(), at: *at, node }));
                }
                Ok(Value::Map(resolved))
            }
            plain => {
                if let (true, Value::Text(text)) = (is_referred_to, plain) {
                    self.paste(text)?;
                }
                Ok(plain.clone())
            }
        }
    }

    fn paste(&mut self, text: &str) -> Result<(), Failure> {
        self.pasted = self.pasted.saturating_add(text.len());
        if self.pasted > MAX_PASTED {
            let most = MAX_PASTED >> 20;
            return Err(Failure::Throughout(format!("the references of a configuration paste more than {most} MiB")));
        }
        Ok(())
    }

    /// Expands a text: one `${…}` alone keeps its type.
    fn text(&mut self, text: &str, path: &str, depth: usize) -> Result<Value, Failure> {
        self.steps += 1;
        if depth > MAX_DEPTH || self.steps > MAX_STEPS {
            return Err(Failure::Throughout("interpolation is nested too deeply".to_owned()));
        }
        let (mut out, mut next) = first_reference(text)?;
        if let (true, Some((inner, ""))) = (out.is_empty(), next) {
            return self.reference(inner, path, depth);
        }
        while let Some((inner, after)) = next {
            let value = self.reference(inner, path, depth)?;
            let pasted = value.scalar_text().ok_or_else(|| {
                Failure::Because(format!("`${{{inner}}}` is {}, which cannot be pasted into text", value.found()))
            })?;
            let (literal, following) = first_reference(after)?;
            out += &pasted;
            out += &literal;
            next = following.filter(|_| out.len() <= MAX_TEXT);
        }
        if out.len() > MAX_TEXT {
            return Err(Failure::Because("interpolation makes a text that is too long".to_owned()));
        }
        self.paste(&out)?;
        Ok(Value::Text(out))
    }

    /// What stands between `${` and `}`.
    fn reference(&mut self, inner: &str, path: &str, depth: usize) -> Result<Value, Failure> {
        match resolver_name(inner) {
            Some((name, arguments)) => self.call(name, arguments, path, depth),
            None => {
                let name = self.text_argument(inner, path, depth)?;
                let absolute = absolute_path(name.trim(), path).map_err(Failure::Because)?;
                self.key(&absolute, path)
            }
        }
    }

    fn call(&mut self, name: &str, arguments: &str, path: &str, depth: usize) -> Result<Value, Failure> {
        let (first, rest) = match split_outside_braces(arguments, ',') {
            Some((first, rest)) => (first.trim(), Some(rest.trim())),
            None => (arguments, None),
        };
        match name {
            "oc.env" => {
                let variable = self.text_argument(first, path, depth)?;
                match ((self.env)(&variable), rest) {
                    (Some(found), _) => Ok(decode_collection(&found)),
                    (None, Some(default)) => match unquoted(default) {
                        Some(quoted) => Ok(Value::Text(quoted.to_owned())),
                        None if default == "null" => Ok(Value::Null),
                        None => match self.text(default, path, depth + 1)? {
                            Value::Text(text) => Ok(decode_collection(&text)),
                            value => Ok(value),
                        },
                    },
                    (None, None) => Err(Failure::Because(format!(
                        "environment variable {variable} is not set; set it, or give a default: ${{oc.env:{variable},…}}"
                    ))),
                }
            }
            "oc.decode" => {
                let text = self.text_argument(arguments, path, depth)?;
                self.paste(&text)?;
                Ok(yaml::parse(&text, 0, &mut Vec::new()).map_or(Value::Text(text), |node| node.value))
            }
            other => Err(Failure::Because(format!(
                "unknown resolver `{other}` in an interpolation; known: oc.env, oc.decode, and names of other keys"
            ))),
        }
    }

    fn text_argument(&mut self, text: &str, path: &str, depth: usize) -> Result<String, Failure> {
        if let Some(quoted) = unquoted(text) {
            return Ok(quoted.to_owned());
        }
        let value = self.text(text, path, depth + 1)?;
        value.scalar_text().ok_or_else(|| Failure::Because(format!("`{text}` is {}, not text", value.found())))
    }

    /// The resolved value of another key; its default when no layer gives it.
    fn key(&mut self, path: &str, from: &str) -> Result<Value, Failure> {
        let (found, path) = match self.find(path, from) {
            Some(hit) => hit,
            None => return Err(Failure::Because(missing(path))),
        };
        if let Some(start) = self.stack.iter().position(|p| *p == path) {
            let mut cycle = self.stack.split_off(start);
            if cycle.iter().any(|p| self.cycled.contains(p)) {
                return Err(Failure::Elsewhere);
            }
            self.cycled.extend(cycle.iter().cloned());
            cycle.push(path);
            return Err(Failure::Throughout(format!("interpolation goes in a circle: {}", cycle.join(" → "))));
        }
        if self.cycled.contains(&path) {
            return Err(Failure::Elsewhere);
        }
        if self.stack.len() > MAX_DEPTH {
            return Err(Failure::Throughout("interpolation goes through too many keys".to_owned()));
        }
        self.stack.push(path.clone());
        let value = self.value(found, &path);
        self.stack.pop();
        // The text that is wrong is met again at its own key, and reported there.
        value.map_err(|failure| if let Failure::Because(_) = failure { Failure::Elsewhere } else { failure })
    }

    /// A key from the root, or (for files that were written to be read alone) from the root of their own group.
    fn find(&self, path: &str, from: &str) -> Option<(&'a Node, String)> {
        let group = from.split('.').next().unwrap_or_default();
        [path.to_owned(), join(group, path)].into_iter().find_map(|candidate| {
            let node = self.root.get(&candidate).or_else(|| self.defaults.get(&candidate))?;
            Some((node, candidate))
        })
    }
}

fn missing(path: &str) -> String {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let hint = if key::is_section(section) { key::suggestion(section, name) } else { String::new() };
    if path.starts_with("runtime.") {
        return format!("`${{{path}}}`: runtime is derived after the configuration is read, and cannot be referred to");
    }
    let hint = if hint.is_empty() { "a reference is written ${section.key}".to_owned() } else { hint };
    format!("`${{{path}}}` names a key that does not exist; {hint}")
}

/// The inside of a reference, and the text behind it.
type Reference<'a> = (&'a str, &'a str);

/// The text before the first reference, with its escapes undone, and the reference.
fn first_reference(text: &str) -> Result<(String, Option<Reference<'_>>), Failure> {
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once("${") {
        let bare = before.trim_end_matches('\\');
        let backslashes = before.len() - bare.len();
        literal.push_str(bare);
        literal.extend(std::iter::repeat_n('\\', backslashes / 2));
        if backslashes % 2 == 0 {
            let Some((inner, after)) = split_outside_braces(inside, '}') else {
                let reference = Value::Text(format!("${{{inside}")).found();
                return Err(Failure::Because(format!("`{reference}` has no closing `}}`")));
            };
            return Ok((literal, Some((inner, after))));
        }
        literal.push_str("${");
        rest = inside;
    }
    literal.push_str(rest);
    Ok((literal, None))
}

/// What stands before and after the first `delimiter` that is in no braces.
fn split_outside_braces(text: &str, delimiter: char) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            c if c == delimiter && depth == 0 => {
                return text.split_at_checked(i).map(|(a, b)| (a, b.strip_prefix(c).unwrap_or(b)));
            }
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// `oc.env` and `VAR,default` of `oc.env:VAR,default`; `None` for the name of a key.
fn resolver_name(inner: &str) -> Option<(&str, &str)> {
    let (name, arguments) = inner.split_once(':')?;
    let name = name.trim();
    (!name.contains("${")).then_some((name, arguments.trim()))
}

fn unquoted(text: &str) -> Option<&str> {
    let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"'))
}

/// Environment variables are text; one that is a YAML list or mapping becomes it, so that sizes can be set by them.
fn decode_collection(text: &str) -> Value {
    let parsed = if text.starts_with(['[', '{']) { yaml::parse(text, 0, &mut Vec::new()) } else { None };
    parsed.map_or_else(|| Value::Text(text.to_owned()), |node| node.value)
}

/// `a.b[0]` → `a.b.0`; leading dots count sections upwards from the key that holds the reference.
fn absolute_path(name: &str, from: &str) -> Result<String, String> {
    let plain = name.replace('[', ".").replace(']', "");
    let bare = plain.trim_start_matches('.');
    let ups = plain.len() - bare.len();
    if bare.is_empty() {
        return Err(format!("`${{{name}}}` names no key"));
    }
    if ups == 0 {
        return Ok(plain);
    }
    let parents: Vec<&str> = from.split('.').collect();
    match parents.len().checked_sub(ups).and_then(|kept| parents.get(..kept)) {
        Some(kept) => Ok(join(&kept.join("."), bare)),
        None => Err(format!("`${{{name}}}` goes above the root of the configuration")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &str) -> Layers {
        let mut layers = Layers::new();
        layers.add_group("m.yaml", "model", model);
        let defaults = yaml::parse("training:\n  output_dir: outputs\n  seed: 42\n", 0, &mut Vec::new()).unwrap();
        let env = |name: &str| match name {
            "NAME" => Some("vit".to_owned()),
            "SIZE" => Some("[64, 32]".to_owned()),
            "WHICH" => Some("NAME".to_owned()),
            _ => None,
        };
        resolve(&mut layers, &defaults, &env);
        layers
    }

    fn text(model: &str) -> Value {
        let layers = run(model);
        assert_eq!(layers.problems, []);
        layers.tree.get("model.model_name").unwrap().value.clone()
    }

    fn problem(model: &str) -> String {
        let layers = run(model);
        assert_eq!(layers.problems.len(), 1, "{:?}", layers.problems);
        layers.problems[0].to_string()
    }

    #[test]
    fn environment_variables_and_their_defaults_are_pasted() {
        assert_eq!(text("model_name: ${oc.env:NAME}_x"), Value::Text("vit_x".into()));
        assert_eq!(text("model_name: ${oc.env:NONE,a b}"), Value::Text("a b".into()));
        assert_eq!(text("model_name: ${oc.env:NONE,'a,b'}"), Value::Text("a,b".into()));
        assert_eq!(text("model_name: ${oc.env:NONE,null}"), Value::Null);
        assert_eq!(text("model_name: ${oc.env:NONE,}"), Value::Text(String::new()));
        assert_eq!(text("model_name: ${oc.env:NONE,${oc.env:NAME}}"), Value::Text("vit".into()));
        assert_eq!(text("model_name: ${oc.env:${oc.env:WHICH}}"), Value::Text("vit".into()));
        assert_eq!(text("model_name: ${oc.decode:'5e-4'}"), Value::Float(5e-4));
        assert!(matches!(text("model_name: ${oc.env:SIZE}"), Value::List(items) if items.len() == 2));
    }

    #[test]
    fn a_reference_alone_keeps_its_type_and_inside_text_it_is_pasted() {
        assert_eq!(text("model_name: ${training.seed}"), Value::Int(42));
        assert_eq!(text("model_name: ${training.output_dir}/logs"), Value::Text("outputs/logs".into()));
        assert_eq!(text("model_name: ${model.heatmap.size[1]}\nheatmap:\n  size: [7, 9]"), Value::Int(9));
    }

    #[test]
    fn references_can_be_relative_and_chained() {
        assert_eq!(text("model_name: ${.other}\nother: ${.third}\nthird: 3"), Value::Int(3));
        assert_eq!(text("model_name: ${.lora.r}\nlora:\n  r: ${..rank}\nrank: 4"), Value::Int(4));
        assert_eq!(text("model_name: ${rank}\nrank: 4"), Value::Int(4));
    }

    #[test]
    fn a_backslash_keeps_the_dollar_and_brace() {
        assert_eq!(text(r"model_name: \${x}"), Value::Text("${x}".into()));
        assert_eq!(text(r"model_name: \\${oc.env:NAME}"), Value::Text(r"\vit".into()));
        assert_eq!(text(r"model_name: a\b"), Value::Text(r"a\b".into()));
    }

    #[test]
    fn what_cannot_be_resolved_is_named_once_with_its_line() {
        assert_eq!(
            problem("\nmodel_name: ${training.sed}"),
            "m.yaml:2: model.model_name: `${training.sed}` names a key that does not exist; did you mean seed?"
        );
        assert_eq!(
            problem("model_name: ${oc.env:NONE}"),
            "m.yaml:1: model.model_name: environment variable NONE is not set; set it, or give a default: \
             ${oc.env:NONE,…}"
        );
        assert!(problem("model_name: ${now:%Y}").contains("unknown resolver `now`"));
        assert!(problem("model_name: a${training.seed").contains("has no closing `}`"));
        assert!(problem("model_name: ${}").contains("names no key"));
        assert!(problem("model_name: ${....x}").contains("above the root"));
        assert!(problem("model_name: a${.l}\nl: [1]").contains("cannot be pasted into text"));
        assert!(problem("model_name: ${.b}\nb: ${.c}").contains("model.b: `${model.c}` names a key"));
    }

    #[test]
    fn a_circle_is_reported_once() {
        assert_eq!(
            problem("model_name: ${.b}\nb: ${.c}\nc: ${.b}"),
            "m.yaml:1: model.model_name: interpolation goes in a circle: model.b → model.c → model.b"
        );
        assert!(problem("model_name: x${model.model_name}").contains("circle: model.model_name → model.model_name"));
    }

    #[test]
    fn references_that_multiply_are_stopped() {
        let mut yaml = String::from("k0: xxxxxxxxxxxxxxxx\n");
        for i in 1..30 {
            yaml.push_str(&format!("k{i}: {}\n", format!("${{.k{}}}", i - 1).repeat(8)));
        }
        assert!(!run(&yaml).problems.is_empty());
        let long = "x".repeat(1 << 20);
        let copies: String = (0..400).map(|i| format!("k{i}: ${{.long}}\n")).collect();
        let problems = run(&format!("long: {long}\n{copies}")).problems;
        assert!(problems.iter().any(|p| p.message.contains("more than 16 MiB")), "{}", problems.len());
        run(&format!("model_name: {}", "${".repeat(50_000)));
        run(&format!("model_name: {}{}", "${".repeat(5_000), "}".repeat(5_000)));
    }

    #[test]
    fn escaped_text_is_read_back_as_it_was() {
        for original in ["${a}", r"\${a}", r"\\${a}", "a$b{c}", "$${x", r"\"] {
            let escaped = escape(original);
            let Ok((back, None)) = first_reference(&escaped) else { panic!("{original}: a reference") };
            assert_eq!(back, original);
        }
    }
}
