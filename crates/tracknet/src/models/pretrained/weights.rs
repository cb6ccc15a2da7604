//! Safetensors files, read tensor by tensor.
//!
//! Tensors are read at their offset instead of through a memory map: the peak is the same (the model and one
//! tensor), and a file that is truncated while it is read is an error instead of a signal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::error::{IoContext, Result};
use crate::models::ModelError;

/// Headers above this are no safetensors files (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// The tensors of one or several safetensors files.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    file: PathBuf,
    offset: u64,
    length: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Weights {
    /// Opens the weights of a model directory: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Nothing to open, or a file that is damaged; a PyTorch pickle says how to convert it.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        let single = dir.join("model.safetensors");
        if single.is_file() {
            return Self::open_file(&single);
        }
        let index = dir.join("model.safetensors.index.json");
        if index.is_file() {
            return Self::open_shards(dir, &index);
        }
        let message = if dir.join("pytorch_model.bin").is_file() || dir.join("pytorch_model.bin.index.json").is_file() {
            "holds pytorch_model.bin, a pickle, which is not read; convert it once with transformers: \
             `AutoModel.from_pretrained(dir).save_pretrained(dir)` writes model.safetensors"
        } else {
            "holds neither model.safetensors nor model.safetensors.index.json"
        };
        Err(ModelError::file(dir, message).into())
    }

    /// Opens one file.
    ///
    /// # Errors
    /// The file cannot be read, or is no whole safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), tensors: read_header(path)? })
    }

    fn open_shards(dir: &Path, index: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = fs::read_to_string(index).at(index)?;
        let parsed: Index = serde_json::from_str(&text).map_err(|e| ModelError::file(index, e.to_string()))?;
        let mut shards: BTreeMap<&str, BTreeMap<String, Entry>> = BTreeMap::new();
        let mut tensors = BTreeMap::new();
        for (name, file) in &parsed.weight_map {
            if Path::new(file).file_name().is_none_or(|f| f != file.as_str()) {
                let message = format!("`{name}` is in `{file}`, which is not a plain file name");
                return Err(ModelError::file(index, message).into());
            }
            if !shards.contains_key(file.as_str()) {
                shards.insert(file, read_header(&dir.join(file))?);
            }
            match shards.get_mut(file.as_str()).and_then(|shard| shard.remove(name)) {
                Some(entry) => tensors.insert(name.clone(), entry),
                None => {
                    let message = format!("says that `{name}` is in `{file}`, but it is not");
                    return Err(ModelError::file(index, message).into());
                }
            };
        }
        Ok(Self { path: dir.to_path_buf(), tensors })
    }

    /// The file or directory this was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|e| e.shape.as_slice())
    }

    /// The values of a tensor as `f32`, row-major.
    ///
    /// # Errors
    /// No such tensor, a type that is not float, a value that is NaN or infinite, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let problem = |message: String| ModelError::Tensor { name: name.to_owned(), message };
        let entry = self.tensors.get(name).ok_or_else(|| problem(format!("is not in {}", self.path.display())))?;
        let bytes = entry.bytes()?;
        let values: Vec<f32> = match entry.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => return Err(problem(format!("is {other:?}, expected F32, F16 or BF16")).into()),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => {
                let file = entry.file.display();
                Err(problem(format!("holds {} at element {i} ({file}): the checkpoint is damaged", values[i])).into())
            }
            None => Ok(values),
        }
    }
}

impl Entry {
    fn bytes(&self) -> Result<Vec<u8>> {
        let mut file = File::open(&self.file).at(&self.file)?;
        file.seek(SeekFrom::Start(self.offset)).at(&self.file)?;
        let mut bytes = vec![0; self.length];
        file.read_exact(&mut bytes).at(&self.file)?;
        Ok(bytes)
    }
}

fn read_header(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let damaged = |message: String| ModelError::file(path, format!("is no whole safetensors file: {message}"));
    let mut file = File::open(path).at(path)?;
    let size = file.metadata().at(path)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| damaged(format!("only {size} bytes")))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length + 8 > size {
        return Err(damaged(format!("its header would be {length} bytes of {size}")).into());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).at(path)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
    let expected = 8 + length + metadata.data_len() as u64;
    if expected != size {
        return Err(
            damaged(format!("it is {size} bytes, its header says {expected}; copy or download it again")).into()
        );
    }
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let offset = 8 + length + start as u64;
            let entry = Entry {
                file: path.to_path_buf(),
                offset,
                length: end - start,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            (name, entry)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn every_float_type_is_widened_exactly_and_others_are_refused_by_name() {
        let values = [1.5f32, -0.375, 96.0];
        let f16s: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let view = |dtype, bytes| TensorView::new(dtype, vec![3], bytes).unwrap();
        let tensors =
            [("bf16", view(Dtype::BF16, &bf16s)), ("f16", view(Dtype::F16, &f16s)), ("i16", view(Dtype::I16, &f16s))];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let weights = Weights::open_file(&path).unwrap();
        assert_eq!(weights.read("f16").unwrap(), values);
        assert_eq!(weights.read("bf16").unwrap(), values);
        let message = weights.read("i16").unwrap_err().to_string();
        assert!(message.contains("`i16`") && message.contains("BF16"), "{message}");
    }
}
