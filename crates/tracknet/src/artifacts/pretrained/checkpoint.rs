//! A model directory as a source of parameters, as floats or in 4 bits.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value};
use tracknet_kernels::{Absmax, ComputeDtype, Linear4bitWeight, PackedWeight};

use crate::error::Result;
use crate::files::{read, read_bytes};
use crate::models::ModelError;
use crate::models::backbones::{BackboneSpec, Family};
use crate::models::carried::{Carried, CarriedTensor};
use crate::models::nn::{Fill, LinearWeight, Source};
use crate::models::registry::family_of;

use super::bnb::read::side_tensor_of;
use super::bnb::{BnbConfig, read as packed};
use super::carried::read_carried;
use super::foreign::{Lacks, describe_directory, is_there, parse_object};
use super::preprocessing::{Preprocessing, PreprocessorFiles};
use super::spelling::spell;
use super::weights::Weights;

/// What describes a model in its directory.
pub(super) const CONFIG_FILE: &str = "config.json";

/// A Hugging Face model directory, opened.
#[derive(Debug)]
pub struct Checkpoint {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// The tensors.
    pub weights: Weights,
    /// How `preprocessor_config.json` says that frames are normalized, when there is one.
    pub preprocessing: Option<Preprocessing>,
    /// What `config.json` says about 4-bit weights.
    pub quantization: Option<BnbConfig>,
    /// What the user should know: names that were translated, modules that were left aside.
    pub notes: Vec<String>,
    preprocessor: Vec<(&'static str, Vec<u8>)>,
}

/// Tensors that a model of heatmaps does not need and its backbone has in Python.
#[derive(Debug)]
pub struct Unneeded(Vec<CarriedTensor>);

impl Checkpoint {
    /// Opens a model directory; no tensor is read yet.
    ///
    /// # Errors
    /// `config.json`, `preprocessor_config.json` or the weights are missing, damaged or not understood, or the directory is
    /// something else than a model.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        if !is_there(&path)? {
            return Err(describe_directory(dir, Lacks::Config)?.into());
        }
        let config = parse_object(&path, &read_bytes(&path, read::JSON)?)?;
        let quantization = BnbConfig::from_config(&config, &path.display().to_string())?;
        let PreprocessorFiles { texts, preprocessing } = PreprocessorFiles::read(dir, &config)?;
        let (weights, notes) = match family_of(&config) {
            Some(family) => spell(Weights::open_dir(dir)?, family)?,
            None => (Weights::open_dir(dir)?, Vec::new()),
        };
        Ok(Self { config, weights, preprocessing, quantization, notes, preprocessor: texts })
    }

    /// What is to be written again with a model whose source gave these tensors when it was finished.
    pub fn carried(&self, tensors: Unneeded) -> Carried {
        Carried { tensors: tensors.0, files: self.preprocessor.clone() }
    }

    /// Refuses a configuration that describes a much larger model than the files hold, before anything of that size is
    /// allocated. `key` names `config.json`. What fits roughly is checked tensor by tensor later.
    ///
    /// # Errors
    /// The model would have more weights than the files have half bytes, the least that a weight takes.
    pub fn check_size(&self, spec: &dyn BackboneSpec, key: &str) -> Result<(), ModelError> {
        let least = spec.weights();
        let most = 2 * self.weights.names().filter_map(|n| self.weights.length(n)).map(|n| n as u128).sum::<u128>();
        if least > most {
            let message = format!(
                "describes a model of at least {least} weights ({}), but {} holds at most {most}",
                spec.sizes(),
                self.weights.path().display()
            );
            return Err(ModelError::key(key, message));
        }
        Ok(())
    }
}

/// Reads parameters by name and remembers everything that does not fit, so that one error can list it all.
pub struct WeightSource<'a> {
    weights: &'a Weights,
    family: &'static Family,
    compute: ComputeDtype,
    used: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<String>>,
}

impl<'a> WeightSource<'a> {
    /// A source of the tensors in `weights`, as a family of checkpoints names them.
    pub fn new(weights: &'a Weights, family: &'static Family) -> Self {
        let compute = ComputeDtype::F32;
        Self { weights, family, compute, used: RefCell::default(), problems: RefCell::default() }
    }

    /// What 4-bit weights are rounded to when they are dequantized; without this, they are not rounded.
    #[must_use]
    pub fn with_compute_dtype(self, compute: ComputeDtype) -> Self {
        Self { compute, ..self }
    }

    /// Call when the model is built. Gives the tensors that the model does not need and that are written again with it.
    ///
    /// # Errors
    /// One error that lists every missing, misshapen, damaged and unknown tensor.
    pub fn finish(self) -> Result<Unneeded, ModelError> {
        let used = self.used.into_inner();
        let mut problems = self.problems.into_inner();
        let mut carried = Vec::new();
        let prefixed = self.family.is_prefixed(|name| self.weights.shape(name).is_some());
        for name in self.weights.names().filter(|n| !used.contains(*n) && side_tensor_of(self.weights, n).is_none()) {
            let short = self.family.optional_prefix.and_then(|p| name.strip_prefix(p)).unwrap_or(name);
            if self.family.is_carried(short) {
                match read_carried(self.weights, name, short) {
                    Ok(tensor) => carried.push(tensor),
                    Err(error) => problems.push(error.to_string()),
                }
            } else if !self.family.is_beside(name, prefixed) {
                let shape = self.weights.shape(name).unwrap_or_default();
                problems.push(format!("{name}: found {shape:?}, but the model has no such tensor"));
            }
        }
        if problems.is_empty() {
            return Ok(Unneeded(carried));
        }
        Err(ModelError::Tensors { path: self.weights.path().to_path_buf(), problems })
    }

