//! Backbones from Hugging Face checkpoints.
//!
//! | module | what lives there |
//! |---|---|
//! | [`vit`] | vision transformers: DINOv3, DINOv2 with and without registers, ViT |
//! | [`convnext`] | DINOv3 ConvNeXt |
//! | `family`, `paths` | what checkpoints call modules, and how else their paths are spelled |
//! | `config` | reading `config.json` |
//! | `heads` | what Python models have beside their backbone |
//!
//! A backbone is described first ([`BackboneSpec`]), before a tensor is read, and then built ([`Backbone`]). A new one is a
//! file with both, a variant of [`Network`] and a row in the [registry](super::registry).

pub(crate) mod config;
pub mod convnext;
mod family;
mod heads;
mod paths;
pub mod vit;

use std::fmt::Debug;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value};

use super::ModelError;
use super::carried::Carried;
use super::features::{Features, Layout, LevelLayout};
use super::graph::{Graph, Traced};
use super::lora::{AdaptableLayer, VisitLayers};
use super::nn::Builder;

pub use convnext::{ConvNext, ConvNextSpec};
pub(crate) use family::halve_rows;
pub use family::{Family, ModuleName, Stacked};
pub use heads::{HEADS, is_head};
pub use paths::ModulePaths;
pub use vit::{Vit, VitSpec};

/// What is known of a backbone from its `config.json` alone.
pub trait BackboneSpec: Debug + Send + Sync {
    /// What its checkpoints call its modules.
    fn family(&self) -> &'static Family;

    /// The configuration as it was read, so that it can be written again.
    fn config(&self) -> &Map<String, Value>;

    /// Channels and stride of each level of its features.
    fn layout(&self) -> Layout;

    /// The grid of patches that its first layer embeds, to which more can be added ([`BackboneNetwork::forward`]).
    fn embedding(&self) -> LevelLayout;

    /// The same backbone with the features of these stages only, counted from 1 (`model.backbone.return_stages`); `None` where
    /// there is one level, and nothing to choose.
    ///
    /// # Errors
    /// A stage that the backbone does not have, or stages out of order.
    fn with_stages(&self, _stages: &[usize]) -> Result<Option<Arc<dyn BackboneSpec>>, ModelError> {
        Ok(None)
    }

    /// Whether the parameter with this name in files, or an adapter's below it, is computed with on the way to the features. One
    /// that is not can serve the [tokens](Backbone::tokens) alone.
    fn reaches_features(&self, _name: &str) -> bool {
        true
    }

    /// Pixels of a patch's edge, where frames are cut into patches of one size.
    fn patch_size(&self) -> Option<usize>;

    /// Features of each of its [tokens](Backbone::tokens).
    fn token_features(&self) -> usize;

    /// The weights of its matrices, embeddings and tables, at least: what a file must hold.
    fn weights(&self) -> u128;

    /// The keys that decide [`BackboneSpec::weights`], with their values, for messages.
    fn sizes(&self) -> String;

    /// Checks that it can see frames of this size `[W, H]`.
    ///
    /// # Errors
    /// Names both sizes and the nearest legal ones.
    fn check_input(&self, size: [usize; 2]) -> Result<(), ModelError>;

    /// What decides its outputs besides its tensors and their shapes, as keys and values. Checkpoints keep it, so that a run
    /// is not resumed on another backbone.
    fn computation(&self) -> Vec<(&'static str, String)>;

    /// Builds the network; the builder knows its modules by the paths of their fields.
    fn build(&self, builder: &Builder<'_>) -> Network;
}

/// What every kind of backbone computes. Layers go by the paths of their fields, such as `blocks.0.query`.
pub trait BackboneNetwork {
    /// Normalized frames `[batch, 3, height, width]` → features, finest level first. `added`, `[batch, channels, rows, columns]`
    /// as [`BackboneSpec::embedding`] says, goes on the embedding of the patches: how a window of frames comes in.
    fn forward(&self, images: Tensor<4>, added: Option<Tensor<4>>) -> Features;

    /// Normalized frames → `[batch, tokens, features]`, what `transformers` calls the last hidden state. The first token stands
    /// for the whole frame.
    fn tokens(&self, images: Tensor<4>) -> Tensor<3>;

    /// [`BackboneNetwork::forward`] as part of a graph, without adapters: the maps of the levels, finest first.
    fn trace(&self, graph: &mut Graph, images: &Traced, added: Option<&Traced>) -> Vec<Traced>;

    /// Visits the layers that can carry an adapter, linear ones first.
    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer));

