//! What every parser must hold to, whatever the bytes: it ends, it does not panic, and what it accepts makes sense.
//!
//! Files that are read from disk are tried on disk, in a [`Folder`]. Shared by the fuzz targets here and by `crates/tracknet/tests/mutations.rs`, which needs no nightly compiler. Each
//! tells whether it accepted the bytes, and panics when something is wrong, as a fuzzer expects.
#![allow(dead_code, clippy::unwrap_used)] // Each fuzz target uses one of these; what is unwrapped are their own files.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tracknet::artifacts::adapter::PeftConfig;
use tracknet::artifacts::pretrained::Checkpoint as ModelDirectory;
use tracknet::artifacts::pretrained::bnb::QuantState;
use tracknet::artifacts::pretrained::header::Header;
use tracknet::artifacts::pretrained::index::ShardIndex;
use tracknet::artifacts::run::{Checkpoint, RunState};
use tracknet::config::{Config, DataFormat};
use tracknet::datasets::Dataset;
use tracknet::models::backbones::ModulePaths;
use tracknet::models::quantization::SkipRules;
use tracknet::models::registry::describe_backbone;
use tracknet::training::{KeepRows, MetricLog};

/// `adapter_config.json`.
pub(crate) fn adapter_config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    PeftConfig::parse(text).inspect_err(|message| assert!(!message.is_empty())).is_ok()
}

