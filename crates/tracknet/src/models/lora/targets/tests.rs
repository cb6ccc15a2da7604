//! Lists, patterns and exclusions as PEFT reads them, and short names on every family.

use super::*;
use crate::models::registry::family_of;

fn select(
    targets: Option<&TargetModules>,
    candidates: &[Candidate],
    paths: ModulePaths,
) -> Result<Selection, ModelError> {
    super::select(targets, &LoraConfig::default(), candidates, paths)
}

fn dinov3_paths() -> ModulePaths {
    paths("dinov3_vit")
}

fn paths(model_type: &str) -> ModulePaths {
    let config = serde_json::json!({ "model_type": model_type });
    ModulePaths::Of(family_of(config.as_object().unwrap()).unwrap())
}

fn selected(config: &LoraConfig) -> Vec<String> {
    super::select(config.target_modules.as_ref(), config, &dinov3(), dinov3_paths()).unwrap().paths
}

/// The layers of two blocks of a family.
fn candidates(model_type: &str, blocks: &str, names: [&str; 6]) -> Vec<Candidate> {
    let paths = paths(model_type);
    let paths_of = |i: usize| names.map(|name| format!("{blocks}.{i}.{name}"));
    (0..2).flat_map(paths_of).map(|path| Candidate { role: paths.role(&path), path, is_linear: true }).collect()
}

