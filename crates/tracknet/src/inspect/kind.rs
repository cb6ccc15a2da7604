//! What a path is, told by the files that are there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::artifacts::adapter::peft;
use crate::artifacts::adapter::peft_config::CONFIG_FILE as ADAPTER_CONFIG;
use crate::artifacts::pretrained::bnb::is_packed;
use crate::artifacts::pretrained::foreign::{is_there, parse_object};
use crate::artifacts::pretrained::{Checkpoint, HEAD_FILE, Weights};
use crate::artifacts::run::{ADAPTER_DIR, BACKBONE_DIR, CONFIG_FILE, find_checkpoint};
use crate::console::{listing, shown};
use crate::error::{IoContext, Result};
use crate::files::{read, read_bytes};
use crate::models::registry::family_of;
use crate::models::{ModelError, words};

/// What a file or directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A Hugging Face model directory with float weights.
    Backbone,
    /// A Hugging Face model directory with weights in 4 bits.
    PackedBackbone,
    /// A PEFT adapter directory, or its weights.
    Adapter,
    /// The directory of a run; its best checkpoint (or its last) is shown.
    Run,
    /// A checkpoint of a run.
    Checkpoint,
    /// Any other safetensors file.
    Safetensors,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backbone => "backbone (float weights)",
            Self::PackedBackbone => "4-bit backbone",
            Self::Adapter => "LoRA adapter",
            Self::Run => "tracknet run",
            Self::Checkpoint => "tracknet checkpoint",
            Self::Safetensors => "safetensors file",
        })
    }
}

/// A path, understood.
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) about: BTreeMap<&'static str, String>,
    /// Tensors, and what to put before their names.
    pub(super) weights: Vec<(&'static str, Weights)>,
}

/// Finds out what `path` is and opens its tensors; none is read.
pub(super) fn find(path: &Path) -> Result<Found> {
    if !is_there(path)? {
        return Err(ModelError::file(path, "is neither a file nor a directory").into());
    }
    if !fs::metadata(path).at(path)?.is_dir() {
        return file(path);
    }
    let has = |name: &str| is_there(&path.join(name));
    if has(ADAPTER_CONFIG)? {
        return adapter(path);
    }
    if has("config.json")? {
        return backbone(path);
    }
    if has("state.json")? {
        return run(path, Kind::Checkpoint);
    }
    if has(CONFIG_FILE)? || has("checkpoints")? {
        return run(path, Kind::Run);
    }
    if has("model.safetensors")? || has("model.safetensors.index.json")? {
        let weights = Weights::open_dir(path)?;
        return Ok(Found { kind: Kind::Safetensors, about: BTreeMap::new(), weights: vec![("", weights)] });
    }
    let message = "is none of what is known here: a model directory (config.json), an adapter (adapter_config.json), a run \
                   (config.yaml), a checkpoint of a run (state.json) or a safetensors file";
    Err(ModelError::file(path, message).into())
}

fn file(path: &Path) -> Result<Found> {
    let weights = Weights::open_file(path)?;
    let is_adapter = weights.names().any(|name| name.contains(".lora_A."));
    let packed = weights.names().filter(|name| is_packed(&weights, name)).count();
    let mut about = BTreeMap::new();
    if packed > 0 {
        about.insert("4-bit layers", packed.to_string());
    }
    let kind = if is_adapter { Kind::Adapter } else { Kind::Safetensors };
    Ok(Found { kind, about, weights: vec![("", weights)] })
}

