//! Values that are right alone and wrong together, found before any data is read.

use std::collections::BTreeSet;

use super::check::Checked;
use super::error::Problem;
use super::key::{Status, known_keys};
use super::layers::Layers;
use super::yaml::Value;
use super::{Config, InitMethod, LossName, ModelConfig, Norm, QuantMode};
use tracknet_io::console::listing;

/// The most weights of a decoder.
const MOST_DECODER_WEIGHTS: u128 = 1 << 30;
/// The most bytes of the name of a run's directory.
const LONGEST_RUN_ID: usize = 200;
/// The most games that a note names.
const MOST_GAMES: usize = 8;

/// Keys that do not go together, and why. It is reported at the first of them that was given.
struct Conflict(&'static [&'static str], String);

/// Every combination that cannot work.
const RULES: [fn(&Config, &Checked) -> Option<Conflict>; 15] = [
    ranges_of_games,
    resize_fits_patches,
    patch_sizes_agree,
    decoder_stages,
    jpeg_range,
    windows,
    quantized_backbone_is_frozen,
    batch_norm_sees_the_batch,
    frozen_norm_has_statistics,
    decoder_size,
    stages_ascend,
    run_id,
    init_has_float_weights,
    loftq_has_a_loss,
    calibrated_scores_are_logistic,
];

/// Reports combinations that cannot work as problems, and ones that are probably not meant as notes.
pub(crate) fn validate(config: &Config, checked: &Checked, layers: &mut Layers) {
    for Conflict(keys, message) in RULES.iter().filter_map(|rule| rule(config, checked)) {
        report(checked, layers, keys, message);
    }
    let lora = &config.model.lora;
    if lora.enabled && lora.adapter.is_none() {
        for (name, message) in lora.conflicts() {
            let path = format!("model.lora.{name}");
            report(checked, layers, &[&path], format!("{path} {message}"));
        }
    }
    let wants_notes = |path: &str| checked.origins.get(path).is_some_and(|at| layers.wants_notes(*at));
    let working = known_keys().iter().filter(|key| key.status == Status::Working).map(|key| key.path.as_str());
    let given: Vec<_> = working.filter(|path| wants_notes(path)).collect();
    layers.notes.extend(unread(config, &given));
    layers.notes.extend(shared_games(config, &given));
    layers.notes.extend(training_notes(config, &given, checked));
}

/// Says nothing when one of the keys was refused already.
fn report(checked: &Checked, layers: &mut Layers, keys: &[&str], message: String) {
    if keys.iter().any(|key| checked.refused.contains(key)) {
        return;
    }
    let given = keys.iter().find_map(|key| Some((key, *checked.origins.get(key)?)));
    let problem = match given {
        Some((key, at)) => layers.problem(at, key, message),
        None => Problem::new("defaults", keys.first().copied().unwrap_or_default(), message),
    };
    layers.problems.push(problem);
}

fn ranges_of_games(config: &Config, _: &Checked) -> Option<Conflict> {
    let (key, why) = config.data.split.bad_range()?;
    Some(Conflict(key, why))
}

fn resize_fits_patches(config: &Config, _: &Checked) -> Option<Conflict> {
    let (size, patch) = (config.data.preprocess.resize, config.model.backbone.patch_size);
    // Backbones with strides instead of patches say themselves which sizes they can see.
    let has_patches = config.model.model_name.decoder_section() == "decoder";
    if patch == 0 || !has_patches || size.iter().all(|side| side % patch == 0) {
        return None;
    }
    let sides = size.map(|side| nearest_multiples(side, patch));
    let (below, above) = (sides.map(|(below, _)| below), sides.map(|(_, above)| above));
    let hint = if patch == 14 { "; models with patches of 14 need multiples of 14" } else { "" };
    let message = format!(
        "data.preprocess.resize {size:?} is not a multiple of model.backbone.patch_size {patch}: the nearest legal sizes \
         are {below:?} and {above:?}{hint}"
    );
    Some(Conflict(&["data.preprocess.resize", "model.backbone.patch_size"], message))
}

