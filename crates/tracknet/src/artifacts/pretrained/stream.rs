//! Writes a safetensors file tensor by tensor: nothing is held that is not being written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{IoContext, Result};
use crate::models::ModelError;

use super::save::StoredAs;

/// Writes the bytes of one tensor.
pub(crate) type WriteBytes<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<()> + 'a>;

/// A tensor to write: what it is, and who writes its bytes when its turn comes.
pub(crate) struct Planned<'a> {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) write: WriteBytes<'a>,
}

/// Writes `tensors` to a new file with the order, header and metadata of the safetensors library, so that the bytes are
/// those that any other program writes.
///
/// # Errors
/// The file cannot be written, or a tensor is not written whole.
pub(crate) fn write_stream(path: &Path, mut tensors: Vec<Planned<'_>>) -> Result<()> {
    let invalid = |message: String| ModelError::file(path, message);
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let mut end = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        let start = end;
        let length = tensor.shape.iter().try_fold(tensor.dtype.bitsize() / 8, |n, side| n.checked_mul(*side));
        end = length
            .and_then(|n| n.checked_add(start))
            .ok_or_else(|| invalid(format!("{} is too large", tensor.name)))?;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        entries.push((tensor.name.clone(), info));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), entries).map_err(|e| invalid(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| invalid(e.to_string()))?;
    // Tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');

    let file = File::create(path).at(path)?;
    let mut out = Counted { inner: BufWriter::with_capacity(1 << 18, &file), written: 0 };
    out.write_all(&(header.len() as u64).to_le_bytes()).at(path)?;
    out.write_all(&header).at(path)?;
    for tensor in tensors {
        let before = out.written;
        (tensor.write)(&mut out)?;
        let written = out.written - before;
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        if written != expected {
            return Err(invalid(format!("{}: {written} bytes were written, expected {expected}", tensor.name)).into());
        }
    }
    out.flush().at(path)?;
    drop(out);
    Ok(file.sync_all().at(path)?)
}

struct Counted<W> {
    inner: W,
    written: usize,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the values of the tensor `name` rounded to the type they are stored in, in pieces.
///
/// # Errors
/// A value that does not fit the type, or the file at `path` cannot be written.
pub(crate) fn write_values(
    out: &mut dyn Write,
    name: &str,
    values: &[f32],
    stored: StoredAs,
    path: &Path,
) -> Result<()> {
    let largest = if stored == StoredAs::F16 { f32::from(half::f16::MAX) } else { f32::MAX };
    if let Some(value) = values.iter().find(|v| v.abs() > largest) {
        let message = format!("holds {value}, which is out of the range of {}; use another type", stored.name());
        return Err(ModelError::Tensor { name: name.to_owned(), message }.into());
    }
    let mut bytes = Vec::with_capacity(1 << 16);
    for piece in values.chunks(1 << 14) {
        bytes.clear();
        for value in piece {
            match stored {
                StoredAs::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                StoredAs::F16 => bytes.extend_from_slice(&half::f16::from_f32(*value).to_le_bytes()),
                StoredAs::Bf16 => bytes.extend_from_slice(&half::bf16::from_f32(*value).to_le_bytes()),
            }
        }
        out.write_all(&bytes).at(path)?;
    }
    Ok(())
}
