//! What the GPU kernels share: tensors as plain buffers, and how many units work on them.
//!
//! Kernels are written in CubeCL and compiled when they first run, for the device of their tensors (CUDA, Vulkan, Metal).
//! They take contiguous buffers and reach past the end of none: each checks its position against a count that it is
//! given, and vectors are only as wide as every length allows.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::features::Tma;
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise};
use burn_cubecl::kernel;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

/// The tensor with its values in one run; not copied if they are.
pub(crate) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    kernel::into_contiguous(tensor)
}

/// The tensor in another float type; not copied if it has it.
pub(crate) fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    kernel::cast(tensor, dtype)
}

/// A contiguous tensor of unwritten values on the device of `like`.
pub(crate) fn unwritten(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), dtype)
}

/// The widest vector of `dtype` that the device of `tensor` reads at once and of which each of `lengths` is a multiple.
pub(crate) fn vector_size<const N: usize>(tensor: &CubeTensor, dtype: DType, lengths: [usize; N]) -> usize {
    let fits = |size: &usize| lengths.iter().all(|length| length.is_multiple_of(*size));
    tensor.client.io_optimized_vector_sizes(dtype.size()).find(fits).unwrap_or(1)
}

/// The grid for `units` units of independent work.
pub(crate) fn grid(tensor: &CubeTensor, units: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(&tensor.client, units);
    (calculate_cube_count_elemwise(&tensor.client, units, dim), dim)
}

/// Launches `launch!(kernel, grid, [vector sizes], [buffers], arguments…)`: the buffers are tensors of one device, and the
/// arguments what the kernel takes behind them. It is unsafe to call, as `launch_unchecked` is: the kernel may not reach past
/// the end of a buffer.
macro_rules! launch {
    (
        $($kernel:ident)::+,
        $grid:expr,
        [$($vector_size:expr),*],
        [$first:expr $(, $buffer:expr)* $(,)?],
        $($argument:expr),+ $(,)?
    ) => {{
        let (cubes, dim) = $grid;
        $($kernel)::+::launch_unchecked(
            &$first.client,
            cubes,
            dim,
            $crate::cube::address_type([&$first $(, &$buffer)*]),
            $($vector_size,)*
            $first.clone().into_buffer_arg(),
            $($buffer.clone().into_buffer_arg(),)*
            $($argument),+
        );
    }};
}
pub(crate) use launch;

/// The widest index that any of the tensors needs.
pub(crate) fn address_type<const N: usize>(tensors: [&CubeTensor; N]) -> AddressType {
    tensors.into_iter().map(CubeTensor::required_address_type).max().unwrap_or_default()
}

/// The type by which kernels know `dtype`.
pub(crate) fn elem(dtype: DType) -> ElemType {
    burn::backend::cubecl::dtype_to_storage_type(dtype)
}

/// Whether the device has matrix units for factors of `dtype`.
pub(crate) fn has_products_of(client: &Client, dtype: DType) -> bool {
    let matmul = &client.properties().features.matmul;
    let wanted = elem(dtype);
    matmul.cmma.iter().chain(&matmul.mma).any(|config| config.a_type == wanted && config.b_type == wanted)
}

/// `lhs · rhs`, matrix by matrix where there are several, accumulated in f32 and rounded once; factors of f32 are not rounded.
/// The result is contiguous: left to itself, Burn pads rows on CUDA, and kernels would copy them.
///
/// The routine is chosen here and not tuned at run time: tuning compiles a dozen kernels for every new shape, minutes of a
/// first run. Of those measured in steps of a ViT-B, one was the fastest for linear layers, adapters and attention.
pub(crate) fn product(lhs: CubeTensor, rhs: CubeTensor, dtype: DType) -> CubeTensor {
    if lhs.dtype == DType::F32 && rounds_f32(&lhs.client) {
        return cast(exact_product(lhs, rhs), dtype);
    }
    let y = unwritten(&lhs, product_shape(&lhs, &rhs), dtype);
    if has_bulk_loads(&y.client) {
        // Some planes load tiles, the others multiply them.
        let specialized = Strategy::SpecializedTmaMma(BlueprintStrategy::Inferred(().into()));
        if product_by(specialized, &lhs, &rhs, &y).is_ok() {
            return y;
        }
    }
    matmul(lhs, rhs, Some(y), MatmulStrategy::Cube, dtype).unwrap_or_else(|e| panic!("matrix product: {e:?}"))
}

/// Products of f32 that keep all of it, on the units that multiply f32.
fn exact_product(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    let y = unwritten(&lhs, product_shape(&lhs, &rhs), DType::F32);
    product_by(Strategy::DoubleUnit(Default::default()), &lhs, &rhs, &y)
        .or_else(|_| product_by(Strategy::Naive, &lhs, &rhs, &y))
        .unwrap_or_else(|error| panic!("matrix product: {error:?}"));
    y
}

/// `[.., m, n]` for `[.., m, k]` and `[.., k, n]`.
fn product_shape(lhs: &CubeTensor, rhs: &CubeTensor) -> Shape {
    let mut shape = lhs.shape();
    let last = shape.num_dims() - 1;
    shape[last] = rhs.shape()[last];
    shape
}

/// Whether Burn's products of f32 take tensor cores, which round factors to 11 bits (TF32).
fn rounds_f32(client: &Client) -> bool {
    client.properties().supports_type(ElemType::Float(FloatKind::TF32))
}

