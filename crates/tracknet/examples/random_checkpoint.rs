//! Writes a DINOv3 checkpoint of any size with random weights, to measure time and memory on:
//!
//! ```text
//! cargo run --release -p tracknet --example random_checkpoint -- DIR [GIGABYTES] [SHARDS]
//! ```
//!
//! The weights are float32 and a function of their names. One tensor is held at a time.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;
use tracknet::models::nn::{Fill, RandomSource, Source};

const HIDDEN: usize = 1024;
const MLP: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: random_checkpoint DIR [GIGABYTES] [SHARDS]")?;
    let gigabytes: f64 = args.next().map_or(Ok(1.0), |text| text.parse())?;
    let shards: usize = args.next().map_or(Ok(1), |text| text.parse())?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;

    let of_block: usize = block("").iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let layers = ((gigabytes * 1e9 / 4.0 / of_block as f64).round() as usize).max(1);
    let config = json!({
        "model_type": "dinov3_vit", "architectures": ["DINOv3ViTModel"], "dtype": "float32", "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_hidden_layers": layers, "num_attention_heads": 16, "num_register_tokens": 4,
        "patch_size": 16, "image_size": 224, "layer_norm_eps": 1e-5
    });
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config)?)?;

    let mut tensors = vec![
        ("embeddings.cls_token".to_owned(), vec![1, 1, HIDDEN]),
        ("embeddings.register_tokens".to_owned(), vec![1, 4, HIDDEN]),
        ("embeddings.patch_embeddings.weight".to_owned(), vec![HIDDEN, 3, 16, 16]),
        ("embeddings.patch_embeddings.bias".to_owned(), vec![HIDDEN]),
        ("norm.weight".to_owned(), vec![HIDDEN]),
        ("norm.bias".to_owned(), vec![HIDDEN]),
    ];
    tensors.extend((0..layers).flat_map(|i| block(&format!("layer.{i}."))));
    if shards <= 1 {
        return write(&dir.join("model.safetensors"), &tensors);
    }
    let mut weight_map = BTreeMap::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
        write(&dir.join(&file), part)?;
        weight_map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone())));
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(dir.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    Ok(())
}

/// The tensors of one block.
fn block(prefix: &str) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[usize]| tensors.push((format!("{prefix}{name}"), shape.to_vec()));
    for norm in ["norm1", "norm2"] {
        add(&format!("{norm}.weight"), &[HIDDEN]);
        add(&format!("{norm}.bias"), &[HIDDEN]);
    }
    for (name, shape, bias) in [
        ("attention.q_proj", [HIDDEN, HIDDEN], true),
        ("attention.k_proj", [HIDDEN, HIDDEN], false),
        ("attention.v_proj", [HIDDEN, HIDDEN], true),
        ("attention.o_proj", [HIDDEN, HIDDEN], true),
        ("mlp.up_proj", [MLP, HIDDEN], true),
        ("mlp.down_proj", [HIDDEN, MLP], true),
    ] {
        add(&format!("{name}.weight"), &shape);
        if bias {
            add(&format!("{name}.bias"), &shape[..1]);
        }
    }
    add("layer_scale1.lambda1", &[HIDDEN]);
    add("layer_scale2.lambda1", &[HIDDEN]);
    tensors
}

fn write(path: &Path, tensors: &[(String, Vec<usize>)]) -> Result<(), Box<dyn Error>> {
    let mut end = 0;
    let place = |(name, shape): &(String, Vec<usize>)| {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) })
    };
    let infos = tensors.iter().map(place).collect();
    let metadata = Metadata::new(Some(HashMap::from([("format".to_owned(), "pt".to_owned())])), infos)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let source = RandomSource { seed: 1 };
    for (name, shape) in tensors {
        let fill = if name.contains("norm") && name.ends_with("weight") { Fill::ONE } else { Fill::Normal(0.02) };
        for value in source.values(name, shape, fill) {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(out.flush()?)
}
