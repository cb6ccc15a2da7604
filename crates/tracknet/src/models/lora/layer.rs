//! A layer with an adapter: the one place where adapters are computed, merged into weights and taken out again.

use std::fmt::Display;
use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use tracknet_kernels::{Linear4bitWeight, PackedWeight};

use crate::models::ModelError;
use crate::models::graph::{Graph, Traced};
use crate::models::nn::linear::on_rows;
use crate::models::nn::{Conv2d, Linear, LinearWeight};

use super::adapter::LoraAdapter;
use super::base::{BaseLayer, LinearMap, OnChannels, OnPatches, RowMap};
use super::{dora, fused};

/// A layer and what LoRA adds to it: `y = base(x) + s · B(A(dropout(x)))`.
#[derive(Module, Debug)]
pub struct LoraLayer<L: Module> {
    /// The layer itself.
    pub base: L,
    /// Added to the output when present.
    pub adapter: Option<LoraAdapter>,
    /// An adapter whose update is in the weight of the base, kept for unmerging.
    #[module(skip)]
    merged: Option<Box<Merged>>,
}

/// An adapter that is in the weight.
#[derive(Debug, Clone)]
pub struct Merged {
    pub(super) adapter: LoraAdapter,
    /// The gain of DoRA, which the merged weight does not show.
    gain: Option<TensorData>,
    /// Whether the merged weight was rounded to 4 bits.
    requantized: bool,
}

/// What a 4-bit weight becomes when an adapter is merged into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MergeInto {
    /// Floats.
    #[default]
    Float,
    /// 4 bits again, in the format it had.
    Requantized,
}

impl<L: Module> LoraLayer<L> {
    /// A layer without an adapter.
    pub fn new(base: L) -> Self {
        Self { base, adapter: None, merged: None }
    }
}

impl LoraLayer<Linear> {
    /// `[.., in]` → `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        on_rows(x, |x| forward_rows(&self.base, self.adapter.as_ref(), x))
    }

    /// The layer, whose adapter is merged or absent, as part of a graph; `name` is what it is called.
    pub(crate) fn trace(&self, graph: &mut Graph, name: impl Display, x: &Traced) -> Traced {
        graph.within(name, |graph| self.base.trace(graph, x))
    }
}

impl LoraLayer<Conv2d> {
    /// `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.adapter {
            None => self.base.forward(x),
            Some(adapter) => forward_adapted(&self.base, adapter, x),
        }
    }

    /// A convolution whose kernels do not overlap, of patches that are rows already: `[rows, in · height · width]` →
    /// `[rows, out]`.
    pub fn forward_patches(&self, x: Tensor<2>) -> Tensor<2> {
        forward_rows(&OnPatches(&self.base), self.adapter.as_ref(), x)
    }

    /// The layer, whose adapter is merged or absent, as part of a graph; `name` is what it is called.
    pub(crate) fn trace(&self, graph: &mut Graph, name: impl Display, x: &Traced) -> Traced {
        graph.within(name, |graph| self.base.trace(graph, x))
    }

    /// [`LoraLayer::forward_channels`] as part of a graph.
    pub(crate) fn trace_channels(
        &self,
        graph: &mut Graph,
        name: impl Display,
        x: &Traced,
        range: Range<usize>,
    ) -> Traced {
        graph.within(name, |graph| self.base.trace_channels(graph, x, range))
    }

    /// The part of a pointwise convolution without bias that reads the input channels of `range`: a convolution of
    /// concatenated features is the sum of such parts, and nothing needs to be concatenated.
    pub fn forward_channels(&self, x: Tensor<4>, range: Range<usize>) -> Tensor<4> {
        let part = OnChannels { conv: &self.base, range };
        match &self.adapter {
            None => part.apply(x),
            Some(adapter) => forward_adapted(&part, adapter, x),
        }
    }
}

/// The output of a map on rows, `[rows, in]` → `[rows, out]`, by a kernel where the device has one for the adapter.
fn forward_rows(map: &impl RowMap, adapter: Option<&LoraAdapter>, x: Tensor<2>) -> Tensor<2> {
    match adapter {
        None => map.add_bias(map.apply(x)),
        Some(adapter) if fused::adds_in_one_pass(adapter, &x.device()) => fused::forward_rows(map, adapter, x),
        Some(adapter) => forward_adapted(map, adapter, x),
    }
}

/// The output of an adapted map of ordinary operations: what every other path is tested against. The scale is applied where
/// the tensor is smallest, between the two products.
pub(super) fn forward_adapted<const D: usize>(
    map: &impl LinearMap<D>,
    adapter: &LoraAdapter,
    x: Tensor<D>,
) -> Tensor<D> {
    let y = map.apply(x.clone());
    let is_dropping = adapter.is_dropping(&x);
    let x = adapter.dropout(x);
    let reduced = map.apply_matrix(x.clone(), adapter.a.val()).mul_scalar(adapter.scale());
    let update = map.mix(reduced, adapter.b.val());
    let y = match &adapter.dora {
        None => y + update,
        Some(dora) => {
            let gain = map.per_output(dora.gain(adapter.matrices(), |rows| map.multiply_rows(rows)));
            dora::combine(y, update, gain, is_dropping.then(|| map.apply(x)))
        }
    };
    map.add_bias(y)
}

