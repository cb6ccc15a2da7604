//! Layers: files first, then overrides in their order, then flags. Later layers win key by key.

use super::error::Problem;
use super::key::{self, Status};
use super::yaml::{self, Entry, Node, Origin, Value, YamlProblem, join};
use tracknet_io::console::excerpt;

/// The most bytes of an override that its messages repeat.
const LONGEST_LABEL: usize = 200;
/// The most parts of the path of an override.
const DEEPEST_PATH: usize = 32;

/// The three groups, in the order of the merged file.
pub(crate) const GROUPS: [&str; 3] = ["data", "model", "training"];

/// A source of values.
#[derive(Debug, Clone)]
struct Layer {
    /// As messages name it: `configs/model/x.yaml`, `override model.lora.r=8`, `flag --seed`.
    label: String,
    kind: LayerKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerKind {
    /// The merged file of a run, which has had its notes.
    Run,
    /// The file of a group.
    File,
    /// An override or a flag, which has no lines.
    Argument,
}

/// All layers merged into one tree.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    layers: Vec<Layer>,
    pub(crate) tree: Node,
    pub(crate) problems: Vec<Problem>,
    pub(crate) notes: Vec<String>,
}

impl Layers {
    pub(crate) fn new() -> Self {
        let root = Node { value: Value::Map(Vec::new()), at: Origin { layer: 0, line: None } };
        Self { layers: Vec::new(), tree: root, problems: Vec::new(), notes: Vec::new() }
    }

    fn layer(&self, at: Origin) -> (&str, LayerKind) {
        self.layers.get(at.layer).map_or(("", LayerKind::Argument), |layer| (&layer.label, layer.kind))
    }

    /// A problem at a place of some layer.
    pub(crate) fn problem(&self, at: Origin, key: &str, message: String) -> Problem {
        let (label, kind) = self.layer(at);
        let line = at.line.filter(|_| kind != LayerKind::Argument);
        Problem { line, ..Problem::new(label, key, message) }
    }

    /// Whether notes are wanted about what stands there.
    pub(crate) fn wants_notes(&self, at: Origin) -> bool {
        self.layer(at).1 != LayerKind::Run
    }

    fn push_layer(&mut self, label: &str, kind: LayerKind) -> Origin {
        self.layers.push(Layer { label: label.to_owned(), kind });
        Origin { layer: self.layers.len() - 1, line: None }
    }

    fn push_problem(&mut self, at: Origin, key: &str, message: String) {
        self.problems.push(self.problem(at, key, message));
    }

    /// Reports what is wrong with the text of a layer, whose keys stand below `section`.
    fn push_yaml_problems(&mut self, at: Origin, section: &str, found: Vec<YamlProblem>) {
        for YamlProblem { line, key, message } in found {
            let at = Origin { line, ..at };
            if key.is_empty() {
                self.push_problem(at, "", message);
            } else {
                let key = join(section, &key);
                self.push_problem(at, &key, format!("key {key} is {message}"));
            }
        }
    }

    /// Adds the file of one group: its keys at the top level, or below the group's name.
    pub(crate) fn add_group(&mut self, label: &str, group: &str, text: &str) {
        let at = self.push_layer(label, LayerKind::File);
        let mut found = Vec::new();
        let node = yaml::parse(text, at.layer, &mut found);
        let nested = node.as_ref().is_some_and(|n| n.get(group).is_some());
        self.push_yaml_problems(at, if nested { "" } else { group }, found);
        let Some(node) = node else { return };
        let section = if nested { self.unnest(node, group) } else { node };
        if !matches!(section.value, Value::Map(_) | Value::Null) {
            let message = format!("a {group} file holds `key: value` lines, found {}", section.value.found());
            return self.push_problem(section.at, group, message);
        }
        self.put_over(vec![Entry { key: group.to_owned(), at: section.at, node: section }]);
    }

