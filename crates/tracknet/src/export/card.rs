//! The model card of an export: `README.md` with a head in YAML, as the Hugging Face hub reads it
//! (<https://huggingface.co/docs/hub/model-cards>). All that it says comes from the run; what a run does not tell is left out.

use std::fmt;
use std::path::Path;

use tracknet_kernels::QuantType;

use crate::artifacts::LoadedModel;
use crate::artifacts::pretrained::{StoredAs, hub};
use crate::config::{Config, HeatmapFrames};
use crate::evaluation::MetricOptions;
use crate::models::nn::LinearWeight;
use crate::models::registry::decoder_of;
use crate::models::{MemoryReport, VisitLayers};

use super::measured::Measured;
use super::{ONNX_EXAMPLE, ONNX_FILE};

/// The most games that are named one by one.
const MOST_GAMES: usize = 12;

/// What a card is of.
#[derive(Debug)]
pub(super) struct Card<'a> {
    loaded: &'a LoadedModel,
    stored: StoredAs,
    measured: Measured,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    HuggingFace,
    Onnx,
}

impl<'a> Card<'a> {
    /// Of an ONNX export.
    pub(super) fn onnx(loaded: &'a LoadedModel, stored: StoredAs, measured: Measured) -> Self {
        Self { loaded, stored, measured, format: Format::Onnx }
    }

    /// Of a Hugging Face directory.
    pub(super) fn hugging_face(loaded: &'a LoadedModel, stored: StoredAs, measured: Measured) -> Self {
        Self { loaded, stored, measured, format: Format::HuggingFace }
    }

    /// The code of the weights in 4 bits.
    fn packed_type(&self) -> Option<QuantType> {
        let mut found = None;
        self.loaded.model.backbone.visit_linears(&mut |_, linear| {
            if let LinearWeight::Packed(weight) = &linear.weight {
                found = Some(weight.quant_type());
            }
        });
        found
    }

