//! What a [`Trainer`](super::Trainer) needs of a kind of training.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Device;

use crate::error::Result;
use crate::models::state::Held;

use super::loss::LossSum;
use super::parameters::ParameterTable;

/// A kind of training: how a model gives a loss, and so gradients, for a batch.
pub trait TrainStep: Sync {
    /// What trains.
    type Model: Module + Sync;
    /// What one optimizer step sees.
    type Batch: Sync;

    /// The parameters that may train, as the model was built.
    fn parameters(&self, model: &Self::Model) -> ParameterTable;

    /// Number of frames of a batch: micro-batches are ranges of them.
    fn frames(&self, batch: &Self::Batch) -> usize;

    /// What the losses of a whole batch are divided by.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// The loss of some frames of a batch: its sum, and its share of the loss of the whole batch, with autodiff.
    ///
    /// # Errors
    /// If shapes do not fit or the backend fails.
    fn loss(&self, model: &Self::Model, batch: &Self::Batch, frames: Range<usize>) -> Result<LossSum>;

    /// A copy of the model with an autodiff graph and dropout streams of its own; the values are shared.
    fn fork(&self, model: &Self::Model, device: &Device) -> Self::Model;

    /// Makes the dropout of the next forward pass a function of `seed`.
    fn seed_dropout(&self, model: &Self::Model, seed: u64);

    /// What a forward pass itself changes of the model, by name; empty if it changes nothing.
    fn running_statistics(&self, _model: &Self::Model) -> Held {
        Held::new()
    }

    /// The model with the running statistics that were held of it: undoes what forward passes did to them.
    fn restore_statistics(&self, model: Self::Model, _statistics: Held) -> Self::Model {
        model
    }
}