    /// As [`BackboneNetwork::visit_layers`], to change them.
    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer));

    /// Mixed precision on the CPU: products with frozen float weights round their factors to bfloat16, as those with 4-bit
    /// weights do, if the processor multiplies it fast. `false` if it does not, or the network has nothing to gain.
    fn use_bfloat16(&mut self) -> bool;

    /// Lets the backward pass compute again what can be computed again. `false` if there is nothing of that kind.
    fn use_gradient_checkpointing(&mut self) -> bool;

    /// Bytes of activations that a frame of `[W, H]` pixels keeps for the backward pass, about; `trains` says whether anything
    /// in the network receives gradients.
    fn activation_bytes(&self, input: [usize; 2], trains: bool, checkpointing: bool, device: &Device) -> usize;
}

/// The kinds of backbones.
// A model has one; a box around the larger variant would save nothing that counts.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Network {
    /// A vision transformer.
    Vit(Vit),
    /// A ConvNeXt.
    ConvNext(ConvNext),
}

impl Network {
    /// The vision transformer, if it is one.
    pub fn as_vit(&self) -> Option<&Vit> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::ConvNext(_) => None,
        }
    }

    fn inner(&self) -> &dyn BackboneNetwork {
        match self {
            Self::Vit(vit) => vit,
            Self::ConvNext(convnext) => convnext,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn BackboneNetwork {
        match self {
            Self::Vit(vit) => vit,
            Self::ConvNext(convnext) => convnext,
        }
    }
}

/// A network with its description.
#[derive(Module, Debug)]
pub struct Backbone {
    /// What computes.
    pub network: Network,
    #[module(skip)]
    spec: Arc<dyn BackboneSpec>,
    #[module(skip)]
    carried: Arc<Carried>,
}

impl Backbone {
    /// Builds what `spec` describes; the source of the builder gives the values by their names in files.
    pub fn new(spec: Arc<dyn BackboneSpec>, builder: &Builder<'_>) -> Self {
        let family = spec.family();
        let names = |path: &str| family.file_name(path);
        Self { network: spec.build(&builder.named(&names)), spec, carried: Arc::default() }
    }

    /// Takes along what its checkpoint holds besides, to be written again with it.
    #[must_use]
    pub fn carrying(self, carried: Carried) -> Self {
        Self { carried: Arc::new(carried), ..self }
    }

    /// What was built.
    pub fn spec(&self) -> &dyn BackboneSpec {
        &*self.spec
    }

    /// As [`Backbone::spec`], to be kept.
    pub(crate) fn shared_spec(&self) -> Arc<dyn BackboneSpec> {
        self.spec.clone()
    }

    /// What its checkpoints call its modules.
    pub fn family(&self) -> &'static Family {
        self.spec.family()
    }

    /// Normalized frames `[batch, 3, height, width]` → features, finest level first; `added` goes on the embedding of the
    /// patches, as [`BackboneNetwork::forward`] says.
    pub fn forward(&self, images: Tensor<4>, added: Option<Tensor<4>>) -> Features {
        self.network.inner().forward(images, added)
    }

    /// Normalized frames → `[batch, tokens, features]`, what `transformers` calls the last hidden state. The first token stands
    /// for the whole frame.
    pub fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        self.network.inner().tokens(images)
    }

    /// [`Backbone::forward`] as part of a graph, without adapters.
    pub(crate) fn trace(&self, graph: &mut Graph, images: &Traced, added: Option<&Traced>) -> Vec<Traced> {
        self.network.inner().trace(graph, images, added)
    }

    /// Mixed precision on the CPU, as [`BackboneNetwork::use_bfloat16`] says.
    pub fn use_bfloat16(&mut self) -> bool {
        self.network.inner_mut().use_bfloat16()
    }

    /// Less memory in training for more time, as [`BackboneNetwork::use_gradient_checkpointing`] says.
    pub fn use_gradient_checkpointing(&mut self) -> bool {
        self.network.inner_mut().use_gradient_checkpointing()
    }

    /// Bytes of activations, as [`BackboneNetwork::activation_bytes`] says.
    pub fn activation_bytes(&self, input: [usize; 2], trains: bool, checkpointing: bool, device: &Device) -> usize {
        self.network.inner().activation_bytes(input, trains, checkpointing, device)
    }
}

impl VisitLayers for Backbone {
    fn module_paths(&self) -> ModulePaths {
        ModulePaths::Of(self.family())
    }

    fn carried(&self) -> Option<&Carried> {
        Some(&self.carried)
    }

    fn carried_mut(&mut self) -> Option<&mut Carried> {
        Some(Arc::make_mut(&mut self.carried))
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        let family = self.family();
        self.network.inner().visit_layers(&mut |path, layer| visit(&family.file_name(path), layer));
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        let family = self.family();
        self.network.inner_mut().visit_layers_mut(&mut |path, layer| visit(&family.file_name(path), layer));
    }
}
