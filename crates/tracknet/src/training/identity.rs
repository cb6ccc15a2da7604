//! By what a resumed run recognizes what its weights belong to: the base, what it computes, the frames.

use sha2::{Digest, Sha256};

use crate::artifacts::BuildReport;
use crate::config::Config;
use crate::datasets::{BatchLoader, BatchSpec};
use crate::files::hex;
use crate::models::nn::LinearWeight;
use crate::models::{HeatmapModel, VisitLayers};

use super::checkpoint::{BaseIdentity, Computation, FrameList};

/// The base of a run, by its name in the configuration and its hash.
pub(super) fn base_of(config: &Config, build: &BuildReport) -> BaseIdentity {
    BaseIdentity {
        name: config.model.pretrained_model_name.clone().unwrap_or_else(|| build.source.clone()),
        sha256: build.base_hash.clone(),
    }
}

/// What decides the outputs of a backbone besides its tensors and their shapes.
pub(super) fn computation_of(model: &HeatmapModel, build: &BuildReport) -> Computation {
    let spec = model.backbone.spec();
    let usual = BatchSpec::default();
    let [mean, std] = build.preprocessing.map_or([usual.mean, usual.std], |p| [p.mean, p.std]);
    let mut values = vec![
        ("model_type", spec.family().model_type.to_owned()),
        ("image_mean", format!("{mean:?}")),
        ("image_std", format!("{std:?}")),
    ];
    values.extend(spec.computation());
    let mut compute = None;
    model.visit_linears(&mut |_, linear| {
        if let LinearWeight::Packed(weight) = &linear.weight {
            compute = Some(weight.compute_dtype().name().to_owned());
        }
    });
    values.extend(compute.map(|dtype| ("bnb_4bit_compute_dtype", dtype)));
    values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The frames that the order of an epoch is drawn from.
pub(super) fn frames_of(loader: &BatchLoader) -> FrameList {
    let mut hasher = Sha256::new();
    for frame in loader.frames() {
        hasher.update(format!("{frame}\n"));
    }
    FrameList { count: loader.frames().len(), sha256: hex(&hasher.finalize()) }
}
