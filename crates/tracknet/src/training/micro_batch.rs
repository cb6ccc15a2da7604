//! The micro-batch that fits into the memory that a run may use.

use crate::compute::MemoryBound;
use crate::config::{BatchNormalized, TrainingConfig};
use crate::error::Result;

use super::TrainingError;

/// The micro-batch of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatchSize {
    /// Frames per forward pass.
    pub size: usize,
    /// What to tell the user, when it is smaller than asked for.
    pub note: Option<String>,
}

/// What to lower where batch normalization meets a micro-batch that is smaller than the batch.
fn whole_batch(BatchNormalized { setting, instead }: BatchNormalized) -> String {
    format!(
        "training.batch_size ({setting} takes its statistics over the whole batch, so that it cannot be split; {instead} can)"
    )
}

/// The largest micro-batch whose estimated peak fits `bound`: starts at `micro_batch_size` (0 = the whole batch),
/// and divides by `mb_backoff_factor` at most `oom_retries` times, never below `min_micro_batch_size`. With
/// batch normalization only the whole batch gives the gradient of the batch, and it is never split.
///
/// # Errors
/// If the smallest does not fit either, or `micro_batch_size` asks for a part of a batch that cannot be split.
pub fn choose_micro_batch(
    config: &TrainingConfig,
    batch_normalized: Option<BatchNormalized>,
    estimate: impl Fn(usize) -> u64,
    bound: Option<MemoryBound>,
) -> Result<MicroBatchSize> {
    let asked = match config.micro_batch_size {
        0 => config.batch_size,
        n => n.min(config.batch_size),
    };
    let coupled = batch_normalized.map(whole_batch);
    if let Some(whole_batch) = coupled.as_ref().filter(|_| asked < config.batch_size) {
        let problem = format!("training.micro_batch_size is {asked}: make it 0, or lower {whole_batch}");
        return Err(TrainingError::Mismatch(problem).into());
    }
    let fits = |size: usize| bound.is_none_or(|b| estimate(size) <= b.bytes);
    if !config.adaptive_micro_batch || fits(asked) {
        return Ok(MicroBatchSize { size: asked, note: None });
    }
    let smallest = config.min_micro_batch_size.clamp(1, asked);
    let mut size = asked;
    for _ in 0..if coupled.is_none() { config.oom_retries } else { 0 } {
        size = (size / config.mb_backoff_factor.max(2)).max(smallest);
        if fits(size) {
            let (mib, room) = (estimate(asked) >> 20, bound.map_or(0, |b| b.bytes) >> 20);
            let note = format!(
                "a micro-batch of {asked} would need about {mib} MiB and {room} MiB {}: running micro-batches of {size} \
                 (the gradient stays that of the whole batch)",
                bound.map_or("", |b| b.origin)
            );
            return Ok(MicroBatchSize { size, note: Some(note) });
        }
    }
    let bound = bound.unwrap_or(MemoryBound { bytes: 0, origin: "" });
    Err(TrainingError::OutOfMemory {
        micro_batch: size,
        needed: estimate(size),
        available: bound.bytes,
        origin: bound.origin,
        to_lower: coupled.unwrap_or_else(|| "training.min_micro_batch_size".to_owned()),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(batch_size: usize, min: usize) -> TrainingConfig {
        TrainingConfig { batch_size, min_micro_batch_size: min, ..TrainingConfig::default() }
    }

    /// 100 bytes and 10 more for each frame.
    fn estimate(frames: usize) -> u64 {
        100 + 10 * frames as u64
    }

    fn bound(bytes: u64) -> Option<MemoryBound> {
        Some(MemoryBound { bytes, origin: "are allowed by the memory limit" })
    }

    #[test]
    fn the_batch_is_halved_until_it_fits() {
        assert_eq!(choose_micro_batch(&config(32, 4), None, estimate, bound(420)).unwrap().size, 32);
        let chosen = choose_micro_batch(&config(32, 4), None, estimate, bound(190)).unwrap();
        assert_eq!(chosen.size, 8);
        assert!(chosen.note.unwrap().contains("micro-batches of 8"));
        assert_eq!(choose_micro_batch(&config(32, 4), None, estimate, None).unwrap().size, 32);
    }

    #[test]
    fn a_smallest_micro_batch_that_does_not_fit_is_an_error_with_numbers() {
        let error =
            choose_micro_batch(&config(32, 4), None, |n| (n as u64) << 20, bound(3 << 20)).unwrap_err().to_string();
        assert!(error.contains("micro-batch of 4 needs about 4 MiB") && error.contains("3 MiB"), "{error}");
    }

    #[test]
    fn a_batch_whose_frames_are_normalized_together_is_never_split() {
        let norm = Some(BatchNormalized { setting: "model.decoder.norm: bn", instead: "norm: gn" });
        let choose = |config: &TrainingConfig, bytes| choose_micro_batch(config, norm, estimate, bound(bytes));
        assert_eq!(choose(&config(32, 4), 420).unwrap().size, 32);
        let error = choose(&config(32, 4), 190).unwrap_err().to_string();
        assert!(error.contains("micro-batch of 32 needs") && error.contains("lower training.batch_size"), "{error}");
        assert!(error.contains("model.decoder.norm: bn"), "{error}");
        let split = TrainingConfig { micro_batch_size: 5, adaptive_micro_batch: false, ..config(32, 4) };
        let error = choose(&split, 420).unwrap_err().to_string();
        assert!(error.contains("training.micro_batch_size is 5: make it 0"), "{error}");
    }

    #[test]
    fn adaptation_can_be_switched_off_and_a_size_can_be_asked_for() {
        let fixed = TrainingConfig { adaptive_micro_batch: false, micro_batch_size: 5, ..config(32, 4) };
        assert_eq!(choose_micro_batch(&fixed, None, estimate, bound(1)).unwrap().size, 5);
    }
}