fn patch_sizes_agree(config: &Config, _: &Checked) -> Option<Conflict> {
    let (model, patch) = (&config.model, config.model.backbone.patch_size as u64);
    let inline = model.backbone.architecture.as_ref()?.get("patch_size")?.as_u64()?;
    let message = format!(
        "model.backbone.architecture.patch_size is {inline}, but model.backbone.patch_size is {patch}; make them equal"
    );
    (model.pretrained_model_name.is_none() && inline != patch)
        .then_some(Conflict(&["model.backbone.architecture", "model.backbone.patch_size"], message))
}

fn decoder_stages(config: &Config, _: &Checked) -> Option<Conflict> {
    let (channels, factors) = (&config.model.decoder.channels, config.model.decoder.upsample.len());
    let stages = channels.len().saturating_sub(1);
    let message = format!(
        "model.decoder.upsample has {factors} factors, but model.decoder.channels {channels:?} make {stages} stages (one \
         less than channels); leave out factors or add channels"
    );
    (factors > stages).then_some(Conflict(&["model.decoder.upsample", "model.decoder.channels"], message))
}

/// What a typing error in a list of channels would ask for takes more memory than there is.
fn decoder_size(config: &Config, _: &Checked) -> Option<Conflict> {
    let (weights, keys, lower) = config.model.decoder_size();
    let section = config.model.model_name.decoder_section();
    let message = format!(
        "model.{section} would have up to {weights} weights, at most {MOST_DECODER_WEIGHTS} are built: lower {lower}"
    );
    (weights > MOST_DECODER_WEIGHTS).then_some(Conflict(keys, message))
}

/// Levels go from fine to coarse, each once.
fn stages_ascend(config: &Config, _: &Checked) -> Option<Conflict> {
    let stages = &config.model.backbone.return_stages;
    let message = format!("model.backbone.return_stages {stages:?} is not in ascending order, each stage once");
    (!stages.is_sorted_by(|a, b| a < b)).then_some(Conflict(&["model.backbone.return_stages"], message))
}

/// A run's id is the name of its directory, and nothing that leads elsewhere.
fn run_id(config: &Config, _: &Checked) -> Option<Conflict> {
    let id = &config.runtime.run_id;
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_name = !id.is_empty() && !id.starts_with('.') && id.len() <= LONGEST_RUN_ID && id.chars().all(harmless);
    let found = Value::Text(id.clone()).found();
    let message = format!("runtime.run_id: expected a name of letters, digits, `-`, `_` and `.`, found {found}");
    (!is_name).then_some(Conflict(&["runtime.run_id"], message))
}

fn jpeg_range(config: &Config, _: &Checked) -> Option<Conflict> {
    let [low, high] = config.data.augment.jpeg_quality;
    let message = format!("data.augment.jpeg_quality is [low, high]; found [{low}, {high}]");
    (low > high).then_some(Conflict(&["data.augment.jpeg_quality"], message))
}

/// Windows are on or off, and the model sees them as [`ModelConfig::check_windows`] says.
fn windows(config: &Config, checked: &Checked) -> Option<Conflict> {
    let (sequence, length) = (&config.data.sequence, config.data.sequence.length);
    let is_given = |key| checked.origins.contains_key(key);
    if length > 1 && is_given("data.sequence.length") && !is_given("data.sequence.enabled") {
        let message = format!(
            "data.sequence.length is {length}, but data.sequence.enabled is not set: set it to true for windows of {length} \
             frames, or to false for single frames"
        );
        return Some(Conflict(&["data.sequence.length"], message));
    }
    let mismatch = config.model.check_windows(sequence.frames()).err()?;
    Some(Conflict(mismatch.keys, mismatch.to_string()))
}

