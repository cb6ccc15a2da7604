//! Small layers with PyTorch's parameter names and shapes, so that files need no translation.
//!
//! Parameters are 32-bit floats. A layer computes in the dtype of its input and rounds its parameters to it where they
//! meet, so that a model given half-precision frames computes in half precision and its gradients arrive in full.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use tracknet_kernels::matmul::matmul;
use tracknet_kernels::{FusedActivation, depthwise_conv3x3, gelu, layer_norm};

use super::init::{Builder, Fill};
use super::lora::LoraAdapter;
use super::lora::adapter::joined;
use super::lora::merge::Merged;

/// A parameter in the dtype of what it meets.
pub(super) fn in_dtype_of<const D: usize, const E: usize>(parameter: Tensor<D>, x: &Tensor<E>) -> Tensor<D> {
    if parameter.dtype() == x.dtype() { parameter } else { parameter.cast(x.dtype()) }
}

/// A linear layer with its adapter and bias on `[rows, in]`; `multiply` is the product with its transposed weight.
pub(super) fn adapted_linear(
    x: Tensor<2>,
    adapter: Option<&LoraAdapter>,
    bias: Option<&Param<Tensor<1>>>,
    multiply: impl Fn(Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let y = multiply(x.clone());
    let y = match adapter {
        Some(adapter) if adapter.is_at_once(&y.device()) => {
            return adapter.forward_at_once(y, x, bias.map(|bias| bias.val()));
        }
        Some(adapter) => adapter.forward(y, x, multiply),
        None => y,
    };
    match bias {
        Some(bias) => {
            let bias = in_dtype_of(bias.val(), &y);
            y + bias.unsqueeze()
        }
        None => y,
    }
}

/// `x · weightᵀ` for `[rows, in]` and `[out, in]`, in the dtype of `x`.
pub(super) fn dense_linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let weight = in_dtype_of(weight, &x);
    matmul(x, weight.transpose())
}

/// Activations that checkpoints and decoders ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU with the exact erf (`gelu`).
    Gelu,
    /// GELU by tanh (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `x · sigmoid(1.702 x)` (`quick_gelu`).
    QuickGelu,
    /// `x · sigmoid(x)` (`silu`, `swish`).
    Silu,
    /// `max(x, 0)` (`relu`).
    Relu,
}

impl Activation {
    /// The names Hugging Face configurations use, for error messages.
    pub const NAMES: &'static str = "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, silu, swish, relu";

    /// Finds an activation by its Hugging Face name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "silu" | "swish" => Self::Silu,
            "relu" => Self::Relu,
            _ => return None,
        })
    }

    /// The same within the kernel of a normalization, where that has it.
    pub fn fused(self) -> Option<FusedActivation> {
        match self {
            Self::Gelu => Some(FusedActivation::Gelu),
            Self::Relu => Some(FusedActivation::Relu),
            Self::GeluTanh | Self::QuickGelu | Self::Silu => None,
        }
    }

    /// Element-wise, any shape.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => activation::sigmoid(x.clone().mul_scalar(1.702)) * x,
            Self::Silu => activation::silu(x),
            Self::Relu => activation::relu(x),
        }
    }
}

/// Normalization over the last dimension.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// Weight 1, bias 0, or the checkpoint's.
    pub fn new(channels: usize, epsilon: f64, builder: &Builder<'_>) -> Self {
        Self {
            weight: builder.param("weight", [channels], Fill::ONE),
            bias: builder.param("bias", [channels], Fill::ZERO),
            epsilon,
        }
    }

    /// Whether neither parameter trains.
    #[cfg(feature = "flex")]
    pub(crate) fn is_frozen(&self) -> bool {
        !self.weight.is_require_grad() && !self.bias.is_require_grad()
    }

    /// Weight, bias and epsilon.
    #[cfg(feature = "flex")]
    pub(crate) fn parts(&self) -> (Tensor<1>, Tensor<1>, f64) {
        (self.weight.val(), self.bias.val(), self.epsilon)
    }

    /// `[.., channels]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// A 2-D convolution, weight `[out, in / groups, height, width]`.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in / groups, height, width]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Added to the output when present: `A` with the kernel, stride and padding of this convolution, `B` 1×1.
    pub adapter: Option<LoraAdapter>,
    /// An adapter whose update is in the weight; kept to take it out again.
    #[module(skip)]
    pub(crate) merged: Option<Box<Merged>>,
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
    bias: bool,
    padding: usize,
    fill: Option<Fill>,
}