fn backbone(path: &Path) -> Result<Found> {
    let checkpoint = Checkpoint::open(path)?;
    let mut about = BTreeMap::new();
    let sizes = family_of(&checkpoint.config).map_or(&[][..], |family| family.sizes);
    for key in ["model_type", "dtype"].iter().chain(sizes) {
        tell(&mut about, key, &checkpoint.config, key);
    }
    let is_packed = checkpoint.weights.names().any(|name| is_packed(&checkpoint.weights, name));
    if let Some(bnb) = &checkpoint.quantization {
        let double = if bnb.double_quant { ", double quantization" } else { "" };
        about.insert(
            "quantization",
            format!("{}{double}, computes in {}", bnb.quant_type, words::dtype_name(bnb.compute_dtype)),
        );
        if let Some(skip) = &bnb.skip_modules {
            about.insert("left as floats", listing(skip.iter().map(|s| shown(s)), 12));
        }
    }
    if let Some(frames) = checkpoint.preprocessing {
        about.insert("frames", frames.to_string());
    }
    if !checkpoint.notes.is_empty() {
        about.insert("notes", checkpoint.notes.join("; "));
    }
    let mut weights = vec![("", checkpoint.weights)];
    if is_there(&path.join(HEAD_FILE))? {
        about.insert("decoder and head", HEAD_FILE.to_owned());
        weights.push(("", Weights::open_file(&path.join(HEAD_FILE))?));
    }
    Ok(Found { kind: if is_packed { Kind::PackedBackbone } else { Kind::Backbone }, about, weights })
}

fn adapter(path: &Path) -> Result<Found> {
    let config = read_json(&path.join(ADAPTER_CONFIG))?;
    let mut about = BTreeMap::new();
    for (name, key) in [
        ("base", "base_model_name_or_path"),
        ("rank", "r"),
        ("alpha", "lora_alpha"),
        ("dropout", "lora_dropout"),
        ("bias", "bias"),
        ("rsLoRA", "use_rslora"),
        ("DoRA", "use_dora"),
    ] {
        tell(&mut about, name, &config, key);
    }
    let file = path.join(peft::WEIGHTS_FILE);
    if !is_there(&file)? {
        let message = match is_there(&path.join("adapter_model.bin"))? {
            true => {
                "holds adapter_model.bin, a pickle, which is not read; save it again with PEFT 0.7 or newer, which \
                     writes adapter_model.safetensors"
            }
            false => "holds no adapter_model.safetensors",
        };
        return Err(ModelError::file(path, message).into());
    }
    let weights = Weights::open_file(&file)?;
    Ok(Found { kind: Kind::Adapter, about, weights: vec![("", weights)] })
}

fn run(path: &Path, kind: Kind) -> Result<Found> {
    let checkpoint = find_checkpoint(path, &["best", "last"])?;
    let (dir, state) = (&checkpoint.dir, &checkpoint.state);
    let mut about = BTreeMap::from([
        ("run", shown(&state.run_id)),
        ("seed", state.seed.to_string()),
        ("epoch", state.epoch.to_string()),
        ("optimizer steps", state.step.to_string()),
    ]);
    if kind == Kind::Run {
        about.insert("checkpoint", dir.display().to_string());
    }
    if let Some(base) = &state.base {
        about.insert("base", format!("{} (sha256 {})", shown(&base.name), shown(&base.sha256)));
    }
    let mut weights = Vec::new();
    let adapter = dir.join(ADAPTER_DIR).join(peft::WEIGHTS_FILE);
    if is_there(&adapter)? {
        weights.push(("adapter: ", Weights::open_file(&adapter)?));
    }
    if is_there(&dir.join(BACKBONE_DIR))? {
        weights.push(("backbone.", Weights::open_dir(&dir.join(BACKBONE_DIR))?));
    }
    weights.push(("", Weights::open_file(&dir.join(HEAD_FILE))?));
    Ok(Found { kind, about, weights })
}

/// Takes a value over that is there and not null.
fn tell(about: &mut BTreeMap<&'static str, String>, name: &'static str, config: &Map<String, Value>, key: &str) {
    if let Some(value) = config.get(key).filter(|v| !v.is_null()) {
        about.insert(name, shown(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str()));
    }
}

fn read_json(path: &Path) -> Result<Map<String, Value>> {
    Ok(parse_object(path, &read_bytes(path, read::JSON)?)?)
}
