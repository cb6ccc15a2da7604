//! Takes an adapter out of weights that it was merged into, from its files alone.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::error::Result;
use crate::models::ModelError;
use crate::models::lora::ranks::Ranks;
use crate::models::projection::{Base, VisitProjections};

use super::peft::AdapterFile;

impl AdapterFile {
    /// Takes this adapter out of the float weights that it was merged into, within rounding.
    ///
    /// # Errors
    /// An adapter whose merge cannot be undone from its files: DoRA, replaced biases or whole modules, a start that
    /// changed the base; modules that the model does not have as floats of the right shape.
    pub fn unmerge<M: VisitProjections>(&self, model: &mut M) -> Result<()> {
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
        let misfit = |path: &str, why: String| format!("{path}: the adapter does not fit the layer: {why}");
        let mut take = |path: &str, shape: [usize; 2], base: Option<Tensor<2>>| match (left.remove(path)?, base) {
            (Ok(update), Some(rows)) if update.shape()[..] == shape => {
                let device = rows.device();
                Some(rows - Tensor::from_data(update, &device))
            }
            (update, base) => {
                let found =
                    update.map(|update| format!("its update is {:?}, the weight {shape:?}", update.shape().to_vec()));
                let why = if base.is_none() { "it is in 4 bits".to_owned() } else { found.unwrap_or_else(|why| why) };
                problems.push(misfit(path, why));
                None
            }
        };
        model.visit_projections_mut(&mut |path, projection| {
            let shape = projection.shape();
            match &mut projection.base {
                Base::Dense(weight) => {
                    if let Some(rows) = take(path, shape, Some(weight.val())) {
                        *weight = weight.clone().map(|_| rows);
                    }
                }
                Base::Packed(_) => drop(take(path, shape, None)),
            }
        });
        model.visit_convolutions_mut(&mut |path, conv| {
            let shape = conv.weight.lazy_shape();
            if let Some(rows) = take(path, conv.shape(), Some(conv.rows())) {
                conv.weight = conv.weight.clone().map(|_| rows.reshape(shape));
            }
        });
        problems.extend(left.into_keys().map(|path| format!("{path}: the model has no such layer")));
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::Tensors { path: self.path().to_path_buf(), problems }.into())
    }
}
