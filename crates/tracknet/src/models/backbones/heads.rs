//! What Python models have beside their backbone.

/// Modules of heads, by the first component of their paths: those of `transformers`, timm and torchvision, and what people
/// commonly call their own.
pub const HEADS: [&str; 24] = [
    // transformers: classification, masked images, distillation; PEFT's recipes save `score`, too.
    "classifier",
    "cls_classifier",
    "distillation_classifier",
    "score",
    "decoder",
    "lm_head",
    "logit_scale",
    // timm, torchvision, and the code of DINO.
    "head",
    "heads",
    "head_dist",
    "fc",
    "fc_norm",
    "dino_head",
    "ibot_head",
    // Names of many.
    "cls_head",
    "reg_head",
    "mlp_head",
    "linear_head",
    "segmentation_head",
    "neck",
    "projector",
    "projection_head",
    "predictor",
    "criterion",
];

/// Whether the module or parameter at `path` belongs to a head, and so is left aside by whatever wants the backbone. The path
/// is that of the whole Python model, or relative to its backbone.
pub fn is_head(path: &str) -> bool {
    HEADS.contains(&path.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_told_by_their_first_component() {
        for path in ["classifier.weight", "score", "decoder.0.bias", "fc_norm.weight"] {
            assert!(is_head(path), "{path}");
        }
        for path in ["layer.0.mlp.up_proj", "norm.weight", "classifiers.weight", "embeddings.decoder", ""] {
            assert!(!is_head(path), "{path}");
        }
    }
}
