//! The layers of a model by name.

use crate::models::backbones::ModulePaths;
use crate::models::carried::Carried;
use crate::models::nn::Linear;

use super::adapter::LoraAdapter;
use super::layer::AdaptableLayer;

/// Names the layers of a model that can carry adapters. Everything that adapts, quantizes, merges, writes or reports works on
/// this alone.
///
/// The path is that of the module in the files of the backbone, such as `layer.0.attention.q_proj`, or the full name of a
/// convolution of the decoder, such as `decoder.stages.0.proj`.
pub trait VisitLayers {
    /// How else the paths of this model are spelled, by PEFT above all.
    fn module_paths(&self) -> ModulePaths {
        ModulePaths::AsWritten
    }

    /// What the model takes along to be written again, without computing anything with it.
    fn carried(&self) -> Option<&Carried> {
        None
    }

    /// As [`VisitLayers::carried`], to change it.
    fn carried_mut(&mut self) -> Option<&mut Carried> {
        None
    }

    /// Visits every layer that can carry an adapter: those of the backbone, linear ones first, then those of the decoder.
    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer));

    /// As [`VisitLayers::visit_layers`], to change them.
    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer));

    /// Visits the linear layers, which are those that can be stored in 4 bits.
    fn visit_linears(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.visit_layers(&mut |path, layer| layer.base().linear().into_iter().for_each(|linear| visit(path, linear)));
    }

    /// As [`VisitLayers::visit_linears`], to change them.
    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.visit_layers_mut(&mut |path, layer| {
            layer.base_mut().linear_mut().into_iter().for_each(|linear| visit(path, linear));
        });
    }

    /// Whether any weight is stored in 4 bits.
    fn is_quantized(&self) -> bool {
        let mut quantized = false;
        self.visit_linears(&mut |_, linear| quantized |= linear.is_quantized());
        quantized
    }

    /// Makes the dropout masks of all adapters a function of `seed`, from the next forward pass on.
    fn seed_adapter_dropout(&self, seed: u64) {
        self.visit_layers(&mut |_, layer| layer.adapter().into_iter().for_each(|adapter| adapter.seed_dropout(seed)));
    }

    /// Gives all adapters streams of dropout masks of their own, apart from those of the model's clones.
    fn own_adapter_dropout(&mut self) {
        self.visit_layers_mut(&mut |_, layer| layer.adapter_mut().iter_mut().for_each(LoraAdapter::own_dropout));
    }
}
