//! The left factor of products: rows rounded to bfloat16 and laid out once, for every product that reads them.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::pack::{DEPTH, EDGE, Tile, pack_rows};
use super::sink::{BLOCK, round_bf16};
use super::{Implementation, Kind};
use crate::chunks::Caller;

/// Rows that are filled together; with those of one tile they fit the first caches.
const FILLED: usize = 16;

/// Rows of a task.
const TASK_ROWS: usize = 8 * BLOCK;

/// `[count, columns]` in bfloat16.
pub(crate) struct Rows {
    count: usize,
    columns: usize,
    pub(super) layout: Layout,
}

/// How the values lie.
pub(super) enum Layout {
    /// Tiles of 16 rows and 32 columns, those of 16 rows behind each other; rows of zeros up to a multiple of 32.
    #[cfg(target_arch = "x86_64")]
    Tiles(Vec<Tile>),
    /// Row by row, as f32.
    Float(Vec<f32>),
}

impl Rows {
    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn from_tiles(count: usize, columns: usize, tiles: Vec<Tile>) -> Self {
        Self { count, columns, layout: Layout::Tiles(tiles) }
    }

    pub(super) fn from_floats(count: usize, columns: usize, mut values: Vec<f32>) -> Self {
        values.iter_mut().for_each(|x| *x = half::bf16::from_bits(round_bf16(*x)).to_f32());
        Self { count, columns, layout: Layout::Float(values) }
    }

    /// Row-major f32 values, of rows that were laid out so.
    pub(super) fn floats(&self) -> &[f32] {
        match &self.layout {
            Layout::Float(values) => values,
            #[cfg(target_arch = "x86_64")]
            Layout::Tiles(_) => unreachable!("an implementation reads the rows that it made"),
        }
    }

    /// Tiles, of rows that were laid out so.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tiles(&self) -> &[Tile] {
        match &self.layout {
            Layout::Tiles(tiles) => tiles,
            Layout::Float(_) => unreachable!("an implementation reads the rows that it made"),
        }
    }
}

impl Implementation {
    /// `count` rows of `columns` values; `fill(first, values)` writes whole rows from row `first` on, which are then
    /// rounded: what makes the rows needs no array of its own.
    pub(crate) fn rows(self, count: usize, columns: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Rows {
        let caller = Caller::enter();
        let parallel = caller.is_alone() && rayon::current_num_threads() > 1 && count > FILLED;
        let layout = match self.0 {
            Kind::Float => {
                let mut values = vec![0.0; count * columns];
                let task = |(task, values): (usize, &mut [f32])| {
                    fill(task * FILLED, values);
                    values.iter_mut().for_each(|x| *x = half::bf16::from_bits(round_bf16(*x)).to_f32());
                };
                if parallel {
                    values.par_chunks_mut(FILLED * columns).enumerate().for_each(task);
                } else {
                    values.chunks_mut(FILLED * columns).enumerate().for_each(task);
                }
                Layout::Float(values)
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 | Kind::Amx => {
                let depth = columns.div_ceil(DEPTH);
                let mut tiles = vec![Tile::ZERO; count.next_multiple_of(BLOCK) / EDGE * depth];
                let task = |(task, tiles): (usize, &mut [Tile])| {
                    let mut scratch = vec![0.0; EDGE * columns];
                    for (block, tiles) in tiles.chunks_exact_mut(depth).enumerate() {
                        let first = task * TASK_ROWS + block * EDGE;
                        let rows = count.saturating_sub(first).min(EDGE);
                        if rows > 0 {
                            fill(first, &mut scratch[..rows * columns]);
                            // SAFETY: the value exists only where `available` found the instructions.
                            unsafe { pack_rows(&scratch[..rows * columns], columns, tiles) };
                        }
                    }
                };
                let task_tiles = TASK_ROWS / EDGE * depth;
                if parallel {
                    tiles.par_chunks_mut(task_tiles).enumerate().for_each(task);
                } else {
                    tiles.chunks_mut(task_tiles).enumerate().for_each(task);
                }
                Layout::Tiles(tiles)
            }
        };
        Rows { count, columns, layout }
    }
}
