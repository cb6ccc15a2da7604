//! Rank and scale of each module: `r` and `lora_alpha`, or what a pattern says.

use regex::Regex;

use crate::config::{LoraConfig, Pattern};
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;

use super::adapter::Scaling;

/// The `lora` section's ranks and scales, with its patterns compiled.
#[derive(Debug)]
pub(super) struct Ranks {
    rank: usize,
    alpha: f32,
    rslora: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f32)>,
}

impl Ranks {
    pub(super) fn new(config: &LoraConfig) -> Result<Self, ModelError> {
        Ok(Self {
            rank: config.r,
            alpha: config.lora_alpha,
            rslora: config.use_rslora,
            ranks: compile("rank_pattern", &config.rank_pattern)?,
            alphas: compile("alpha_pattern", &config.alpha_pattern)?,
        })
    }

    /// Rank and scale of the module at `path`, by patterns for any spelling of it.
    pub(super) fn of(&self, path: &str, paths: ModulePaths) -> (usize, Scaling) {
        let spelled = paths.spellings(path);
        let rank = first(&self.ranks, &spelled).unwrap_or(self.rank);
        let alpha = first(&self.alphas, &spelled).unwrap_or(self.alpha);
        (rank, Scaling { alpha, rslora: self.rslora })
    }
}

fn compile<T: Copy>(key: &str, pattern: &Pattern<T>) -> Result<Vec<(Regex, T)>, ModelError> {
    let compile = |(text, value): &(String, T)| match Regex::new(&format!(r"^(?:.*\.)?(?:{text})$")) {
        Ok(regex) => Ok((regex, *value)),
        Err(e) => Err(ModelError::key(format!("lora.{key}"), format!("`{text}` is not a regular expression: {e}"))),
    };
    pattern.0.iter().map(compile).collect()
}

fn first<T: Copy>(patterns: &[(Regex, T)], spelled: &[String]) -> Option<T> {
    patterns.iter().find(|(regex, _)| spelled.iter().any(|path| regex.is_match(path))).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::backbones::names_of;

    fn dinov3() -> ModulePaths {
        let config = serde_json::json!({ "model_type": "dinov3_vit" });
        ModulePaths::Of(names_of(config.as_object().unwrap()).unwrap())
    }

    fn ranks(pattern: &[(&str, usize)]) -> Ranks {
        let rank_pattern = Pattern(pattern.iter().map(|(key, r)| ((*key).to_owned(), *r)).collect());
        let alpha_pattern = Pattern(vec![("q_proj".to_owned(), 5.0)]);
        Ranks::new(&LoraConfig { rank_pattern, alpha_pattern, r: 4, lora_alpha: 8.0, ..LoraConfig::default() }).unwrap()
    }

    #[test]
    fn the_first_key_in_the_order_of_the_file_wins() {
        let path = "layer.0.attention.q_proj";
        let found = ranks(&[("q_proj", 2), (r"layer\.0\..*", 3)]).of(path, dinov3());
        assert_eq!(found, (2, Scaling { alpha: 5.0, rslora: false }));
        assert_eq!(ranks(&[(r"layer\.0\..*", 3), ("q_proj", 2)]).of(path, dinov3()).0, 3);
        assert_eq!(ranks(&[("k_proj", 3)]).of("layer.0.mlp.up_proj", ModulePaths::AsWritten).1.alpha, 8.0);
    }

    #[test]
    fn a_key_matches_from_a_dot_to_the_end_in_any_spelling_of_the_path() {
        let path = "layer.0.attention.q_proj";
        for key in ["q_proj", "attention.q_proj", "model.layer.0.attention.q_proj", "^layer.0.attention.q_proj"] {
            assert_eq!(ranks(&[(key, 2)]).of(path, dinov3()).0, 2, "{key}");
        }
        for key in ["proj", "q_pro", "layer.0", "^attention.q_proj"] {
            assert_eq!(ranks(&[(key, 2)]).of(path, dinov3()).0, 4, "{key}");
        }
    }
}
