//! Families whose layers in memory are not those of their files: DINOv2's SwiGLU, ViT; and 4-bit models that are written.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use safetensors::Dtype;
use tempfile::TempDir;
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, dequantize_checkpoint, is_packed, quantize_checkpoint};
use tracknet::artifacts::pretrained::save::read_all;
use tracknet::artifacts::pretrained::{Checkpoint, StoredAs, Weights, write_backbone, write_packed_backbone};
use tracknet::config::{DtypeName, ModelConfig, QuantMode, QuantizationConfig};
use tracknet::files::Destination;
use tracknet::inspect::Inspection;
use tracknet::models::quantization::apply_quantization;
use tracknet::models::{Backbone, VisitLayers};
use tracknet_kernels::QuantizeOptions;

use super::{job, packed_weights, quantized};
use crate::bnb_support::{change, copy_of, read_raw};
use crate::common::{backbone, fixture, largest_difference, pixels};

const SWIGLU: &str = "dinov2_tiny_swiglu";
const MLP: &str = "encoder.layer.0.mlp";

fn tokens(vit: &Backbone) -> burn::tensor::TensorData {
    vit.tokens(pixels(&Device::flex())).into_data()
}

fn skip_list(dir: &Path) -> Option<Vec<String>> {
    Checkpoint::open(dir).unwrap().quantization.unwrap().skip_modules
}

fn skipping(source: &Path, entries: &[&str]) -> TempDir {
    let skip_modules = entries.iter().map(|entry| (*entry).to_owned()).collect();
    quantized(source, &QuantizeJob { skip_modules, ..job(QuantizeOptions::default()) })
}

#[test]
fn gate_and_up_are_packed_apart_named_as_in_memory_and_become_one_tensor_of_floats_again() {
    let source = fixture(SWIGLU);
    let dir = quantized(&source, &job(QuantizeOptions::default()));
    let path = dir.path().join("q");
    let weights = Weights::open_dir(&path).unwrap();
    for name in ["gate_proj", "up_proj", "weights_out"] {
        assert!(is_packed(&weights, &format!("{MLP}.{name}.weight")), "{name}");
    }
    assert!(weights.shape(&format!("{MLP}.weights_in.weight")).is_none());
    assert!(weights.shape(&format!("{MLP}.weights_in.bias")).is_some(), "what is not packed is as it was");

    // The same codes as a model that packs its own layers, and as one that streams them.
    let stored = backbone(&path, &Device::flex()).unwrap();
    let section = QuantizationConfig { enabled: true, compute_dtype: DtypeName::Float32, ..Default::default() };
    let floats = backbone(&source, &Device::flex()).unwrap();
    assert!(packed_weights(&stored) == packed_weights(&apply_quantization(floats, &section).unwrap().0));
    let mut config = ModelConfig {
        pretrained_model_name: Some(source.display().to_string()),
        quantization: QuantizationConfig { mode: QuantMode::Hf, ..section },
        ..ModelConfig::default()
    };
    config.backbone.patch_size = 8;
    config.decoder.channels = vec![64, 16];
    config.decoder.upsample = vec![2];
    config.heatmap.size = [48, 32];
    let (streamed, _) = build_model(&config, [96, 64], 1, &Device::flex()).unwrap();
    assert!(packed_weights(&stored) == packed_weights(&streamed));

    let back = dir.path().join("back");
    assert_eq!(dequantize_checkpoint(&path, &Destination::new_directory(&back), None).unwrap().layers, 7);
    let [again, before] = [&back, &source].map(|dir| read_all(&dir.join("model.safetensors")).unwrap());
    assert!(again.keys().eq(before.keys()), "{:?}", again.keys());
    let whole = format!("{MLP}.weights_in.weight");
    assert_eq!(again[&whole].shape(), before[&whole].shape());
    // A half of the widest gap of the code, 0.3 of the largest weight of a block.
    assert!(largest_difference(&again[&whole], &before[&whole]) < 0.06);
    let apart = largest_difference(&tokens(&backbone(&back, &Device::flex()).unwrap()), &tokens(&stored));
    assert!(apart < super::TOLERANCE, "{apart}");

    // Against the floats each half is compared with its rows.
    let mut inspection = Inspection::of(&path).unwrap();
    inspection.measure(&source).unwrap();
    let text = inspection.to_string();
    assert!(text.contains("error of 7 layers") && text.contains("mlp.up_proj"), "{text}");
}

