//! Products of tiles of bfloat16: the right factor is packed panel after panel.
//!
//! A panel is some columns of the right factor, unpacked straight into tiles that stay in the second-level cache while
//! all rows of the left factor meet them; nothing else of the weight is ever unpacked. Tasks are panels, and runs of
//! rows within them.

use super::epilogue::{BLOCK, Block, Epilogue};
use super::pack::{DEPTH, EDGE, Tile, pack_panel};
use super::{LowRank, Mask, Product, amx, avx512bf16, low_rank};
use crate::parallel::Threads;

/// Most columns of a panel.
const PANEL_COLUMNS: usize = 128;

/// Tiles of a panel, if its columns allow: half a second-level cache.
const PANEL_TILES: usize = 512;

/// Rows of a task.
const TASK_ROWS: usize = 8 * BLOCK;

/// The unit that multiplies tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Avx512Bf16,
    Amx,
}

/// A product of 32 rows and 32 columns, added to what is there.
#[derive(Clone, Copy)]
pub(super) struct BlockProduct {
    /// Two runs of `depth` tiles behind each other, for 16 rows each.
    pub(super) left: *const Tile,
    /// Two runs of `depth` tiles behind each other, for 16 columns each.
    pub(super) right: *const Tile,
    /// At least 1.
    pub(super) depth: usize,
    /// Pairs of summed values that count, at most 16 for each tile; the rest of the last tile is zero.
    pub(super) lines: usize,
    /// 32 rows of 32 values, `start_stride` values apart; 0 repeats one row.
    pub(super) start: *const f32,
    pub(super) start_stride: usize,
    /// 32 rows of 32 values behind each other; may be `start`.
    pub(super) out: *mut f32,
}

/// [`super::run`] on a unit.
///
/// # Safety
/// The processor has the unit, and the instructions of AVX512-BF16.
pub(super) unsafe fn run<E: Epilogue>(unit: Unit, product: &Product<'_>, epilogue: E) {
    let [summed, columns] = product.weight.sizes(product.side);
    let rows = product.lhs.rows();
    let threads = Threads::of_caller();
    let width = panel_columns(summed.div_ceil(DEPTH), columns);
    threads.for_each(0..columns.div_ceil(width), |panel| {
        let first = panel * width;
        let width = width.min(columns - first).next_multiple_of(BLOCK);
        let mut start = vec![0.0; width];
        if let Some(bias) = product.bias {
            let bias = &bias[first..(first + width).min(columns)];
            start[..bias.len()].copy_from_slice(bias);
        }
        let main = FactorPair::new(
            product.lhs.tiles(),
            summed,
            |tiles| {
                // SAFETY: the caller's.
                unsafe { pack_panel(&product.weight, product.side, first, tiles) };
            },
            width,
        );
        let low_rank = product.low_rank.map(|LowRank { lhs, weight, side, mask }| {
            let factor = FactorPair::new(
                lhs.tiles(),
                lhs.columns(),
                |tiles| {
                    // SAFETY: the caller's.
                    unsafe { pack_panel(&weight, side, first, tiles) };
                },
                width,
            );
            (factor, mask)
        });
        let panel = Panel {
            unit,
            rows,
            columns,
            first,
            start: &start,
            main: &main,
            low_rank: low_rank.as_ref(),
            epilogue: &epilogue,
        };
        let tasks = rows.div_ceil(TASK_ROWS);
        // SAFETY: the processor has the unit (the caller's); each task of each panel runs once, and the epilogue belongs to
        // this call.
        threads.for_each(0..tasks, |task| unsafe { panel.task(task) });
    });
}

/// As many as fit a panel, and as equal as multiples of 32 allow.
fn panel_columns(depth: usize, columns: usize) -> usize {
    let most = (PANEL_TILES / depth * EDGE).clamp(BLOCK, PANEL_COLUMNS) / BLOCK * BLOCK;
    columns.div_ceil(columns.div_ceil(most)).next_multiple_of(BLOCK)
}

