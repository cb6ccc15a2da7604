//! A model directory as a source of parameters.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{IoContext, Result};
use crate::models::ModelError;
use crate::models::init::{Fill, Source};

use super::weights::Weights;

/// A Hugging Face model directory, opened.
#[derive(Debug)]
pub struct Checkpoint {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// The tensors.
    pub weights: Weights,
    /// `preprocessor_config.json`, when there is one.
    pub preprocessing: Option<Preprocessing>,
}

/// How frames are normalized before the backbone sees them.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Preprocessing {
    /// Mean of each RGB channel, in 0..1.
    #[serde(rename = "image_mean")]
    pub mean: [f32; 3],
    /// Deviation of each RGB channel.
    #[serde(rename = "image_std")]
    pub std: [f32; 3],
}

impl Checkpoint {
    /// Opens a model directory; no tensor is read yet.
    ///
    /// # Errors
    /// `config.json` or the weights are missing or damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).at(&path)?;
        let config = serde_json::from_str(&text).map_err(|e| ModelError::file(&path, e.to_string()))?;
        let path = dir.join("preprocessor_config.json");
        let preprocessing = match fs::read_to_string(&path) {
            Ok(text) => {
                let value: Value = serde_json::from_str(&text).map_err(|e| ModelError::file(&path, e.to_string()))?;
                Preprocessing::deserialize(value).ok()
            }
            Err(_) => None,
        };
        Ok(Self { config, weights: Weights::open_dir(dir)?, preprocessing })
    }
}

/// Reads parameters by name and remembers everything that does not fit, so that one error can list it all.
pub struct WeightSource<'a> {
    weights: &'a Weights,
    /// What the file may put before every name.
    optional_prefix: Option<&'a str>,
    used: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<String>>,
}

impl<'a> WeightSource<'a> {
    /// A source of the tensors in `weights`, whose names may all begin with `optional_prefix`.
    pub fn new(weights: &'a Weights, optional_prefix: Option<&'a str>) -> Self {
        Self { weights, optional_prefix, used: RefCell::default(), problems: RefCell::default() }
    }

    /// Call when the model is built.
    ///
    /// # Errors
    /// One error that lists every missing, misshapen, damaged and unknown tensor; `is_unused` tells which unread
    /// tensors are known and not needed.
    pub fn finish(self, is_unused: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        let used = self.used.into_inner();
        let mut problems = self.problems.into_inner();
        for name in self.weights.names().filter(|n| !used.contains(*n)) {
            let short = self.optional_prefix.and_then(|p| name.strip_prefix(p)).unwrap_or(name);
            if !is_unused(short) && !is_unused(name) {
                let shape = self.weights.shape(name).unwrap_or_default();
                problems.push(format!("{name}: found {shape:?}, but the model has no such tensor"));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::Tensors { path: self.weights.path().to_path_buf(), problems })
    }

    fn find(&self, name: &str) -> Option<String> {
        let prefixed = self.optional_prefix.map(|p| format!("{p}{name}"));
        [Some(name.to_owned()), prefixed].into_iter().flatten().find(|n| self.weights.shape(n).is_some())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let Some(stored) = self.find(name) else {
            return Err(format!("{name}: missing, expected {shape:?}"));
        };
        self.used.borrow_mut().insert(stored.clone());
        let found = self.weights.shape(&stored).unwrap_or_default();
        if found != shape {
            return Err(format!("{stored}: found {found:?}, expected {shape:?}"));
        }
        self.weights.read(&stored).map_err(|e| e.to_string())
    }
}

impl Source for WeightSource<'_> {
    fn values(&self, name: &str, shape: &[usize], _fill: Fill) -> Vec<f32> {
        self.read(name, shape).unwrap_or_else(|problem| {
            self.problems.borrow_mut().push(problem);
            vec![0.0; shape.iter().product()]
        })
    }
}
