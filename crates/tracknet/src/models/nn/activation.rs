//! Activations that checkpoints and decoders ask for.

use burn::tensor::Tensor;
use burn::tensor::activation;
use tracknet_kernels::{FusedActivation, gelu};

use crate::models::graph::{Graph, Traced};

/// The slope of the sigmoid in `quick_gelu`.
const QUICK_GELU: f32 = 1.702;

/// An activation, element by element.
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

    /// The activation as a normalization's kernel applies it in the same pass; `None` = it cannot.
    pub fn fused(self) -> Option<FusedActivation> {
        match self {
            Self::Gelu => Some(FusedActivation::Gelu),
            Self::Relu => Some(FusedActivation::Relu),
            Self::GeluTanh | Self::QuickGelu | Self::Silu => None,
        }
    }

    /// Any shape → the same shape.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => activation::sigmoid(x.clone().mul_scalar(QUICK_GELU)) * x,
            Self::Silu => activation::silu(x),
            Self::Relu => activation::relu(x),
        }
    }

    /// [`Activation::forward`] as part of a graph.
    pub(crate) fn trace(self, graph: &mut Graph, x: &Traced) -> Traced {
        let gate = match self {
            Self::Gelu => return graph.gelu(x),
            Self::GeluTanh => return graph.gelu_tanh(x),
            Self::Relu => return graph.relu(x),
            Self::QuickGelu => {
                let scaled = graph.with_number("Mul", x, QUICK_GELU);
                graph.sigmoid(&scaled)
            }
            Self::Silu => graph.sigmoid(x),
        };
        graph.multiply(x, &gate)
    }
}
