//! Puts adapters into the weights they adapt, and takes them out again.
//!
//! A 4-bit weight becomes a float one when an adapter is put into it: rounding the sum to 4 bits again would lose most of
//! what was learned. [`MergeInto::Requantized`] does it all the same when it is asked for; [`Deviation`] says at what cost.

use std::fmt;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use tracknet_kernels::{Linear4bitWeight, PackedWeight};

use crate::models::ModelError;
use crate::models::layers::Conv;
use crate::models::projection::{Base, Projection, VisitProjections};

use super::adapter::LoraAdapter;

/// What a 4-bit weight becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MergeInto {
    /// Floats.
    #[default]
    Float,
    /// 4 bits again, in the format it had.
    Requantized,
}

/// An adapter that is in the weight.
#[derive(Debug, Clone)]
pub struct Merged {
    pub(crate) adapter: LoraAdapter,
    /// The factors of DoRA, which the merged weight does not show.
    gain: Option<TensorData>,
    requantized: bool,
}

/// How far outputs are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Largest difference of two outputs.
    pub max: f32,
    /// Mean difference.
    pub mean: f32,
    /// Largest output, to compare with.
    pub largest: f32,
}

impl Deviation {
    /// Compares two outputs of the same shape.
    ///
    /// # Errors
    /// An output that is not finite, or a device that cannot be read.
    pub fn between<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Result<Self, ModelError> {
        let problem = |message: String| ModelError::Tensor { name: "output".to_owned(), message };
        let read = |x: Tensor<D>| x.into_data().convert::<f32>().try_to_vec::<f32>();
        let (a, b) = (read(a).map_err(|e| problem(format!("{e:?}")))?, read(b).map_err(|e| problem(format!("{e:?}")))?);
        if let Some(value) = a.iter().chain(&b).find(|v| !v.is_finite()) {
            return Err(problem(format!("holds {value}: the adapter or the model is damaged")));
        }
        let (mut max, mut sum, mut largest) = (0f32, 0f64, 0f32);
        for (x, y) in a.iter().zip(&b) {
            let difference = (x - y).abs();
            max = max.max(difference);
            sum += f64::from(difference);
            largest = largest.max(x.abs());
        }
        Ok(Self { max, mean: (sum / a.len().max(1) as f64) as f32, largest })
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max, mean, largest } = self;
        write!(f, "output deviation: max {max:.3e}, mean {mean:.3e} (largest output {largest:.3e})")
    }
}

/// Puts every adapter into its weight. The model computes what it did, within rounding, without adapters.
///
/// # Errors
/// A merged weight that is not finite, by name, or one that cannot be stored in 4 bits; the model given is lost, so keep
/// a copy (its tensors are shared).
pub fn merge_adapters<M: VisitProjections>(mut model: M, into: MergeInto) -> Result<M, ModelError> {
    let mut failed = None;
    model.visit_projections_mut(&mut |path, projection| {
        if failed.is_none() {
            failed = merge_projection(path, projection, into).err();
        }
    });
    model.visit_convolutions_mut(&mut |path, conv| {
        if failed.is_none() {
            failed = merge_convolution(path, conv).err();
        }
    });
    failed.map_or(Ok(model), Err)
}

/// [`merge_adapters`] on a copy, and what it changed of the outputs of `probe`.
///
/// # Errors
/// As [`merge_adapters`], and outputs that are not finite.
pub fn merge_and_compare<M: VisitProjections + Clone, const D: usize>(
    model: &M,
    into: MergeInto,
    probe: impl Fn(&M) -> Tensor<D>,
) -> Result<(M, Deviation), ModelError> {
    let merged = merge_adapters(model.clone(), into)?;
    let deviation = Deviation::between(probe(model), probe(&merged))?;
    Ok((merged, deviation))
}

