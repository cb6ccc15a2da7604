//! Two-dimensional convolutions.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use tracknet_kernels::matmul::matmul;
use tracknet_kernels::{conv3x3, depthwise_conv_nhwc, depthwise_conv3x3};

use crate::models::graph::{Graph, Traced};

use super::cast_to_dtype_of;
use super::init::{Builder, Fill};

/// A convolution over height and width, `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups, height, width]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: ConvOptions<2>,
}

/// The shape of a convolution; start from [`ConvSpec::square`].
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec {
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    groups: usize,
    bias: Option<Fill>,
    padding: usize,
    fill: Option<Fill>,
}

impl ConvSpec {
    /// A `kernel × kernel` convolution from `channels[0]` to `channels[1]`, stride 1, padded to keep the size of
    /// an odd kernel's input, without bias.
    pub fn square(channels: [usize; 2], kernel: usize) -> Self {
        Self { channels, kernel, stride: 1, groups: 1, bias: None, padding: kernel / 2, fill: None }
    }

    /// A convolution whose kernels lie side by side (kernel = stride, no padding), with a bias and truncated normal weights.
    pub fn patches(channels: [usize; 2], patch: usize, deviation: f32) -> Self {
        let fill = Some(Fill::TruncatedNormal(deviation));
        Self { channels, kernel: patch, stride: patch, groups: 1, bias: Some(Fill::ZERO), padding: 0, fill }
    }

    /// With this stride in both directions.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// One group for each input channel.
    #[must_use]
    pub fn depthwise(self) -> Self {
        Self { groups: self.channels[0], ..self }
    }

    /// With a bias that begins at zero.
    #[must_use]
    pub fn with_bias(self) -> Self {
        self.with_bias_of(Fill::ZERO)
    }

    /// With a bias.
    #[must_use]
    pub fn with_bias_of(self, fill: Fill) -> Self {
        Self { bias: Some(fill), ..self }
    }

    /// Without a bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// With other random weights than Kaiming normal ones.
    #[must_use]
    pub fn with_fill(self, fill: Fill) -> Self {
        Self { fill: Some(fill), ..self }
    }

    /// Kaiming normal weights unless others were asked for, or the checkpoint's.
    pub fn build(self, builder: &Builder<'_>) -> Conv2d {
        let [input, output] = self.channels;
        let shape = [output, input / self.groups, self.kernel, self.kernel];
        Conv2d {
            weight: builder.param("weight", shape, self.fill.unwrap_or(Fill::kaiming_fan_out(shape))),
            bias: self.bias.map(|fill| builder.param("bias", [output], fill)),
            options: ConvOptions::new([self.stride; 2], [self.padding; 2], [1; 2], self.groups),
        }
    }
}

