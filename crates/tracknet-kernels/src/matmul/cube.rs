//! Products on GPUs.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::ops::MatmulOps;
use crate::cube::{cast, contiguous, product};

impl MatmulOps for CubeBackend {
    fn matrix_products(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
        let dtype = lhs.dtype;
        let ([matrices, m, k], [batch, _, _]) = (lhs.shape().dims(), rhs.shape().dims());
        // A copy of a small matrix for each of the others: routines that load tiles in bulk want it in memory.
        let lhs = if matrices == batch { lhs } else { contiguous(Self::float_expand(lhs, Shape::from([batch, m, k]))) };
        product(lhs, rhs, dtype)
    }

    fn summed_matrix_products(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
        let dtype = lhs.dtype;
        if lhs.shape()[0] == 1 {
            return product(lhs, rhs, dtype);
        }
        cast(Self::float_sum_dim(product(lhs, rhs, DType::F32), 0), dtype)
    }
}