    /// The section `group` of a file that is nested under section names; says which other sections are left aside.
    fn unnest(&mut self, node: Node, group: &str) -> Node {
        let at = node.at;
        let Value::Map(entries) = node.value else { return node };
        let mut section = Node { value: Value::Null, at };
        let mut aside = Vec::new();
        for entry in entries {
            if entry.key == group {
                section = entry.node;
            } else if GROUPS.contains(&entry.key.as_str()) || entry.key == "runtime" {
                aside.push(entry.key);
            } else {
                let hint = key::suggestion("", &entry.key);
                self.push_problem(entry.at, &entry.key, format!("unknown key {}; {hint}", entry.key));
            }
        }
        if !aside.is_empty() {
            let label = self.layer(at).0;
            self.notes.push(format!("{label}: read for its {group} section; its {} not used", listed(&aside)));
        }
        section
    }

    /// Adds a merged file with sections, as a run keeps it.
    pub(crate) fn add_merged(&mut self, label: &str, text: &str) {
        let at = self.push_layer(label, LayerKind::Run);
        let mut found = Vec::new();
        let node = yaml::parse(text, at.layer, &mut found);
        self.push_yaml_problems(at, "", found);
        match node {
            Some(Node { value: Value::Map(sections), .. }) => self.put_over(sections),
            None | Some(Node { value: Value::Null, .. }) => {}
            Some(Node { value, at }) => {
                let message = format!("expected the sections data, model and training, found {}", value.found());
                self.push_problem(at, "", message);
            }
        }
    }

    /// Puts the sections of a file over what is there.
    fn put_over(&mut self, mut sections: Vec<Entry>) {
        for section in &mut sections {
            if let (true, Value::Map(entries)) = (GROUPS.contains(&section.key.as_str()), &mut section.node.value) {
                for entry in entries {
                    old_spellings(&mut entry.node, &join(&section.key, &entry.key));
                }
            }
        }
        let at = self.tree.at;
        merge(&mut self.tree, Node { value: Value::Map(sections), at }, "", "");
    }

    /// Forgets a group: a config that is named replaces the one of the run.
    pub(crate) fn replace_group(&mut self, group: &str) {
        if let Value::Map(entries) = &mut self.tree.value {
            entries.retain(|e| e.key != group);
        }
    }

    /// Adds `section.key=value`.
    pub(crate) fn add_override(&mut self, text: &str) {
        let at = self.push_layer(&format!("override {}", excerpt(text, LONGEST_LABEL)), LayerKind::Argument);
        let Some((path, value)) = text.split_once('=').map(|(path, value)| (path.trim(), value)) else {
            let message = "an override is written section.key=value, such as training.epochs=5";
            return self.push_problem(at, "", message.to_owned());
        };
        if let Err(message) = check_path(path) {
            return self.push_problem(at, path, message);
        }
        let mut found = Vec::new();
        let node = yaml::parse_at(value, path, at.layer, &mut found);
        self.push_yaml_problems(at, "", found);
        if let Some(mut node) = node {
            old_spellings(&mut node, path);
            self.set(path, node);
        }
    }

    /// Sets a key as a flag of the command line does.
    pub(crate) fn add_flag(&mut self, flag: &str, path: &str, value: Value) {
        let at = self.push_layer(&format!("flag {flag}"), LayerKind::Argument);
        self.set(path, Node { value, at });
    }

    fn set(&mut self, path: &str, node: Node) {
        let nested = path
            .rsplit('.')
            .fold(node, |Node { value, at }, part| Node { value: Value::Map(vec![Entry::new(part, value, at)]), at });
        merge(&mut self.tree, nested, "", path);
    }
}

/// Whether an override may have this path. Below a free mapping (`architecture`) every name is allowed.
fn check_path(path: &str) -> Result<(), String> {
    if path.split('.').count() > DEEPEST_PATH {
        return Err(format!("a key has at most {DEEPEST_PATH} parts"));
    }
    let mut section = String::new();
    for part in path.split('.') {
        let full = join(&section, part);
        match key::find(&full) {
            Some(key) if full != path && !key.kind.accepts_mapping() => {
                return Err(format!("{full} holds {}, and has no keys of its own", key.kind.describe()));
            }
            Some(key) if key.status == Status::Derived => {
                return Err(format!("{full} is derived and cannot be set; set training.{part} instead"));
            }
            Some(_) => return Ok(()),
            None if part.is_empty() || !key::is_section(&full) => {
                return Err(format!("unknown key {path}; {}", key::suggestion(&section, part)));
            }
            None => section = full,
        }
    }
    Ok(())
}

