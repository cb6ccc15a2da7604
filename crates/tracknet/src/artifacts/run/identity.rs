//! By what a checkpoint recognizes the backbone that its weights belong to: its tensors, and what it computes with them.

use crate::artifacts::BuildReport;
use crate::config::Config;
use crate::models::backbones::Position;
use crate::models::projection::Base;
use crate::models::{HeatmapModel, VisitProjections, words};

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
    let position = match spec.position {
        Position::Rope { theta } => ("rope_theta", theta.to_string()),
        Position::Learned { grid, resampling } => ("position_embeddings", format!("{grid}×{grid}, {resampling:?}")),
    };
    let mut values = vec![
        ("model_type", spec.names.model_type.to_owned()),
        ("num_attention_heads", spec.heads.to_string()),
        ("patch_size", spec.patch.to_string()),
        ("num_register_tokens", spec.registers.to_string()),
        ("layer_norm_eps", spec.epsilon.to_string()),
        ("hidden_act", format!("{:?}", spec.activation)),
        ("mlp", format!("{:?}", spec.mlp_kind)),
        ("image_mean", format!("{mean:?}")),
        ("image_std", format!("{std:?}")),
        position,
    ];
    let mut compute = None;
    model.visit_projections(&mut |_, projection| {
        if let Base::Packed(weight) = &projection.base {
            compute = Some(words::dtype_name(weight.compute_dtype()).to_string());
        }
    });
    values.extend(compute.map(|dtype| ("bnb_4bit_compute_dtype", dtype)));
    values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
