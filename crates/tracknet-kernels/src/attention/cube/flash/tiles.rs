//! Tiles in shared memory and products of them on matrix units, as PTX lays out the registers of `mma.m16n8k16`
//! (<https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-fragment-mma-16816-float>).
//!
//! A plane holds 16 rows of whatever it owns. As a left factor these are one array of four pairs for each 16 columns. A
//! product is a sequence of arrays, one for each 8 columns: two pairs of neighbouring columns, in row `lane / 4` and eight
//! rows below. Two such arrays, rounded, are a left factor again: what attention makes of scores never leaves registers.

use burn_cubecl::cubecl::cmma::{MatrixIdent, MmaDefinition};
use burn_cubecl::cubecl::{self, prelude::*};

/// Rows of a tile, and of what a cube owns.
pub(super) const ROWS: usize = 64;
/// Rows that a plane owns.
pub(super) const PLANE_ROWS: usize = 16;
/// Planes in a cube.
pub(super) const PLANES: usize = ROWS / PLANE_ROWS;
/// Lanes of a plane.
pub(super) const LANES: usize = 32;
/// Rows of a tile that meet the rows of a plane at once.
pub(super) const STEP: usize = 32;
/// Values in a vector of a tile: 16 bytes, what a lane names to load a matrix.
pub(super) const WIDTH: usize = 8;
/// Values in a pair.
pub(super) const PAIR: usize = 2;

/// Two neighbouring values of a row.
pub(super) type Pair<F> = Vector<F, Const<2>>;

/// Some rows of shared memory, a vector longer than they have to be, so that eight of them lie in different banks.
#[cube]
pub(super) fn tile<F: Float, N: Size>(#[comptime] vectors: usize) -> Shared<[Vector<F, N>]> {
    Shared::<[Vector<F, N>]>::new_aligned_slice(comptime!(ROWS * (vectors + 1)), 16usize)
}

/// Loads [`ROWS`] rows of one head: the first begins at vector `start`, each next one `pitch` later; those past `rows` are 0.
#[cube]
pub(super) fn fill<F: Float, N: Size>(
    tile: &mut Shared<[Vector<F, N>]>,
    source: &[Vector<F, N>],
    start: usize,
    pitch: usize,
    rows: usize,
    #[comptime] vectors: usize,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for i in 0..comptime!(ROWS * vectors / (PLANES * LANES)) {
        let at = unit + comptime!(i * PLANES * LANES);
        let row = at / vectors;
        let column = at % vectors;
        let mut values = Vector::<F, N>::new(F::new(0.0f32));
        if row < rows {
            values = source[start + row * pitch + column];
        }
        tile[row * comptime!(vectors + 1) + column] = values;
    }
}

/// The 16 rows of a tile from `row` on as left factors, one for each 16 columns.
#[cube]
pub(super) fn left_factors<F: Float, N: Size>(
    tile: &Shared<[Vector<F, N>]>,
    row: usize,
    #[comptime] vectors: usize,
) -> Sequence<Array<Pair<F>>> {
    let lane = UNIT_POS_PLANE as usize;
    let start = (row + lane % 16) * comptime!(vectors + 1) + lane / 16;
    let mut factors = Sequence::<Array<Pair<F>>>::new();
    #[unroll]
    for k in 0..comptime!(vectors / 2) {
        factors.push(load::<F, N>(tile, start + 2 * k, false));
    }
    factors
}

/// `left · rowsᵀ` for [`STEP`] rows of a tile from `first` on: `[16, STEP]`.
#[cube]
pub(super) fn times_rows<F: Float, N: Size>(
    left: &Sequence<Array<Pair<F>>>,
    tile: &Shared<[Vector<F, N>]>,
    first: usize,
    #[comptime] vectors: usize,
) -> Sequence<Array<Pair<f32>>> {
    let definition = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let lane = UNIT_POS_PLANE as usize;
    let start = (first + lane / 16 * 8 + lane % 8) * comptime!(vectors + 1) + lane / 8 % 2;
    let mut out = zeros(comptime!(STEP / 8));
    #[unroll]
    for k in 0..comptime!(vectors / 2) {
        #[unroll]
        for j in 0..comptime!(STEP / 16) {
            let at = start + comptime!(16 * j * (vectors + 1) + 2 * k);
            let right = load::<F, N>(tile, at, false);
            definition.execute_inplace(left.index(k), &half(&right, 0usize), out.index_mut(comptime!(2 * j)));
            definition.execute_inplace(left.index(k), &half(&right, 2usize), out.index_mut(comptime!(2 * j + 1)));
        }
    }
    out
}