    fn config(&self) -> &Config {
        &self.loaded.config
    }

    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = match self.format {
            Format::HuggingFace => "safetensors",
            Format::Onnx => "onnx",
        };
        writeln!(f, "---\nlibrary_name: tracknet\npipeline_tag: keypoint-detection")?;
        writeln!(f, "tags:\n- ball-detection\n- sports\n- heatmap\n- {tag}")?;
        if let Some(base) = self.loaded.checkpoint.state.base.as_ref().and_then(|base| hub_id(&base.name)) {
            writeln!(f, "base_model: {base}")?;
        }
        writeln!(f, "---\n")
    }

    fn write_introduction(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { data, model, .. } = self.config();
        let ([width, height], [columns, rows]) = (data.preprocess.resize, model.heatmap.size);
        let state = &self.loaded.checkpoint.state;
        writeln!(f, "# Ball detector {}\n", state.run_id)?;
        let seen = match (data.sequence.frames(), model.heatmap.frames) {
            (1, _) => "sees one frame".to_owned(),
            (frames, HeatmapFrames::Last) => format!("sees windows of {frames} frames and finds the ball in the last"),
            (frames, HeatmapFrames::All) => format!("sees windows of {frames} frames and finds the ball in each"),
        };
        writeln!(
            f,
            "Finds the ball in sports video. It {seen}: RGB frames of {width}×{height} pixels become heatmaps of {columns}×{rows}, \
             whose highest peak is the ball. Exported by tracknet {} from the checkpoint `{}` of the run.\n",
            env!("CARGO_PKG_VERSION"),
            last_part(&self.loaded.checkpoint.dir),
        )
    }

    fn write_model(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.config().model;
        let row =
            |f: &mut fmt::Formatter<'_>, what: &str, value: &dyn fmt::Display| writeln!(f, "| {what} | {value} |");
        let spec = self.loaded.model.backbone.spec();
        writeln!(f, "## Model\n\n| | |\n|---|---|")?;
        let origin =
            self.loaded.checkpoint.state.base.as_ref().map_or("trained in this run", |base| shown_base(&base.name));
        row(f, "backbone", &format!("{}: {} ({origin})", spec.family().model_type, spec.sizes()))?;
        if let Ok(decoder) = decoder_of(model.model_name) {
            row(f, "decoder", &decoder.name)?;
        }
        let format = self.format;
        if let Some(lora) = &self.loaded.build.lora {
            let kind = if model.lora.use_dora { "DoRA" } else { "LoRA" };
            let ranks = lora.adapted.iter().map(|module| module.rank);
            let ranks = match (ranks.clone().min(), ranks.max()) {
                (Some(least), Some(most)) if least == most => format!("rank {least}"),
                (least, most) => format!("ranks {} to {}", least.unwrap_or_default(), most.unwrap_or_default()),
            };
            let merged = if format == Format::Onnx { ", merged into the weights" } else { "" };
            row(f, "adapters", &format!("{kind} of {ranks} on {} layers{merged}", lora.adapted.len()))?;
        }
        if let Some(quantization) = &self.loaded.build.quantization {
            let kind = self.packed_type().map_or("4-bit", QuantType::name);
            let layers = quantization.layers.len();
            row(
                f,
                "4 bits",
                &format!("trained on {kind} weights of {layers} layers, here as the floats that they stand for"),
            )?;
        }
        row(f, "parameters", &MemoryReport::of(&self.loaded.model).parameters)?;
        row(f, "stored as", &self.stored.name())?;
        writeln!(f)
    }

    fn write_training(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, state) = (self.config(), &self.loaded.checkpoint.state);
        let Config { data, training, .. } = config;
        let row =
            |f: &mut fmt::Formatter<'_>, what: &str, value: &dyn fmt::Display| writeln!(f, "| {what} | {value} |");
        writeln!(f, "## Training\n\n| | |\n|---|---|")?;
        row(f, "data", &data_name(config))?;
        row(f, "games to train on", &games(&data.split.train_games))?;
        match data.split.val_share {
            share if data.split.val_games.is_empty() && share > 0.0 => {
                row(f, "validation", &format!("{share} of the labelled frames of these games"))?;
            }
            _ => row(f, "validation games", &games(&data.split.val_games))?,
        }
        if let Some(frames) = &state.frames {
            row(f, "labelled frames that were trained on", &frames.count)?;
        }
        row(f, "epochs, steps", &format!("{}, {}", state.epoch, state.step))?;
        row(
            f,
            "batch, seed, precision",
            &format!("{}, {}, {}", training.batch_size, state.seed, training.precision.name()),
        )?;
        let optimizer = &training.optimizer;
        let how = format!(
            "{}, learning rate {}, weight decay {}",
            optimizer.name.name(),
            optimizer.lr,
            optimizer.weight_decay
        );
        row(f, "optimizer", &how)?;
        row(f, "schedule, loss", &format!("{}, {}", training.scheduler.name.name(), training.loss.name.name()))?;
        if let Some(shift) = state.score_shift {
            row(
                f,
                "scores",
                &format!("logits moved by {shift:+.3} so that 0.5 is the threshold of the validation games"),
            )?;
        }
        writeln!(f)
    }

    fn write_measured(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { metrics, how } = &self.measured;
        if metrics.is_empty() {
            return Ok(());
        }
        writeln!(f, "## Measured\n")?;
        match how {
            Some((frames, at, within)) => {
                writeln!(
                    f,
                    "On {frames} frames of the validation games, at scores of at least {at}, within {within}.\n"
                )?;
            }
            None => writeln!(f, "On the validation games.\n")?,
        }
        writeln!(f, "| | |\n|---|---|")?;
        metrics.iter().try_for_each(|(name, value)| writeln!(f, "| {name} | {value:.3} |"))?;
        writeln!(f)
    }

    fn write_use(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format {
            Format::Onnx => write!(
                f,
                "## Use\n\n`{ONNX_FILE}` takes float32 windows and gives heatmaps; its metadata says how frames are prepared and how \
                 heatmaps become positions. A score of {} is the threshold. With Python, `pip install onnxruntime pillow numpy` \
                 and this program, which prints the ball of each picture of a folder:\n\n```python\n{ONNX_EXAMPLE}```\n",
                MetricOptions::default().threshold
            ),
            Format::HuggingFace => write!(
                f,
                "## Use\n\nTo begin another training from it:\n\n```\ntracknet train model.model_name={} \\\n  \
                 model.pretrained_model_name=THIS_DIRECTORY model.decoder.pretrained=THIS_DIRECTORY\n```\n\nThe backbone alone, with \
                 `transformers`: `AutoModel.from_pretrained(\"THIS_DIRECTORY\")`.\n",
                self.config().model.model_name.name()
            ),
        }
    }
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        self.write_introduction(f)?;
        self.write_model(f)?;
        self.write_training(f)?;
        self.write_measured(f)?;
        self.write_use(f)
    }
}

/// What a data set is called: the last part of its path, since the rest is about a machine.
pub(super) fn data_name(config: &Config) -> String {
    last_part(&config.data.root)
}

fn last_part(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The name of a base as the hub knows it; `None` of a directory.
fn hub_id(name: &str) -> Option<&str> {
    (name.contains('/') && hub::is_hub_id(name) && !Path::new(name).exists()).then_some(name)
}

/// A base for people: a hub id, or the last part of a path.
fn shown_base(name: &str) -> &str {
    hub_id(name).unwrap_or_else(|| name.rsplit(['/', '\\']).next().unwrap_or(name))
}

/// A few games by name, of many the first and the last.
fn games(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [first, .., last] if names.len() > MOST_GAMES => format!("{}: {first} … {last}", names.len()),
        _ => names.join(", "),
    }
}
