//! Writes weights in the layouts that other programs read.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use tracknet_kernels::{ComputeDtype, QuantizeOptions};

use crate::config::DtypeName;
use crate::error::{IoContext, Result};
use crate::files::{FileError, write_atomic, write_file_atomic};
use crate::models::backbones::Family;
use crate::models::carried::{Carried, CarriedValue};
use crate::models::lora::VisitLayers;
use crate::models::nn::LinearWeight;
use crate::models::state::{Group, Require, load_state, named_parameters, state_dict};
use crate::models::{Backbone, HeatmapModel, ModelError, heads, window, words};

use super::bnb::skip::written_list;
use super::bnb::write::parts;
use super::bnb::{BnbConfig, QuantState};
use super::carried::{as_floats, as_stored, write_carried_files};
use super::json::python_json;
use super::stream::{Planned, write_stream, write_values};
use super::weights::Weights;

/// The file that holds decoder and head, beside an adapter or alone.
pub const HEAD_FILE: &str = "tracknet_head.safetensors";

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredAs {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the size, three decimal digits.
    F16,
    /// bfloat16: half the size, two decimal digits, the range of 32-bit floats.
    Bf16,
}

impl From<DtypeName> for StoredAs {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::Float32 => Self::F32,
            DtypeName::Float16 => Self::F16,
            DtypeName::Bfloat16 => Self::Bf16,
        }
    }
}

impl StoredAs {
    /// PyTorch's name, as `config.json: dtype` has it.
    pub const fn name(self) -> &'static str {
        words::dtype_name(self.compute()).name()
    }

    /// The type that a packed weight was before.
    const fn compute(self) -> ComputeDtype {
        match self {
            Self::F32 => ComputeDtype::F32,
            Self::F16 => ComputeDtype::F16,
            Self::Bf16 => ComputeDtype::Bf16,
        }
    }

    /// The type in a safetensors file.
    pub(crate) const fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }
}

/// Writes the backbone's base weights as a directory of floats that `transformers` loads: `config.json` and
/// `model.safetensors`, and `preprocessor_config.json` if its checkpoint had one. Adapters are not part of it; tensors of
/// its checkpoint that heatmaps do not need are.
///
/// # Errors
/// The backbone's weights are packed, or the directory cannot be written.
pub fn write_backbone(dir: &Path, backbone: &Backbone, stored: StoredAs) -> Result<()> {
    if backbone.is_quantized() {
        let message = "the backbone is stored in 4 bits; only float weights are written in this layout";
        return Err(ModelError::file(dir, message).into());
    }
    let none = Carried::default();
    let carried = backbone.carried().unwrap_or(&none);
    write_model_file(dir, |path| {
        let mut tensors = float_tensors(backbone, stored, path);
        tensors.extend(carried.tensors.iter().map(|tensor| as_floats(tensor, stored, path)));
        write_stream(path, tensors)
    })?;
    write_carried_files(carried, dir)?;
    Ok(write_config(&dir.join("config.json"), config_of(backbone, stored))?)
}

