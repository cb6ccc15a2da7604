//! Rank and scale of each module: `r` and `lora_alpha`, or what a pattern says.

use crate::config::{LoraConfig, PathPattern, Pattern, PatternError};
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;

use super::adapter::Scaling;

/// The `lora` section's ranks and scales, with its patterns compiled.
#[derive(Debug)]
pub(crate) struct Ranks {
    rank: usize,
    alpha: f32,
    rslora: bool,
    ranks: Vec<(PathPattern, usize)>,
    alphas: Vec<(PathPattern, f32)>,
}

impl Ranks {
    pub(crate) fn new(config: &LoraConfig) -> Result<Self, ModelError> {
        Ok(Self {
            rank: config.r,
            alpha: config.lora_alpha,
            rslora: config.use_rslora,
            ranks: compile("rank_pattern", &config.rank_pattern)?,
            alphas: compile("alpha_pattern", &config.alpha_pattern)?,
        })
    }

    /// Rank and scale of the module at `path`, by patterns for any spelling of it.
    ///
    /// # Errors
    /// A pattern whose match takes too long.
    pub(crate) fn of(&self, path: &str, paths: ModulePaths) -> Result<(usize, Scaling), ModelError> {
        let spelled = paths.spellings(path);
        let rank = first("rank_pattern", &self.ranks, &spelled)?.unwrap_or(self.rank);
        let alpha = first("alpha_pattern", &self.alphas, &spelled)?.unwrap_or(self.alpha);
        Ok((rank, Scaling { alpha, rslora: self.rslora }))
    }
}

fn compile<T: Copy>(key: &str, pattern: &Pattern<T>) -> Result<Vec<(PathPattern, T)>, ModelError> {
    let compile = |(text, value): &(String, T)| Ok((PathPattern::ending(text).map_err(of_key(key))?, *value));
    pattern.0.iter().map(compile).collect()
}

fn first<T: Copy>(key: &str, patterns: &[(PathPattern, T)], spelled: &[String]) -> Result<Option<T>, ModelError> {
    for (pattern, value) in patterns {
        if matches_any(pattern, spelled).map_err(of_key(key))? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Whether any spelling of a path matches.
pub(crate) fn matches_any(pattern: &PathPattern, spelled: &[String]) -> Result<bool, PatternError> {
    for path in spelled {
        if pattern.matches(path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is wrong with a pattern of a key of the `lora` section.
pub(crate) fn of_key(key: &str) -> impl Fn(PatternError) -> ModelError + '_ {
    move |error| ModelError::key(format!("lora.{key}"), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::registry::family_of;

    fn dinov3() -> ModulePaths {
        let config = serde_json::json!({ "model_type": "dinov3_vit" });
        ModulePaths::Of(family_of(config.as_object().unwrap()).unwrap())
    }

    fn ranks(pattern: &[(&str, usize)]) -> Ranks {
        let rank_pattern = Pattern(pattern.iter().map(|(key, r)| ((*key).to_owned(), *r)).collect());
        let alpha_pattern = Pattern(vec![("q_proj".to_owned(), 5.0)]);
        Ranks::new(&LoraConfig { rank_pattern, alpha_pattern, r: 4, lora_alpha: 8.0, ..LoraConfig::default() }).unwrap()
    }

    #[test]
    fn the_first_key_in_the_order_of_the_file_wins() {
        let path = "layer.0.attention.q_proj";
        let found = ranks(&[("q_proj", 2), (r"layer\.0\..*", 3)]).of(path, dinov3()).unwrap();
        assert_eq!(found, (2, Scaling { alpha: 5.0, rslora: false }));
        assert_eq!(ranks(&[(r"layer\.0\..*", 3), ("q_proj", 2)]).of(path, dinov3()).unwrap().0, 3);
        assert_eq!(ranks(&[("k_proj", 3)]).of("layer.0.mlp.up_proj", ModulePaths::AsWritten).unwrap().1.alpha, 8.0);
    }

    #[test]
    fn a_key_matches_from_a_dot_to_the_end_in_any_spelling_of_the_path() {
        let path = "layer.0.attention.q_proj";
        for key in ["q_proj", "attention.q_proj", "model.layer.0.attention.q_proj", "^layer.0.attention.q_proj"] {
            assert_eq!(ranks(&[(key, 2)]).of(path, dinov3()).unwrap().0, 2, "{key}");
        }
        for key in ["proj", "q_pro", "layer.0", "^attention.q_proj"] {
            assert_eq!(ranks(&[(key, 2)]).of(path, dinov3()).unwrap().0, 4, "{key}");
        }
    }
}
