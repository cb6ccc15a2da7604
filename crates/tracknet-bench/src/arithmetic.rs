//! Floating-point operations of the workloads, counted from their shapes: a product and its sum are two.
//!
//! Counted are matrix products, attention and convolutions. What is computed twice to save memory is not counted again,
//! so that a rate compares implementations; norms, activations and the optimizer are left out (below one percent).

use tracknet::config::DecoderConfig;
use tracknet::models::backbones::VitSpec;

use crate::Mode;

/// The shapes of a model at work.
pub(crate) struct Shapes<'a> {
    /// The backbone: one with a plain MLP.
    pub(crate) backbone: &'a VitSpec,
    /// The decoder: depthwise, without skips.
    pub(crate) decoder: &'a DecoderConfig,
    /// Rank of the adapters on every linear layer of the blocks; 0 = there are none.
    pub(crate) rank: usize,
    /// Frames as `[W, H]`.
    pub(crate) input: [usize; 2],
    /// Heatmaps of a window.
    pub(crate) heatmaps: usize,
}

/// Operations of one frame's forward pass.
struct Forward {
    patches: f64,
    linears: f64,
    adapters: f64,
    attention: f64,
    decoder: f64,
}

impl Shapes<'_> {
    /// Operations of a forward pass over `frames` frames.
    pub(crate) fn inference(&self, frames: usize) -> f64 {
        let Forward { patches, linears, adapters, attention, decoder } = self.forward();
        frames as f64 * (patches + linears + adapters + attention + decoder)
    }

    /// Operations of an optimizer step on `frames` frames.
    pub(crate) fn step(&self, mode: Mode, frames: usize) -> f64 {
        let Forward { patches, linears, adapters, attention, decoder } = self.forward();
        // A frozen layer has a gradient for its input, a trained one also for its weight; the patches have no gradient
        // for their input, which are the frames. Attention has four products backward for its two forward.
        let weights = if mode == Mode::Full { 1.0 } else { 0.0 };
        let backbone = patches * (1.0 + weights) + linears * (2.0 + weights) + attention * 3.0;
        frames as f64 * (backbone + 3.0 * (adapters + decoder))
    }

    fn forward(&self) -> Forward {
        let spec = self.backbone;
        let grid = self.input.map(|side| side / spec.patch);
        let cells = grid[0] * grid[1];
        let tokens = cells + spec.prefix_tokens();
        let (hidden, mlp) = (spec.hidden, spec.mlp);
        let count = |factors: &[usize]| factors.iter().map(|&n| n as f64).product::<f64>();
        let linears = count(&[2, tokens, spec.layers, 4 * hidden * hidden + 2 * hidden * mlp]);
        let adapters = count(&[2, tokens, spec.layers, self.rank, 8 * hidden + 2 * (hidden + mlp)]);
        let attention = count(&[4, tokens, tokens, hidden, spec.layers]);
        let patches = count(&[2, cells, 3 * spec.patch * spec.patch, hidden]);
        Forward { patches, linears, adapters, attention, decoder: self.decoder(cells) }
    }

    /// Pointwise convolution before the resize, and the convolutions of each block after it; the head.
    fn decoder(&self, mut cells: usize) -> f64 {
        let config = self.decoder;
        let mut operations = 0;
        for (i, pair) in config.channels.windows(2).enumerate() {
            let [input, channels] = [pair[0], pair[1]];
            operations += 2 * cells * input * channels;
            cells *= config.upsample.get(i).map_or(1, |factor| factor * factor);
            operations += config.blocks_per_stage * 2 * cells * channels * (9 + channels);
        }
        (operations + self.heatmaps * 2 * cells * config.channels.last().copied().unwrap_or_default()) as f64
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::json;

    use super::*;
    use tracknet::artifacts::build_model;
    use tracknet::config::{BackboneConfig, ModelConfig};

    #[test]
    fn a_model_small_enough_to_count_by_hand() {
        let config = json!({
            "model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "num_register_tokens": 1, "patch_size": 16
        });
        let config = ModelConfig {
            backbone: BackboneConfig { architecture: config.as_object().cloned(), ..BackboneConfig::default() },
            ..ModelConfig::default()
        };
        let decoder = DecoderConfig { channels: vec![32, 8], upsample: vec![2], ..DecoderConfig::default() };
        let config = ModelConfig { decoder: decoder.clone(), ..config };
        let (model, _) = build_model(&config, [64, 48], 0, &Device::flex()).unwrap();
        let shapes = Shapes {
            backbone: model.backbone.network.as_vit().unwrap().spec(),
            decoder: &decoder,
            rank: 4,
            input: [64, 48],
            heatmaps: 1,
        };
        // 12 patches, 14 tokens with class and register.
        let patches = 2.0 * 12.0 * 768.0 * 32.0;
        let linears = 2.0 * 14.0 * 2.0 * (4.0 * 32.0 * 32.0 + 2.0 * 32.0 * 64.0);
        let adapters = 2.0 * 14.0 * 2.0 * 4.0 * (4.0 * 64.0 + 2.0 * 96.0);
        let attention = 2.0 * 2.0 * 2.0 * 14.0 * 14.0 * 32.0;
        let decoder = 2.0 * 12.0 * 32.0 * 8.0 + 2.0 * 48.0 * 8.0 * (9.0 + 8.0) + 2.0 * 48.0 * 8.0;
        assert_eq!(shapes.inference(3), 3.0 * (patches + linears + adapters + attention + decoder));
        let several = Shapes { heatmaps: 3, ..shapes };
        assert_eq!(several.inference(1) - shapes.inference(1), 2.0 * 2.0 * 48.0 * 8.0);
        let frozen = patches + 2.0 * linears + 3.0 * (adapters + attention + decoder);
        assert_eq!(shapes.step(Mode::Lora, 3), 3.0 * frozen);
        assert_eq!(shapes.step(Mode::Full, 3), 3.0 * (frozen + patches + linears));
    }
}
