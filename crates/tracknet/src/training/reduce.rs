//! The seam between gradients and update, where the processes of a run can be brought together.

use crate::error::Result;

use super::gradients::NamedGradients;

/// What the forward and backward passes of a step came to.
#[derive(Debug, Clone, Default)]
pub struct BatchGradients {
    /// Gradients of `Σ(l·m) / Σm` over the batch.
    pub gradients: NamedGradients,
    /// `Σ(l·m)` of the batch.
    pub loss_sum: f64,
    /// What the losses are divided by: `Σm`.
    pub weight: f64,
    /// What must keep the step from changing anything, such as a loss that is not finite.
    pub non_finite: Option<String>,
}

/// Brings the gradients of a step together before they are checked, clipped and used.
pub trait GradientReducer: Send + Sync {
    /// Replaces what this process found by what all processes found: the gradients of all their frames, weighted by
    /// [`BatchGradients::weight`], and the sums; something that is not finite in one process is so in all, so that all of
    /// them decide alike.
    ///
    /// # Errors
    /// The processes cannot be reached. The step then changes nothing.
    fn reduce(&self, found: &mut BatchGradients) -> Result<()>;
}

/// A run of one process: there is nothing to bring together.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleProcess;

impl GradientReducer for SingleProcess {
    fn reduce(&self, _found: &mut BatchGradients) -> Result<()> {
        Ok(())
    }
}
