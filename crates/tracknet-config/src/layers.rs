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

/// A source of values, as messages name it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// `configs/model/x.yaml`, `override model.lora.r=8`, `flag --seed`.
    pub(crate) label: String,
    /// Whether notes about its keys are wanted: not for a run's own `config.yaml`.
    pub(crate) notes: bool,
}

/// All layers merged into one tree.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    pub(crate) layers: Vec<Layer>,
    pub(crate) tree: Node,
    pub(crate) problems: Vec<Problem>,
    pub(crate) notes: Vec<String>,
}

impl Layers {
    pub(crate) fn new() -> Self {
        let at = Origin { layer: 0, line: None };
        let root = Node { value: Value::Map(Vec::new()), at };
        Self { layers: Vec::new(), tree: root, problems: Vec::new(), notes: Vec::new() }
    }

    /// A problem at a place of some layer.
    pub(crate) fn problem(&self, at: Origin, key: &str, message: String) -> Problem {
        let source = self.layers.get(at.layer).map(|l| l.label.clone()).unwrap_or_default();
        Problem { source, line: at.line, key: key.to_owned(), message }
    }

    fn push_layer(&mut self, label: &str, notes: bool) -> usize {
        self.layers.push(Layer { label: label.to_owned(), notes });
        self.layers.len() - 1
    }

    fn push_yaml_problems(&mut self, layer: usize, group: &str, found: Vec<YamlProblem>) {
        for YamlProblem { line, key, message } in found {
            let full = if key.is_empty() { String::new() } else { join(group, &key) };
            let message = message.replacen(&format!("key {key} is"), &format!("key {full} is"), 1);
            let problem = self.problem(Origin { layer, line }, &full, message);
            self.problems.push(problem);
        }
    }

