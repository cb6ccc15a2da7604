//! The matrix unit of x86-64 (AMX-BF16).
//!
//! Its intrinsics are not stable in Rust, so this is assembly. The unit has eight registers ("tiles") of 16 lines of 64
//! bytes; `tdpbf16ps` adds the product of a left and a right [`Tile`] to a tile of 16 × 16 f32 sums, rounding to nearest
//! and taking subnormal numbers for zero. Instructions: Intel® Architecture Instruction Set Extensions Programming
//! Reference, chapter "Intel AMX".

use std::arch::asm;

use super::epilogue::BLOCK;
use super::pack::{DEPTH, EDGE, Tile};
use super::tiled::BlockProduct;
use crate::simd::{InstructionSet, Level};

/// What `ldtilecfg` reads: palette, bytes of a line, lines; the same for all eight tiles.
#[repr(C, align(64))]
struct Shapes([u8; 64]);

static SHAPES: Shapes = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = EDGE as u8;
        tile += 1;
    }
    Shapes(bytes)
};

/// Proof that the tiles of this thread are set up; they are released on drop.
pub(super) struct Tiles(std::marker::PhantomData<*const ()>);

impl Tiles {
    /// # Safety
    /// The level has the unit, and no other value of this thread lives: the first to be dropped releases the tiles.
    pub(super) unsafe fn configure() -> Self {
        // SAFETY: the unit exists and is permitted; the shapes are 64 bytes that describe palette 1 within its limits.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly, preserves_flags));
        }
        Self(std::marker::PhantomData)
    }

    /// `out = start + left · right` for 32 rows and 32 columns: four tiles of sums, which stay in registers.
    ///
    /// # Safety
    /// The pointers of `part` are valid as its fields say.
    pub(super) unsafe fn multiply(&self, part: BlockProduct) {
        #[cfg(test)]
        crate::entered::count(("product", "AMX"));
        let BlockProduct { left, right, depth, start, start_stride, out, .. } = part;
        let (start_stride, stride) = (start_stride * size_of::<f32>(), BLOCK * size_of::<f32>());
        // SAFETY: the tiles are configured, since `self` exists on this thread. Loads stay within `depth` tiles from
        // each of the four pointers and 32 rows of 32 values of `start`, `start_stride` apart (a stride of zero reads
        // one row 32 times), stores within 32 rows of 32 values of `out`, as the caller promises. `depth` is at least 1.
        // Only tiles and the named registers change.
        unsafe {
            asm!(
                "tileloadd tmm0, [{start} + {step}*1]",
                "tileloadd tmm1, [{start} + {step}*1 + 64]",
                "tileloadd tmm2, [{start_1} + {step}*1]",
                "tileloadd tmm3, [{start_1} + {step}*1 + 64]",
                "mov {step:e}, 64",
                "2:",
                "tileloadd tmm6, [{right} + {step}*1]",
                "tileloadd tmm4, [{left} + {step}*1]",
                "tileloadd tmm7, [{right_1} + {step}*1]",
                "tileloadd tmm5, [{left_1} + {step}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 1024",
                "add {right}, 1024",
                "add {left_1}, 1024",
                "add {right_1}, 1024",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{out} + {stride}*1], tmm0",
                "tilestored [{out} + {stride}*1 + 64], tmm1",
                "tilestored [{out_1} + {stride}*1], tmm2",
                "tilestored [{out_1} + {stride}*1 + 64], tmm3",
                left = inout(reg) left => _,
                left_1 = inout(reg) left.add(depth) => _,
                right = inout(reg) right => _,
                right_1 = inout(reg) right.add(depth) => _,
                depth = inout(reg) depth => _,
                start = in(reg) start,
                start_1 = in(reg) start.byte_add(EDGE * start_stride),
                step = inout(reg) start_stride => _,
                stride = in(reg) stride,
                out = in(reg) out,
                out_1 = in(reg) out.byte_add(EDGE * stride),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Products and sums of a round of [`spin`].
pub(crate) const SPIN_OPERATIONS: usize = 4 * 2 * EDGE * EDGE * DEPTH;

/// Multiplies tiles of zeros on registers alone, as fast as the unit can, for `rounds` of four products. `None` where
/// there is no unit.
pub(crate) fn spin(rounds: usize) -> Option<()> {
    if !Level::best().has(InstructionSet::AmxBf16) {
        return None;
    }
    // SAFETY: the unit is there, and nothing else runs on this thread until the value is dropped.
    let _tiles = unsafe { Tiles::configure() };
    if rounds > 0 {
        // SAFETY: the tiles are configured; only they and the named register change.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
    }
    Some(())
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the unit exists, since the value does, and no other value of this thread lives (see `configure`).
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

// The assembly counts on these.
const _: () = assert!(BLOCK == 2 * EDGE && size_of::<Tile>() == 1024);
