//! The right factor of a product.

use half::bf16;

use crate::fourbit::{ComputeDtype, PackedView};

/// A frozen matrix `[out, in]` in host memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weight<'a> {
    /// How its values are stored.
    pub(crate) values: Storage<'a>,
    /// `[out, in]`.
    pub(crate) shape: [usize; 2],
    /// What values are rounded to before they multiply.
    pub(crate) compute_dtype: ComputeDtype,
}

/// How the values of a matrix are stored, row by row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage<'a> {
    /// 4-bit codes.
    Packed(PackedView<'a>),
    /// Floats.
    Dense(&'a [f32]),
}

/// The side of the weight that is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `x · Wᵀ`: over the input features.
    In,
    /// `x · W`: over the output features.
    Out,
}

impl<'a> Weight<'a> {
    /// Floats `[out, in]`, rounded to bfloat16 when they multiply.
    pub(crate) fn dense(values: &'a [f32], shape: [usize; 2]) -> Self {
        assert!(values.len() == shape[0] * shape[1], "a matrix {shape:?} of {} values", values.len());
        Self { values: Storage::Dense(values), shape, compute_dtype: ComputeDtype::Bf16 }
    }

    /// `[summed, columns of the result]`.
    pub(crate) fn sizes(&self, side: Side) -> [usize; 2] {
        let [out_features, in_features] = self.shape;
        match side {
            Side::In => [in_features, out_features],
            Side::Out => [out_features, in_features],
        }
    }

    /// Writes the values from `start` on of the flattened matrix, rounded once; on one thread.
    pub(super) fn read(&self, start: usize, out: &mut [f32]) {
        match self.values {
            Storage::Packed(view) => view.dequantize_range(start, out, self.compute_dtype),
            Storage::Dense(values) => {
                let values = &values[start..start + out.len()];
                match self.compute_dtype {
                    ComputeDtype::Bf16 => {
                        out.iter_mut().zip(values).for_each(|(out, x)| *out = bf16::from_f32(*x).to_f32());
                    }
                    dtype => out.iter_mut().zip(values).for_each(|(out, x)| *out = dtype.round(*x)),
                }
            }
        }
    }
}
