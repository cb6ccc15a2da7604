//! `<w>.quant_state.bitsandbytes__nf4`: what the bytes of a packed weight mean, as JSON.

use serde_json::Value;
use tracknet_kernels::fourbit::{BLOCKSIZES, NESTED_BLOCKSIZE};
use tracknet_kernels::{Absmax, ComputeDtype, PackedWeight, QuantType};

use crate::artifacts::pretrained::json::{UniqueMap, python_float};
use crate::config::{DtypeName, QuantTypeName};
use crate::console::shown;
use crate::models::words;

/// A state above this is no state: a real one takes some 200 bytes.
pub const MAX_BYTES: usize = 1 << 14;

const KEYS: [&str; 7] =
    ["quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset"];

/// The state of one packed weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantState {
    /// The code.
    pub quant_type: QuantType,
    /// Values that share a scale.
    pub blocksize: usize,
    /// What the weight was stored as before it was quantized.
    pub dtype: ComputeDtype,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// With double quantization, the mean that was subtracted from the scales.
    pub nested_offset: Option<f32>,
}

impl QuantState {
    /// The state of a weight that was stored as `dtype`.
    pub fn of(weight: &PackedWeight, dtype: ComputeDtype) -> Self {
        let nested_offset = match weight.absmax() {
            Absmax::Plain(_) => None,
            Absmax::Nested { offset, .. } => Some(*offset),
        };
        Self {
            quant_type: weight.quant_type(),
            blocksize: weight.blocksize(),
            dtype,
            shape: weight.shape(),
            nested_offset,
        }
    }

    /// Reads the bytes of the tensor. What it says is checked on its own; that it fits the other tensors of the weight is
    /// checked where they are read.
    ///
    /// # Errors
    /// What is wrong: no JSON, a key that is missing, unknown or there twice, or a value that the format does not have.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("is {} bytes long, expected JSON of at most {MAX_BYTES}", bytes.len()));
        }
        let UniqueMap::<Value>(map) =
            serde_json::from_slice(bytes).map_err(|e| format!("is not the JSON expected: {e}"))?;
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("has the unknown key `{}`; known: {}", shown(key), KEYS.join(", ")));
        }
        let get = |key: &str| map.get(key).ok_or_else(|| format!("lacks `{key}`"));
        let wrong = |key: &str, expected: &str| {
            let found = map.get(key).map(|v| shown(&v.to_string())).unwrap_or_default();
            format!("`{key}` is {found}, expected {expected}")
        };
        let text = |key: &str| get(key)?.as_str().ok_or_else(|| wrong(key, "text"));
        let whole = |key: &str| {
            get(key)?.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| wrong(key, "a whole number"))
        };

        let quant_type: QuantTypeName = text("quant_type")?.parse().map_err(|_| wrong("quant_type", "nf4 or fp4"))?;
        let blocksize = whole("blocksize")?;
        if !BLOCKSIZES.contains(&blocksize) {
            return Err(wrong("blocksize", &format!("one of {BLOCKSIZES:?}")));
        }
        let dtype: DtypeName = text("dtype")?.parse().map_err(|_| wrong("dtype", "float32, float16 or bfloat16"))?;
        let shape = shape(get("shape")?)
            .ok_or_else(|| wrong("shape", "[out, in], two whole numbers above 0 that can be multiplied"))?;
        let nested_offset = match KEYS[4..].iter().filter(|key| map.contains_key(**key)).count() {
            0 => None,
            _ => {
                if whole("nested_blocksize")? != NESTED_BLOCKSIZE {
                    return Err(wrong("nested_blocksize", &NESTED_BLOCKSIZE.to_string()));
                }
                if text("nested_dtype")? != "float32" {
                    return Err(wrong("nested_dtype", "float32"));
                }
                let offset = get("nested_offset")?.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
                Some(offset.ok_or_else(|| wrong("nested_offset", "a finite number"))?)
            }
        };
        let (quant_type, dtype) = (words::quant_type(quant_type), words::compute_dtype(dtype));
        Ok(Self { quant_type, blocksize, dtype, shape, nested_offset })
    }

    /// The bytes that bitsandbytes writes: Python's `json.dumps` of its keys in its order.
    pub fn to_json(&self) -> String {
        let [output, input] = self.shape;
        let mut text = format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{output}, {input}]"#,
            self.quant_type,
            self.blocksize,
            words::dtype_name(self.dtype)
        );
        if let Some(offset) = self.nested_offset {
            let offset = python_float(f64::from(offset));
            text += &format!(
                r#", "nested_blocksize": {NESTED_BLOCKSIZE}, "nested_dtype": "float32", "nested_offset": {offset}"#
            );
        }
        text + "}"
    }
}

