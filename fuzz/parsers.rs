//! What every parser must hold to, whatever the bytes: it ends, it does not panic, and what it accepts makes sense.
//!
//! Shared by the fuzz targets here and by `crates/tracknet/tests/mutations.rs`, which needs no nightly compiler. Each
//! returns nothing and panics when something is wrong, as a fuzzer expects.
#![allow(dead_code)] // Each fuzz target uses one of these.

use tracknet::models::backbones::ModulePaths;
use tracknet::models::lora::PeftConfig;
use tracknet::models::pretrained::bnb::{QuantState, SkipRules};
use tracknet::models::pretrained::header::Header;
use tracknet::models::pretrained::index::ShardIndex;

/// `adapter_config.json`.
pub(crate) fn adapter_config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(message) = PeftConfig::parse(text)
    {
        assert!(!message.is_empty());
    }
}

/// The state of a 4-bit weight; and its text as a skip list, whose entries are patterns.
pub(crate) fn quant_state(data: &[u8]) {
    match QuantState::parse(data) {
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
}

/// `model.safetensors.index.json`.
pub(crate) fn safetensors_index(data: &[u8]) {
    match ShardIndex::parse(data) {
        Err(message) => assert!(!message.is_empty()),
        Ok(index) => {
            assert!(!index.weight_map.is_empty());
            for file in index.weight_map.values() {
                // Joined to a directory, it stays directly in it.
                let joined = std::path::Path::new("dir").join(file);
                assert_eq!(joined.parent(), Some(std::path::Path::new("dir")), "{file:?}");
                assert!(!file.contains(['/', '\\', '\0']) && file != "..", "{file:?}");
            }
        }
    }
}

/// The JSON of a safetensors header.
pub(crate) fn safetensors_header(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
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
}
