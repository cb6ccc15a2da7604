//! Where kernels compute an adapted layer in fewer passes than ordinary operations. Each is chosen by asking whether it can,
//! gets the matrices, the scale and the mask of the adapter and nothing else, and is tested against
//! [`forward_adapted`](super::layer::forward_adapted).

use burn::tensor::{Device, Tensor};
use tracknet_kernels::adapter::add_adapter;

use crate::compute::is_cpu;

use super::adapter::{LoraAdapter, LowRank};
use super::base::RowMap;

/// Whether one pass of a kernel adds the update and the bias: on GPUs, for an adapter that kernels can compute.
pub(super) fn adds_in_one_pass(adapter: &LoraAdapter, device: &Device) -> bool {
    adapter.is_low_rank() && !is_cpu(device)
}

/// `[rows, in]` → `[rows, out]`: the product with the weight, then everything else in one pass.
pub(super) fn forward_rows(map: &impl RowMap, adapter: &LoraAdapter, x: Tensor<2>) -> Tensor<2> {
    let y = map.multiply(x.clone());
    let LowRank { a, b, scale, mask } = adapter.low_rank(&x);
    add_adapter(y, x, [a, b], map.row_bias().map(|bias| bias.val()), scale, mask)
}

#[cfg(feature = "flex")]
mod frozen {
    use burn::module::Param;
    use burn::tensor::Tensor;
    use tracknet_kernels::ComputeDtype;
    use tracknet_kernels::block::{Adapter, FrozenLinear, FrozenWeight};

    use crate::models::lora::{LoraAdapter, LoraLayer};
    use crate::models::nn::{Linear, LinearWeight};

    use super::LowRank;

    impl LoraLayer<Linear> {
        /// Whether the CPU's kernels can compute the layer as part of a larger operation: its products are to be in bfloat16,
        /// and nothing but a plain adapter trains.
        pub(crate) fn is_frozen(&self) -> bool {
            let Linear { weight, bias, .. } = &self.base;
            self.base.compute_dtype() == ComputeDtype::Bf16
                && !matches!(weight, LinearWeight::Dense(weight) if weight.is_require_grad())
                && bias.as_ref().is_none_or(|bias| !bias.is_require_grad())
                && self.adapter.as_ref().is_none_or(LoraAdapter::is_low_rank)
        }

        /// The layer as those kernels take it; draws the dropout mask of its adapter for `x`.
        pub(crate) fn as_frozen<const D: usize>(&self, x: &Tensor<D>) -> FrozenLinear<'_> {
            FrozenLinear {
                weight: match &self.base.weight {
                    LinearWeight::Packed(weight) => FrozenWeight::Packed(weight),
                    LinearWeight::Dense(weight) => FrozenWeight::Dense(weight.val()),
                },
                bias: self.base.bias.as_ref().map(Param::val),
                adapter: self.adapter.as_ref().map(|adapter| {
                    let LowRank { a, b, scale, mask } = adapter.low_rank(x);
                    Adapter { a, b, scale, dropout: mask }
                }),
            }
        }
    }
}