    /// Adds the file of one group: its keys at the top level, or below the group's name.
    pub(crate) fn add_group(&mut self, label: &str, group: &str, text: &str) {
        let layer = self.push_layer(label, true);
        let mut found = Vec::new();
        let node = yaml::parse(text, layer, &mut found);
        let nested = node.as_ref().is_some_and(|n| n.get(group).is_some());
        self.push_yaml_problems(layer, if nested { "" } else { group }, found);
        let Some(node) = node else { return };
        let mut section = if nested { self.unnest(node, group) } else { node };
        if let Value::Null = section.value {
            section.value = Value::Map(Vec::new());
        }
        if section.entries().is_none() {
            let message = format!("a {group} file holds `key: value` lines, found {}", section.value.found());
            let problem = self.problem(section.at, group, message);
            self.problems.push(problem);
            return;
        }
        old_spellings(&mut section, group);
        merge(&mut self.tree, entry_tree(group, section), "");
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
                let message = format!("unknown key {}; {hint}", entry.key);
                let problem = self.problem(entry.at, &entry.key, message);
                self.problems.push(problem);
            }
        }
        if !aside.is_empty() {
            let label = self.layers.get(at.layer).map(|l| l.label.as_str()).unwrap_or_default();
            self.notes.push(format!("{label}: read for its {group} section; its {} not used", listed(&aside)));
        }
        section
    }

    /// Adds a merged file with sections, as a run keeps it.
    pub(crate) fn add_merged(&mut self, label: &str, text: &str) {
        let layer = self.push_layer(label, false);
        let mut found = Vec::new();
        let node = yaml::parse(text, layer, &mut found);
        self.push_yaml_problems(layer, "", found);
        let Some(mut node) = node else { return };
        if let Value::Null = node.value {
            node.value = Value::Map(Vec::new());
        }
        if let Value::Map(entries) = &mut node.value {
            for entry in entries.iter_mut().filter(|e| GROUPS.contains(&e.key.as_str())) {
                old_spellings(&mut entry.node, &entry.key);
            }
            merge(&mut self.tree, node, "");
        } else {
            let message = format!("expected the sections data, model and training, found {}", node.value.found());
            let problem = self.problem(node.at, "", message);
            self.problems.push(problem);
        }
    }

    /// Forgets a group: a config that is named replaces the one of the run.
    pub(crate) fn replace_group(&mut self, group: &str) {
        if let Value::Map(entries) = &mut self.tree.value {
            entries.retain(|e| e.key != group);
        }
    }

    /// Adds `section.key=value`.
    pub(crate) fn add_override(&mut self, text: &str) {
        let layer = self.push_layer(&format!("override {}", excerpt(text, LONGEST_LABEL)), true);
        let at = Origin { layer, line: None };
        let Some((path, value)) = text.split_once('=').map(|(path, value)| (path.trim(), value)) else {
            let message = "an override is written section.key=value, such as training.epochs=5".to_owned();
            let problem = self.problem(at, "", message);
            self.problems.push(problem);
            return;
        };
        if let Some(problem) = self.unknown_path(path, at) {
            self.problems.push(problem);
            return;
        }
        let mut found = Vec::new();
        let node = yaml::parse_at(value, path, layer, &mut found);
        for problem in &mut found {
            problem.line = None;
        }
        self.push_yaml_problems(layer, "", found);
        if let Some(mut node) = node {
            forget_lines(&mut node);
            old_spellings_at(&mut node, path);
            self.set(path, node);
        }
    }

    /// Sets a key as a flag of the command line does.
    pub(crate) fn add_flag(&mut self, flag: &str, path: &str, value: Value) {
        let layer = self.push_layer(&format!("flag {flag}"), true);
        self.set(path, Node { value, at: Origin { layer, line: None } });
    }

    fn set(&mut self, path: &str, node: Node) {
        let (path, node) = self.inside_free_mapping(path, node);
        let nested = path.rsplit('.').fold(node, |inner, part| entry_tree(part, inner));
        merge(&mut self.tree, nested, "");
    }

    /// For a path below a free mapping (`architecture.hidden_size`): the mapping's path, and it with the key set.
    fn inside_free_mapping<'p>(&self, path: &'p str, node: Node) -> (&'p str, Node) {
        let above = path.match_indices('.').map(|(i, _)| path.split_at(i).0);
        let Some(key) = above.into_iter().find(|prefix| key::find(prefix).is_some()) else { return (path, node) };
        let empty = Node { value: Value::Map(Vec::new()), at: node.at };
        let mut mapping = self.tree.get(key).filter(|n| n.entries().is_some()).cloned().unwrap_or(empty);
        let rest = path.strip_prefix(key).unwrap_or_default().trim_start_matches('.');
        let nested = rest.rsplit('.').fold(node, |inner, part| entry_tree(part, inner));
        // An unknown path is no known key, so that `merge` goes into every mapping.
        merge(&mut mapping, nested, "(free)");
        (key, mapping)
    }

    /// Where an override leaves the known keys. Below a free mapping (`architecture`) every name is allowed.
    fn unknown_path(&self, path: &str, at: Origin) -> Option<Problem> {
        if path.split('.').count() > DEEPEST_PATH {
            let message = format!("a key has at most {DEEPEST_PATH} parts");
            return Some(self.problem(at, path, message));
        }
        let mut section = String::new();
        for part in path.split('.') {
            let full = join(&section, part);
            if let Some(key) = key::find(&full) {
                let open = full == path || key.kind.accepts_mapping();
                if !open {
                    let message = format!("{full} holds {}, and has no keys of its own", key.kind.describe());
                    return Some(self.problem(at, path, message));
                }
                if key.status == Status::Derived {
                    let message = format!("{full} is derived and cannot be set; set training.{part} instead");
                    return Some(self.problem(at, path, message));
                }
                return None;
            }
            if part.is_empty() || !key::is_section(&full) {
                let message = format!("unknown key {path}; {}", key::suggestion(&section, part));
                return Some(self.problem(at, path, message));
            }
            section = full;
        }
        None
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [one] => format!("section {one} is"),
        many => format!("sections {} are", many.join(", ")),
    }
}

fn entry_tree(key: &str, node: Node) -> Node {
    let at = node.at;
    Node { value: Value::Map(vec![Entry { key: key.to_owned(), at, node }]), at }
}

fn forget_lines(node: &mut Node) {
    node.at.line = None;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(forget_lines),
        Value::Map(entries) => entries.iter_mut().for_each(|e| {
            e.at.line = None;
            forget_lines(&mut e.node);
        }),
        _ => {}
    }
}