impl Conv2d {
    /// `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(|bias| cast_to_dtype_of(bias.val(), &x));
        self.apply(x, self.weight.val(), bias)
    }

    /// `scale · (W ∗ x + b) + shift` for each output channel, `scale` and `shift` being `[out]` in the weight's dtype: a normalization
    /// behind the convolution that is a scale and a shift costs one addition.
    pub(crate) fn forward_scaled(&self, x: Tensor<4>, scale: Tensor<1>, shift: Tensor<1>) -> Tensor<4> {
        let (weight, shift) = self.scaled(scale, shift);
        let shift = cast_to_dtype_of(shift, &x);
        self.apply(x, weight, Some(shift))
    }

    /// Weight and bias of the convolution that [`Conv2d::forward_scaled`] is.
    fn scaled(&self, scale: Tensor<1>, shift: Tensor<1>) -> (Tensor<4>, Tensor<1>) {
        let shift = match &self.bias {
            Some(bias) => bias.val() * scale.clone() + shift,
            None => shift,
        };
        let [output] = scale.dims();
        (self.weight.val() * scale.reshape([output, 1, 1, 1]), shift)
    }

    /// [`Conv2d::forward`] as part of a graph.
    pub(crate) fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        graph.conv(x, self.weight.val(), self.bias.as_ref().map(Param::val), &self.options)
    }

    /// [`Conv2d::forward_scaled`] as part of a graph.
    pub(crate) fn trace_scaled(&self, graph: &mut Graph, x: &Traced, scale: Tensor<1>, shift: Tensor<1>) -> Traced {
        let (weight, shift) = self.scaled(scale, shift);
        graph.conv(x, weight, Some(shift), &self.options)
    }

    /// The part of a pointwise convolution that reads the input channels of `range`, as part of a graph.
    pub(crate) fn trace_channels(&self, graph: &mut Graph, x: &Traced, range: Range<usize>) -> Traced {
        graph.conv(x, self.weight_of_channels(range), None, &self.options)
    }

    /// A depthwise convolution that keeps the size, on cells as rows of channels, `[batch, rows · columns, channels]`; `grid` is
    /// rows and columns.
    pub(crate) fn forward_cells(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let weight = cast_to_dtype_of(self.weight.val(), &x);
        let bias = match &self.bias {
            Some(bias) => cast_to_dtype_of(bias.val(), &x),
            None => Tensor::zeros([weight.dims()[0]], (&x.device(), x.dtype())),
        };
        depthwise_conv_nhwc(x, grid, weight, bias)
    }

    /// The convolution of this layer's kind with other kernels and bias.
    fn apply(&self, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
        let weight = cast_to_dtype_of(weight, &x);
        if self.is_pointwise() {
            add_to_channels(pointwise(x, weight), bias)
        } else if self.is_3x3(self.weight.lazy_shape()[0]) {
            add_to_channels(depthwise_conv3x3(x, weight), bias)
        } else if self.is_3x3(1) {
            add_to_channels(conv3x3(x, weight), bias)
        } else {
            conv2d(x, weight, bias, self.options.clone())
        }
    }

    /// The convolution with stride and padding of this one and other kernels, given as rows `[channels, in · height · width]`,
    /// without bias.
    pub(crate) fn convolve(&self, x: Tensor<4>, kernels: Tensor<2>) -> Tensor<4> {
        let [rows, _] = kernels.dims();
        let [_, input, height, width] = self.weight.lazy_shape().dims();
        self.apply(x, kernels.reshape([rows, input, height, width]), None)
    }

    /// The columns of a pointwise convolution's weight that read the input channels of `range`, `[out, channels, 1, 1]`.
    pub(crate) fn weight_of_channels(&self, range: Range<usize>) -> Tensor<4> {
        let weight = self.weight.val();
        let output = weight.dims()[0];
        weight.slice([0..output, range])
    }

    /// The weight with each kernel as a row, `[out, in / groups · height · width]`.
    pub fn rows(&self) -> Tensor<2> {
        let [output, columns] = self.shape();
        self.weight.val().reshape([output, columns])
    }

    /// The shape of [`Conv2d::rows`].
    pub fn shape(&self) -> [usize; 2] {
        let [output, input, height, width] = self.weight.lazy_shape().dims();
        [output, input * height * width]
    }

    /// Whether every output channel sees every input channel.
    pub fn is_dense(&self) -> bool {
        self.options.groups == 1
    }

    fn is_pointwise(&self) -> bool {
        let shape = self.weight.lazy_shape();
        shape[2] == 1 && shape[3] == 1 && self.options.stride == [1, 1] && self.options.groups == 1
    }

    /// 3×3 kernels that keep the size, in so many groups: the cases with an operation of their own, where there is one group
    /// or one for each of as many inputs as outputs.
    fn is_3x3(&self, groups: usize) -> bool {
        let shape = self.weight.lazy_shape();
        let of_a_group = groups == 1 || shape[1] == 1;
        of_a_group && shape[2..] == [3, 3] && self.options == ConvOptions::new([1; 2], [1; 2], [1; 2], groups)
    }

    /// `y + bias` for each channel of `[batch, out, height, width]`.
    pub(crate) fn add_bias(&self, y: Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(|bias| cast_to_dtype_of(bias.val(), &y));
        add_to_channels(y, bias)
    }

    /// [`Conv2d::add_bias`] as part of a graph.
    pub(crate) fn trace_bias(&self, graph: &mut Graph, y: Traced) -> Traced {
        let Some(bias) = &self.bias else { return y };
        let channels = y.shape[0];
        graph.with_tensor("Add", &y, "bias", bias.val().reshape([1, channels, 1, 1]))
    }
}

/// `y + bias` for each channel of `[batch, out, height, width]`.
///
/// The gradient of the bias is the sum over frames, columns and rows, one after the other: Burn's GPUs leave a sum over all at
/// once, where a head has a single channel, to a single unit.
fn add_to_channels(y: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let Some(bias) = bias else { return y };
    let [_, channels, height, width] = y.dims();
    let bias = bias.reshape([1, channels, 1, 1]);
    y + bias.expand([1, channels, height, 1]).expand([1, channels, height, width])
}

/// A matrix `[out, in]` as 1×1 kernels.
pub(crate) fn as_kernels(x: Tensor<2>) -> Tensor<4> {
    let [output, input] = x.dims();
    x.reshape([output, input, 1, 1])
}

/// A 1×1 convolution is one matrix product per image: `W [out, in] · X [in, height·width]`.
pub(crate) fn pointwise(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let [batch, input, height, width] = x.dims();
    let output = weight.dims()[0];
    let weight = cast_to_dtype_of(weight.reshape([1, output, input]), &x);
    let y = matmul(weight, x.reshape([batch, input, height * width]));
    y.reshape([batch, output, height, width])
}