/// A layer of any kind that can carry an adapter: everything that adapts, merges, quantizes, writes or reports sees the
/// layers of a model as these ([`VisitLayers`](super::VisitLayers)).
pub trait AdaptableLayer {
    /// The layer without its adapter.
    fn base(&self) -> &dyn BaseLayer;

    /// As [`AdaptableLayer::base`], to change it.
    fn base_mut(&mut self) -> &mut dyn BaseLayer;

    /// The adapter whose update is added to the output.
    fn adapter(&self) -> Option<&LoraAdapter>;

    /// As [`AdaptableLayer::adapter`], to change it or to put one in.
    fn adapter_mut(&mut self) -> &mut Option<LoraAdapter>;

    /// The adapter that is in the weight.
    fn merged(&self) -> Option<&Merged>;

    /// As [`AdaptableLayer::merged`], to change it.
    fn merged_mut(&mut self) -> &mut Option<Box<Merged>>;

    /// Puts the adapter into the weight, which no longer trains; nothing without an adapter. A 4-bit weight becomes what
    /// `into` says.
    ///
    /// # Errors
    /// A merged weight that is not finite, or that cannot be stored in 4 bits; the adapter is lost. `path` names the layer.
    fn merge(&mut self, path: &str, into: MergeInto) -> Result<(), ModelError> {
        let Some(adapter) = self.adapter_mut().take() else { return Ok(()) };
        let matrix = self.base().matrix();
        let device = matrix.device();
        let (merged, gain) = adapter.merge(matrix);
        let weight = finite(path, merged)?;
        let requantized = match (into, self.base_mut().linear_mut().map(|linear| &mut linear.weight)) {
            (MergeInto::Requantized, Some(LinearWeight::Packed(packed))) => {
                *packed = pack_like(path, packed, weight)?;
                true
            }
            _ => {
                self.base_mut().set_matrix(Tensor::from_data(weight, &device));
                self.base_mut().freeze_weight();
                false
            }
        };
        *self.merged_mut() = Some(Box::new(Merged { adapter, gain: gain.map(Tensor::into_data), requantized }));
        Ok(())
    }

    /// Takes a merged adapter out of the weight, within rounding, and makes it active again; nothing without one.
    ///
    /// # Errors
    /// A weight in 4 bits, where rounding has swallowed what would be taken out. `path` names the layer.
    fn unmerge(&mut self, path: &str) -> Result<(), ModelError> {
        let Some(merged) = self.merged_mut().take() else { return Ok(()) };
        if merged.requantized || self.base().is_quantized() {
            let message = "was merged into 4 bits; load the base and the adapter again".to_owned();
            return Err(ModelError::Tensor { name: format!("{path}.weight"), message });
        }
        let matrix = self.base().matrix();
        let device = matrix.device();
        let Merged { adapter, gain, .. } = *merged;
        let gain = gain.map(|data| Tensor::from_data(data, &device));
        self.base_mut().set_matrix(adapter.unmerge(matrix, gain));
        *self.adapter_mut() = Some(adapter);
        Ok(())
    }
}

impl<L: Module + BaseLayer> AdaptableLayer for LoraLayer<L> {
    fn base(&self) -> &dyn BaseLayer {
        &self.base
    }

    fn base_mut(&mut self) -> &mut dyn BaseLayer {
        &mut self.base
    }

    fn adapter(&self) -> Option<&LoraAdapter> {
        self.adapter.as_ref()
    }

    fn adapter_mut(&mut self) -> &mut Option<LoraAdapter> {
        &mut self.adapter
    }

    fn merged(&self) -> Option<&Merged> {
        self.merged.as_deref()
    }

    fn merged_mut(&mut self) -> &mut Option<Box<Merged>> {
        &mut self.merged
    }
}

/// The values of a merged weight.
fn finite(path: &str, merged: Tensor<2>) -> Result<TensorData, ModelError> {
    let merged = merged.into_data().convert::<f32>();
    let damage = merged.iter::<f32>().find(|v| !v.is_finite());
    match damage {
        None => Ok(merged),
        Some(value) => {
            let message = format!("would hold {value} after the merge: the adapter or the base is damaged");
            Err(ModelError::Tensor { name: format!("{path}.weight"), message })
        }
    }
}

/// A weight in the format of another packed one.
fn pack_like(path: &str, like: &Linear4bitWeight, weight: TensorData) -> Result<Linear4bitWeight, ModelError> {
    let problem = |message: String| ModelError::Tensor { name: format!("{path}.weight"), message };
    let values = weight.try_to_vec::<f32>().map_err(|e| problem(format!("{e:?}")))?;
    let options = like.to_packed().map_err(|e| problem(e.to_string()))?.options();
    let packed = PackedWeight::quantize(&values, like.shape(), &options).map_err(|e| problem(e.to_string()))?;
    Linear4bitWeight::from_packed(&packed, like.compute_dtype(), &like.device()).map_err(|e| problem(e.to_string()))
}