fn quantized_backbone_is_frozen(config: &Config, _: &Checked) -> Option<Conflict> {
    let model = &config.model;
    let message = "model.quantization.enabled is true with model.backbone.freeze false and LoRA off: no gradient flows into \
                   packed 4-bit weights, so the backbone cannot train; enable model.lora (adapters train beside the packed \
                   weights), set model.backbone.freeze to true, or turn quantization off";
    let keys = &["model.backbone.freeze", "model.quantization.enabled", "model.lora.enabled"];
    (model.quantization.enabled && !model.lora.enabled && !model.backbone.freeze)
        .then(|| Conflict(keys, message.to_owned()))
}

fn batch_norm_sees_the_batch(config: &Config, _: &Checked) -> Option<Conflict> {
    let (micro_batch, batch) = (config.training.micro_batch_size, config.training.batch_size);
    let normalized = config.model.batch_normalized()?;
    let message = format!(
        "{} takes its statistics over the whole batch, so that training.micro_batch_size: {micro_batch} would train \
         something else than training.batch_size: {batch}; set micro_batch_size to 0, or use {}",
        normalized.setting, normalized.instead
    );
    let keys = &["training.micro_batch_size", "model.decoder.norm", "model.model_name"];
    (1..batch).contains(&micro_batch).then_some(Conflict(keys, message))
}

fn frozen_norm_has_statistics(config: &Config, _: &Checked) -> Option<Conflict> {
    let model = &config.model;
    let (setting, norm) = match model.model_name.decoder_section() {
        "decoder" => ("model.decoder.norm", model.decoder.norm),
        "unet" => ("model.unet.norm", model.unet.norm),
        _ => return None,
    };
    let message = format!(
        "{setting}: frozen_bn keeps the statistics of model.decoder.pretrained, which is not set; name a trained decoder, or set \
         {setting} to bn"
    );
    let keys = &["model.unet.norm", "model.decoder.norm", "model.decoder.pretrained"];
    (norm == Norm::FrozenBn && model.decoder.pretrained.is_none()).then_some(Conflict(keys, message))
}

/// The way to begin of adapters that are not read from a directory.
fn init_method(config: &Config) -> Option<InitMethod> {
    let lora = &config.model.lora;
    (lora.enabled && lora.adapter.is_none()).then_some(lora.init_lora_weights)
}

fn init_has_float_weights(config: &Config, _: &Checked) -> Option<Conflict> {
    let method = init_method(config).filter(|method| method.reads_weights())?;
    let quantization = &config.model.quantization;
    let message = format!(
        "model.lora.init_lora_weights: {method} is computed from the float weights, which mode hf never holds; set \
         model.quantization.mode to manual"
    );
    (quantization.enabled && quantization.mode == QuantMode::Hf)
        .then_some(Conflict(&["model.lora.init_lora_weights", "model.quantization.mode"], message))
}

fn loftq_has_a_loss(config: &Config, _: &Checked) -> Option<Conflict> {
    let message = "model.lora.init_lora_weights: loftq makes up for what 4-bit storage loses, but model.quantization.enabled \
                   is false; enable it or choose another start";
    let keys = &["model.lora.init_lora_weights", "model.quantization.enabled"];
    (init_method(config)? == InitMethod::Loftq && !config.model.quantization.enabled)
        .then(|| Conflict(keys, message.to_owned()))
}

fn calibrated_scores_are_logistic(config: &Config, _: &Checked) -> Option<Conflict> {
    let message = "training.calibrate is true, but training.loss.name is mse: its outputs are the scores themselves, which have no \
                   logits to move; use focal or wbce, or set calibrate to false";
    (config.training.calibrate && config.training.loss.name == LossName::Mse)
        .then(|| Conflict(&["training.calibrate", "training.loss.name"], message.to_owned()))
}

/// Keys of `model.lora` that an adapter directory does not decide.
const BESIDE_ADAPTER: [&str; 5] = [
    "model.lora.enabled",
    "model.lora.adapter",
    "model.lora.loftq_config.loftq_bits",
    "model.lora.loftq_config.loftq_iter",
    "model.lora.task_type",
];

