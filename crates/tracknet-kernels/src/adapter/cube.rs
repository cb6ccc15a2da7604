//! Adapters on GPUs: products by the routine of choice for the device, and what is between them in as few launches as there are
//! tensors to write.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::{ElemType, UIntKind};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::{AdapterOps, AdapterSpec};
use super::reference;
use crate::cube::{cast, contiguous, count, elem, expect, grid, launch, product, unwritten, vector_size};
use crate::dropout::{CHUNK, KeepMask, VALUES_PER_DRAW};
use tracknet_random::GOLDEN;

/// Parts in which the rows of a tall product are added up, at most, and the fewest rows of one.
const MOST_PARTS: usize = 64;
const FEWEST_ROWS: usize = 128;

impl AdapterOps for CubeBackend {
    fn dropout(x: CubeTensor, mask: KeepMask) -> CubeTensor {
        if !x.client.properties().supports_type(ElemType::UInt(UIntKind::U64)) {
            return reference::mask_values::<Self>(x, mask);
        }
        let x = contiguous(x);
        let (y, values) = (unwritten(&x, x.shape(), x.dtype), count(&x));
        let width = vector_size(&x, x.dtype, [values]);
        // SAFETY: a unit reads and writes the vector of its position only if that is below the count that fills both.
        unsafe {
            launch!(
                apply_mask,
                grid(&x, values / width),
                [width],
                [x, y],
                values / width,
                mask.seed,
                mask.threshold(),
                mask.gain(),
                elem(x.dtype)
            );
        }
        y
    }

    fn add_adapter(
        y: CubeTensor,
        x: CubeTensor,
        a: CubeTensor,
        b: CubeTensor,
        bias: CubeTensor,
        spec: AdapterSpec,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let dtype = x.dtype;
        let (a, b) = (cast(a, dtype), scaled(b, spec.scale, dtype));
        let thin = product(dropout(x, spec), Self::float_transpose(a.clone()), dtype);
        let update = product(thin.clone(), Self::float_transpose(b.clone()), dtype);
        (sum(y, update, bias, spec.bias), thin, a, b)
    }

    fn adapter_gradients(
        gradient: CubeTensor,
        x: CubeTensor,
        a: CubeTensor,
        scaled_b: CubeTensor,
        thin: CubeTensor,
        spec: AdapterSpec,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let dtype = x.dtype;
        let gradient = contiguous(gradient);
        let of_b = scaled(tall_product(gradient.clone(), thin), spec.scale, DType::F32);
        let of_thin = product(gradient, scaled_b, dtype);
        let of_a = tall_product(of_thin.clone(), dropout(x, spec));
        let of_x = dropout(product(of_thin, a, dtype), spec);
        (of_x, of_a, of_b)
    }
}

fn dropout(x: CubeTensor, spec: AdapterSpec) -> CubeTensor {
    match spec.dropout {
        Some(mask) => CubeBackend::dropout(x, mask),
        None => x,
    }
}

/// `lhsᵀ · rhs` for `[rows, m]` and `[rows, n]` with many rows and small `n`, in f32. One product of that shape would occupy
/// few of the device's units for long, so parts of the rows are multiplied side by side and then added up.
fn tall_product(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    let [rows, m] = lhs.shape().dims();
    let n = rhs.shape()[1];
    let parts = (1..=MOST_PARTS.min(rows / FEWEST_ROWS)).rev().find(|parts| rows.is_multiple_of(*parts)).unwrap_or(1);
    let [lhs, rhs] = [(lhs, m), (rhs, n)]
        .map(|(factor, columns)| CubeBackend::float_reshape(factor, Shape::from([parts, rows / parts, columns])));
    let sums = product(CubeBackend::float_transpose(lhs), rhs, DType::F32);
    if parts == 1 {
        return CubeBackend::float_reshape(sums, Shape::from([m, n]));
    }
    let sums = CubeBackend::float_reshape(sums, Shape::from([parts, m * n]));
    CubeBackend::float_reshape(CubeBackend::float_sum_dim(sums, 0), Shape::from([m, n]))
}