/// `out += weights · rows` for [`STEP`] rows of a tile from `first` on; the weights, `[16, STEP]`, are rounded to `F`.
#[cube]
pub(super) fn add_weighted_rows<F: Float, N: Size>(
    out: &mut Sequence<Array<Pair<f32>>>,
    weights: &Sequence<Array<Pair<f32>>>,
    tile: &Shared<[Vector<F, N>]>,
    first: usize,
    #[comptime] vectors: usize,
) {
    let definition = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let lane = UNIT_POS_PLANE as usize;
    let start = (first + lane % 16) * comptime!(vectors + 1) + lane / 16;
    #[unroll]
    for k in 0..comptime!(STEP / 16) {
        let left = as_left::<F>(weights.index(comptime!(2 * k)), weights.index(comptime!(2 * k + 1)));
        #[unroll]
        for j in 0..comptime!(vectors / 2) {
            let at = start + comptime!(16 * k * (vectors + 1) + 2 * j);
            let right = load::<F, N>(tile, at, true);
            definition.execute_inplace(&left, &half(&right, 0usize), out.index_mut(comptime!(2 * j)));
            definition.execute_inplace(&left, &half(&right, 2usize), out.index_mut(comptime!(2 * j + 1)));
        }
    }
}

/// A product of so many times 8 columns, still 0.
#[cube]
pub(super) fn zeros(#[comptime] tiles: usize) -> Sequence<Array<Pair<f32>>> {
    let mut all = Sequence::<Array<Pair<f32>>>::new();
    #[unroll]
    for _ in 0..tiles {
        let mut registers = Array::<Pair<f32>>::new(2usize);
        registers[0usize] = Vector::new(0.0f32);
        registers[1usize] = Vector::new(0.0f32);
        all.push(registers);
    }
    all
}

/// The largest of the values of a row, which four lanes have.
#[cube]
pub(super) fn row_max(value: f32) -> f32 {
    let value = max(value, plane_shuffle_xor(value, 1u32));
    max(value, plane_shuffle_xor(value, 2u32))
}

/// The sum of the values of a row, which four lanes have.
#[cube]
pub(super) fn row_sum(value: f32) -> f32 {
    let value = value + plane_shuffle_xor(value, 1u32);
    value + plane_shuffle_xor(value, 2u32)
}

/// Four matrices of 8×8 values; each lane names a row of one of them.
#[cube]
fn load<F: Float, N: Size>(tile: &Shared<[Vector<F, N>]>, at: usize, #[comptime] transposed: bool) -> Array<Pair<F>> {
    let definition = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    definition.load_matrix::<Vector<F, N>, Const<2>>(&tile[at..at + 1], MatrixIdent::A, 4usize, transposed)
}

/// Two of four matrices: the right factor of one product.
#[cube]
fn half<F: Float>(matrices: &Array<Pair<F>>, #[comptime] first: usize) -> Array<Pair<F>> {
    let mut two = Array::<Pair<F>>::new(2usize);
    two[0usize] = matrices[first];
    two[1usize] = matrices[comptime!(first + 1)];
    two
}

/// Two products side by side as a left factor.
#[cube]
fn as_left<F: Float>(near: &Array<Pair<f32>>, far: &Array<Pair<f32>>) -> Array<Pair<F>> {
    let mut four = Array::<Pair<F>>::new(4usize);
    four[0usize] = Vector::cast_from(near[0usize]);
    four[1usize] = Vector::cast_from(near[1usize]);
    four[2usize] = Vector::cast_from(far[0usize]);
    four[3usize] = Vector::cast_from(far[1usize]);
    four
}
