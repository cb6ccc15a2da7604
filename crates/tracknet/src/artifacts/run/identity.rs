//! By what a checkpoint recognizes the backbone that its weights belong to: its tensors, and what it computes with them.

use crate::artifacts::BuildReport;
use crate::config::Config;
use crate::models::nn::LinearWeight;
use crate::models::{HeatmapModel, VisitLayers, words};

use super::state::{BaseIdentity, Computation};

/// The base of a run, by its name in the configuration and its hash.
pub(crate) fn base_of(config: &Config, build: &BuildReport) -> BaseIdentity {
    BaseIdentity {
        name: config.model.pretrained_model_name.clone().unwrap_or_else(|| build.source.clone()),
        sha256: build.base_hash.clone(),
    }
}

/// What decides the outputs of a backbone besides its tensors and their shapes.
pub(crate) fn computation_of(model: &HeatmapModel, build: &BuildReport) -> Computation {
    let spec = model.backbone.spec();
    let (mean, std) = build.normalization();
    let mut values = vec![
        ("model_type", spec.family().model_type.to_owned()),
        ("image_mean", format!("{mean:?}")),
        ("image_std", format!("{std:?}")),
    ];
    values.extend(spec.computation());
    let window = model.window.spec();
    if window.frames > 1 {
        values.push(("temporal", format!("{}, {} frames", window.temporal, window.frames)));
    }
    let mut compute = None;
    model.visit_linears(&mut |_, linear| {
        if let LinearWeight::Packed(weight) = &linear.weight {
            compute = Some(words::dtype_name(weight.compute_dtype()).to_string());
        }
    });
    values.extend(compute.map(|dtype| ("bnb_4bit_compute_dtype", dtype)));
    values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
