//! Where the rows of a head are in tensors with heads side by side, and how products get there.

use burn_cubecl::cubecl::{self, prelude::*};

use super::tiles::{PAIR, PLANE_ROWS, Pair, ROWS, WIDTH};

/// Sizes of `[batch, tokens, heads · head_dim]`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Layout {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    /// Vectors from a row to the next.
    pub(super) pitch: usize,
}

#[cube]
impl Layout {
    /// The vector at which the first row of a head begins; heads of all frames are counted through.
    fn start(&self, head: usize, #[comptime] vectors: usize) -> usize {
        head / self.heads * self.tokens * self.pitch + head % self.heads * vectors
    }
}

/// What a cube owns of a head, and a plane of that.
#[derive(CubeType)]
pub(super) struct Own {
    /// The head, counted through all frames.
    pub(super) head: usize,
    /// The vector at which its first row begins.
    pub(super) start: usize,
    /// The first row of the cube.
    pub(super) first: usize,
    /// The first row of the plane, counted from that of the cube.
    pub(super) row: usize,
    /// The same, counted from that of the head: a token.
    pub(super) token: usize,
    /// Whether the plane has a row. Planes whose rows are all past the last help to load.
    pub(super) works: bool,
}

#[cube]
impl Own {
    /// That of this unit.
    pub(super) fn here(layout: &Layout, #[comptime] vectors: usize) -> Own {
        let head = CUBE_POS_X as usize;
        let first = CUBE_POS_Y as usize * ROWS;
        let row = UNIT_POS_Y as usize * PLANE_ROWS;
        Own {
            head,
            start: layout.start(head, vectors),
            first,
            row,
            token: first + row,
            works: first + row < layout.tokens,
        }
    }
}

/// Writes the rows of a plane, a product of `[16, head_dim]`, from row `first` on; those past the last token are left out.
#[cube]
pub(super) fn store<G: Float, P: Size>(
    product: &Sequence<Array<Pair<f32>>>,
    out: &mut [Vector<G, P>],
    head: usize,
    first: usize,
    layout: &Layout,
    #[comptime] vectors: usize,
) {
    let lane = UNIT_POS_PLANE as usize;
    let pairs = comptime!(WIDTH / PAIR);
    let start = layout.start(head, vectors) * pairs + lane % 4;
    #[unroll]
    for half in 0..2usize {
        let token = first + lane / 4 + comptime!(8 * half);
        if token < layout.tokens {
            let place = start + token * layout.pitch * pairs;
            #[unroll]
            for j in 0..vectors {
                out[place + comptime!(j * pairs)] = Vector::cast_from(product.index(j)[half]);
            }
        }
    }
}

/// Turns a product back by the angles of its rows (tokens from `first` on) and multiplies it.
///
/// The halves `(x₁, x₂)` of a head become `(x₁ cos + x₂ sin, x₂ cos − x₁ sin)`; a lane has a pair of both.
#[cube]
pub(super) fn invert_rotary<P: Size>(
    product: &mut Sequence<Array<Pair<f32>>>,
    table: &[Vector<f32, P>],
    first: usize,
    factor: f32,
    layout: &Layout,
    #[comptime] rotated: bool,
    #[comptime] vectors: usize,
) {
    let lane = UNIT_POS_PLANE as usize;
    // Pairs of cosines, or of sines, for a token.
    let angles = comptime!(vectors / 2 * (WIDTH / PAIR));
    #[unroll]
    for half in 0..2usize {
        // Past the last token nothing is stored; any angle will do.
        let token = min(first + lane / 4 + comptime!(8 * half), layout.tokens - 1);
        #[unroll]
        for j in 0..comptime!(vectors / 2) {
            let near = product.index(j)[half];
            let far = product.index(comptime!(j + vectors / 2))[half];
            if comptime!(rotated) {
                let at = token * angles + comptime!(j * (WIDTH / PAIR)) + lane % 4;
                let cos = Pair::<f32>::cast_from(table[at]);
                let sin = Pair::<f32>::cast_from(table[layout.tokens * angles + at]);
                product.index_mut(j)[half] = (near * cos + far * sin) * Vector::new(factor);
                product.index_mut(comptime!(j + vectors / 2))[half] = (far * cos - near * sin) * Vector::new(factor);
            } else {
                product.index_mut(j)[half] = near * Vector::new(factor);
                product.index_mut(comptime!(j + vectors / 2))[half] = far * Vector::new(factor);
            }
        }
    }
}