/// Notes on keys that were `given` and are not read.
fn unread(config: &Config, given: &[&str]) -> Vec<String> {
    let ModelConfig { model_name, lora, quantization, .. } = &config.model;
    let mut notes = Vec::new();
    if lora.enabled && lora.adapter.is_some() {
        let decided = given.iter().filter(|path| path.starts_with("model.lora.") && !BESIDE_ADAPTER.contains(path));
        notes.extend(
            decided.map(|path| format!("{path} is not read: the adapter_config.json in model.lora.adapter decides it")),
        );
    }
    let key = "model.quantization.use_double_quant";
    if quantization.mode != QuantMode::Hf && quantization.use_double_quant.is_some() && given.contains(&key) {
        notes.push(format!("{key} is ignored: it belongs to mode hf; mode manual reads compress_statistics"));
    }
    // The weights that every decoder can start from stand in `decoder`, too.
    let of_model = given.iter().filter(|path| **path != "model.decoder.pretrained");
    let sections = of_model.filter_map(|path| path.strip_prefix("model.")?.split('.').next());
    let others: BTreeSet<_> = sections
        .filter(|section| ["decoder", "fpn", "hrnet", "deformable_encoder", "unet"].contains(section))
        .filter(|section| *section != model_name.decoder_section())
        .collect();
    notes.extend(others.into_iter().map(|section| format!("model.{section} is not read by {model_name}")));
    notes
}

fn shared_games(config: &Config, given: &[&str]) -> Vec<String> {
    let split = &config.data.split;
    if !given.iter().any(|path| path.starts_with("data.split.")) {
        return Vec::new();
    }
    let note = |(name, games): (&str, &Vec<String>)| {
        let games: BTreeSet<_> = games.iter().collect();
        match split.train_games.iter().filter(|game| games.contains(game)).collect::<Vec<_>>().as_slice() {
            [] => None,
            [game] => Some(format!("{game} is a training game and a {name} game: scores will flatter")),
            games => {
                let games = listing(games, MOST_GAMES);
                Some(format!("training games that are {name} games as well: {games}: scores will flatter"))
            }
        }
    };
    [("validation", &split.val_games), ("test", &split.test_games)].into_iter().filter_map(note).collect()
}

fn training_notes(config: &Config, given: &[&str], checked: &Checked) -> Vec<String> {
    let mut notes = Vec::new();
    let (warmup, epochs) = (config.training.scheduler.warmup_epochs, config.training.epochs);
    if warmup >= epochs && given.contains(&"training.scheduler.warmup_epochs") {
        notes.push(format!(
            "training.scheduler.warmup_epochs {warmup} reaches past training.epochs {epochs}: the full learning rate is \
             never reached"
        ));
    }
    let validates = !config.data.split.val_games.is_empty() || config.data.split.val_share > 0.0;
    if config.training.calibrate && !validates && given.contains(&"training.calibrate") {
        notes
            .push("training.calibrate does nothing without validation games: data.split.val_games is empty".to_owned());
    }
    let monitor = &config.training.early_stopping.monitor;
    let mode_given = checked.origins.contains_key("training.early_stopping.mode");
    if given.contains(&"training.early_stopping.monitor") && !mode_given && !monitor.contains("loss") {
        notes.push(format!(
            "training.early_stopping.monitor {monitor} is watched with mode min: the smallest value counts as the best; \
             set training.early_stopping.mode if larger is better"
        ));
    }
    notes
}

/// The multiples of `step` around `side`, neither of them zero.
fn nearest_multiples(side: usize, step: usize) -> (usize, usize) {
    let below = (side / step).max(1) * step;
    (below, side.div_ceil(step) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_multiples_are_never_zero() {
        assert_eq!(nearest_multiples(500, 16), (496, 512));
        assert_eq!(nearest_multiples(288, 16), (288, 288));
        assert_eq!(nearest_multiples(5, 14), (14, 14));
    }
}