fn listed(names: &[String]) -> String {
    match names {
        [one] => format!("section {one} is"),
        many => format!("sections {} are", many.join(", ")),
    }
}

/// Puts `upper` over `lower`: sections key by key, values as a whole unless `target` stands in them. A null section changes
/// nothing.
fn merge(lower: &mut Node, upper: Node, path: &str, target: &str) {
    let is_above_target = target.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    let is_whole = key::find(path).is_some() && !is_above_target;
    match (&mut lower.value, upper.value) {
        (Value::Map(_), Value::Null) if !is_whole => {}
        // Thousands of unknown keys are not looked for among each other.
        (Value::Map(below), Value::Map(above)) if !is_whole && below.is_empty() => *below = above,
        (Value::Map(below), Value::Map(above)) if !is_whole => {
            for entry in above {
                let full = join(path, &entry.key);
                match below.iter_mut().find(|e| e.key == entry.key) {
                    Some(old) => {
                        old.at = entry.at;
                        merge(&mut old.node, entry.node, &full, target);
                    }
                    None => below.push(entry),
                }
            }
        }
        (_, value) => *lower = Node { value, at: upper.at },
    }
}

/// Applies the short spellings of the original's files to the value at a path.
///
/// `lora: false` means `lora: {enabled: false}`, and an `early_stopping` section without `enabled` is switched on:
/// there the presence of the section was the switch.
fn old_spellings(node: &mut Node, path: &str) {
    if path == "training.ema" && node.value == Value::Bool(false) {
        node.value = Value::Null;
    }
    if key::find(&join(path, "enabled")).is_none() {
        return;
    }
    let enabled = |on: bool| Entry::new("enabled", Value::Bool(on), node.at);
    let is_switch = path == "training.early_stopping";
    match &mut node.value {
        Value::Bool(on) => node.value = Value::Map(vec![enabled(*on)]),
        Value::Map(entries) if is_switch && !entries.is_empty() && entries.iter().all(|e| e.key != "enabled") => {
            entries.push(enabled(true));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands at a path after the file of a group and an override.
    fn value(group: &str, text: &str, with: Option<&str>, path: &str) -> String {
        let mut layers = Layers::new();
        layers.add_group("a.yaml", group, text);
        with.into_iter().for_each(|with| layers.add_override(with));
        assert_eq!(layers.problems, []);
        crate::emit::flow(&layers.tree.get(path).unwrap().value)
    }

    #[test]
    fn later_layers_win_key_by_key_and_lists_are_replaced_as_a_whole() {
        let lora = "lora:\n  r: 4\n  lora_alpha: 8\n";
        assert_eq!(value("model", lora, Some("model.lora.r=2"), "model.lora"), "{r: 2, lora_alpha: 8}");
        let resize = Some("data.preprocess.resize=[3,4]");
        assert_eq!(value("data", "preprocess:\n  resize: [1, 2]\n", resize, "data.preprocess.resize"), "[3, 4]");
    }

    #[test]
    fn a_section_whose_lines_are_all_commented_out_changes_nothing() {
        let text = "lora:\n  # r: 4\ndecoder:\n  skip: true\n";
        assert_eq!(value("model", text, Some("model.decoder=null"), "model.decoder.skip"), "true");
    }

    #[test]
    fn a_section_given_as_a_flag_is_its_switch() {
        let text = "lora: true\nquantization: off\n";
        assert_eq!(value("model", text, None, "model.lora.enabled"), "true");
        assert_eq!(value("model", text, None, "model.quantization.enabled"), "false");
    }

    #[test]
    fn an_early_stopping_section_without_a_switch_is_switched_on() {
        let enabled = |text: &str| value("training", text, None, "training.early_stopping.enabled");
        assert_eq!(enabled("early_stopping:\n  patience: 3\n"), "true");
        assert_eq!(enabled("early_stopping:\n  patience: 3\n  enabled: false\n"), "false");
    }
}