/// Takes merged adapters out of their weights, within rounding, and makes them active again.
///
/// # Errors
/// An adapter that was merged into 4 bits, where rounding has swallowed what would be taken out.
pub fn unmerge_adapters<M: VisitProjections>(mut model: M) -> Result<M, ModelError> {
    let mut failed = None;
    model.visit_projections_mut(&mut |path, projection| {
        let Some(merged) = projection.merged.take() else { return };
        if let (Base::Dense(weight), false) = (&mut projection.base, merged.requantized) {
            *weight = weight.clone().map(|w| merged.take_out(w));
            projection.adapter = Some(merged.adapter);
        } else {
            let message = "was merged into 4 bits; load the base and the adapter again".to_owned();
            failed.get_or_insert(ModelError::Tensor { name: format!("{path}.weight"), message });
        }
    });
    model.visit_convolutions_mut(&mut |_, conv| {
        let Some(merged) = conv.merged.take() else { return };
        let shape = conv.weight.lazy_shape();
        let rows = merged.take_out(conv.rows());
        conv.weight = conv.weight.clone().map(|_| rows.reshape(shape));
        conv.adapter = Some(merged.adapter);
    });
    failed.map_or(Ok(model), Err)
}

impl Merged {
    fn take_out(&self, merged: Tensor<2>) -> Tensor<2> {
        let device = merged.device();
        let gain = self.gain.clone().map(|data| Tensor::from_data(data, &device));
        self.adapter.unmerge(merged, gain)
    }
}

fn merge_projection(path: &str, projection: &mut Projection, into: MergeInto) -> Result<(), ModelError> {
    let Some(adapter) = projection.adapter.take() else { return Ok(()) };
    let rows = projection.base.dense();
    let device = rows.device();
    let (weight, gain) = merged_rows(path, &adapter, rows)?;
    let (base, requantized) = match (&projection.base, into) {
        (Base::Packed(old), MergeInto::Requantized) => (Base::Packed(pack_like(path, old, weight)?), true),
        (Base::Packed(_), MergeInto::Float) => {
            let weight: Param<Tensor<2>> = Param::from_data(weight, &device);
            (Base::Dense(weight.set_require_grad(false)), false)
        }
        (Base::Dense(old), _) => {
            (Base::Dense(old.clone().map(|_| Tensor::from_data(weight, &device)).set_require_grad(false)), false)
        }
    };
    projection.base = base;
    projection.merged = Some(Box::new(Merged { adapter, gain, requantized }));
    Ok(())
}

fn merge_convolution(path: &str, conv: &mut Conv) -> Result<(), ModelError> {
    let Some(adapter) = conv.adapter.take() else { return Ok(()) };
    let (weight, gain) = merged_rows(path, &adapter, conv.rows())?;
    let (shape, device) = (conv.weight.lazy_shape(), conv.weight.lazy_device());
    let merged = Tensor::<2>::from_data(weight, &device).reshape(shape);
    conv.weight = conv.weight.clone().map(|_| merged).set_require_grad(false);
    conv.merged = Some(Box::new(Merged { adapter, gain, requantized: false }));
    Ok(())
}

/// The merged weight, checked, and the factors of DoRA.
fn merged_rows(
    path: &str,
    adapter: &LoraAdapter,
    rows: Tensor<2>,
) -> Result<(TensorData, Option<TensorData>), ModelError> {
    let (merged, gain) = adapter.merge(rows);
    let merged = merged.into_data().convert::<f32>();
    let damage = merged.iter::<f32>().find(|v| !v.is_finite());
    match damage {
        Some(value) => {
            let message = format!("would hold {value} after the merge: the adapter or the base is damaged");
            Err(ModelError::Tensor { name: format!("{path}.weight"), message })
        }
        None => Ok((merged, gain.map(Tensor::into_data))),
    }
}

fn pack_like(path: &str, old: &Linear4bitWeight, weight: TensorData) -> Result<Linear4bitWeight, ModelError> {
    let problem = |message: String| ModelError::Tensor { name: format!("{path}.weight"), message };
    let values = weight.try_to_vec::<f32>().map_err(|e| problem(format!("{e:?}")))?;
    let options = old.to_packed().map_err(|e| problem(e.to_string()))?.options();
    let packed = PackedWeight::quantize(&values, old.shape(), &options).map_err(|e| problem(e.to_string()))?;
    Linear4bitWeight::from_packed(&packed, old.compute_dtype(), &old.device()).map_err(|e| problem(e.to_string()))
}
