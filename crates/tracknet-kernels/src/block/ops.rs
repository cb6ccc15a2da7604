//! The operation a backend provides for frozen blocks.

use std::sync::{Arc, Mutex};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::flex::{HostBlock, HostMlp, SavedForward};

/// The place where a forward pass leaves what the backward pass of the same block or MLP reads.
pub type Tape = Arc<Mutex<Option<SavedForward>>>;

/// Frozen transformer blocks on a backend.
///
/// `x` and the result are `[batch, tokens, hidden]`; `adapters` holds the matrices of all adapters behind each other,
/// layer after layer, `A` then `B`.
#[backend_extension(Autodiff, Flex)]
pub trait BlockOps: Backend {
    /// The output. With a `tape` the call leaves there what backward needs.
    fn frozen_block(
        x: FloatTensor<Self>,
        adapters: FloatTensor<Self>,
        block: Arc<HostBlock>,
        tape: Option<Tape>,
    ) -> FloatTensor<Self>;

    /// `residual + mlp(x)`, both `[batch, tokens, hidden]`; adapters and tape as for a block.
    fn frozen_mlp(
        residual: FloatTensor<Self>,
        x: FloatTensor<Self>,
        adapters: FloatTensor<Self>,
        mlp: Arc<HostMlp>,
        tape: Option<Tape>,
    ) -> FloatTensor<Self>;
}

/// The backward pass. A trait of its own, because it is not differentiable itself.
pub trait BlockGradients: Backend {
    /// The gradients of `x` and `adapters`, from that of the output; takes what is on the `tape`.
    fn frozen_block_gradients(
        gradient: FloatTensor<Self>,
        adapters: FloatTensor<Self>,
        block: Arc<HostBlock>,
        tape: Tape,
    ) -> [FloatTensor<Self>; 2];

    /// The same for an MLP; that of `residual` is the output's.
    fn frozen_mlp_gradients(
        gradient: FloatTensor<Self>,
        adapters: FloatTensor<Self>,
        mlp: Arc<HostMlp>,
        tape: Tape,
    ) -> [FloatTensor<Self>; 2];
}
