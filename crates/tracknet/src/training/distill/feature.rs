//! A vision transformer read as one feature vector per picture.

use std::ops::Range;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifacts::adapter::AdapterReport;
use crate::artifacts::pretrained::{Checkpoint, hub};
use crate::artifacts::{BuildReport, build_backbone};
use crate::compute::{Compute, MicroBatches};
use crate::config::{LoraConfig, QuantizationConfig};
use crate::datasets::image::Normalizer;
use crate::error::Result;
use crate::models::lora::LoraPlan;
use crate::models::nn::Activation;
use crate::models::{Backbone, ModelError, VisitLayers};

use super::DistillOptions;

/// Which feature of a picture is distilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// The class token after the final norm.
    Cls,
    /// What `transformers` calls `pooler_output`: of the plain ViT the class token through the checkpoint's pooler, a linear
    /// layer and an activation; of DINOv2 and DINOv3, which have none, the class token after the final norm.
    Pooler,
}

/// A backbone and what reads a picture's feature off its tokens.
#[derive(Module, Debug)]
pub struct FeatureModel {
    /// The backbone, with or without adapters.
    pub backbone: Backbone,
    pooler: Option<Pooler>,
    /// What frames are given to the backbone in.
    #[module(skip)]
    dtype: DType,
}

impl FeatureModel {
    /// Builds the model of the options, stored as `quantization` says, without adapters.
    ///
    /// # Errors
    /// A model that cannot be found or built, is in 4 bits already, has no pooler where one is asked for, or whose patches
    /// do not fit the size of the crops.
    pub fn build(
        options: &DistillOptions,
        quantization: &QuantizationConfig,
        device: &Device,
    ) -> Result<(Self, BuildReport)> {
        let dir = hub::find(&options.model)?;
        let checkpoint = Checkpoint::open(&dir)?;
        if checkpoint.quantization.is_some() {
            let message = "the teacher must be stored as floats, but this checkpoint is in 4 bits; `tracknet dequantize` \
                           writes it as floats";
            return Err(ModelError::file(dir, message).into());
        }
        let (backbone, report) = build_backbone(&options.model, &LoraConfig::default(), quantization, device)?;
        backbone.spec().check_input([options.size; 2]).map_err(|error| match error {
            ModelError::Key { message, .. } => ModelError::key("size", message),
            other => other,
        })?;
        let pooler = match options.feature {
            FeatureKind::Pooler if backbone.family().has_pooler() => {
                Some(Pooler::load(&checkpoint, &backbone, &dir, device)?)
            }
            FeatureKind::Cls | FeatureKind::Pooler => None,
        };
        Ok((Self { backbone, pooler, dtype: DType::F32 }, report))
    }

    /// Adds trainable adapters to every linear layer; everything else is frozen. `seed` decides their first values.
    ///
    /// # Errors
    /// A value of `lora` that cannot work.
    pub(super) fn adapt(self, lora: &LoraConfig, seed: u64) -> Result<(Self, AdapterReport)> {
        let plan = LoraPlan::new(&self.backbone, lora, None, seed)?;
        let mut backbone = self.backbone;
        let initial = plan.init_from_weights(&mut backbone, None)?;
        let (backbone, report) = plan.apply(backbone, initial)?;
        let report = AdapterReport::of_new(report, lora, backbone.module_paths());
        Ok((Self { backbone, ..self }, report))
    }

    /// Switches mixed precision on where the device has it for this model; whether it has.
    pub(super) fn use_precision(&mut self, compute: &Compute) -> bool {
        self.dtype = compute.dtype();
        compute.use_mixed_precision(|| self.backbone.use_bfloat16())
    }

    /// The features `[batch, features]`, in float32, of normalized pictures `[batch, 3, height, width]`.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let images = if images.dtype() == self.dtype { images } else { images.cast(self.dtype) };
        let tokens = self.backbone.tokens(images);
        let [batch, _, hidden] = tokens.dims();
        let class = tokens.slice([0..batch, 0..1, 0..hidden]).reshape([batch, hidden]);
        let class = if class.dtype() == DType::F32 { class } else { class.cast(DType::F32) };
        match &self.pooler {
            Some(pooler) => pooler.forward(class),
            None => class,
        }
    }

    /// Length of a feature.
    pub fn feature_count(&self) -> usize {
        self.pooler.as_ref().map_or(self.backbone.spec().token_features(), Pooler::outputs)
    }

    /// Parameters of the pooler, which never train.
    pub(super) fn pooler_parameters(&self) -> usize {
        self.pooler.as_ref().map_or(0, |pooler| pooler.weight.lazy_shape().num_elements() + pooler.outputs())
    }

    /// `each(pictures, features)` of the pictures in micro-batches; results in order. For a model without gradients.
    pub(super) fn map_features<T: Send>(
        &self,
        pictures: &[RgbImage],
        normalizer: &Normalizer,
        compute: &Compute,
        each: impl Fn(Range<usize>, Tensor<2>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        MicroBatches::to_predict(pictures.len(), compute).map(|_, range| {
            let images = tensor(&pictures[range.clone()], normalizer, compute.device());
            each(range, self.features(images))
        })
    }

    /// A copy with an autodiff graph and dropout streams of its own; the values are shared.
    pub(super) fn fork_for_micro_batch(&self, device: &Device) -> Self {
        let mut model = self.clone().fork(device);
        model.backbone.own_adapter_dropout();
        model
    }
}

