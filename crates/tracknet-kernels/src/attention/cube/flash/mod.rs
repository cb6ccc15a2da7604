//! Attention without scores in memory, for devices whose matrix units take factors from registers (FlashAttention-2, Dao,
//! 2023, <https://arxiv.org/abs/2307.08691>).
//!
//! Queries, keys, values and gradients are read where they are, heads side by side; only rotated queries and keys are written
//! anew. Between two products everything stays in registers. Backward takes two kernels, one for queries and one for keys and
//! values, and computes probabilities in both: sums have one order, whatever runs first.

mod backward;
mod forward;
mod layout;
mod tiles;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::features::MmaConfig;
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::heads::Heads;
use crate::cube::{contiguous, elem, grid, launch, unwritten, vector_size};

use layout::LayoutLaunch;
use tiles::{LANES, PAIR, PLANE_ROWS, PLANES, ROWS, WIDTH};

/// Numbers in a head, at most: what a plane owns has to fit its registers.
const MAX_HEAD_DIM: usize = 128;
/// Cubes in a dimension of a grid, at most.
const MAX_CUBES: usize = 65_535;

/// An attention that runs in tiles.
pub(super) struct Flash<'a> {
    heads: &'a Heads,
    scale: f32,
}

/// Queries, keys and values in the type of the products; queries and keys have their rotary embedding.
struct Factors {
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
}

impl<'a> Flash<'a> {
    /// `None` where the device, the type or the size of the heads does not allow it.
    pub(super) fn new(heads: &'a Heads, scale: f32, client: &Client) -> Option<Self> {
        let fits = heads.head_dim.is_multiple_of(PLANE_ROWS) && heads.head_dim <= MAX_HEAD_DIM;
        let flash = Self { heads, scale };
        let runs = fits && flash.cubes().iter().all(|count| (1..=MAX_CUBES).contains(count));
        (runs && multiplies_registers(client, heads.dtype)).then_some(flash)
    }

    /// The output, and the logarithm of the sum of powers of each row of scores: f32 `[batch · heads, tokens]`.
    pub(super) fn forward(&self, query: CubeTensor, key: CubeTensor, value: CubeTensor) -> (CubeTensor, CubeTensor) {
        let output = unwritten(&query, query.shape(), query.dtype);
        let statistics = self.number_a_row(&query);
        let Factors { query, key, value } = self.factors(query, key, value);
        // SAFETY: cubes own rows of heads that exist; tokens past the last are neither read nor written. Vectors are as wide
        // as a multiple of 16 numbers allows, and `vectors` of them fill a head.
        unsafe {
            launch!(
                forward::forward,
                self.grid(),
                [WIDTH, PAIR],
                [query, key, value, output, statistics],
                self.layout(),
                self.scale,
                self.vectors(),
                [elem(self.heads.dtype), elem(output.dtype)]
            );
        }
        (output, statistics)
    }

    /// The gradients of query, key and value.
    pub(super) fn backward(
        &self,
        query: CubeTensor,
        key: CubeTensor,
        value: CubeTensor,
        output: CubeTensor,
        statistics: CubeTensor,
        gradient: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [of_query, of_key, of_value] = [(); 3].map(|()| unwritten(&query, query.shape(), query.dtype));
        let deltas = self.deltas(output, &gradient);
        let Factors { query, key, value } = self.factors(query, key, value);
        let gradient = self.heads.factor(gradient, false);
        let rotary = self.heads.rotary;
        let dtypes = [elem(self.heads.dtype), elem(of_query.dtype)];
        // SAFETY: as in `forward`; the table has a row for each token, and is not read without rotation.
        unsafe {
            launch!(
                backward::of_queries,
                self.grid(),
                [WIDTH, PAIR],
                [query, key, value, gradient, statistics, deltas, self.heads.table, of_query],
                self.layout(),
                self.scale,
                rotary,
                self.vectors(),
                dtypes
            );
            launch!(
                backward::of_keys_and_values,
                self.grid(),
                [WIDTH, PAIR],
                [query, key, value, gradient, statistics, deltas, self.heads.table, of_key, of_value],
                self.layout(),
                self.scale,
                rotary,
                self.vectors(),
                dtypes
            );
        }
        (of_query, of_key, of_value)
    }

    fn factors(&self, query: CubeTensor, key: CubeTensor, value: CubeTensor) -> Factors {
        let [query, key] = [query, key].map(|x| self.heads.factor(x, self.heads.rotary));
        Factors { query, key, value: self.heads.factor(value, false) }
    }

    /// `Σ gradient · output` for each token and head.
    fn deltas(&self, output: CubeTensor, gradient: &CubeTensor) -> CubeTensor {
        let output = contiguous(output);
        let deltas = self.number_a_row(&output);
        let width = vector_size(&output, output.dtype, [self.heads.head_dim]);
        let units = self.heads.batch * self.heads.tokens * self.heads.heads;
        let &Heads { tokens, heads, head_dim, .. } = self.heads;
        // SAFETY: a unit reads one head of one token, and writes its number, if its position is below their count; output and
        // gradient have one length and type (checked by the caller).
        unsafe {
            launch!(
                backward::deltas,
                grid(&output, units),
                [width],
                [output, gradient, deltas],
                LayoutLaunch::new(tokens, heads, heads * head_dim / width),
                units,
                head_dim / width,
                elem(output.dtype)
            );
        }
        deltas
    }

    fn number_a_row(&self, like: &CubeTensor) -> CubeTensor {
        unwritten(like, [self.heads.batch * self.heads.heads, self.heads.tokens], DType::F32)
    }

    /// One for each head, and one for each [`ROWS`] tokens of it.
    fn cubes(&self) -> [usize; 2] {
        [self.heads.batch * self.heads.heads, self.heads.tokens.div_ceil(ROWS)]
    }

    fn grid(&self) -> (CubeCount, CubeDim) {
        let [heads, blocks] = self.cubes();
        (CubeCount::new_2d(heads as u32, blocks as u32), CubeDim::new_2d(LANES as u32, PLANES as u32))
    }

    fn layout(&self) -> LayoutLaunch {
        LayoutLaunch::new(self.heads.tokens, self.heads.heads, self.heads.heads * self.vectors())
    }

    /// Vectors in a row of a head.
    fn vectors(&self) -> usize {
        self.heads.head_dim / WIDTH
    }
}

/// Whether planes of 32 multiply `dtype` from registers that they load from shared memory.
fn multiplies_registers(client: &Client, dtype: DType) -> bool {
    let (properties, factor) = (client.properties(), elem(dtype));
    let [narrow, wide] = [properties.hardware.plane_size_min, properties.hardware.plane_size_max];
    let product = MmaConfig {
        a_type: factor,
        b_type: factor,
        cd_type: ElemType::Float(FloatKind::F32),
        m: PLANE_ROWS as u32,
        n: 8,
        k: 16,
    };
    let matmul = &properties.features.matmul;
    [narrow, wide] == [LANES as u32; 2] && matmul.mma.contains(&product) && matmul.ldmatrix.contains(&factor)
}
