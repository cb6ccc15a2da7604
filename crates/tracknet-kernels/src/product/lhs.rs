//! The left factor of products: rounded to bfloat16 and laid out once, for every product that reads it.

use super::epilogue::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::pack::{DEPTH, EDGE, Tile, pack_rows};
use crate::parallel::Threads;
use crate::simd::{Level, round_bf16, widen_bf16};

/// Rows that are filled together; with those of one tile they fit the first caches.
const FILLED: usize = 16;

/// Rows of a task.
const TASK_ROWS: usize = 8 * BLOCK;

/// A matrix `[rows, columns]` in bfloat16.
pub(crate) struct PackedLhs {
    rows: usize,
    columns: usize,
    layout: Layout,
}

/// How the values lie.
enum Layout {
    /// Tiles of 16 rows and 32 columns, those of 16 rows behind each other; rows of zeros up to a multiple of 32.
    #[cfg(target_arch = "x86_64")]
    Tiles(Vec<Tile>),
    /// Row by row, as f32.
    Float(Vec<f32>),
}

impl PackedLhs {
    /// A factor for products on `level`. `fill(first, values)` writes whole rows from row `first` on, which are then
    /// rounded: what makes the rows needs no array of its own.
    pub(crate) fn new(level: Level, [rows, columns]: [usize; 2], fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let threads = Threads::of_caller().if_worth(rows > FILLED);
        #[cfg(target_arch = "x86_64")]
        if super::unit(level).is_some() {
            let depth = columns.div_ceil(DEPTH);
            let mut tiles = vec![Tile::ZERO; rows.next_multiple_of(BLOCK) / EDGE * depth];
            threads.for_each_chunk(&mut tiles, TASK_ROWS / EDGE * depth, |task, tiles| {
                let mut scratch = vec![0.0; EDGE * columns];
                for (block, tiles) in tiles.chunks_exact_mut(depth).enumerate() {
                    let first = task * TASK_ROWS + block * EDGE;
                    let count = rows.saturating_sub(first).min(EDGE);
                    if count > 0 {
                        fill(first, &mut scratch[..count * columns]);
                        // SAFETY: the level has a unit, and each of them comes with AVX512-BF16.
                        unsafe { pack_rows(&scratch[..count * columns], columns, tiles) };
                    }
                }
            });
            return Self::from_tiles([rows, columns], tiles);
        }
        let mut values = vec![0.0; rows * columns];
        threads.for_each_chunk(&mut values, FILLED * columns, |task, values| {
            fill(task * FILLED, values);
            values.iter_mut().for_each(|x| *x = widen_bf16(round_bf16(*x)));
        });
        Self { rows, columns, layout: Layout::Float(values) }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn from_tiles([rows, columns]: [usize; 2], tiles: Vec<Tile>) -> Self {
        Self { rows, columns, layout: Layout::Tiles(tiles) }
    }

    pub(super) fn from_floats([rows, columns]: [usize; 2], mut values: Vec<f32>) -> Self {
        values.iter_mut().for_each(|x| *x = widen_bf16(round_bf16(*x)));
        Self { rows, columns, layout: Layout::Float(values) }
    }

    /// Row-major f32 values, of a factor that was laid out so.
    pub(super) fn floats(&self) -> &[f32] {
        match &self.layout {
            Layout::Float(values) => values,
            #[cfg(target_arch = "x86_64")]
            Layout::Tiles(_) => unreachable!("a product reads factors of its own level"),
        }
    }

    /// Tiles, of a factor that was laid out so.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tiles(&self) -> &[Tile] {
        match &self.layout {
            Layout::Tiles(tiles) => tiles,
            Layout::Float(_) => unreachable!("a product reads factors of its own level"),
        }
    }
}