/// The state of a 4-bit weight; and its text as a skip list, whose entries are patterns.
pub(crate) fn quant_state(data: &[u8]) -> bool {
    let parsed = QuantState::parse(data);
    let accepted = parsed.is_ok();
    match parsed {
        Err(message) => assert!(!message.is_empty() && message.len() < 4096, "{message}"),
        Ok(state) => {
            // What is accepted can be multiplied and written, and reads back as itself.
            assert!(state.shape[0].checked_mul(state.shape[1]).is_some_and(|n| n > 0 && n <= isize::MAX as usize / 4));
            assert!(state.nested_offset.is_none_or(f32::is_finite));
            assert_eq!(QuantState::parse(state.to_json().as_bytes()), Ok(state));
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let entries: Vec<String> = text.split(',').map(str::to_owned).collect();
        if let Ok(rules) = SkipRules::new(&entries, "skip") {
            let _ = rules.skips("layer.0.attention.q_proj", ModulePaths::AnyFamily);
        }
    }
    accepted
}

/// `model.safetensors.index.json`.
pub(crate) fn safetensors_index(data: &[u8]) -> bool {
    match ShardIndex::parse(data) {
        Err(message) => {
            assert!(!message.is_empty());
            false
        }
        Ok(index) => {
            assert!(!index.weight_map.is_empty());
            for file in index.weight_map.values() {
                // Joined to a directory, it stays directly in it.
                let joined = std::path::Path::new("dir").join(file);
                assert_eq!(joined.parent(), Some(std::path::Path::new("dir")), "{file:?}");
                assert!(!file.contains(['/', '\\', '\0']) && file != "..", "{file:?}");
            }
            true
        }
    }
}

/// The JSON of a safetensors header.
pub(crate) fn safetensors_header(data: &[u8]) -> bool {
    let parsed = Header::parse(data);
    if let Ok(header) = &parsed {
        let mut places: Vec<(u64, u64)> =
            header.tensors.values().map(|t| (t.offset, t.offset + t.length as u64)).collect();
        places.sort_unstable();
        // End to end from 0 to the end, each as long as its type and shape need.
        let mut end = 0;
        for (start, stop) in places {
            assert!(start == end && stop >= start);
            end = stop;
        }
        assert_eq!(end, header.data_len);
        for tensor in header.tensors.values() {
            let count: u128 = tensor.shape.iter().map(|side| *side as u128).product();
            assert_eq!(count * tensor.dtype.bitsize() as u128, 8 * tensor.length as u128);
        }
    }
    parsed.is_ok()
}

/// `config.yaml`, or the file of a group of settings.
pub(crate) fn config_yaml(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let parsed = Config::from_yaml("config.yaml", text);
    match &parsed {
        Err(error) => assert!(error.to_string().contains("config.yaml"), "{error}"),
        Ok(config) => {
            let again = Config::from_yaml("again", &config.to_yaml().unwrap()).unwrap();
            assert_eq!((&again.data, &again.model, &again.training), (&config.data, &config.model, &config.training));
        }
    }
    parsed.is_ok()
}

/// Whole directories, of which one file is tried and the others are as they should be.
pub(crate) struct Folder(TempDir);

/// The frames that a label file can name.
const FRAMES: usize = 4;

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for dir in ["data/game1/Clip1", "model", "checkpoint", "log"] {
            fs::create_dir_all(folder.path(dir)).unwrap();
        }
        for frame in 0..FRAMES {
            folder.write(&format!("data/game1/Clip1/{frame:04}.jpg"), b"");
        }
        folder.write("model/config.json", CONFIG.as_bytes());
        folder.write("model/model.safetensors", &one_value("embeddings.cls_token"));
        let _ = folder.whole_manifest();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, data: &[u8]) {
        fs::write(self.path(name), data).unwrap();
    }

    /// `Label.csv` of a clip.
    pub(crate) fn label_file(&self, data: &[u8]) -> bool {
        self.write("data/game1/Clip1/Label.csv", data);
        let (root, clip) = (self.path("data"), self.path("data/game1/Clip1"));
        let opened = Dataset::open(&root, DataFormat::Tracknet, &["game1".to_owned()], false);
        match &opened {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(found) => {
                let frames = found.frames();
                assert!((1..=FRAMES).contains(&frames.len()), "{} frames", frames.len());
                for frame in frames.iter().map(|frame| &frame.frame) {
                    assert!(frame.path.parent() == Some(&*clip) && frame.path.is_file(), "{}", frame.path.display());
                    assert!(frame.label.xy.is_none_or(|xy| xy.iter().all(|v| v.is_finite())), "{:?}", frame.label);
                }
            }
        }
        opened.is_ok()
    }

    /// `preprocessor_config.json` of a model directory.
    pub(crate) fn preprocessor(&self, data: &[u8]) -> bool {
        self.write("model/preprocessor_config.json", data);
        match ModelDirectory::open(&self.path("model")) {
            Err(error) => {
                assert!(error.to_string().contains("preprocessor_config.json"), "{error}");
                false
            }
            Ok(found) => found.preprocessing.is_some_and(|found| {
                assert!(found.mean.iter().chain(&found.std).all(|v| v.is_finite()), "{found:?}");
                true
            }),
        }
    }

    /// `config.json` of a model directory.
    pub(crate) fn backbone_config(&self, data: &[u8]) -> bool {
        self.write("model/config.json", data);
        let Ok(found) = ModelDirectory::open(&self.path("model")) else { return false };
        let Ok((spec, _)) = describe_backbone(&found.config, "config.json") else { return false };
        let levels = spec.layout().levels;
        assert!(!levels.is_empty() && levels.iter().all(|level| level.channels > 0 && level.stride > 0), "{spec:?}");
        // The weights are one tensor: nothing that needs more is built.
        assert!(found.check_size(&*spec, "config.json").is_err(), "{spec:?}");
        true
    }

    /// A file of a checkpoint, behind a manifest with its checksum.
    fn checkpoint(&self, name: &str, data: &[u8]) -> Option<Checkpoint> {
        let (state, tensors) = (RunState::start("run", 1, None), one_value("head.weight.step"));
        let state = serde_json::to_string(&state).unwrap();
        let mut checksums = BTreeMap::new();
        for (file, whole) in
            [("config.yaml", b"{}".as_slice()), ("state.json", state.as_bytes()), (OPTIMIZER, &tensors)]
        {
            let bytes = if file == name { data } else { whole };
            self.write(&format!("checkpoint/{file}"), bytes);
            checksums.insert(file, Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        self.write("checkpoint/checksums.json", serde_json::to_string(&checksums).unwrap().as_bytes());
        Checkpoint::open(&self.path("checkpoint")).ok()
    }

    /// `state.json` of a checkpoint.
    pub(crate) fn run_state(&self, data: &[u8]) -> bool {
        let Some(found) = self.checkpoint("state.json", data) else { return false };
        let text = serde_json::to_string(&found.state).unwrap();
        let again = self.checkpoint("state.json", text.as_bytes()).unwrap();
        // These are plain numbers of JSON, which readers may round in their last bit.
        let exact = |state: &RunState| RunState { metrics: BTreeMap::new(), loss_scale: None, ..state.clone() };
        let [text, again_text] = [&found, &again].map(|c| serde_json::to_string(&exact(&c.state)).unwrap());
        assert_eq!(again_text, text);
        assert!(again.state.metrics.keys().eq(found.state.metrics.keys()));
        true
    }

    /// A manifest that is right.
    pub(crate) fn whole_manifest(&self) -> Vec<u8> {
        assert!(self.checkpoint("", b"").is_some(), "the files are whole");
        fs::read(self.path("checkpoint/checksums.json")).unwrap()
    }

    /// `checksums.json` of a checkpoint, whose other files are whole.
    pub(crate) fn manifest(&self, data: &[u8]) -> bool {
        self.write("checkpoint/checksums.json", data);
        let opened = Checkpoint::open(&self.path("checkpoint"));
        if opened.is_ok() {
            let found: BTreeMap<String, String> = serde_json::from_slice(data).unwrap();
            assert!(["config.yaml", "state.json", OPTIMIZER].iter().all(|name| found.contains_key(*name)), "{found:?}");
        }
        opened.is_ok()
    }

    /// `optimizer.safetensors` of a checkpoint.
    pub(crate) fn optimizer(&self, data: &[u8]) -> bool {
        let Ok(tensors) = self.checkpoint(OPTIMIZER, data).unwrap().optimizer() else { return false };
        for (name, tensor) in tensors {
            assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>(), "{name}");
        }
        true
    }

    /// `metrics.jsonl` of a run that is continued.
    pub(crate) fn metrics(&self, data: &[u8]) -> bool {
        self.write("log/metrics.jsonl", data);
        let keep = KeepRows { step: 3, epoch: 1 };
        let opened = MetricLog::open(&self.path("log"), &["val/f1".to_owned()], Some(keep));
        if opened.is_ok() {
            let kept = fs::read_to_string(self.path("log/metrics.jsonl")).unwrap();
            assert!(kept.lines().count() <= data.split(|byte| *byte == b'\n').count(), "{kept}");
            for line in kept.lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(row["step"].as_u64().unwrap() <= keep.step, "{row}");
            }
        }
        opened.is_ok()
    }
}

const OPTIMIZER: &str = "optimizer.safetensors";
const CONFIG: &str = include_str!("seeds/backbone_config/dinov3.json");

/// A safetensors file of one value.
fn one_value(name: &str) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat()
}