/// Both sides of a sum over `summed` values, for the columns of a panel.
struct FactorPair<'a> {
    left: &'a [Tile],
    right: Vec<Tile>,
    depth: usize,
    lines: usize,
}

impl<'a> FactorPair<'a> {
    fn new(left: &'a [Tile], summed: usize, pack: impl FnOnce(&mut [Tile]), width: usize) -> Self {
        assert!(summed > 0, "a sum of no products");
        let depth = summed.div_ceil(DEPTH);
        let mut right = vec![Tile::ZERO; width / EDGE * depth];
        pack(&mut right);
        Self { left, right, depth, lines: summed.div_ceil(2) }
    }

    /// The part for the 32 rows from `row` on, and the 32 columns of block `number` of the panel.
    fn block(
        &self,
        row: usize,
        number: usize,
        (start, start_stride): (*const f32, usize),
        out: *mut f32,
    ) -> BlockProduct {
        let Self { depth, lines, .. } = *self;
        let left = self.left[row / EDGE * depth..][..2 * depth].as_ptr();
        let right = self.right[2 * number * depth..][..2 * depth].as_ptr();
        BlockProduct { left, right, depth, lines, start, start_stride, out }
    }
}

/// Some columns of the result, and what the tasks that compute them share.
struct Panel<'a, E> {
    unit: Unit,
    rows: usize,
    columns: usize,
    /// First column of the panel.
    first: usize,
    /// What every row of sums starts with: the bias, or zeros.
    start: &'a [f32],
    main: &'a FactorPair<'a>,
    low_rank: Option<&'a (FactorPair<'a>, Option<&'a Mask>)>,
    epilogue: &'a E,
}

impl<E: Epilogue> Panel<'_, E> {
    /// The rows of one task.
    ///
    /// # Safety
    /// The processor has the unit, and no task runs twice.
    unsafe fn task(&self, task: usize) {
        let rows = (task * TASK_ROWS..((task + 1) * TASK_ROWS).min(self.rows)).step_by(BLOCK);
        match self.unit {
            // SAFETY: the caller's; `blocks` makes its parts of valid pointers.
            Unit::Avx512Bf16 => unsafe { self.blocks(rows, |part| avx512bf16::multiply(part)) },
            Unit::Amx => {
                // SAFETY: the caller's; nothing that runs while they live takes tiles.
                let tiles = unsafe { amx::Tiles::configure() };
                // SAFETY: as above.
                unsafe { self.blocks(rows, |part| tiles.multiply(part)) };
            }
        }
    }

    /// Hands the blocks of the rows to the epilogue. `multiply` gets parts whose pointers are valid as their fields say.
    ///
    /// # Safety
    /// The processor has the unit, and no row of a panel comes twice.
    unsafe fn blocks(&self, rows: impl Iterator<Item = usize>, multiply: impl Fn(BlockProduct)) {
        let mut block = Block::ZERO;
        for row in rows {
            for (number, start) in self.start.chunks_exact(BLOCK).enumerate() {
                let column = self.first + number * BLOCK;
                let size = [(self.rows - row).min(BLOCK), (self.columns - column).min(BLOCK)];
                let out = block.0.as_flattened_mut().as_mut_ptr();
                let mut start = (start.as_ptr(), 0);
                if let Some((factor, mask)) = self.low_rank {
                    multiply(factor.block(row, number, start, out));
                    if let Some(mask) = mask {
                        let words = (row..row + size[0]).map(|row| mask.row(row)[column / BLOCK]);
                        // SAFETY: the caller's.
                        block.0.iter_mut().zip(words).for_each(|(line, word)| unsafe { low_rank::keep(line, word) });
                    }
                    start = (out.cast_const(), BLOCK);
                }
                multiply(self.main.block(row, number, start, out));
                // SAFETY: panels do not share columns, and no row of this one comes twice (the caller's).
                unsafe { self.epilogue.apply(row, column, &block, size) };
            }
        }
    }
}