/// Writes the backbone's base weights as a directory of 4-bit weights that `transformers` loads; what is not packed is
/// stored as `stored`.
///
/// # Errors
/// No weight is packed, or the directory cannot be written.
pub fn write_packed_backbone(dir: &Path, backbone: &Backbone, stored: StoredAs) -> Result<()> {
    let paths = backbone.module_paths();
    let (mut packed, mut skip, mut failed) = (Vec::new(), Vec::new(), None);
    backbone.visit_linears(&mut |path, linear| match &linear.weight {
        LinearWeight::Dense(_) => skip.push(path.to_owned()),
        LinearWeight::Packed(weight) => match weight.to_packed() {
            Ok(bytes) => packed.push((format!("{path}.weight"), weight.compute_dtype(), bytes)),
            Err(error) => {
                failed = Some(ModelError::Tensor { name: format!("{path}.weight"), message: error.to_string() })
            }
        },
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let Some((_, compute_dtype, first)) = packed.first() else {
        return Err(ModelError::file(dir, "the backbone has no weight in 4 bits").into());
    };
    let QuantizeOptions { quant_type, double_quant, .. } = first.options();
    let none = Carried::default();
    let carried = backbone.carried().unwrap_or(&none);
    let pooler = carried.tensors.iter().find(|tensor| tensor.name == "pooler.dense.weight");
    skip.extend(
        pooler.filter(|tensor| matches!(tensor.value, CarriedValue::Plain { .. })).map(|_| "pooler.dense".to_owned()),
    );
    let skip: Vec<&str> = skip.iter().map(String::as_str).collect();
    // As `quantize_checkpoint` does, where releases differ in what they expect without a list.
    let skip_modules = (!skip.is_empty() || pooler.is_some()).then(|| written_list(&skip, paths));
    let bnb = BnbConfig { quant_type, compute_dtype: *compute_dtype, double_quant, skip_modules };
    write_model_file(dir, |path| {
        let mut tensors = float_tensors(backbone, stored, path);
        for (name, _, weight) in &packed {
            tensors.extend(parts(name, QuantState::of(weight, stored.compute()), weight.clone(), path));
        }
        tensors.extend(carried.tensors.iter().flat_map(|tensor| as_stored(tensor, stored, path)));
        write_stream(path, tensors)
    })?;
    write_carried_files(carried, dir)?;
    let mut config = config_of(backbone, stored);
    config.insert("quantization_config".to_owned(), bnb.to_json());
    Ok(write_config(&dir.join("config.json"), config)?)
}

/// The parameters of a backbone from the tensors of a directory that [`write_backbone`] wrote.
pub(crate) fn backbone_state(tensors: BTreeMap<String, TensorData>, family: &Family) -> BTreeMap<String, TensorData> {
    let mut state = family.unstack(tensors);
    state.retain(|name, _| !family.is_carried(name));
    state
}

fn write_model_file(dir: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    fs::create_dir_all(dir).at(dir)?;
    write_file_atomic(&dir.join("model.safetensors"), write)
}

/// The float parameters as files have them.
fn float_tensors<'a>(backbone: &Backbone, stored: StoredAs, path: &'a Path) -> Vec<Planned<'a>> {
    let state = backbone.family().stack(state_dict(backbone, |p| p.group == Group::Backbone));
    let tensor = |(name, data): (String, TensorData)| {
        let shape = data.shape().to_vec();
        let label = name.clone();
        let write = Box::new(move |out: &mut dyn Write| {
            let values: Vec<f32> = data.iter::<f32>().collect();
            write_values(out, &label, &values, stored, path)
        });
        Planned { name, dtype: stored.dtype(), shape, write }
    };
    state.into_iter().map(tensor).collect()
}

fn config_of(backbone: &Backbone, stored: StoredAs) -> Map<String, Value> {
    let spec = backbone.spec();
    let mut config = spec.config().clone();
    config.insert("model_type".to_owned(), json!(spec.family().model_type));
    config.insert("architectures".to_owned(), json!([spec.family().architecture]));
    config.extend(spec.patch_size().map(|patch| ("patch_size".to_owned(), json!(patch))));
    config.remove("torch_dtype");
    // A base that was read in 4 bits may be floats now, and `transformers` believes the file.
    config.remove("quantization_config");
    config.insert("dtype".to_owned(), json!(stored.name()));
    config
}

/// Writes decoder and head to [`HEAD_FILE`] in `dir`, its values as `stored` says.
///
/// # Errors
/// The file cannot be written.
pub fn write_head(dir: &Path, model: &HeatmapModel, stored: StoredAs) -> Result<()> {
    let state = state_dict(model, |p| is_head(p.group));
    write_tensors(&dir.join(HEAD_FILE), state, stored)
}

/// Loads decoder and head from a file, or from [`HEAD_FILE`] in a directory.
///
/// # Errors
/// The file is missing or damaged, or its tensors are not exactly those of the model's decoder and head.
pub fn load_head(path: &Path, model: HeatmapModel) -> Result<HeatmapModel> {
    let (file, state) = read_head(path)?;
    put_head(file, state, model)
}