fn dinov3() -> Vec<Candidate> {
    candidates(
        "dinov3_vit",
        "layer",
        [
            "attention.q_proj",
            "attention.k_proj",
            "attention.v_proj",
            "attention.o_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ],
    )
}

fn list(entries: &[&str]) -> Option<TargetModules> {
    Some(TargetModules::List(entries.iter().map(|e| (*e).to_owned()).collect()))
}

#[test]
fn auto_and_all_linear_take_every_projection() {
    assert_eq!(select(None, &dinov3(), ModulePaths::AsWritten).unwrap().paths.len(), 12);
    let all = TargetModules::Pattern("all-linear".to_owned());
    assert_eq!(select(Some(&all), &dinov3(), ModulePaths::AsWritten).unwrap().paths.len(), 12);
}

#[test]
fn a_list_matches_whole_paths_and_dotted_suffixes_only() {
    let chosen =
        select(list(&["q_proj", "layer.1.mlp.up_proj", "proj"]).as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap();
    assert_eq!(chosen.paths, ["layer.0.attention.q_proj", "layer.1.attention.q_proj", "layer.1.mlp.up_proj"]);
    assert_eq!(chosen.notes.len(), 1);
    assert!(chosen.notes[0].contains("`proj` matches nothing"), "{:?}", chosen.notes);
}

#[test]
fn the_short_names_of_the_design_mean_the_same_on_every_flavour() {
    let short = list(&["query", "key", "value", "dense"]);
    let chosen = select(short.as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap();
    assert_eq!(chosen.paths.len(), 12);
    assert_eq!(chosen.notes.len(), 4, "each translation is reported once: {:?}", chosen.notes);
    let dinov2 = candidates(
        "dinov2",
        "encoder.layer",
        [
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
            "mlp.fc1",
            "mlp.fc2",
        ],
    );
    let chosen = select(short.as_ref(), &dinov2, ModulePaths::AsWritten).unwrap();
    assert_eq!(chosen.paths.len(), 12);
    assert_eq!(chosen.notes, ["lora.target_modules: `dense` means fc1, fc2 in this model"]);
}

#[test]
fn a_pattern_must_match_the_full_path_in_any_spelling() {
    let pattern = |p: &str| Some(TargetModules::Pattern(p.to_owned()));
    assert!(select(pattern("q_proj").as_ref(), &dinov3(), dinov3_paths()).is_err());
    for p in [r".*layer\.\d+\.attention\.(q|v)_proj", r"model\.layer\.\d+\.attention\.[qv]_proj"] {
        assert_eq!(select(pattern(p).as_ref(), &dinov3(), dinov3_paths()).unwrap().paths.len(), 4, "{p}");
    }
    assert!(
        select(pattern("(").as_ref(), &dinov3(), ModulePaths::AsWritten)
            .unwrap_err()
            .to_string()
            .contains("regular expression")
    );
}

#[test]
fn no_match_lists_what_exists_and_an_unmatched_entry_names_the_nearest() {
    let message = select(list(&["fc1"]).as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap_err().to_string();
    assert!(message.contains("[fc1]") && message.contains("layer.*.attention.q_proj (2)"), "{message}");
    let chosen = select(list(&["q_proj", "k_poj"]).as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap();
    assert!(chosen.notes[0].contains("`k_proj`"), "{:?}", chosen.notes);
}

#[test]
fn excluded_modules_are_left_out_by_suffix_or_by_regex() {
    let exclude = list(&["k_proj", "model.layer.0.mlp.up_proj"]);
    let config = LoraConfig { exclude_modules: exclude, ..LoraConfig::default() };
    let paths = selected(&config);
    assert_eq!(paths.len(), 9);
    assert!(!paths.iter().any(|p| p.ends_with("k_proj") || p == "layer.0.mlp.up_proj"), "{paths:?}");
    let config = LoraConfig { exclude_modules: list(&["dense"]), ..LoraConfig::default() };
    assert_eq!(selected(&config).len(), 6, "short names mean the same as in target_modules");
    let exclude = Some(TargetModules::Pattern(r".*\.mlp\..*".to_owned()));
    assert_eq!(selected(&LoraConfig { exclude_modules: exclude, ..LoraConfig::default() }).len(), 8);
    let exclude = Some(TargetModules::Pattern(".*".to_owned()));
    let config = LoraConfig { exclude_modules: exclude, ..LoraConfig::default() };
    let message = super::select(None, &config, &dinov3(), ModulePaths::AsWritten).unwrap_err().to_string();
    assert!(message.contains("exclude_modules"), "{message}");
}

#[test]
fn a_module_that_is_saved_as_a_whole_is_not_adapted() {
    let config = LoraConfig { modules_to_save: Some(vec!["layer.1.mlp".to_owned()]), ..LoraConfig::default() };
    let paths = selected(&config);
    assert_eq!(paths.len(), 10);
    assert!(!paths.iter().any(|p| p.starts_with("layer.1.mlp")), "{paths:?}");
}

#[test]
fn layers_are_counted_for_names_and_not_for_whole_paths() {
    let target_modules = list(&["q_proj", "layer.0.mlp.up_proj"]);
    let config = LoraConfig { target_modules, layers_to_transform: Some(vec![1]), ..LoraConfig::default() };
    assert_eq!(selected(&config), ["layer.0.mlp.up_proj", "layer.1.attention.q_proj"]);
    let named = |name: &str| LoraConfig { layers_pattern: Some(vec![name.to_owned()]), ..config.clone() };
    assert_eq!(selected(&named("layer")).len(), 2);
    assert_eq!(selected(&named("blocks")), ["layer.0.mlp.up_proj"]);
    let auto = LoraConfig { layers_to_transform: Some(vec![1]), ..LoraConfig::default() };
    assert!(selected(&auto).iter().all(|p| p.starts_with("layer.1.")) && selected(&auto).len() == 6);
}

fn vit() -> Vec<Candidate> {
    candidates(
        "vit",
        "encoder.layer",
        [
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ],
    )
}

#[test]
fn names_of_a_vit_may_be_those_of_its_files_or_those_in_the_memory_of_transformers_5() {
    let select = |config: &LoraConfig| {
        super::select(config.target_modules.as_ref(), config, &vit(), paths("vit")).unwrap().paths
    };
    let targets = |entries: &[&str]| LoraConfig { target_modules: list(entries), ..LoraConfig::default() };
    let queries = ["encoder.layer.0.attention.attention.query", "encoder.layer.1.attention.attention.query"];
    for entry in ["q_proj", "query", "attention.q_proj", "attention.attention.query"] {
        assert_eq!(select(&targets(&[entry])), queries, "{entry}");
    }
    for entry in ["layers.1.mlp.fc1", "encoder.layer.1.intermediate.dense", "vit.layers.1.mlp.fc1"] {
        assert_eq!(select(&targets(&[entry])), ["encoder.layer.1.intermediate.dense"], "{entry}");
    }
    let pattern = |text: &str| Some(TargetModules::Pattern(text.to_owned()));
    for text in [r"layers\.\d+\.mlp\.fc\d", r"encoder\.layer\.\d+\.(intermediate|output)\.dense"] {
        let config = LoraConfig { target_modules: pattern(text), ..LoraConfig::default() };
        assert_eq!(select(&config).len(), 4, "{text}");
    }
    let excluded = LoraConfig { exclude_modules: pattern(r"layers\.0\..*"), ..LoraConfig::default() };
    assert_eq!(select(&excluded).len(), 6);
    let saved = LoraConfig { modules_to_save: Some(vec!["mlp".to_owned()]), ..LoraConfig::default() };
    assert_eq!(select(&saved).len(), 8, "the MLP is one module in memory");
    for name in ["layers", "layer"] {
        let layers_pattern = Some(vec![name.to_owned()]);
        let config = LoraConfig { layers_pattern, layers_to_transform: Some(vec![1]), ..targets(&["q_proj"]) };
        assert_eq!(select(&config), queries[1..], "{name}");
    }
}

#[test]
fn a_module_is_saved_when_its_path_or_that_of_one_around_it_ends_with_the_entry() {
    for (path, entry, saved) in [
        ("layernorm", "norm", true),
        ("norm", "norm", true),
        ("layer.0.norm1", "norm", false),
        ("layers.0.mlp.fc1", "mlp", true),
        ("layers.0.mlp.fc1", "layers.0.mlp", true),
        ("layers.0.mlp.fc1", "layers", true),
        ("layers.0.mlp.fc1", "layers.1", false),
        ("norm", "", false),
    ] {
        assert_eq!(is_saved(path, entry), saved, "{path} {entry}");
    }
}

#[test]
fn the_pooler_of_a_vit_is_known_and_that_of_a_family_without_one_is_not() {
    let targets = list(&["q_proj", "pooler.dense"]);
    let select = |candidates: &[Candidate], model_type| {
        select(targets.as_ref(), candidates, paths(model_type)).unwrap().notes.join("\n")
    };
    let known = select(&vit(), "vit");
    assert!(known.contains("`pooler.dense` is kept") && !known.contains("matches nothing"), "{known}");
    let unknown = select(&dinov3(), "dinov3_vit");
    assert!(unknown.contains("`pooler.dense` matches nothing"), "{unknown}");
}

#[test]
fn a_pattern_that_takes_for_ever_stops_the_selection_with_its_key() {
    let pattern = Some(TargetModules::Pattern(r"(?:([\w.]+)\1?)+!".to_owned()));
    let message = select(pattern.as_ref(), &dinov3(), dinov3_paths()).unwrap_err().to_string();
    assert!(message.starts_with("lora.target_modules: ") && message.contains("could not be matched"), "{message}");
}

#[test]
fn convolutions_are_adapted_only_when_they_are_named() {
    let mut all = dinov3();
    all.push(Candidate { path: "decoder.stages.0.proj".to_owned(), role: None, is_linear: false });
    assert_eq!(select(None, &all, ModulePaths::AsWritten).unwrap().paths.len(), 12);
    let targets = list(&["q_proj", "stages.0.proj"]);
    assert_eq!(select(targets.as_ref(), &all, ModulePaths::AsWritten).unwrap().paths[2], "decoder.stages.0.proj");
}
