//! Values that are right alone and wrong together, found before any data is read.

use std::collections::BTreeSet;

use super::check::Checked;
use super::key::{self, Key, Status, known_keys};
use super::layers::Layers;
use super::model::ModelConfig;
use super::{
    BatchNormalized, Config, DataConfig, HeatmapFrames, InitMethod, ModelName, QuantMode, Temporal, TemporalInput,
    TrainingConfig,
};
use tracknet_io::console::listing;

/// The most weights of a decoder.
const MOST_DECODER_WEIGHTS: u128 = 1 << 30;
/// The most bytes of the name of a run's directory.
const LONGEST_RUN_ID: usize = 200;
/// The most games that a note names.
const MOST_GAMES: usize = 8;

/// Reports combinations that cannot work as problems, and ones that are probably not meant as notes.
pub(crate) fn validate(config: &Config, checked: &Checked, layers: &mut Layers) {
    let mut rules = Rules { checked, layers };
    rules.resize_fits_patches(&config.data, &config.model);
    rules.patch_sizes_agree(&config.model);
    rules.decoder_stages(&config.model);
    rules.jpeg_range(&config.data);
    rules.windows(config);
    rules.heatmaps_of_windows(config);
    rules.quantized_backbone_is_frozen(&config.model);
    rules.batch_norm_sees_the_batch(config);
    rules.decoder_size(&config.model);
    rules.stages_ascend(&config.model);
    rules.run_id(&config.runtime.run_id);
    rules.lora(&config.model);
    rules.notes(config);
    rules.training_notes(&config.training);
}

/// Keys of `model.lora` that an adapter directory does not decide.
const BESIDE_ADAPTER: [&str; 5] = [
    "model.lora.enabled",
    "model.lora.adapter",
    "model.lora.loftq_config.loftq_bits",
    "model.lora.loftq_config.loftq_iter",
    "model.lora.task_type",
];

struct Rules<'a> {
    checked: &'a Checked,
    layers: &'a mut Layers,
}

