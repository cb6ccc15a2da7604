//! Quantizes a vision transformer to 4 bits and adapts it with LoRA, step by step and through `build_model`.
//!
//! ```text
//! cargo run -p tracknet --example lora_vit
//! ```

#![allow(clippy::print_stdout)]

use burn::tensor::{Device, Distribution, Tensor};
use tracknet::artifacts::build_model;
use tracknet::config::{LoraConfig, ModelConfig, QuantizationConfig};
use tracknet::models::{MemoryReport, apply_lora_to_model, apply_quantization};

fn main() -> tracknet::Result<()> {
    let device = Device::flex().autodiff();
    let mut config = ModelConfig::default();
    config.backbone.architecture = serde_json::json!({
        "model_type": "dinov3_vit", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 512, "num_register_tokens": 4
    })
    .as_object()
    .cloned();
    config.decoder.channels = vec![128, 64, 32];
    config.decoder.upsample = vec![2, 2];

    // By hand, on any module that names its projections.
    let (model, _) = build_model(&config, [128, 64], 42, &device)?;
    let quantization = QuantizationConfig { enabled: true, ..QuantizationConfig::default() };
    let (backbone, packed) = apply_quantization(model.backbone, &quantization)?;
    println!("{}\n{packed}", packed.table());
    let lora = LoraConfig { enabled: true, r: 8, lora_alpha: 16.0, ..LoraConfig::default() };
    let targets = ["query", "key", "value", "dense"].map(str::to_owned);
    let (backbone, adapted) = apply_lora_to_model(backbone, &lora, Some(&targets))?;
    println!("{adapted}\n{}\n", MemoryReport::of(&backbone));

    // The same from a configuration.
    config.lora = lora;
    config.quantization = quantization;
    let (model, report) = build_model(&config, [128, 64], 42, &device)?;
    println!("{report}");
    let frames = Tensor::random([1, 3, 64, 128], Distribution::Normal(0.0, 1.0), &device);
    println!("logits: {:?}", model.forward(frames).dims());
    Ok(())
}
