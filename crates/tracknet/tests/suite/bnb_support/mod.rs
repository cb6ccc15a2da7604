//! Checkpoints as raw tensors, which tests may change and write again.
#![allow(dead_code, clippy::unwrap_used)] // Not every test program uses all of it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

/// Type, shape and bytes of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) type RawTensors = BTreeMap<String, Raw>;

/// The tensors of a file.
pub(crate) fn read_raw(path: &Path) -> RawTensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let raw =
        |view: &TensorView<'_>| Raw { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
    file.tensors().iter().map(|(name, view)| (name.clone(), raw(view))).collect()
}

/// Writes a file.
pub(crate) fn write_raw(path: &Path, tensors: &RawTensors) {
    let views = tensors
        .iter()
        .map(|(name, raw)| (name.as_str(), TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// A copy of a model directory that a test may change.
pub(crate) fn copy_of(source: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// Changes the tensors of a model directory.
pub(crate) fn change(dir: &Path, change: impl FnOnce(&mut RawTensors)) {
    let path = dir.join("model.safetensors");
    let mut tensors = read_raw(&path);
    change(&mut tensors);
    write_raw(&path, &tensors);
}

/// Splits `model.safetensors` into shards and an index.
pub(crate) fn shard(dir: &Path) {
    let path = dir.join("model.safetensors");
    let tensors = read_raw(&path);
    fs::remove_file(&path).unwrap();
    let mut map = serde_json::Map::new();
    let names: Vec<&String> = tensors.keys().collect();
    for (i, names) in names.chunks(names.len().div_ceil(3)).enumerate() {
        let file = format!("model-{i}.safetensors");
        let part = names.iter().map(|name| ((*name).clone(), tensors[*name].clone())).collect();
        write_raw(&dir.join(&file), &part);
        map.extend(names.iter().map(|name| ((*name).clone(), file.clone().into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}
