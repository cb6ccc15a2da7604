//! Takes an adapter out of weights that it was merged into, from its files alone.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};

use crate::error::Result;
use crate::models::ModelError;
use crate::models::lora::ranks::Ranks;
use crate::models::lora::{AdaptableLayer, VisitLayers};

use super::peft::AdapterFile;

impl AdapterFile {
    /// Takes this adapter out of the float weights that it was merged into, within rounding.
    ///
    /// # Errors
    /// An adapter whose merge cannot be undone from its files: DoRA, replaced biases or whole modules, an
    /// initialization that changed the base; modules that the model does not have as floats of the right shape.
    pub fn unmerge<M: VisitLayers>(&self, model: &mut M) -> Result<()> {
        let refuse = |message: &str| Err(ModelError::file(self.path(), message).into());
        let lora = &self.config.lora;
        if lora.use_dora {
            return refuse("is a DoRA adapter: the lengths that the rows of the base had are in no file");
        }
        if !self.parameters.is_empty() {
            return refuse("replaced biases or whole modules of the base, whose values are in no file");
        }
        if lora.init_lora_weights.reads_weights() {
            return refuse(
                "changed its base when it began; convert it to a plain adapter first (tracknet adapter convert)",
            );
        }
        let ranks = Ranks::new(lora)?;
        let paths = model.module_paths();
        let mut left = BTreeMap::new();
        for (path, parts) in &self.modules {
            let (rank, scaling) = ranks.of(path, paths)?;
            left.insert(path.as_str(), parts.update(scaling.factor(rank)));
        }
        let mut problems = Vec::new();
        model.visit_layers_mut(&mut |path, layer| {
            let Some(update) = left.remove(path) else { return };
            if let Err(why) = update.and_then(|update| subtract(update, layer)) {
                problems.push(format!("{path}: the adapter does not fit the layer: {why}"));
            }
        });
        problems.extend(left.into_keys().map(|path| format!("{path}: the model has no such layer")));
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::Tensors { path: self.path().to_path_buf(), problems }.into())
    }
}

/// Takes an update `[out, in]` out of a float weight, or says why it does not fit.
fn subtract(update: TensorData, layer: &mut dyn AdaptableLayer) -> Result<(), String> {
    let base = layer.base_mut();
    if base.is_quantized() {
        return Err("it is in 4 bits".to_owned());
    }
    let shape = base.shape();
    if update.shape()[..] != shape {
        return Err(format!("its update is {:?}, the weight {shape:?}", update.shape().to_vec()));
    }
    let matrix = base.matrix();
    let device = matrix.device();
    base.set_matrix(matrix - Tensor::from_data(update, &device));
    Ok(())
}