/// Puts `upper` over `lower`: sections key by key, everything else as a whole. A null section changes nothing.
fn merge(lower: &mut Node, upper: Node, path: &str) {
    let free = key::find(path).is_some();
    match (&mut lower.value, upper.value) {
        (Value::Map(_), Value::Null) if !free => {}
        (Value::Map(below), Value::Map(above)) if !free && below.is_empty() => *below = above,
        (Value::Map(below), Value::Map(above)) if !free => {
            for entry in above {
                let full = join(path, &entry.key);
                match below.iter_mut().find(|e| e.key == entry.key) {
                    Some(old) => {
                        old.at = entry.at;
                        merge(&mut old.node, entry.node, &full);
                    }
                    None => below.push(entry),
                }
            }
        }
        (_, value) => *lower = Node { value, at: upper.at },
    }
}

/// Applies the short spellings of the original's files to one group.
///
/// `lora: false` means `lora: {enabled: false}`, and an `early_stopping` section without `enabled` is switched on:
/// there the presence of the section was the switch.
fn old_spellings(section: &mut Node, group: &str) {
    if let Value::Map(entries) = &mut section.value {
        for entry in entries {
            old_spellings_at(&mut entry.node, &join(group, &entry.key));
        }
    }
}

fn old_spellings_at(node: &mut Node, path: &str) {
    let at = node.at;
    let switch = join(path, "enabled");
    if key::find(&switch).is_none() {
        if path == "training.ema" && node.value == Value::Bool(false) {
            node.value = Value::Null;
        }
        return;
    }
    let enabled = |on: bool| {
        let node = Node { value: Value::Bool(on), at };
        Entry { key: "enabled".to_owned(), at, node }
    };
    match &mut node.value {
        Value::Bool(on) => node.value = Value::Map(vec![enabled(*on)]),
        Value::Map(entries)
            if path == "training.early_stopping"
                && !entries.is_empty()
                && entries.iter().all(|e| e.key != "enabled") =>
        {
            entries.push(enabled(true));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(layers: &Layers, path: &str) -> Value {
        layers.tree.get(path).unwrap().value.clone()
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let mut layers = Layers::new();
        layers.add_group("a.yaml", "model", "lora:\n  r: 4\n  lora_alpha: 8\n");
        layers.add_override("model.lora.r=2");
        assert_eq!(layers.problems, []);
        assert_eq!(value(&layers, "model.lora.r"), Value::Int(2));
        assert_eq!(value(&layers, "model.lora.lora_alpha"), Value::Int(8));
    }

    #[test]
    fn a_section_whose_lines_are_all_commented_out_changes_nothing() {
        let mut layers = Layers::new();
        layers.add_group("a.yaml", "model", "lora:\n  # r: 4\ndecoder:\n  skip: true\n");
        layers.add_override("model.decoder=null");
        assert_eq!(layers.problems, []);
        assert_eq!(value(&layers, "model.decoder.skip"), Value::Bool(true));
    }

    #[test]
    fn a_list_is_replaced_as_a_whole() {
        let mut layers = Layers::new();
        layers.add_group("a.yaml", "data", "preprocess:\n  resize: [1, 2]\n");
        layers.add_override("data.preprocess.resize=[3,4]");
        let Value::List(items) = value(&layers, "data.preprocess.resize") else { panic!("not a list") };
        assert_eq!(items.into_iter().map(|n| n.value).collect::<Vec<_>>(), [Value::Int(3), Value::Int(4)]);
    }

    #[test]
    fn a_section_given_as_a_flag_is_its_switch() {
        let mut layers = Layers::new();
        layers.add_group("a.yaml", "model", "lora: true\nquantization: off\n");
        assert_eq!(value(&layers, "model.lora.enabled"), Value::Bool(true));
        assert_eq!(value(&layers, "model.quantization.enabled"), Value::Bool(false));
    }

    #[test]
    fn an_early_stopping_section_without_a_switch_is_switched_on() {
        let mut layers = Layers::new();
        layers.add_group("a.yaml", "training", "early_stopping:\n  patience: 3\n");
        assert_eq!(value(&layers, "training.early_stopping.enabled"), Value::Bool(true));
        let mut layers = Layers::new();
        layers.add_group("a.yaml", "training", "early_stopping:\n  patience: 3\n  enabled: false\n");
        assert_eq!(value(&layers, "training.early_stopping.enabled"), Value::Bool(false));
    }
}
