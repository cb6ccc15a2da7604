//! The header of a safetensors file: <https://huggingface.co/docs/safetensors>, "Format".
//!
//! Eight bytes of length, a JSON object that gives each tensor its type, shape and place, then the tensors without a gap.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::de::IgnoredAny;

use super::json::UniqueMap;

/// Headers above this are no safetensors files (the format's own limit).
pub const MAX_HEADER: u64 = 100_000_000;

/// Where a tensor is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sides, as PyTorch has them.
    pub shape: Vec<usize>,
    /// First byte, counted from the end of the header.
    pub offset: u64,
    /// Bytes; always those that type and shape need.
    pub length: usize,
}

/// A header, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Free text that the writer added.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of all tensors together.
    pub data_len: u64,
}

impl Header {
    /// Reads the JSON of a header. `data_len` of the result is checked against every tensor: they lie end to end, each as
    /// long as its type and shape say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        // First for names that are there twice, which `Metadata` does not see.
        serde_json::from_slice::<UniqueMap<UniqueMap<IgnoredAny>>>(json).map_err(|e| e.to_string())?;
        let metadata: Metadata = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let entry =
                TensorEntry { dtype: info.dtype, shape: info.shape.clone(), offset: start as u64, length: end - start };
            (name, entry)
        });
        Ok(Self {
            tensors: tensors.collect(),
            metadata: metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            data_len: metadata.data_len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Header::parse(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_header_gives_each_tensor_its_place() {
        let json = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                       "b":{"dtype":"U8","shape":[3,1],"data_offsets":[8,11]}}"#;
        let header = Header::parse(json.as_bytes()).unwrap();
        assert_eq!((header.data_len, header.metadata["format"].as_str()), (11, "pt"));
        let b = TensorEntry { dtype: Dtype::U8, shape: vec![3, 1], offset: 8, length: 3 };
        assert_eq!(header.tensors["b"], b);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        for json in [
            one("F32", "[2]", "[0,4]"),
            one("F32", "[2]", "[8,0]"),
            one("F32", "[2]", "[4,12]"),
            one("F32", "[18446744073709551615,2]", "[0,8]"),
            one("F32", "[4294967296,4294967296,4294967296]", "[0,8]"),
            one("F33", "[2]", "[0,8]"),
            one("F32", "[-2]", "[0,8]"),
            one("F32", "2", "[0,8]"),
            one("F32", "[2]", "[0]"),
            "{".to_owned(),
            "[]".to_owned(),
            String::new(),
        ] {
            assert!(!refusal(&json).is_empty(), "{json}");
        }
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        assert!(refusal(twice).contains("key `a` is there twice"));
    }
}
