//! Heatmap models: a backbone sees the frame, a decoder brings its features to heatmap resolution, a head
//! writes the logits, one channel for each heatmap. What is on disk is none of their business: [`artifacts`](crate::artifacts) reads and writes.
//!
//! | module | what lives there |
//! |---|---|
//! | [`registry`] | every family of backbones and every decoder, one row each |
//! | [`backbones`] | what a backbone answers; vision transformers |
//! | [`features`] | what a backbone hands to a decoder |
//! | [`window`] | how a window of frames comes into a model |
//! | [`decoders`], [`heads`] | from features to heatmap resolution, and the last convolution |
//! | [`nn`] | layers and their initial values |
//! | [`lora`] | adapters on those layers |
//! | [`quantization`] | storing linear layers in 4 bits |
//! | [`memory`] | what a model weighs |
//! | [`state`] | parameters by name: for the optimizer, checkpoints and files |
//! | [`graph`] | a model as a graph of standard operations, for other runtimes |
//! | [`words`] | the words of configurations as the types of the kernels |
//! | [`carried`] | what a model takes along to be written again |

pub mod backbones;
pub mod carried;
pub mod decoders;
mod error;
pub mod features;
pub mod graph;
pub mod heads;
pub mod lora;
pub mod memory;
pub mod nn;
pub mod quantization;
pub mod registry;
pub mod state;
pub mod window;
pub mod words;

use std::convert::Infallible;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::compute::{Compute, MicroBatches};

use backbones::ModulePaths;
pub use backbones::{Backbone, Network};
use carried::Carried;
pub use decoders::Decoder;
use decoders::DecoderNetwork;
pub use error::ModelError;
pub use features::Features;
use graph::{Graph, Traced};
pub use heads::HeatmapHead;
use lora::{AdaptableLayer, MergeInto, merge_adapters};
pub use lora::{VisitLayers, apply_lora_to_model};
pub use memory::MemoryReport;
pub use quantization::apply_quantization;
use state::{ParameterInfo, set_trainable};
pub use window::{ModelInput, Window};

/// Backbone → decoder → head.
#[derive(Module, Debug)]
pub struct HeatmapModel {
    /// Sees the frame.
    pub backbone: Backbone,
    /// Brings its features to heatmap resolution.
    pub decoder: Decoder,
    /// Writes the logits.
    pub head: HeatmapHead,
    /// Shows them the frames.
    pub window: Window,
}

impl HeatmapModel {
    /// Normalized windows of RGB frames `[batch, 3 · frames, height, width]`, oldest frame first, → logits
    /// `[batch, heatmaps, heatmap height, heatmap width]` of the last frame, or of each in the same order.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let frame = self.window.last_frame(images.clone());
        let features = self.backbone.forward(frame, self.window.embedding(&images));
        let features = self.decoder.forward(features, self.window.for_decoder(images));
        self.head.forward(features)
    }

    /// [`Self::forward`] of a model that only predicts, in the micro-batches that suit the device.
    pub fn predict(&self, images: Tensor<4>) -> Tensor<4> {
        let micro_batches = MicroBatches::to_predict(images.dims()[0], &Compute::new(&images.device()));
        if micro_batches.count() < 2 {
            return self.forward(images);
        }
        let Ok(logits) = micro_batches.map(|_, frames| {
            let part = images.clone().narrow(0, frames.start, frames.len());
            Ok::<_, Infallible>(self.forward(part))
        });
        Tensor::cat(logits, 0)
    }

    /// What [`Self::forward`] computes of windows of frames of `[W, H]` pixels, as a graph, and its logits in it; the windows are
    /// its input `frames`. Adapters are merged into the weights, weights in 4 bits are the floats that they stand for.
    ///
    /// # Errors
    /// A merged weight that is not finite, by name.
    pub fn graph(&self, [width, height]: [usize; 2]) -> Result<(Graph, Traced), ModelError> {
        let model = merge_adapters(self.valid(), MergeInto::Float)?;
        let Self { backbone, decoder, head, window } = &model;
        let mut graph = Graph::default();
        let windows = graph.input("frames", vec![3 * window.spec().frames, height, width]);
        let (frame, added, seen) = graph.within("window", |graph| {
            let added = window.trace_embedding(graph, &windows);
            (window.trace_last_frame(graph, &windows), added, window.trace_for_decoder(graph, &windows))
        });
        let levels = graph.within("backbone", |graph| backbone.trace(graph, &frame, added.as_ref()));
        let features = graph.within("decoder", |graph| decoder.trace(graph, &levels, &seen));
        let logits = graph.within("head", |graph| head.trace(graph, &features));
        Ok((graph, logits))
    }

    /// A copy with an autodiff graph and dropout streams of its own; the values are shared.
    #[must_use]
    pub fn fork_for_piece(&self, device: &Device) -> Self {
        let mut model = self.clone().fork(device);
        model.own_adapter_dropout();
        model.decoder.own_dropout();
        model
    }

    /// Decides for every parameter whether it trains. What no heatmap is computed with never does: it would have no gradient,
    /// and an optimizer no state of it.
    #[must_use]
    pub fn with_trainable(self, trains: impl Fn(&ParameterInfo) -> bool) -> Self {
        let spec = self.backbone.shared_spec();
        set_trainable(self, |parameter| {
            let name = parameter.name.strip_prefix("backbone.");
            trains(parameter) && name.is_none_or(|name| spec.reaches_features(name))
        })
    }

    /// Mixed precision on the CPU, in the backbone ([`Backbone::use_bfloat16`]). `false` if the model has nothing to gain.
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

impl VisitLayers for HeatmapModel {
    fn module_paths(&self) -> ModulePaths {
        self.backbone.module_paths()
    }

    fn carried(&self) -> Option<&Carried> {
        self.backbone.carried()
    }

    fn carried_mut(&mut self) -> Option<&mut Carried> {
        self.backbone.carried_mut()
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        self.backbone.visit_layers(visit);
        self.decoder.visit_layers(&mut |path, layer| visit(&format!("decoder.{path}"), layer));
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        self.backbone.visit_layers_mut(visit);
        self.decoder.visit_layers_mut(&mut |path, layer| visit(&format!("decoder.{path}"), layer));
    }
}