#[test]
fn one_half_may_be_left_as_floats() {
    let source = fixture(SWIGLU);
    let dir = skipping(&source, &["gate_proj"]);
    let path = dir.path().join("q");
    let weights = Weights::open_dir(&path).unwrap();
    assert!(!is_packed(&weights, &format!("{MLP}.gate_proj.weight")));
    assert!(is_packed(&weights, &format!("{MLP}.up_proj.weight")));
    let whole = Weights::open_dir(&source).unwrap().read(&format!("{MLP}.weights_in.weight")).unwrap();
    assert!(weights.read(&format!("{MLP}.gate_proj.weight")).unwrap() == whole[..whole.len() / 2]);
    assert_eq!(packed_weights(&backbone(&path, &Device::flex()).unwrap()).len(), 6);
    let back = dir.path().join("back");
    dequantize_checkpoint(&path, &Destination::new_directory(&back), None).unwrap();
    assert!(Weights::open_dir(&back).unwrap().shape(&format!("{MLP}.weights_in.weight")).is_some());

    // Both, by the name of their one tensor.
    let dir = skipping(&source, &["weights_in"]);
    let names = read_raw(&dir.path().join("q/model.safetensors"));
    assert_eq!(names[&format!("{MLP}.weights_in.weight")].dtype, Dtype::F32);
    let written = skip_list(&dir.path().join("q")).unwrap();
    // Releases before 5 have one layer there.
    assert_eq!(written, ["gate_proj", "up_proj", "weights_in"].map(|part| format!("{MLP}.{part}")));
}

/// A 4-bit `mlp.weights_in`, as releases before `transformers` 5 have it.
fn packed_as_one(options: QuantizeOptions) -> TempDir {
    let source = copy_of(&fixture(SWIGLU));
    let config = source.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    // Nothing is stacked in this family, which has the same tensors at its beginning.
    fs::write(&config, text.replace("\"dinov2\"", "\"vit\"")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    quantize_checkpoint(source.path(), &Destination::new_directory(dir.path().join("q")), &job(options)).unwrap();
    let config = dir.path().join("q/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"vit\"", "\"dinov2\"")).unwrap();
    dir
}

#[test]
fn gate_and_up_that_are_packed_as_one_are_read_where_no_block_has_both() {
    for double_quant in [false, true] {
        let options = QuantizeOptions { double_quant, ..QuantizeOptions::default() };
        let dir = packed_as_one(options);
        let path = dir.path().join("q");
        assert!(is_packed(&Weights::open_dir(&path).unwrap(), &format!("{MLP}.weights_in.weight")));
        let stored = backbone(&path, &Device::flex()).unwrap();
        let back = dir.path().join("back");
        dequantize_checkpoint(&path, &Destination::new_directory(&back), None).unwrap();
        let floats = backbone(&back, &Device::flex()).unwrap();
        let expected = read_all(&back.join("model.safetensors")).unwrap();
        // Bit for bit the values of the whole, in both halves.
        let unpacked = tracknet::models::quantization::dequantize(stored);
        write_backbone(&dir.path().join("own"), &unpacked, StoredAs::F32).unwrap();
        assert!(read_all(&dir.path().join("own/model.safetensors")).unwrap() == expected, "{double_quant}");
        assert!(tokens(&unpacked) == tokens(&floats));
    }
    let dir = packed_as_one(QuantizeOptions { blocksize: 4096, ..QuantizeOptions::default() });
    let message = backbone(&dir.path().join("q"), &Device::flex()).unwrap_err();
    assert!(message.contains("weights_in.weight: holds two projections") && message.contains("4096"), "{message}");
}