    fn find(&self, name: &str) -> Option<String> {
        let prefixed = self.family.optional_prefix.map(|p| format!("{p}{name}"));
        [Some(name.to_owned()), prefixed].into_iter().flatten().find(|n| self.weights.shape(n).is_some())
    }

    /// The tensor that holds `name`: itself, or as one half of its rows; then also whether that is the second half.
    fn locate(&self, name: &str) -> Option<(String, Option<bool>)> {
        let itself = self.find(name).map(|stored| (stored, None));
        itself.or_else(|| {
            let (whole, second) = self.family.stacked(name)?;
            Some((self.find(&whole)?, Some(second)))
        })
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let Some((stored, half)) = self.locate(name) else {
            return Err(format!("{name}: missing, expected {shape:?}"));
        };
        self.used.borrow_mut().insert(stored.clone());
        let mut expected = shape.to_vec();
        if half.is_some() {
            expected.iter_mut().take(1).for_each(|rows| *rows *= 2);
        }
        let found = self.weights.shape(&stored).unwrap_or_default();
        if found != expected {
            let scales = format!("{stored}.absmax");
            if self.weights.shape(&scales).is_some() {
                self.used.borrow_mut().extend(packed::side_tensors(self.weights, &stored));
                return Err(format!(
                    "{stored}: found {found:?} and {scales}, but no quant_state: an incomplete 4-bit weight"
                ));
            }
            return Err(format!("{stored}: found {found:?}, expected {expected:?}"));
        }
        let rows = shape.first().copied().unwrap_or_default();
        match half {
            None => self.weights.read(&stored),
            Some(second) => {
                let start = if second { rows } else { 0 };
                self.weights.read_rows(&stored, start..start + rows)
            }
        }
        .map_err(|e| e.to_string())
    }

    /// `half`: the weight is one half of what is stored, as releases before `transformers` 5 pack gate and up.
    fn read_packed(
        &self,
        stored: &str,
        half: Option<bool>,
        [output, input]: [usize; 2],
        device: &Device,
    ) -> Result<Linear4bitWeight, String> {
        let expected = [if half.is_some() { 2 * output } else { output }, input];
        let (mut packed, state) = packed::read_packed(self.weights, stored).map_err(|e| e.to_string())?;
        if state.shape != expected {
            return Err(format!("{stored}: its quant_state says {:?}, expected {expected:?}", state.shape));
        }
        if let Some(second) = half {
            packed = halve(&packed, second).map_err(|e| format!("{stored}: {e}"))?;
        }
        Linear4bitWeight::from_packed(&packed, self.compute, device).map_err(|e| format!("{stored}: {e}"))
    }
}

/// The first or second half of the rows of a packed weight. Scales that were packed themselves are unpacked: the mean and
/// the runs of 256 that they were packed by are those of the whole.
fn halve(weight: &PackedWeight, second: bool) -> Result<PackedWeight, String> {
    let ([output, input], blocksize) = (weight.shape(), weight.blocksize());
    let shape = [output / 2, input];
    let count = shape[0] * shape[1];
    if !count.is_multiple_of(blocksize) {
        return Err(format!(
            "holds two projections, and a block of {blocksize} has values of both; dequantize the checkpoint and \
             quantize it again"
        ));
    }
    let (start, blocks) = (if second { count } else { 0 }, count / blocksize);
    let view = weight.view();
    let scales = (start / blocksize..start / blocksize + blocks).map(|block| view.scale(block)).collect();
    let codes = weight.packed()[start / 2..(start + count) / 2].to_vec();
    PackedWeight::from_parts(shape, weight.quant_type(), blocksize, codes, Absmax::Plain(scales))
        .map_err(|e| e.to_string())
}

impl Source for WeightSource<'_> {
    fn values(&self, name: &str, shape: &[usize], _fill: Fill) -> Vec<f32> {
        self.read(name, shape).unwrap_or_else(|problem| {
            self.problems.borrow_mut().push(problem);
            vec![0.0; shape.iter().product()]
        })
    }

    fn packed(&self, name: &str, shape: [usize; 2], _fill: Fill, device: &Device) -> Option<LinearWeight> {
        let (stored, half) = self.locate(name).filter(|(stored, _)| packed::is_packed(self.weights, stored))?;
        let mut used = self.used.borrow_mut();
        used.extend(packed::side_tensors(self.weights, &stored));
        used.insert(stored.clone());
        Some(match self.read_packed(&stored, half, shape, device) {
            Ok(weight) => LinearWeight::Packed(weight),
            Err(problem) => {
                self.problems.borrow_mut().push(problem);
                LinearWeight::Dense(Param::from_tensor(Tensor::zeros(shape, device)))
            }
        })
    }
}