impl ConvSpec {
    /// A `kernel × kernel` convolution from `channels[0]` to `channels[1]`, stride 1, padded to keep the size of
    /// an odd kernel's input, without bias.
    pub fn square(channels: [usize; 2], kernel: usize) -> Self {
        Self { channels, kernel, stride: 1, groups: 1, bias: false, padding: kernel / 2, fill: None }
    }

    /// The convolution that turns patches into tokens: kernel = stride, with a bias, weights truncated normal.
    pub fn patches(channels: [usize; 2], patch: usize, deviation: f32) -> Self {
        let fill = Some(Fill::TruncatedNormal(deviation));
        Self { channels, kernel: patch, stride: patch, groups: 1, bias: true, padding: 0, fill }
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

    /// With a bias.
    #[must_use]
    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// With another start than Kaiming normal.
    #[must_use]
    pub fn with_fill(self, fill: Fill) -> Self {
        Self { fill: Some(fill), ..self }
    }

    /// Kaiming normal weights and zero bias, or the checkpoint's.
    pub fn build(self, builder: &Builder<'_>) -> Conv {
        let [input, output] = self.channels;
        let shape = [output, input / self.groups, self.kernel, self.kernel];
        Conv {
            weight: builder.param("weight", shape, self.fill.unwrap_or(Fill::kaiming_fan_out(shape))),
            bias: self.bias.then(|| builder.param("bias", [output], Fill::ZERO)),
            adapter: None,
            merged: None,
            options: ConvOptions::new([self.stride; 2], [self.padding; 2], [1; 2], self.groups),
        }
    }
}

impl Conv {
    /// `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.adapter {
            Some(adapter) => self.adapted(adapter, x),
            None if self.is_pointwise() => self.pointwise(x),
            None if self.is_depthwise3x3() => {
                let weight = in_dtype_of(self.weight.val(), &x);
                depthwise_conv3x3(x, weight)
            }
            None => self.general(x),
        }
    }

    /// `gain · (W * x + B · (s · A * dropout(x))) + bias`.
    fn adapted(&self, adapter: &LoraAdapter, x: Tensor<4>) -> Tensor<4> {
        let convolve = |x: Tensor<4>, kernels: Tensor<2>| {
            let [rows, _] = kernels.dims();
            let [_, input, height, width] = self.weight.lazy_shape().dims();
            let kernels = in_dtype_of(kernels.reshape([rows, input, height, width]), &x);
            if self.is_pointwise() { pointwise(x, kernels) } else { conv2d(x, kernels, None, self.options.clone()) }
        };
        let dropped = adapter.drop(x.clone());
        let thin = convolve(dropped.clone(), adapter.a.val()).mul_scalar(adapter.scale());
        let update = pointwise(thin, as_kernels(adapter.b.val()));
        let of_dropped = adapter.is_dora_dropping(&x).then(|| convolve(dropped, self.rows()));
        self.biased(joined(convolve(x, self.rows()), update, self.gain(adapter), of_dropped))
    }

    /// A convolution whose kernels do not overlap, of patches that are rows already: `[rows, in · height · width]` →
    /// `[rows, out]`.
    pub fn forward_patches(&self, x: Tensor<2>) -> Tensor<2> {
        adapted_linear(x, self.adapter.as_ref(), self.bias.as_ref(), |rows| dense_linear(rows, self.rows()))
    }

    /// The factor of each output channel under DoRA, `[1, out, 1, 1]`.
    fn gain(&self, adapter: &LoraAdapter) -> Option<Tensor<4>> {
        let gain = adapter.gain(|rows| matmul(rows, self.rows().transpose()))?;
        let channels = gain.dims()[0];
        Some(gain.reshape([1, channels, 1, 1]))
    }

    /// The weight with each kernel as a row, `[out, in / groups · height · width]`.
    pub fn rows(&self) -> Tensor<2> {
        let [output, columns] = self.shape();
        self.weight.val().reshape([output, columns])
    }

    /// The shape of [`Conv::rows`].
    pub fn shape(&self) -> [usize; 2] {
        let [output, input, height, width] = self.weight.lazy_shape().dims();
        [output, input * height * width]
    }

    /// Whether every output channel sees every input channel. A low-rank update mixes them all, so only such
    /// convolutions carry adapters.
    pub fn is_dense(&self) -> bool {
        self.options.groups == 1
    }

    /// Edge of the kernel.
    pub fn kernel(&self) -> usize {
        self.weight.lazy_shape()[2]
    }

    fn general(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = in_dtype_of(self.weight.val(), &x);
        let bias = self.bias.as_ref().map(|bias| in_dtype_of(bias.val(), &x));
        conv2d(x, weight, bias, self.options.clone())
    }

    fn is_pointwise(&self) -> bool {
        let shape = self.weight.lazy_shape();
        shape[2] == 1 && shape[3] == 1 && self.options.stride == [1, 1] && self.options.groups == 1
    }

    /// The case that has a kernel of its own.
    fn is_depthwise3x3(&self) -> bool {
        let shape = self.weight.lazy_shape();
        let spatial = ConvOptions::new([1; 2], [1; 2], [1; 2], shape[0]);
        shape[1..] == [1, 3, 3] && self.options == spatial && self.bias.is_none()
    }

    fn pointwise(&self, x: Tensor<4>) -> Tensor<4> {
        self.biased(pointwise(x, self.weight.val()))
    }

    /// Its gradient is the sum over frames, columns and rows, one after the other: Burn's GPUs leave a sum over all at once,
    /// where a head has a single channel, to a single unit.
    fn biased(&self, y: Tensor<4>) -> Tensor<4> {
        match &self.bias {
            Some(bias) => {
                let [_, channels, height, width] = y.dims();
                let bias = in_dtype_of(bias.val().reshape([1, channels, 1, 1]), &y);
                y + bias.expand([1, channels, height, 1]).expand([1, channels, height, width])
            }
            None => y,
        }
    }
}