impl Rules<'_> {
    /// Reports at the first of `keys` that was given; says nothing when one of them was refused already.
    fn problem(&mut self, keys: &[&'static str], message: String) {
        if keys.iter().any(|k| self.checked.refused.contains(k)) {
            return;
        }
        let Some((key, at)) = keys.iter().find_map(|k| self.checked.origins.get(k).map(|at| (*k, *at))) else {
            let key = keys.first().copied().unwrap_or_default();
            let source = "defaults".to_owned();
            self.layers.problems.push(super::Problem { source, line: None, key: key.to_owned(), message });
            return;
        };
        let problem = self.layers.problem(at, key, message);
        self.layers.problems.push(problem);
    }

    fn resize_fits_patches(&mut self, data: &DataConfig, model: &ModelConfig) {
        let (size, patch) = (data.preprocess.resize, model.backbone.patch_size);
        // Backbones with strides instead of patches say themselves which sizes they can see.
        let has_patches = model.model_name.decoder_section() == "decoder";
        if patch == 0 || !has_patches || size.iter().all(|side| side % patch == 0) {
            return;
        }
        let sides = size.map(|side| nearest_multiples(side, patch));
        let legal = |pick: fn(&(usize, usize)) -> usize| {
            let [w, h] = [pick(&sides[0]), pick(&sides[1])];
            format!("[{w}, {h}]")
        };
        let mut message = format!(
            "data.preprocess.resize [{}, {}] is not a multiple of model.backbone.patch_size {patch}: \
             the nearest legal sizes are {} and {}",
            size[0],
            size[1],
            legal(|side| side.0),
            legal(|side| side.1),
        );
        if patch == 14 {
            message.push_str("; models with patches of 14 need multiples of 14");
        }
        self.problem(&["data.preprocess.resize", "model.backbone.patch_size"], message);
    }

    fn patch_sizes_agree(&mut self, model: &ModelConfig) {
        let inline = model.backbone.architecture.as_ref().and_then(|a| a.get("patch_size")).and_then(|p| p.as_u64());
        let patch = model.backbone.patch_size as u64;
        if model.pretrained_model_name.is_none()
            && let Some(inline) = inline
            && inline != patch
        {
            let message = format!(
                "model.backbone.architecture.patch_size is {inline}, but model.backbone.patch_size is {patch}; \
                 make them equal"
            );
            self.problem(&["model.backbone.architecture", "model.backbone.patch_size"], message);
        }
    }

    fn decoder_stages(&mut self, model: &ModelConfig) {
        let (channels, upsample) = (&model.decoder.channels, &model.decoder.upsample);
        let stages = channels.len().saturating_sub(1);
        if upsample.len() > stages {
            let message = format!(
                "model.decoder.upsample has {} factors, but model.decoder.channels {channels:?} make {stages} stages \
                 (one less than channels); leave out factors or add channels",
                upsample.len()
            );
            self.problem(&["model.decoder.upsample", "model.decoder.channels"], message);
        }
    }

    /// What a typing error in a list of channels would ask for takes more memory than there is.
    fn decoder_size(&mut self, model: &ModelConfig) {
        let weights = model.most_decoder_weights();
        let (section, keys, lower): (_, &[&str], _) = match model.model_name.decoder_section() {
            "fpn" => ("fpn", &["model.fpn.lateral_dim", "model.fpn.in_channels"], "its channels"),
            "hrnet" => ("hrnet", &["model.hrnet.widths", "model.hrnet.num_units"], "model.hrnet.widths or num_units"),
            "deformable_encoder" => (
                "deformable_encoder",
                &["model.deformable_encoder.d_model", "model.deformable_encoder.lateral_dim"],
                "its counts",
            ),
            _ => (
                "decoder",
                &["model.decoder.channels", "model.decoder.blocks_per_stage"],
                "model.decoder.channels or model.decoder.blocks_per_stage",
            ),
        };
        if weights > MOST_DECODER_WEIGHTS {
            let message = format!(
                "model.{section} would have up to {weights} weights, at most {MOST_DECODER_WEIGHTS} are built: lower {lower}"
            );
            self.problem(keys, message);
        }
    }

    /// Levels go from fine to coarse, each once.
    fn stages_ascend(&mut self, model: &ModelConfig) {
        let stages = &model.backbone.return_stages;
        if !stages.is_sorted_by(|a, b| a < b) {
            let message = format!("model.backbone.return_stages {stages:?} is not in ascending order, each stage once");
            self.problem(&["model.backbone.return_stages"], message);
        }
    }

    /// A run's id is the name of its directory, and nothing that leads elsewhere.
    fn run_id(&mut self, id: &str) {
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if id.is_empty() || id.starts_with('.') || id.len() > LONGEST_RUN_ID || !id.chars().all(harmless) {
            let message = format!(
                "runtime.run_id: expected a name of letters, digits, `-`, `_` and `.`, found {}",
                super::yaml::Value::Text(id.to_owned()).found()
            );
            self.problem(&["runtime.run_id"], message);
        }
    }

    fn jpeg_range(&mut self, data: &DataConfig) {
        let [low, high] = data.augment.jpeg_quality;
        if low > high {
            let message = format!("data.augment.jpeg_quality is [low, high]; found [{low}, {high}]");
            self.problem(&["data.augment.jpeg_quality"], message);
        }
    }

    /// Windows are read if the model sees them, and seen if they are read.
    fn windows(&mut self, config: &Config) {
        let (sequence, model) = (&config.data.sequence, &config.model);
        let is_given = |key| self.checked.origins.contains_key(key);
        if sequence.length > 1 && is_given("data.sequence.length") && !is_given("data.sequence.enabled") {
            let message = format!(
                "data.sequence.length is {}, but data.sequence.enabled is not set: set it to true for windows of {0} frames, \
                 or to false for single frames",
                sequence.length
            );
            return self.problem(&["data.sequence.length"], message);
        }
        let frames = sequence.frames();
        if frames > 1 && model.temporal == Temporal::None {
            let message = format!(
                "data.sequence makes windows of {frames} frames, but model.temporal is none: set it to stack or difference, \
                 or data.sequence.enabled to false"
            );
            return self.problem(&["data.sequence.length", "data.sequence.enabled", "model.temporal"], message);
        }
        if frames == 1 && model.temporal != Temporal::None {
            let message = format!(
                "model.temporal is {}, but data.sequence makes no windows: set data.sequence.enabled to true and \
                 data.sequence.length to 2 or more, or model.temporal to none",
                model.temporal
            );
            return self.problem(&["model.temporal", "data.sequence.length", "data.sequence.enabled"], message);
        }
        if frames == 1 || model.temporal_input != TemporalInput::Stem {
            return;
        }
        let section = model.model_name.decoder_section();
        if section != "decoder" {
            let message = format!(
                "model.temporal_input is stem, but the {section} decoder of {} has no convolutional stem: set \
                 model.temporal_input to patches",
                model.model_name
            );
            self.problem(&["model.temporal_input", "model.model_name", "model.temporal"], message);
        } else if !model.decoder.skip {
            let message =
                "model.temporal_input is stem, but model.decoder.skip is false: the decoder's convolutional stem \
                           sees the window; set model.decoder.skip to true"
                    .to_owned();
            self.problem(&["model.temporal_input", "model.decoder.skip", "model.temporal"], message);
        }
    }

    /// A heatmap for each frame needs windows of several.
    fn heatmaps_of_windows(&mut self, config: &Config) {
        if config.data.sequence.frames() == 1 && config.model.heatmap.frames == HeatmapFrames::All {
            let message =
                "model.heatmap.frames is all, but data.sequence makes no windows: set data.sequence.enabled to \
                           true and data.sequence.length to 2 or more, or model.heatmap.frames to last"
                    .to_owned();
            let keys = ["model.heatmap.frames", "data.sequence.length", "data.sequence.enabled"];
            self.problem(&keys, message);
        }
    }

    fn quantized_backbone_is_frozen(&mut self, model: &ModelConfig) {
        if model.quantization.enabled && !model.lora.enabled && !model.backbone.freeze {
            let message = "model.quantization.enabled is true with model.backbone.freeze false and LoRA off: no gradient \
                           flows into packed 4-bit weights, so the backbone cannot train; enable model.lora (adapters \
                           train beside the packed weights), set model.backbone.freeze to true, or turn quantization off"
                .to_owned();
            let keys = ["model.backbone.freeze", "model.quantization.enabled", "model.lora.enabled"];
            self.problem(&keys, message);
        }
    }

    fn batch_norm_sees_the_batch(&mut self, config: &Config) {
        let (micro_batch, batch) = (config.training.micro_batch_size, config.training.batch_size);
        let Some(BatchNormalized { setting, instead }) = config.model.batch_normalized() else { return };
        if (1..batch).contains(&micro_batch) {
            let message = format!(
                "{setting} takes its statistics over the whole batch, so that training.micro_batch_size: \
                 {micro_batch} would train something else than training.batch_size: {batch}; set micro_batch_size to 0, or \
                 use {instead}"
            );
            self.problem(&["training.micro_batch_size", "model.decoder.norm", "model.model_name"], message);
        }
    }

    fn lora(&mut self, model: &ModelConfig) {
        let lora = &model.lora;
        if !lora.enabled {
            return;
        }
        if lora.adapter.is_some() {
            let decides = |key: &&Key| {
                let path = key.path.as_str();
                key.status == Status::Working && path.starts_with("model.lora.") && !BESIDE_ADAPTER.contains(&path)
            };
            let noted = |at: &super::yaml::Origin| self.layers.layers.get(at.layer).is_some_and(|l| l.notes);
            let paths = known_keys().iter().filter(decides).map(|key| key.path.as_str());
            let given: Vec<_> = paths.filter(|path| self.checked.origins.get(path).is_some_and(noted)).collect();
            for key in given {
                let text = format!("{key} is not read: the adapter_config.json in model.lora.adapter decides it");
                self.layers.notes.push(text);
            }
            return;
        }
        for (name, message) in lora.conflicts() {
            let path = format!("model.lora.{name}");
            if let Some(key) = key::find(&path) {
                self.problem(&[key.path.as_str()], format!("{path} {message}"));
            }
        }
        let method = lora.init_lora_weights;
        let key = "model.lora.init_lora_weights";
        if method.reads_weights() && model.quantization.enabled && model.quantization.mode == QuantMode::Hf {
            let message = format!(
                "{key}: {method} is computed from the float weights, which mode hf never holds; set \
                 model.quantization.mode to manual"
            );
            self.problem(&[key, "model.quantization.mode"], message);
        }
        if method == InitMethod::Loftq && !model.quantization.enabled {
            let message = format!(
                "{key}: loftq makes up for what 4-bit storage loses, but model.quantization.enabled is false; enable it \
                 or choose another start"
            );
            self.problem(&[key, "model.quantization.enabled"], message);
        }
    }

    /// Whether one of the keys was given where notes are wanted: a run that goes on has had its notes.
    fn was_given(&self, prefix: &str) -> bool {
        let given = self.checked.origins.iter().filter(|(key, _)| key.starts_with(prefix));
        given.into_iter().any(|(_, at)| self.layers.layers.get(at.layer).is_some_and(|l| l.notes))
    }

    fn notes(&mut self, config: &Config) {
        let split = &config.data.split;
        let said = self.was_given("data.split.");
        for (name, games) in [("validation", &split.val_games), ("test", &split.test_games)] {
            let games: BTreeSet<&String> = games.iter().filter(|_| said).collect();
            let both: Vec<&String> = split.train_games.iter().filter(|game| games.contains(game)).collect();
            let text = match both.as_slice() {
                [] => continue,
                [game] => format!("{game} is a training game and a {name} game: scores will flatter"),
                games => {
                    let games = listing(games, MOST_GAMES);
                    format!("training games that are {name} games as well: {games}: scores will flatter")
                }
            };
            self.layers.notes.push(text);
        }
        let quantization = &config.model.quantization;
        if quantization.mode != QuantMode::Hf && quantization.use_double_quant.is_some() {
            let key = "model.quantization.use_double_quant";
            if self.was_given(key) {
                let text = format!("{key} is ignored: it belongs to mode hf; mode manual reads compress_statistics");
                self.layers.notes.push(text);
            }
        }
        self.unread_decoders(config.model.model_name);
    }

    /// Sections of other decoders. The weights that every decoder can start from stand in `decoder`, too.
    fn unread_decoders(&mut self, name: ModelName) {
        let sections: BTreeSet<&str> = known_keys()
            .iter()
            .filter(|key| key.path != "model.decoder.pretrained" && self.was_given(&key.path))
            .filter_map(|key| key.path.strip_prefix("model.")?.split('.').next())
            .filter(|section| ["decoder", "fpn", "hrnet", "deformable_encoder"].contains(section))
            .collect();
        for section in sections.into_iter().filter(|section| *section != name.decoder_section()) {
            self.layers.notes.push(format!("model.{section} is not read by {name}"));
        }
    }

    fn training_notes(&mut self, training: &TrainingConfig) {
        let (warmup, epochs) = (training.scheduler.warmup_epochs, training.epochs);
        if warmup >= epochs && self.was_given("training.scheduler.warmup_epochs") {
            let text = format!(
                "training.scheduler.warmup_epochs {warmup} reaches past training.epochs {epochs}: the full learning \
                 rate is never reached"
            );
            self.layers.notes.push(text);
        }
        let stopping = &training.early_stopping;
        let mode_given = self.checked.origins.contains_key("training.early_stopping.mode");
        if self.was_given("training.early_stopping.monitor") && !mode_given && !stopping.monitor.contains("loss") {
            let text = format!(
                "training.early_stopping.monitor {} is watched with mode min: the smallest value counts as the best; set \
                 training.early_stopping.mode if larger is better",
                stopping.monitor
            );
            self.layers.notes.push(text);
        }
    }
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