#[test]
fn skip_entries_in_the_names_of_files_or_of_memory_mean_the_same_layers_of_a_vit() {
    let source = fixture("vit_tiny");
    let file = |i: usize| format!("encoder.layer.{i}.attention.output.dense");
    for entry in
        ["o_proj", "attention.output.dense", r"layers\.\d\.attention\.o_proj", r"encoder\.layer\.\d\.attention\.o\w+"]
    {
        let dir = skipping(&source, &[entry]);
        let path = dir.path().join("q");
        let weights = Weights::open_dir(&path).unwrap();
        for i in 0..2 {
            assert!(!is_packed(&weights, &format!("{}.weight", file(i))), "{entry}");
        }
        assert_eq!(packed_weights(&backbone(&path, &Device::flex()).unwrap()).len(), 10, "{entry}");
        let written = skip_list(&path).unwrap();
        let spelled =
            [file(0), "layers.0.attention.o_proj".to_owned(), file(1), "layers.1.attention.o_proj".to_owned()];
        assert_eq!(written, spelled, "{entry}");
    }
}

#[test]
fn a_packed_model_is_written_as_the_checkpoint_that_it_came_from() {
    for name in ["dinov3_tiny", "dinov3_tiny_gated", "dinov2_tiny", "dinov2_reg_tiny", SWIGLU, "vit_tiny"] {
        let dir = quantized(&fixture(name), &job(QuantizeOptions::default()));
        let (path, own) = (dir.path().join("q"), dir.path().join("own"));
        let vit = backbone(&path, &Device::flex()).unwrap();
        write_packed_backbone(&own, &vit, StoredAs::F32).unwrap();
        for file in ["model.safetensors", "config.json"] {
            assert!(fs::read(own.join(file)).unwrap() == fs::read(path.join(file)).unwrap(), "{name}/{file}");
        }
        let message = write_backbone(&own, &vit, StoredAs::F32).unwrap_err().to_string();
        assert!(message.contains("in 4 bits"), "{message}");
    }
    let floats = backbone(&fixture("vit_tiny"), &Device::flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let message = write_packed_backbone(dir.path(), &floats, StoredAs::F32).unwrap_err().to_string();
    assert!(message.contains("no weight in 4 bits"), "{message}");
}

#[test]
fn layers_of_a_packed_model_that_are_floats_are_named_for_every_release() {
    let section = QuantizationConfig {
        enabled: true,
        skip_modules: Some(vec!["layer.0.output".to_owned()]),
        ..QuantizationConfig::default()
    };
    let vit = backbone(&fixture("vit_tiny"), &Device::flex()).unwrap();
    let packed = apply_quantization(vit, &section).unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    write_packed_backbone(dir.path(), &packed, StoredAs::F16).unwrap();
    // The pooler was float in the source, and is carried along as it was.
    let expected = ["encoder.layer.0.output.dense", "layers.0.mlp.fc2", "pooler.dense"];
    assert_eq!(skip_list(dir.path()).unwrap(), expected);
    let raw = read_raw(&dir.path().join("model.safetensors"));
    assert_eq!(raw["pooler.dense.weight"].dtype, Dtype::F16);
    let again = backbone(dir.path(), &Device::flex()).unwrap();
    assert!(packed_weights(&again) == packed_weights(&packed));
    let mut floats = 0;
    again.valid().visit_linears(&mut |_, p| floats += usize::from(!p.is_quantized()));
    assert_eq!(floats, 1);
}

#[test]
fn a_packed_pooler_becomes_floats_with_the_rest() {
    let dir = quantized(&fixture("vit_tiny"), &job(QuantizeOptions::default()));
    let path = dir.path().join("q");
    let vit = tracknet::models::quantization::dequantize(backbone(&path, &Device::flex()).unwrap());
    let [own, back] = ["own", "back"].map(|name| dir.path().join(name));
    write_backbone(&own, &vit, StoredAs::F32).unwrap();
    dequantize_checkpoint(&path, &Destination::new_directory(&back), None).unwrap();
    let file = "model.safetensors";
    assert!(fs::read(own.join(file)).unwrap() == fs::read(back.join(file)).unwrap());
    change(&path, |tensors| drop(tensors.remove("pooler.dense.weight.absmax")));
    let message = backbone(&path, &Device::flex()).unwrap_err();
    assert!(message.contains("pooler.dense.weight.absmax"), "{message}");
}