impl Conv {
    /// The part of a 1×1 convolution that reads input channels `range` only: a convolution of joined features is the
    /// sum of such parts, and nothing needs to be joined.
    pub fn forward_channels(&self, x: Tensor<4>, range: std::ops::Range<usize>) -> Tensor<4> {
        let weight = self.weight.val();
        let output = weight.dims()[0];
        let part = weight.slice([0..output, range.clone()]);
        let y = pointwise(x.clone(), part.clone());
        let Some(adapter) = &self.adapter else { return y };
        let a = adapter.a.val().slice([0..adapter.rank(), range]);
        let dropped = adapter.drop(x.clone());
        let thin = pointwise(dropped.clone(), as_kernels(a)).mul_scalar(adapter.scale());
        let update = pointwise(thin, as_kernels(adapter.b.val()));
        let of_dropped = adapter.is_dora_dropping(&x).then(|| pointwise(dropped, part));
        joined(y, update, self.gain(adapter), of_dropped)
    }
}

/// A matrix as 1×1 kernels.
fn as_kernels(x: Tensor<2>) -> Tensor<4> {
    let [output, input] = x.dims();
    x.reshape([output, input, 1, 1])
}

/// A 1×1 convolution is one matrix product per image: `W [out, in] · X [in, height·width]`.
fn pointwise(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let [batch, input, height, width] = x.dims();
    let output = weight.dims()[0];
    let weight = in_dtype_of(weight.reshape([1, output, input]), &x);
    let y = matmul(weight, x.reshape([batch, input, height * width]));
    y.reshape([batch, output, height, width])
}
