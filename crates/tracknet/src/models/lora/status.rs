//! A table of the layers that can carry an adapter: which one they carry, and how their weight is stored.

use std::fmt;

use crate::models::nn::LinearWeight;

use super::adapter::LoraAdapter;
use super::layer::AdaptableLayer;
use super::visit::VisitLayers;

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerStatus {
    /// Its path below the backbone, or the full name of a convolution of the decoder.
    pub name: String,
    /// `linear`, or `conv` and its kernel.
    pub kind: String,
    /// Its adapter.
    pub adapter: Option<AdapterStatus>,
    /// How the base weight is stored: `float32`, `nf4/64`, …
    pub storage: String,
}

/// An adapter on a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterStatus {
    /// Columns of `B`.
    pub rank: usize,
    /// `lora_alpha` of this layer.
    pub alpha: f32,
    /// The scale divides by the root of the rank.
    pub rslora: bool,
    /// The lengths of the rows are learned by themselves.
    pub dora: bool,
    /// Whether it is in the weight.
    pub merged: bool,
    /// Whether it receives gradients.
    pub trainable: bool,
}

impl AdapterStatus {
    fn of(adapter: &LoraAdapter, merged: bool) -> Self {
        let scaling = adapter.scaling();
        Self {
            rank: adapter.rank(),
            alpha: scaling.alpha,
            rslora: scaling.rslora,
            dora: adapter.dora.is_some(),
            merged,
            trainable: !merged && adapter.a.is_require_grad(),
        }
    }

    /// `lora`, `rslora`, `dora` or `rslora+dora`.
    pub fn variant(&self) -> &'static str {
        match (self.rslora, self.dora) {
            (false, false) => "lora",
            (true, false) => "rslora",
            (false, true) => "dora",
            (true, true) => "rslora+dora",
        }
    }
}

/// The layers of a model that can carry an adapter, in its order; convolutions only when they carry one.
pub fn layer_status<M: VisitLayers>(model: &M) -> Vec<LayerStatus> {
    let mut found = Vec::new();
    model.visit_layers(&mut |path, layer| {
        let status = status_of(path, layer);
        found.extend((layer.base().linear().is_some() || status.adapter.is_some()).then_some(status));
    });
    found
}

fn status_of(path: &str, layer: &dyn AdaptableLayer) -> LayerStatus {
    let active = layer.adapter().map(|adapter| AdapterStatus::of(adapter, false));
    let adapter = active.or_else(|| layer.merged().map(|merged| AdapterStatus::of(&merged.adapter, true)));
    let kind = match layer.base().weight_shape()[..] {
        [_, _, kernel, _] => format!("conv {kernel}x{kernel}"),
        _ => "linear".to_owned(),
    };
    let storage = match layer.base().linear().map(|linear| &linear.weight) {
        Some(LinearWeight::Packed(weight)) => {
            let nested = if weight.double_quant() { "+dq" } else { "" };
            format!("{}/{}{nested}", format!("{:?}", weight.quant_type()).to_lowercase(), weight.blocksize())
        }
        _ => "float32".to_owned(),
    };
    LayerStatus { name: path.to_owned(), kind, adapter, storage }
}

/// The table of [`layer_status`].
pub fn status_table(layers: &[LayerStatus]) -> String {
    let width = layers.iter().map(|l| l.name.len()).max().unwrap_or_default().max("layer".len());
    let line = |cells: [&str; 8]| {
        let [name, rest @ ..] = cells;
        let [kind, adapter, rank, alpha, merged, trainable, storage] = rest;
        format!("{name:width$}  {kind:8}  {adapter:11}  {rank:>5}  {alpha:>7}  {merged:6}  {trainable:9}  {storage}")
    };
    let mut lines = vec![line(["layer", "kind", "adapter", "rank", "alpha", "merged", "trainable", "base"])];
    for layer in layers {
        let yes = |on: bool| if on { "yes" } else { "no" };
        lines.push(match &layer.adapter {
            None => line([&layer.name, &layer.kind, "-", "-", "-", "-", "-", &layer.storage]),
            Some(a) => line([
                &layer.name,
                &layer.kind,
                a.variant(),
                &a.rank.to_string(),
                &a.alpha.to_string(),
                yes(a.merged),
                yes(a.trainable),
                &layer.storage,
            ]),
        });
    }
    lines.join("\n")
}

impl fmt::Display for LayerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", status_table(std::slice::from_ref(self)))
    }
}
