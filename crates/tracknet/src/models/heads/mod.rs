//! From decoder features to logits.

mod heatmap;

pub use heatmap::HeatmapHead;
