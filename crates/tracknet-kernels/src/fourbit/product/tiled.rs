//! Products of tiles of bfloat16: `x` is packed once, the weight panel after panel.
//!
//! A panel is some columns of the right factor, dequantized straight into tiles that stay in the second-level cache
//! while all rows of `x` meet them; nothing else of the weight is ever unpacked. Tasks are panels, and runs of rows
//! within them.

use rayon::prelude::*;

use super::pack::{DEPTH, EDGE, Tile, pack_panel, pack_rows};
use super::{Side, Weight, amx, avx512bf16};
use crate::chunks::Caller;

/// Rows and columns that a microkernel computes.
pub(super) const SIZE: usize = 32;

/// Most columns of a panel.
const PANEL_COLUMNS: usize = 128;

/// Tiles of a panel, if its columns allow: half a second-level cache.
const PANEL_TILES: usize = 512;

/// Rows of a task.
const TASK_ROWS: usize = 8 * SIZE;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Avx512Bf16,
    Amx,
}

/// A product of 32 rows and 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Two runs of `depth` tiles behind each other, for 16 rows each.
    pub(super) left: *const Tile,
    /// Two runs of `depth` tiles behind each other, for 16 columns each.
    pub(super) right: *const Tile,
    /// At least 1.
    pub(super) depth: usize,
    /// 32 values.
    pub(super) bias: *const f32,
    /// 32 rows of 32 values, `stride` values apart.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
}

/// See [`super::Implementation::multiply`]. The processor has the unit.
pub(super) fn multiply(unit: Unit, x: &[f32], weight: Weight<'_>, side: Side, bias: Option<&[f32]>) -> Vec<f32> {
    let [summed, columns] = weight.sizes(side);
    let rows = x.len() / summed;
    let caller = Caller::enter();
    let parallel = caller.is_alone() && rayon::current_num_threads() > 1;
    let depth = summed.div_ceil(DEPTH);
    let x = packed_rows(x, summed, parallel);
    let mut y = Vec::with_capacity(rows * columns);
    let run = Run { unit, x: &x, rows, columns, depth, y: y.as_mut_ptr() };
    let width = panel_columns(depth, columns);
    let panel = |panel: usize| {
        let first = panel * width;
        let width = width.min(columns - first).next_multiple_of(SIZE);
        let mut tiles = vec![Tile::ZERO; width / EDGE * depth];
        // SAFETY: a unit exists only where the instructions do.
        unsafe { pack_panel(&weight, side, first, &mut tiles) };
        let mut start = vec![0.0; width];
        if let Some(bias) = bias {
            let bias = &bias[first..(first + width).min(columns)];
            start[..bias.len()].copy_from_slice(bias);
        }
        let panel = Panel { first, tiles: &tiles, bias: &start };
        let tasks = rows.div_ceil(TASK_ROWS);
        if parallel {
            (0..tasks).into_par_iter().for_each(|task| run.task(panel, task));
        } else {
            (0..tasks).for_each(|task| run.task(panel, task));
        }
    };
    let panels = columns.div_ceil(width);
    if parallel {
        (0..panels).into_par_iter().for_each(panel);
    } else {
        (0..panels).for_each(panel);
    }
    // SAFETY: the tasks of a panel write its columns in all rows, and the panels cover the columns.
    unsafe { y.set_len(rows * columns) };
    y
}

/// As many as fit a panel, and as equal as multiples of 32 allow.
fn panel_columns(depth: usize, columns: usize) -> usize {
    let most = (PANEL_TILES / depth * EDGE).clamp(SIZE, PANEL_COLUMNS) / SIZE * SIZE;
    columns.div_ceil(columns.div_ceil(most)).next_multiple_of(SIZE)
}

/// `x` as left tiles, with rows of zeros up to a multiple of 32.
fn packed_rows(x: &[f32], columns: usize, parallel: bool) -> Vec<Tile> {
    let depth = columns.div_ceil(DEPTH);
    let rows = x.len() / columns;
    let mut tiles = vec![Tile::ZERO; rows.next_multiple_of(SIZE) / EDGE * depth];
    let pack = |(x, tiles): (&[f32], &mut [Tile])| {
        // SAFETY: a unit exists only where the instructions do.
        unsafe { pack_rows(x, columns, tiles) };
    };
    let (values, task) = (TASK_ROWS * columns, TASK_ROWS / EDGE * depth);
    if parallel {
        x.par_chunks(values).zip(tiles.par_chunks_mut(task)).for_each(pack);
    } else {
        x.chunks(values).zip(tiles.chunks_mut(task)).for_each(pack);
    }
    tiles
}

/// Columns of the right factor, ready to multiply.
#[derive(Clone, Copy)]
struct Panel<'a> {
    first: usize,
    tiles: &'a [Tile],
    bias: &'a [f32],
}

/// What all tasks of a product share.
#[derive(Clone, Copy)]
struct Run<'a> {
    unit: Unit,
    x: &'a [Tile],
    rows: usize,
    columns: usize,
    depth: usize,
    y: *mut f32,
}

// SAFETY: `y` is written by tasks that share no element, while the one owner waits for them.
unsafe impl Sync for Run<'_> {}
// SAFETY: as above.
unsafe impl Send for Run<'_> {}

impl Run<'_> {
    /// The rows of one task, in the columns of one panel.
    fn task(&self, panel: Panel<'_>, task: usize) {
        let rows = (task * TASK_ROWS..((task + 1) * TASK_ROWS).min(self.rows)).step_by(SIZE);
        match self.unit {
            // SAFETY: a unit exists only where the instructions do, and `blocks` makes its blocks of valid pointers.
            Unit::Avx512Bf16 => self.blocks(panel, rows, |block| unsafe { avx512bf16::multiply(block) }),
            Unit::Amx => {
                // SAFETY: as above.
                let tiles = unsafe { amx::Tiles::configure() };
                // SAFETY: as above.
                self.blocks(panel, rows, |block| unsafe { tiles.multiply(block) });
            }
        }
    }

    fn blocks(&self, panel: Panel<'_>, rows: impl Iterator<Item = usize>, multiply: impl Fn(Block)) {
        let Self { x, depth, columns, .. } = *self;
        for row in rows {
            let left = &x[row / EDGE * depth..][..2 * depth];
            for (number, right) in panel.tiles.chunks_exact(2 * depth).enumerate() {
                let bias = &panel.bias[number * SIZE..][..SIZE];
                let column = panel.first + number * SIZE;
                let block = |out: *mut f32, stride: usize| Block {
                    left: left.as_ptr(),
                    right: right.as_ptr(),
                    depth,
                    bias: bias.as_ptr(),
                    out,
                    stride,
                };
                let (height, width) = ((self.rows - row).min(SIZE), (columns - column).min(SIZE));
                // SAFETY: row and column lie in `y`.
                let out = unsafe { self.y.add(row * columns + column) };
                if height == SIZE && width == SIZE {
                    multiply(block(out, columns));
                } else {
                    let mut scratch = [0.0; SIZE * SIZE];
                    multiply(block(scratch.as_mut_ptr(), SIZE));
                    for (at, line) in scratch.chunks_exact(SIZE).take(height).enumerate() {
                        // SAFETY: `height` rows and `width` columns from here lie in `y`, and no other task has them.
                        unsafe { out.add(at * columns).copy_from_nonoverlapping(line.as_ptr(), width) };
                    }
                }
            }
        }
    }
}
