//! Safetensors files, read tensor by tensor.
//!
//! Tensors are read at their offset instead of through a memory map: the peak is the same (the model and one
//! tensor), and a file that is truncated while it is read is an error instead of a signal.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use crate::console::shown;
use crate::error::{IoContext, Result};
use crate::files::{Limit, open_regular, read_bytes};
use crate::models::ModelError;

use super::foreign::{Foreign, Lacks, SNIFFED, describe_directory, is_there, sniff, sniff_file};
use super::header::{Header, MAX_HEADER, TensorEntry};
use super::index::ShardIndex;

/// Bytes that are read at once: a float tensor never exists a second time as bytes.
const CHUNK: usize = 1 << 20;
/// The weights of a model directory in one file.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// The file that names the shards.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// An index above this is no index: it would name a million tensors.
pub(super) const INDEX: Limit = Limit { kind: "an index of shards", bytes: 256 << 20 };

/// The tensors of one or several safetensors files.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    file: PathBuf,
    /// From the begin of the file.
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
        let single = dir.join(SINGLE_FILE);
        if is_there(&single)? {
            return Self::open_file(&single);
        }
        let index = dir.join(INDEX_FILE);
        if is_there(&index)? {
            return Self::open_shards(dir, &index);
        }
        Err(describe_directory(dir, Lacks::Weights)?.into())
    }

    /// Opens one file.
    ///
    /// # Errors
    /// The file cannot be read, or is no whole safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), tensors: read_header(path)? })
    }

    fn open_shards(dir: &Path, index: &Path) -> Result<Self> {
        let bytes = read_bytes(index, INDEX)?;
        let parsed = ShardIndex::parse(&bytes).map_err(|e| {
            let found = sniff(&bytes[..bytes.len().min(SNIFFED)]).filter(|found| *found != Foreign::Json);
            ModelError::file(index, found.map_or(e, |found| found.to_string()))
        })?;
        let mut shards: BTreeMap<&str, BTreeMap<String, Entry>> = BTreeMap::new();
        let mut tensors = BTreeMap::new();
        for (name, file) in &parsed.weight_map {
            if !shards.contains_key(file.as_str()) {
                shards.insert(file, read_header(&dir.join(file))?);
            }
            match shards.get_mut(file.as_str()).and_then(|shard| shard.remove(name)) {
                Some(entry) => tensors.insert(name.clone(), entry),
                None => {
                    let message = format!("says that `{}` is in `{file}`, but it is not", shown(name));
                    return Err(ModelError::file(index, message).into());
                }
            };
        }
        Ok(Self { path: dir.to_path_buf(), tensors })
    }

    /// The tensors by other names: `rename` gives the new one, or nothing to leave the tensor aside.
    ///
    /// # Errors
    /// Two tensors that would have one name.
    pub(crate) fn renamed(self, mut rename: impl FnMut(&str) -> Option<String>) -> Result<Self, ModelError> {
        let mut tensors: BTreeMap<String, Entry> = BTreeMap::new();
        let mut from: BTreeMap<String, String> = BTreeMap::new();
        for (old, entry) in self.tensors {
            let Some(new) = rename(&old) else { continue };
            if let Some(first) = from.get(&new) {
                let [first, old, new] = [first, &old, &new].map(|name| shown(name));
                return Err(ModelError::file(self.path, format!("`{first}` and `{old}` are both {new}; remove one")));
            }
            tensors.insert(new.clone(), entry);
            from.insert(new, old);
        }
        Ok(Self { path: self.path, tensors })
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

    /// The type of a tensor's elements.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|e| e.dtype)
    }

    /// Bytes of a tensor in its file.
    pub fn length(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).map(|e| e.length)
    }

    /// The values of a tensor as `f32`, row-major. The file is read in small pieces, so nothing else of the tensor's size
    /// exists beside the result.
    ///
    /// # Errors
    /// No such tensor, a type that is not float, a value that is NaN or infinite, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.read_entry(name, self.entry(name)?)
    }

    /// The values of some rows of a tensor, as [`Weights::read`] gives all.
    ///
    /// # Errors
    /// As there, or rows that the tensor does not have.
    pub fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        self.read_entry(name, &self.entry(name)?.rows(name, rows)?)
    }

    fn read_entry(&self, name: &str, entry: &Entry) -> Result<Vec<f32>> {
        let widen: fn(&[u8], &mut Vec<f32>) = match entry.dtype {
            Dtype::F32 => |b, out| out.extend(b.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::F16 => |b, out| out.extend(b.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Dtype::BF16 => |b, out| out.extend(b.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            other => return Err(problem(name, format!("is {other:?}, expected F32, F16 or BF16")).into()),
        };
        let mut values: Vec<f32> = Vec::with_capacity(entry.shape.iter().product());
        entry.pieces(|piece| {
            let start = values.len();
            widen(piece, &mut values);
            let read = &values[start..];
            // Over all values at once: a search that may stop at each is not vectorized.
            if read.iter().fold(true, |finite, value| finite & value.is_finite()) {
                return Ok(());
            }
            let at = read.iter().position(|value| !value.is_finite()).unwrap_or_default();
            let (file, value) = (entry.file.display(), read[at]);
            let message = format!("holds {value} at element {} ({file}): the checkpoint is damaged", start + at);
            Err(problem(name, message).into())
        })?;
        Ok(values)
    }

    /// The bytes of a tensor of any type.
    ///
    /// # Errors
    /// No such tensor, or the file cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        let mut bytes = Vec::with_capacity(entry.length);
        entry.pieces(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Copies the bytes of a tensor, piece by piece. `path` is where they go, for the error.
    ///
    /// # Errors
    /// No such tensor, or a file cannot be read or written.
    pub(crate) fn copy(&self, name: &str, out: &mut dyn Write, path: &Path) -> Result<()> {
        self.entry(name)?.pieces(|piece| Ok(out.write_all(piece).at(path)?))
    }

    /// Copies the bytes of some rows.
    ///
    /// # Errors
    /// As [`Weights::copy`], or rows that the tensor does not have.
    pub(crate) fn copy_rows(&self, name: &str, rows: Range<usize>, out: &mut dyn Write, path: &Path) -> Result<()> {
        self.entry(name)?.rows(name, rows)?.pieces(|piece| Ok(out.write_all(piece).at(path)?))
    }

    fn entry(&self, name: &str) -> Result<&Entry, ModelError> {
        self.tensors.get(name).ok_or_else(|| problem(name, format!("is not in {}", self.path.display())))
    }
}

fn problem(name: &str, message: String) -> ModelError {
    ModelError::Tensor { name: name.to_owned(), message }
}

impl Entry {
    /// Some of its rows, as a tensor.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Self, ModelError> {
        let count = self.shape.first().copied().unwrap_or_default();
        if rows.start > rows.end || rows.end > count {
            return Err(problem(name, format!("has {count} rows, expected {}", rows.end)));
        }
        let row = self.length / count.max(1);
        let mut shape = self.shape.clone();
        shape.iter_mut().take(1).for_each(|first| *first = rows.len());
        let offset = self.offset + (row * rows.start) as u64;
        Ok(Self { file: self.file.clone(), offset, length: row * rows.len(), dtype: self.dtype, shape })
    }

    fn pieces(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut file = open_regular(&self.file)?;
        file.seek(SeekFrom::Start(self.offset)).at(&self.file)?;
        let mut buffer = vec![0; self.length.min(CHUNK)];
        let mut left = self.length;
        while left > 0 {
            let piece = &mut buffer[..left.min(CHUNK)];
            file.read_exact(piece).at(&self.file)?;
            each(piece)?;
            left -= piece.len();
        }
        Ok(())
    }
}

fn read_header(path: &Path) -> Result<BTreeMap<String, Entry>> {
    parse_header(path).map_err(|damaged| match sniff_file(path) {
        Ok(Some(found)) => ModelError::file(path, found.to_string()).into(),
        _ => damaged,
    })
}

fn parse_header(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let damaged = |message: String| ModelError::file(path, format!("is no whole safetensors file: {message}"));
    let mut file = open_regular(path)?;
    let size = file.metadata().at(path)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| damaged(format!("only {size} bytes; copy or download it again")))?;
    let length = u64::from_le_bytes(length);
    // The size of the file bounds what is allocated.
    if length > MAX_HEADER || length.saturating_add(8) > size {
        let message = format!("its header would be {length} bytes of {size}; copy or download it again");
        return Err(damaged(message).into());
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).at(path)?;
    let header = Header::parse(&json).map_err(damaged)?;
    let expected = header.data_len.saturating_add(8 + length);
    if expected != size {
        let what = if size < expected { "incomplete" } else { "longer than its tensors" };
        let message = format!("it is {what}: {size} bytes, its header says {expected}; copy or download it again");
        return Err(damaged(message).into());
    }
    let entry = |entry: TensorEntry| Entry {
        file: path.to_path_buf(),
        offset: 8 + length + entry.offset,
        length: entry.length,
        dtype: entry.dtype,
        shape: entry.shape,
    };
    Ok(header.tensors.into_iter().map(|(name, found)| (name, entry(found))).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        assert_eq!(weights.bytes("i16").unwrap(), f16s);
        let message = weights.read("i16").unwrap_err().to_string();
        assert!(message.contains("`i16`") && message.contains("BF16"), "{message}");
    }

    #[test]
    fn rows_of_a_tensor_are_those_of_the_whole_and_others_are_refused() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![4, 3], &bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
        let weights = Weights::open_file(&path).unwrap();
        assert_eq!(weights.read_rows("w", 1..3).unwrap(), values[3..9]);
        assert!(weights.read_rows("w", 4..4).unwrap().is_empty());
        let mut copied = Vec::new();
        weights.copy_rows("w", 3..4, &mut copied, &path).unwrap();
        assert_eq!(copied, bytes[36..]);
        let message = weights.read_rows("w", 3..5).unwrap_err().to_string();
        assert!(message.contains("`w`") && message.contains("has 4 rows, expected 5"), "{message}");
    }

    #[test]
    fn tensors_of_several_pieces_are_read_whole_and_a_value_that_is_not_finite_is_found_in_any() {
        let count = CHUNK / 4 * 2 + 3;
        let mut values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let write = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, vec![count], &bytes).unwrap();
            fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
        };
        write(&values);
        let weights = Weights::open_file(&path).unwrap();
        assert!(weights.read("w").unwrap() == values);
        values[count - 1] = f32::NAN;
        write(&values);
        let message = weights.read("w").unwrap_err().to_string();
        assert!(message.contains(&format!("NaN at element {}", count - 1)), "{message}");
    }

    #[test]
    fn a_header_that_claims_more_than_the_file_is_refused_before_anything_is_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        for (bytes, said) in [
            (u64::MAX.to_le_bytes().to_vec(), "its header would be 18446744073709551615 bytes of 8"),
            (99_999_999u64.to_le_bytes().to_vec(), "its header would be 99999999 bytes of 8"),
            (vec![1, 2, 3], "only 3 bytes"),
            ([&2u64.to_le_bytes()[..], b"{}junk"].concat(), "longer than its tensors: 14 bytes, its header says 10"),
        ] {
            fs::write(&path, bytes).unwrap();
            let message = Weights::open_file(&path).unwrap_err().to_string();
            assert!(message.contains(said) && message.contains("a.safetensors"), "{message}");
        }
    }
}
