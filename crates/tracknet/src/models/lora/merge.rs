//! Merges the adapters of a model into the weights they adapt, and takes them out again.
//!
//! A 4-bit weight becomes a float one when an adapter is merged into it: rounding the sum to 4 bits again would lose most of
//! what was learned. [`MergeInto::Requantized`] does it all the same when it is asked for; [`Deviation`] says at what cost.

use std::fmt;

use burn::tensor::Tensor;

use crate::models::ModelError;

use super::layer::{AdaptableLayer, MergeInto};
use super::visit::VisitLayers;

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
pub fn merge_adapters<M: VisitLayers>(model: M, into: MergeInto) -> Result<M, ModelError> {
    change_layers(model, |path, layer| layer.merge(path, into))
}

/// [`merge_adapters`] on a copy, and what it changed of the outputs of `probe`.
///
/// # Errors
/// As [`merge_adapters`], and outputs that are not finite.
pub fn merge_and_compare<M: VisitLayers + Clone, const D: usize>(
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
pub fn unmerge_adapters<M: VisitLayers>(model: M) -> Result<M, ModelError> {
    change_layers(model, |path, layer| layer.unmerge(path))
}

/// Changes the layers of a model up to the first error.
fn change_layers<M: VisitLayers>(
    mut model: M,
    change: impl Fn(&str, &mut dyn AdaptableLayer) -> Result<(), ModelError>,
) -> Result<M, ModelError> {
    let mut result = Ok(());
    model.visit_layers_mut(&mut |path, layer| {
        if result.is_ok() {
            result = change(path, layer);
        }
    });
    result.map(|()| model)
}
