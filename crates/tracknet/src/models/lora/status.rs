//! What every layer that can carry an adapter carries.

use std::fmt;

use crate::models::layers::Conv;
use crate::models::projection::{Base, Projection, VisitProjections};

use super::adapter::LoraAdapter;
use super::merge::Merged;

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

    fn either(active: Option<&LoraAdapter>, merged: Option<&Merged>) -> Option<Self> {
        active.map(|a| Self::of(a, false)).or_else(|| merged.map(|m| Self::of(&m.adapter, true)))
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
pub fn layer_status<M: VisitProjections>(model: &M) -> Vec<LayerStatus> {
    let mut found = Vec::new();
    model.visit_projections(&mut |path, p| found.push(of_projection(path, p)));
    model.visit_convolutions(&mut |path, conv| found.extend(of_convolution(path, conv)));
    found
}

fn of_projection(path: &str, projection: &Projection) -> LayerStatus {
    let storage = match &projection.base {
        Base::Dense(_) => "float32".to_owned(),
        Base::Packed(weight) => {
            let nested = if weight.double_quant() { "+dq" } else { "" };
            format!("{}/{}{nested}", format!("{:?}", weight.quant_type()).to_lowercase(), weight.blocksize())
        }
    };
    let adapter = AdapterStatus::either(projection.adapter.as_ref(), projection.merged.as_deref());
    LayerStatus { name: path.to_owned(), kind: "linear".to_owned(), adapter, storage }
}

fn of_convolution(path: &str, conv: &Conv) -> Option<LayerStatus> {
    let adapter = AdapterStatus::either(conv.adapter.as_ref(), conv.merged.as_deref())?;
    let kind = format!("conv {0}x{0}", conv.kernel());
    Some(LayerStatus { name: path.to_owned(), kind, adapter: Some(adapter), storage: "float32".to_owned() })
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