/// `x · factor` in another type.
fn scaled(x: CubeTensor, factor: f32, dtype: DType) -> CubeTensor {
    let x = contiguous(x);
    let (y, values) = (unwritten(&x, x.shape(), dtype), count(&x));
    let width = vector_size(&x, DType::F32, [values]);
    // SAFETY: as in `dropout`.
    unsafe {
        launch!(scale, grid(&x, values / width), [width], [x, y], values / width, factor, [elem(x.dtype), elem(dtype)]);
    }
    y
}

/// `y + update (+ bias)`.
fn sum(y: CubeTensor, update: CubeTensor, bias: CubeTensor, with_bias: bool) -> CubeTensor {
    let [y, update] = [y, update].map(contiguous);
    let [_, columns] = y.shape().dims();
    let bias = if with_bias { contiguous(cast(bias, DType::F32)) } else { bias };
    let (out, values) = (unwritten(&y, y.shape(), y.dtype), count(&y));
    expect([(&update, values, update.dtype), (&bias, if with_bias { columns } else { count(&bias) }, bias.dtype)]);
    let width = vector_size(&y, DType::F32, [columns]);
    // SAFETY: as in `dropout`; `update` is as long, and the bias has one value for each column (checked) and is not read
    // where there is none.
    unsafe {
        launch!(
            add,
            grid(&y, values / width),
            [width],
            [y, update, bias, out],
            values / width,
            columns / width,
            with_bias,
            [elem(y.dtype), elem(update.dtype)]
        );
    }
    out
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn apply_mask<F: Float, N: Size>(
    x: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    units: usize,
    seed: u64,
    threshold: u32,
    gain: f32,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let values = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let first = ABSOLUTE_POS * N::value();
    let mut out = Vector::<f32, N>::empty();
    let mut bits = draw(seed, first / VALUES_PER_DRAW);
    #[unroll]
    for i in 0..N::value() {
        if comptime!(i > 0 && i % VALUES_PER_DRAW == 0) {
            bits = draw(seed, (first + i) / VALUES_PER_DRAW);
        }
        let place = (first + i) % VALUES_PER_DRAW;
        let part = u32::cast_from((bits >> (u64::cast_from(place) * 16u64)) & 0xffffu64);
        out.insert(i, select(part < threshold, values.extract(i) * gain, 0.0f32));
    }
    y[ABSOLUTE_POS] = Vector::cast_from(out);
}

/// The bits that decide a group of values: SplitMix64, as [`KeepMask`] draws them on the host.
#[cube]
fn draw(seed: u64, group: usize) -> u64 {
    let draws_per_chunk = comptime!(CHUNK / VALUES_PER_DRAW);
    let chunk = u64::cast_from(group / draws_per_chunk);
    let number = u64::cast_from(group % draws_per_chunk) + 1u64;
    let stream = seed ^ (chunk * 0xd605_1a3e_64ab_c9d7u64);
    let z = stream + number * GOLDEN;
    let z = (z ^ (z >> 30u64)) * 0xbf58_476d_1ce4_e5b9u64;
    let z = (z ^ (z >> 27u64)) * 0x94d0_49bb_1331_11ebu64;
    z ^ (z >> 31u64)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn scale<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    y: &mut [Vector<G, N>],
    units: usize,
    factor: f32,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    y[ABSOLUTE_POS] = Vector::cast_from(Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) * Vector::new(factor));
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn add<F: Float, G: Float, N: Size>(
    y: &[Vector<F, N>],
    update: &[Vector<G, N>],
    bias: &[Vector<f32, N>],
    out: &mut [Vector<F, N>],
    units: usize,
    vectors: usize,
    #[comptime] with_bias: bool,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let mut sum = Vector::<f32, N>::cast_from(y[ABSOLUTE_POS]) + Vector::<f32, N>::cast_from(update[ABSOLUTE_POS]);
    if comptime!(with_bias) {
        sum += bias[ABSOLUTE_POS % vectors];
    }
    out[ABSOLUTE_POS] = Vector::cast_from(sum);
}