/// Loads decoder and head to begin with: as [`load_head`], but those of single frames also fit a model of windows, where the
/// weights of the earlier frames begin at zero, and those of one heatmap a model of several, where each begins as that one.
///
/// # Errors
/// As [`load_head`].
pub fn load_initial_head(path: &Path, model: HeatmapModel) -> Result<HeatmapModel> {
    let (file, mut state) = read_head(path)?;
    for parameter in named_parameters(&model).iter().filter(|p| is_head(p.group)) {
        if let Some(weight) = window::of_more_frames(parameter, state.get(&parameter.name)) {
            state.insert(parameter.name.clone(), weight);
        }
        if let Some(copies) = state.get(&parameter.name).and_then(|found| heads::of_more_heatmaps(parameter, found)) {
            state.insert(parameter.name.clone(), copies);
        }
    }
    put_head(file, state, model)
}

fn read_head(path: &Path) -> Result<(PathBuf, BTreeMap<String, TensorData>)> {
    let file: PathBuf = if path.is_dir() { path.join(HEAD_FILE) } else { path.to_path_buf() };
    let state = read_all(&file)?;
    Ok((file, state))
}

fn put_head(file: PathBuf, state: BTreeMap<String, TensorData>, model: HeatmapModel) -> Result<HeatmapModel> {
    let expected = named_parameters(&model);
    let missing = expected.iter().filter(|p| is_head(p.group) && !state.contains_key(&p.name));
    let mut problems: Vec<String> = missing.map(|p| format!("{}: missing, expected {:?}", p.name, p.shape)).collect();
    let loaded = load_state(model, state, Require::Nothing);
    if let Err(ModelError::Tensors { problems: more, .. }) = &loaded {
        problems.extend(more.iter().cloned());
    }
    let of_head = format!("{HEAD_BIAS}: found");
    for problem in problems.iter_mut().filter(|problem| problem.starts_with(&of_head)) {
        problem.push_str(
            " heatmaps: one for each of the data.sequence.length frames with model.heatmap.frames: all, else one",
        );
    }
    if !problems.is_empty() {
        return Err(ModelError::Tensors { path: file, problems }.into());
    }
    Ok(loaded?)
}

/// The bias of the head, one for each heatmap.
const HEAD_BIAS: &str = "head.conv.bias";

fn is_head(group: Group) -> bool {
    matches!(group, Group::Decoder | Group::Head)
}

/// Every tensor of a safetensors file, as `f32`.
///
/// # Errors
/// The file cannot be read, or a tensor is damaged.
pub fn read_all(path: &Path) -> Result<BTreeMap<String, TensorData>> {
    let weights = Weights::open_file(path)?;
    let read = |name: &str| {
        let shape = weights.shape(name).unwrap_or_default().to_vec();
        Ok((name.to_owned(), TensorData::new(weights.read(name)?, shape)))
    };
    weights.names().map(read).collect()
}

/// Writes a safetensors file with the metadata PyTorch programs expect. The file is whole or absent.
///
/// # Errors
/// The file cannot be written.
pub fn write_tensors(path: &Path, state: BTreeMap<String, TensorData>, stored: StoredAs) -> Result<()> {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = state
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().to_vec();
            (name, shape, bytes(data, stored))
        })
        .collect();
    let dtype = stored.dtype();
    let invalid = |e: safetensors::SafeTensorError| ModelError::file(path, e.to_string());
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(dtype, shape.clone(), bytes).map_err(invalid)?)))
        .collect::<Result<_>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
    Ok(write_atomic(path, |w| w.write_all(&file))?)
}

fn bytes(data: TensorData, stored: StoredAs) -> Vec<u8> {
    let data = data.convert::<f32>();
    let values = data.iter::<f32>();
    match stored {
        StoredAs::F32 => values.flat_map(f32::to_le_bytes).collect(),
        StoredAs::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
        StoredAs::Bf16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
    }
}

/// Writes a `config.json` with the bytes that `transformers` writes.
pub(crate) fn write_config(path: &Path, config: Map<String, Value>) -> Result<(), FileError> {
    let text = python_json(&Value::Object(config));
    write_atomic(path, |w| w.write_all(text.as_bytes()))
}
