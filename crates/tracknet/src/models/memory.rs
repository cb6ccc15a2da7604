//! What a model weighs, counted on its tensors, and what training it will take, estimated.

use std::fmt;

use burn::module::Param;
use burn::tensor::{Device, Tensor};

use super::HeatmapModel;
use super::decoders::DecoderNetwork;
use super::lora::VisitLayers;
use super::nn::LinearWeight;
use super::state::{Group, NamedModule, ParameterInfo, ParameterVisitor, visit_parameters};

/// Exact sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryReport {
    /// Parameters, packed weights counted as what they stand for.
    pub parameters: usize,
    /// Parameters that receive gradients.
    pub trainable: usize,
    /// Bytes of the backbone's base weights if all were 32-bit floats.
    pub backbone_f32: usize,
    /// Bytes of the backbone's base weights as they are stored.
    pub backbone_stored: usize,
    /// Bytes of everything that is stored.
    pub stored: usize,
}

impl MemoryReport {
    /// Counts a model.
    pub fn of<M: NamedModule + VisitLayers>(model: &M) -> Self {
        let mut report = Self::default();
        visit_parameters(model, &mut report);
        model.visit_linears(&mut |_, linear| {
            if let LinearWeight::Packed(weight) = &linear.weight {
                let count = weight.shape().iter().product::<usize>();
                report.parameters += count;
                report.backbone_f32 += 4 * count;
                report.backbone_stored += weight.storage_bytes();
                report.stored += weight.storage_bytes();
            }
        });
        report
    }
}

impl ParameterVisitor for MemoryReport {
    fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>) {
        let bytes = info.count() * parameter.val().dtype().size();
        self.parameters += info.count();
        self.stored += bytes;
        if info.trainable {
            self.trainable += info.count();
        }
        if info.group == Group::Backbone {
            self.backbone_f32 += 4 * info.count();
            self.backbone_stored += bytes;
        }
    }
}

/// What trains of a model, in the words of PEFT's `print_trainable_parameters`.
pub fn trainable_line(trainable: usize, parameters: usize) -> String {
    let percent = 100.0 * trainable as f64 / parameters.max(1) as f64;
    let (trainable, parameters) = (grouped(trainable), grouped(parameters));
    format!("trainable params: {trainable} || all params: {parameters} || trainable%: {percent:.4}")
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", trainable_line(self.trainable, self.parameters))?;
        let ratio = self.backbone_f32 as f64 / self.backbone_stored.max(1) as f64;
        write!(
            f,
            "backbone: {} as float32, {} as stored ({ratio:.2}× smaller); whole model: {}",
            bytes(self.backbone_f32),
            bytes(self.backbone_stored),
            bytes(self.stored)
        )
    }
}

/// An estimate of the peak while training with `frames` frames of `[W, H]` pixels under way, in bytes: what is stored,
/// gradient and two moments of what trains, and the activations that the backward pass keeps.
///
/// The activations are counted per block and per decoder stage from the tensors their forward makes, so it is good to
/// a few tens of percent, not more.
pub fn training_estimate(
    model: &HeatmapModel,
    frames: usize,
    input: [usize; 2],
    device: &Device,
    checkpointing: bool,
) -> usize {
    let report = MemoryReport::of(model);
    let mut backbone_trains = false;
    model.backbone.visit_layers(&mut |_, layer| {
        let linear = layer.base().linear().map(|linear| &linear.weight);
        let is_trained = matches!(linear, Some(LinearWeight::Dense(weight)) if weight.is_require_grad());
        let is_adapted = linear.is_some() && layer.adapter().is_some_and(|adapter| adapter.a.is_require_grad());
        backbone_trains |= is_trained || is_adapted;
    });
    let window = model.window.spec();
    backbone_trains |= window.enters_patches();
    let backbone = model.backbone.activation_bytes(input, backbone_trains, checkpointing, device);
    // A window, and what is made of it; single frames are not worth counting.
    let pixels = if window.frames > 1 { 2 * 3 * window.frames * input[0] * input[1] } else { 0 };
    let decoder = 4 * pixels + 4 * model.decoder.activation_elements(&model.backbone.spec().layout().grids(input));
    report.stored + 12 * report.trainable + frames * (backbone + decoder)
}

/// `1234567` as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in MiB.
pub fn bytes(count: usize) -> String {
    format!("{:.1} MiB", count as f64 / f64::from(1 << 20))
}