fn shape(value: &Value) -> Option<[usize; 2]> {
    let [output, input] = value.as_array()?.as_slice() else { return None };
    let side = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let shape = [side(output)?, side(input)?];
    // As floats it must be addressable.
    shape[0].checked_mul(shape[1]).filter(|n| *n <= isize::MAX as usize / size_of::<f32>()).map(|_| shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [64, 128], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.1469448059797287}"#;
    const PLAIN: &str = r#"{"quant_type": "fp4", "blocksize": 128, "dtype": "bfloat16", "shape": [3, 7]}"#;

    #[test]
    fn states_of_bitsandbytes_go_around_byte_for_byte() {
        for text in [NESTED, PLAIN] {
            assert_eq!(QuantState::parse(text.as_bytes()).unwrap().to_json(), text);
        }
        let state = QuantState::parse(NESTED.as_bytes()).unwrap();
        assert_eq!((state.shape, state.nested_offset), ([64, 128], Some(0.146_944_8)));
    }

    #[test]
    fn states_that_lie_are_refused_with_what_was_found() {
        let with = |from: &str, to: &str| {
            assert!(NESTED.contains(from));
            QuantState::parse(NESTED.replace(from, to).as_bytes()).unwrap_err()
        };
        for (from, to, said) in [
            ("\"nf4\"", "\"int4\"", "`quant_type` is \"int4\", expected nf4 or fp4"),
            ("\"nf4\"", "4", "`quant_type` is 4, expected text"),
            ("64,", "65,", "`blocksize` is 65"),
            ("64,", "-64,", "`blocksize` is -64, expected a whole number"),
            ("64,", "64.0,", "`blocksize` is 64.0"),
            ("\"float32\", \"shape", "\"int8\", \"shape", "`dtype` is \"int8\", expected float32"),
            ("[64, 128]", "[64]", "`shape` is [64], expected [out, in]"),
            ("[64, 128]", "[64, 128, 1]", "`shape`"),
            ("[64, 128]", "[64, -128]", "`shape`"),
            ("[64, 128]", "[0, 128]", "`shape`"),
            ("[64, 128]", "[18446744073709551615, 2]", "`shape`"),
            ("[64, 128]", "[1e3, 2]", "`shape`"),
            ("[64, 128]", "\"64\"", "`shape`"),
            ("256", "128", "`nested_blocksize` is 128, expected 256"),
            ("\"nested_dtype\": \"float32\"", "\"nested_dtype\": \"float16\"", "`nested_dtype`"),
            ("0.1469448059797287", "null", "`nested_offset` is null"),
            ("0.1469448059797287", "1e300", "`nested_offset`"),
            ("\"nested_offset\": 0.1469448059797287", "\"nested_dtype\": \"float32\"", "twice"),
            (", \"nested_offset\": 0.1469448059797287", "", "lacks `nested_offset`"),
            ("\"dtype\": \"float32\", ", "", "lacks `dtype`"),
            ("{", "{\"offset\": 1, ", "unknown key `offset`"),
            ("}", "", "not the JSON expected"),
        ] {
            let message = with(from, to);
            assert!(message.contains(said), "{from} → {to}: {message}");
        }
        for bytes in [&b""[..], b"null", b"[]", b"\xff\xfe", &[b' '; MAX_BYTES + 1]] {
            assert!(QuantState::parse(bytes).is_err());
        }
    }
}