/// Pictures of one size as normalized planes `[pictures, 3, height, width]`.
pub(super) fn tensor(pictures: &[RgbImage], normalizer: &Normalizer, device: &Device) -> Tensor<4> {
    let [width, height] = pictures.first().map_or([0; 2], |p| [p.width() as usize, p.height() as usize]);
    let planes: Vec<f32> = pictures.iter().flat_map(|picture| normalizer.apply(picture)).collect();
    Tensor::from_data(TensorData::new(planes, [pictures.len(), 3, height, width]), device)
}

/// The normalization that the checkpoint asks for, or ImageNet's.
pub(super) fn normalizer(report: &BuildReport) -> Normalizer {
    Normalizer::new(Some(report.normalization()))
}

/// `activation(W·x + b)` of the class token. It is frozen, and stays float when the backbone is packed.
#[derive(Module, Debug)]
struct Pooler {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    activation: PoolerActivation,
}

/// `config.json: pooler_act`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PoolerActivation {
    Tanh,
    Other(Activation),
}

impl Pooler {
    /// Reads `pooler.dense` of a plain ViT.
    fn load(checkpoint: &Checkpoint, backbone: &Backbone, dir: &Path, device: &Device) -> Result<Self> {
        let spec = backbone.spec();
        let prefixes = [Some(""), spec.family().optional_prefix];
        let names = prefixes.into_iter().flatten().map(|prefix| format!("{prefix}pooler.dense"));
        let Some(name) = names.into_iter().find(|name| checkpoint.weights.shape(&format!("{name}.weight")).is_some())
        else {
            let message = format!(
                "has no tensor pooler.dense.weight, so this {} has no pooler: distil the class token instead (feature cls)",
                spec.family().model_type
            );
            return Err(ModelError::file(dir, message).into());
        };
        let weights = &checkpoint.weights;
        let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{name}.{leaf}"));
        let (found, biases) = (weights.shape(&weight).unwrap_or_default(), weights.shape(&bias).unwrap_or_default());
        let [outputs, inputs] = <[usize; 2]>::try_from(found).unwrap_or_default();
        if inputs != spec.token_features() || outputs == 0 || biases != [outputs] {
            let message = format!(
                "is {found:?} with a bias of {biases:?}, expected [features, {}] and [features]",
                spec.token_features()
            );
            return Err(ModelError::Tensor { name: weight, message }.into());
        }
        let frozen = |values, shape: [usize; 2]| TensorData::new(values, shape);
        let weight = Tensor::from_data(frozen(weights.read(&weight)?, [outputs, inputs]), device);
        let bias = Tensor::from_data(TensorData::new(weights.read(&bias)?, [outputs]), device);
        Ok(Self {
            weight: Param::from_tensor(weight).set_require_grad(false),
            bias: Param::from_tensor(bias).set_require_grad(false),
            activation: PoolerActivation::of(checkpoint, dir)?,
        })
    }

    fn forward(&self, class: Tensor<2>) -> Tensor<2> {
        let y = class.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze();
        match self.activation {
            PoolerActivation::Tanh => y.tanh(),
            PoolerActivation::Other(activation) => activation.forward(y),
        }
    }

    fn outputs(&self) -> usize {
        self.weight.lazy_shape()[0]
    }
}

impl PoolerActivation {
    fn of(checkpoint: &Checkpoint, dir: &Path) -> Result<Self, ModelError> {
        match checkpoint.config.get("pooler_act").and_then(Value::as_str) {
            None | Some("tanh") => Ok(Self::Tanh),
            Some(name) => Activation::from_name(name).map(Self::Other).ok_or_else(|| {
                let message = format!("`{name}` is not known; known activations: tanh, {}", Activation::NAMES);
                ModelError::key(format!("{}: pooler_act", dir.join("config.json").display()), message)
            }),
        }
    }
}
