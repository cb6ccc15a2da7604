//! What trains when: the freeze schedule.
//!
//! With LoRA the base never trains and the adapters wait `backbone_freeze_epochs` epochs. Without, the backbone waits that
//! long if it trains at all: with `backbone.freeze: false`, and with `backbone.freeze: true` when the epochs to wait are
//! more than none, as in the original program. Weights in 4 bits never train.

use crate::config::Config;
use crate::models::state::Group;
use crate::models::{HeatmapModel, VisitLayers};

use super::optimizer::Part;
use super::parameters::ParameterTable;

/// The model with gradients for everything that trains at some time in the run. `holds_backbone`: the run is continued
/// from a checkpoint with weights of the backbone.
pub(super) fn prepare(config: &Config, model: HeatmapModel, holds_backbone: bool) -> HeatmapModel {
    if !model.backbone.is_quantized() && (holds_backbone || unfreezes(config)) {
        return model.with_trainable(|p| match p.group {
            Group::Backbone => true,
            Group::Adapter => false,
            Group::Decoder | Group::Head => p.trainable,
        });
    }
    model
}

/// The model of a new run with gradients for everything that trains at some time: for estimates.
pub fn with_schedule(config: &Config, model: HeatmapModel) -> HeatmapModel {
    prepare(config, model, false)
}

/// Whether the schedule lets a backbone train that is frozen when it is built.
fn unfreezes(config: &Config) -> bool {
    let wait = config.training.backbone_freeze_epochs;
    config.model.backbone.freeze && !config.model.lora.enabled && (1..config.training.epochs).contains(&wait)
}

/// What `backbone.freeze` and `backbone_freeze_epochs` come to together, where that may surprise.
pub(super) fn explain(config: &Config, model: &HeatmapModel) -> Option<String> {
    let wait = config.training.backbone_freeze_epochs;
    if !config.model.backbone.freeze || config.model.lora.enabled || wait == 0 {
        return None;
    }
    let keys = format!("model.backbone.freeze: true, training.backbone_freeze_epochs: {wait}");
    Some(if model.backbone.is_quantized() {
        format!("{keys}: the backbone stays frozen, because weights in 4 bits cannot train")
    } else if unfreezes(config) {
        format!("{keys}: the backbone is frozen for {wait} epochs and trains from epoch {} on", wait + 1)
    } else {
        format!("{keys}: the backbone stays frozen, because the run ends after epoch {}", config.training.epochs)
    })
}

/// Switches gradients on or off for an epoch.
pub(super) fn activate(config: &Config, table: &ParameterTable, model: HeatmapModel, epoch: usize) -> HeatmapModel {
    let wait = config.training.backbone_freeze_epochs;
    let (section, lora) = (&config.model.backbone, config.model.lora.enabled);
    let unfrozen = epoch >= wait && (lora || !section.freeze || wait > 0);
    table.set_active(model, |p| p.kind.part == Part::Head || unfrozen)
}