/// Whether the device copies tiles on its own (NVIDIA's tensor memory accelerator, from Hopper on).
fn has_bulk_loads(client: &Client) -> bool {
    client.properties().features.tma.contains(Tma::Base)
}

/// Writes `lhs · rhs` to `y` by a routine of choice; an error, before anything runs, where the device or the layout of the
/// factors does not allow it.
fn product_by(strategy: Strategy, lhs: &CubeTensor, rhs: &CubeTensor, y: &CubeTensor) -> Result<(), MatmulSetupError> {
    let [left, right, out] = [lhs, rhs, y].map(|tensor| elem(tensor.dtype));
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: left, rhs: right, out });
    let [lhs, rhs] =
        [(lhs, left), (rhs, right)].map(|(factor, elem)| InputBinding::new(factor.clone().binding(), elem));
    launch_ref(&strategy.into(), &y.client, lhs, rhs, y.clone().binding(), &mut types)
}

/// Refuses tensors with another number of values, or of another type, than a kernel is told: it reaches for them unchecked.
pub(crate) fn expect<const N: usize>(tensors: [(&CubeTensor, usize, DType); N]) {
    for (tensor, values, dtype) in tensors {
        let fits = count(tensor) == values && tensor.dtype == dtype;
        assert!(fits, "{:?} of {:?} for {values} values of {dtype:?}", tensor.shape(), tensor.dtype);
    }
}

/// Number of values.
pub(crate) fn count(tensor: &CubeTensor) -> usize {
    tensor.shape().num_elements()
}

/// Who adds up the values of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Team {
    /// The units that run in step; several rows in a cube, no barrier.
    Plane,
    /// All units of a cube.
    Cube,
}

/// Units of a cube that works on rows.
const TEAM_UNITS: u32 = 256;
/// Planes of a cube, at most.
const MAX_PLANES: usize = 64;
/// Vectors of a row from which on a whole cube shares it.
const LONG_ROW: usize = 1024;

/// The team for rows of so many vectors, and the grid that gives each row one. A kernel finds its row and its place in
/// the team with [`row_of_team`] and [`place_in_team`].
pub(crate) fn teams(tensor: &CubeTensor, rows: usize, vectors: usize) -> (Team, CubeCount, CubeDim) {
    let hardware = &tensor.client.properties().hardware;
    let [narrow, wide] = [hardware.plane_size_min, hardware.plane_size_max];
    let dim = CubeDim::new_2d(wide, (TEAM_UNITS / wide).max(1));
    // Where planes may be narrower than the device says at most, a row of units could be two of them.
    let team = if vectors >= LONG_ROW || narrow != wide { Team::Cube } else { Team::Plane };
    let cubes = match team {
        Team::Plane => rows.div_ceil(dim.y as usize),
        Team::Cube => rows,
    };
    (team, cube_count_spread(tensor, cubes), dim)
}

/// So many cubes, spread over the dimensions of a grid as the device allows.
fn cube_count_spread(tensor: &CubeTensor, cubes: usize) -> CubeCount {
    calculate_cube_count_elemwise(&tensor.client, cubes, CubeDim::new_single())
}

/// The row of this unit's team; the grid may have more teams than there are rows.
#[cube]
pub(crate) fn row_of_team(#[comptime] team: Team) -> usize {
    match team {
        Team::Plane => CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize,
        Team::Cube => CUBE_POS,
    }
}

/// The place of this unit in its team, and the number of units in it.
#[cube]
pub(crate) fn place_in_team(#[comptime] team: Team) -> (usize, usize) {
    match team {
        Team::Plane => (UNIT_POS_X as usize, CUBE_DIM_X as usize),
        Team::Cube => (UNIT_POS as usize, CUBE_DIM as usize),
    }
}

/// The sum of `value` over the team, in an order that depends on nothing but the place in it.
#[cube]
pub(crate) fn team_sum(value: f32, #[comptime] team: Team) -> f32 {
    let sum = plane_sum(value);
    match team {
        Team::Plane => sum,
        Team::Cube => {
            let mut parts = Shared::<[f32]>::new_slice(MAX_PLANES);
            if UNIT_POS_PLANE == 0 {
                parts[(UNIT_POS / PLANE_DIM) as usize] = sum;
            }
            sync_cube();
            let mut total = 0.0f32;
            for plane in 0..(CUBE_DIM / PLANE_DIM) as usize {
                total += parts[plane];
            }
            // Nobody may write the parts of the next sum while another still reads these.
            sync_cube();
            total
        }
    }
}

/// The largest `value` of the team.
#[cube]
pub(crate) fn team_max(value: f32, #[comptime] team: Team) -> f32 {
    let largest = plane_max(value);
    match team {
        Team::Plane => largest,
        Team::Cube => {
            let mut parts = Shared::<[f32]>::new_slice(MAX_PLANES);
            if UNIT_POS_PLANE == 0 {
                parts[(UNIT_POS / PLANE_DIM) as usize] = largest;
            }
            sync_cube();
            let mut total = largest;
            for plane in 0..(CUBE_DIM / PLANE_DIM) as usize {
                total = max(total, parts[plane]);
            }
            sync_cube();
            total
        }
    }
}

/// The sum of the parts of a vector.
#[cube]
pub(crate) fn vector_sum<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value() {
        sum += values.extract(i);
    }
    sum
}
