//! Small safetensors files of float32 tensors by name, as checkpoints hold them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::Result;
use crate::files::read::TENSORS;
use crate::files::read_bytes;

use super::RunError;

/// A tensor on the host: float32 values, row-major, with their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

/// Tensors by name.
pub type HostTensors = BTreeMap<String, HostTensor>;

/// The bytes of a safetensors file.
pub(crate) fn to_bytes(tensors: &HostTensors) -> Result<Vec<u8>, String> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, t)| (name, &t.shape, t.values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, data)| TensorView::new(Dtype::F32, shape.to_vec(), data).map(|view| (name.as_str(), view)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(|e| e.to_string())
}

/// Reads every tensor of a file.
pub(crate) fn read(path: &Path) -> Result<HostTensors> {
    let bytes = read_bytes(path, TENSORS)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| RunError::damaged(path, e))?;
    let mut tensors = HostTensors::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            let problem = format!("tensor `{name}` is {:?}, expected F32", view.dtype());
            return Err(RunError::damaged(path, problem).into());
        }
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if let Some(i) = values.iter().position(|value| value.is_nan()) {
            return Err(RunError::damaged(path, format!("tensor `{name}` holds NaN at element {i}")).into());
        }
        tensors.insert(name.to_owned(), HostTensor { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let values = vec![0.1, -0.0, f32::MIN_POSITIVE, f32::MAX, 1.0, 2.0];
        let tensors = HostTensors::from([
            ("a.b".to_owned(), HostTensor { shape: vec![2, 3], values }),
            ("step".to_owned(), HostTensor { shape: vec![], values: vec![7.0] }),
        ]);
        std::fs::write(&path, to_bytes(&tensors).unwrap()).unwrap();
        let found = read(&path).unwrap();
        assert_eq!(found, tensors);
        assert!(found["a.b"].values[1].is_sign_negative());
    }

    #[test]
    fn a_value_that_is_no_number_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.safetensors");
        let tensor = HostTensor { shape: vec![2], values: vec![f32::INFINITY, f32::NAN] };
        std::fs::write(&path, to_bytes(&HostTensors::from([("w.moment_1".to_owned(), tensor)])).unwrap()).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("broken.safetensors: tensor `w.moment_1` holds NaN at element 1"), "{error}");
    }

    #[test]
    fn a_truncated_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.safetensors");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("cut.safetensors"));
    }
}
