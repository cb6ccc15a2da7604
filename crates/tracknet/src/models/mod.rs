//! Heatmap models: a backbone sees the frame, a decoder brings its features to heatmap resolution, a head
//! writes one channel of logits.
//!
//! | module | what lives there |
//! |---|---|
//! | [`backbones`] | one vision transformer, described by data for every checkpoint family |
//! | [`decoders`] | from the patch grid to heatmap resolution |
//! | [`heads`] | the last convolution |
//! | [`projection`] | the linear layer that can be 4-bit and carry an adapter |
//! | [`lora`] | adapters, 4-bit storage, and what they are applied to |
//! | [`memory`] | what a model weighs |
//! | [`state`] | parameters by name: for the optimizer, checkpoints and files |

pub mod backbones;
pub mod carried;
pub mod decoders;
pub mod dropout;
mod error;
mod features;
pub mod heads;
pub mod init;
pub mod layers;
pub mod lora;
pub mod memory;
pub mod projection;
pub mod quantization;
pub mod state;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::parallel;

use backbones::ModulePaths;
pub use backbones::Vit;
use carried::Carried;
pub use decoders::UpsamplingDecoder;
pub use error::ModelError;
pub use features::Features;
pub use heads::HeatmapHead;
use layers::Conv;
pub use lora::apply_lora_to_model;
pub use memory::MemoryReport;
pub use projection::{Projection, VisitProjections};
pub use quantization::apply_quantization;

/// Whether this is Burn's CPU backend, with or without autodiff.
pub(crate) fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Backbone → decoder → head.
#[derive(Module, Debug)]
pub struct HeatmapModel {
    /// Sees the frame as patches.
    pub backbone: Vit,
    /// Brings patch features to heatmap resolution.
    pub decoder: UpsamplingDecoder,
    /// Writes the logits.
    pub head: HeatmapHead,
}

impl HeatmapModel {
    /// Heatmap logits `[batch, 1, heatmap height, heatmap width]` of normalized RGB frames
    /// `[batch, 3, height, width]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let features = self.backbone.forward(images.clone());
        let features = self.decoder.forward(features, images);
        self.head.forward(features)
    }

    /// [`Self::forward`] of a model that only predicts. On the CPU frames are computed side by side, one on each core.
    pub fn predict(&self, images: Tensor<4>) -> Tensor<4> {
        let frames = images.dims()[0];
        if frames < 2 || !is_cpu(&images.device()) {
            return self.forward(images);
        }
        let frame = |index| self.forward(images.clone().narrow(0, index, 1));
        Tensor::cat(parallel::map(frames, parallel::cores(), frame), 0)
    }

    /// A copy with an autodiff graph and dropout streams of its own; the values are shared.
    #[must_use]
    pub fn fork_for_piece(&self, device: &Device) -> Self {
        let mut model = self.clone().fork(device);
        model.own_adapter_dropout();
        model.decoder.own_dropout();
        model
    }

    /// Mixed precision on the CPU: products with frozen float weights of the backbone round their factors to bfloat16, as
    /// those with 4-bit weights do, if the processor multiplies it fast. `false` if it does not, or the model has nothing
    /// to gain: no block without trained base weights.
    pub fn use_bfloat16(&mut self) -> bool {
        self.backbone.use_bfloat16()
    }

    /// Makes the dropout masks of the next forward passes a function of `seed`. Called with a seed of the step before
    /// every step, a resumed run draws what the unbroken run would have drawn.
    pub fn seed_dropout(&self, seed: u64) {
        self.seed_adapter_dropout(seed);
        self.decoder.seed_dropout(seed);
    }
}

impl VisitProjections for HeatmapModel {
    fn module_paths(&self) -> ModulePaths {
        self.backbone.module_paths()
    }

    fn carried_along(&self) -> Option<&Carried> {
        self.backbone.carried_along()
    }

    fn carried_along_mut(&mut self) -> Option<&mut Carried> {
        self.backbone.carried_along_mut()
    }

    fn visit_projections(&self, visit: &mut dyn FnMut(&str, &Projection)) {
        self.backbone.visit_projections(visit);
    }

    fn visit_projections_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Projection)) {
        self.backbone.visit_projections_mut(visit);
    }

    fn visit_convolutions(&self, visit: &mut dyn FnMut(&str, &Conv)) {
        self.backbone.visit_convolutions(visit);
        self.decoder.visit_convolutions(&mut |path, conv| visit(&format!("decoder.{path}"), conv));
    }

    fn visit_convolutions_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Conv)) {
        self.backbone.visit_convolutions_mut(visit);
        self.decoder.visit_convolutions_mut(&mut |path, conv| visit(&format!("decoder.{path}"), conv));
    }
}
