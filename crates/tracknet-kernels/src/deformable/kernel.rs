//! Deformable attention on slices, for any instruction set.

use super::ops::Pyramid;
use crate::simd::{Kernel, Simd, mul_add};

/// Arguments of the operation, contiguous; shapes as [`super::deformable_attention`] has them.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a> {
    pub(super) value: &'a [f32],
    pub(super) locations: &'a [f32],
    pub(super) weights: &'a [f32],
    pub(super) pyramid: &'a Pyramid,
    pub(super) cells: usize,
    pub(super) queries: usize,
    pub(super) heads: usize,
    pub(super) features: usize,
}

/// A cell beside a place, with its share of it and the slopes of that share along x and y.
#[derive(Clone, Copy)]
struct Corner {
    cell: usize,
    share: f32,
    slope: [f32; 2],
}

/// Along one axis: the cells before and behind a place, if they are there, and their shares.
#[inline(always)]
fn neighbours(location: f32, size: usize) -> [(Option<usize>, f32, f32); 2] {
    let place = location * size as f32 - 0.5;
    let before = place.floor();
    let fraction = place - before;
    // NaN and places far outside have no cell.
    let cell = |at: f32| (at >= 0.0 && at < size as f32).then_some(at as usize);
    [(cell(before), 1.0 - fraction, -(size as f32)), (cell(before + 1.0), fraction, size as f32)]
}

impl Arguments<'_> {
    /// Calls `visit(number of the place, corner)` for the cells around the places of `head` of the query with this number in
    /// the batch.
    #[inline(always)]
    fn corners(&self, query: usize, head: usize, mut visit: impl FnMut(usize, Corner)) {
        let places = self.pyramid.places();
        let first = (query * self.heads + head) * places;
        for (level, (start, [height, width])) in self.pyramid.with_starts().enumerate() {
            for place in level * self.pyramid.points..(level + 1) * self.pyramid.points {
                let [x, y] = [0, 1].map(|axis| self.locations[2 * (first + place) + axis]);
                for (row, down, down_slope) in neighbours(y, height) {
                    for (column, across, across_slope) in neighbours(x, width) {
                        if let (Some(row), Some(column)) = (row, column) {
                            let cell = start + row * width + column;
                            let slope = [across_slope * down, down_slope * across];
                            visit(first + place, Corner { cell, share: across * down, slope });
                        }
                    }
                }
            }
        }
    }

    /// The features of a cell for a head, in the frame of a query.
    #[inline(always)]
    fn features_of(&self, query: usize, cell: usize, head: usize) -> &[f32] {
        let frame = query / self.queries;
        &self.value[((frame * self.cells + cell) * self.heads + head) * self.features..][..self.features]
    }
}

/// The result for the queries from `first` on, as many as `y` has room for: `[queries, heads · features]`, zeros before.
pub(super) struct Attend<'a> {
    pub(super) arguments: Arguments<'a>,
    pub(super) first: usize,
    pub(super) y: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Arguments { weights, heads, features, .. } = self.arguments;
        for (number, y) in self.y.chunks_exact_mut(features).enumerate() {
            let (query, head) = (self.first + number / heads, number % heads);
            self.arguments.corners(query, head, |place, corner| {
                let factor = weights[place] * corner.share;
                for (y, v) in y.iter_mut().zip(self.arguments.features_of(query, corner.cell, head)) {
                    *y = mul_add::<S>(factor, *v, *y);
                }
            });
        }
    }
}

/// The gradients of weight, x and y of each place, for the queries from `first` on: `[queries, heads, places, 3]`, zeros
/// before.
pub(super) struct PlaceGradients<'a> {
    pub(super) arguments: Arguments<'a>,
    /// Of the whole result.
    pub(super) gradient: &'a [f32],
    pub(super) first: usize,
    pub(super) of_places: &'a mut [f32],
}

impl Kernel for PlaceGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Arguments { weights, heads, features, pyramid, .. } = self.arguments;
        let places = pyramid.places();
        for (number, of_places) in self.of_places.chunks_exact_mut(3 * places).enumerate() {
            let (query, head) = (self.first + number / heads, number % heads);
            let gradient = &self.gradient[(query * heads + head) * features..][..features];
            self.arguments.corners(query, head, |place, corner| {
                let mut product = 0.0;
                for (g, v) in gradient.iter().zip(self.arguments.features_of(query, corner.cell, head)) {
                    product = mul_add::<S>(*g, *v, product);
                }
                let [of_weight, of_x, of_y] = [0, 1, 2].map(|part| 3 * (place % places) + part);
                of_places[of_weight] += product * corner.share;
                of_places[of_x] += product * weights[place] * corner.slope[0];
                of_places[of_y] += product * weights[place] * corner.slope[1];
            });
        }
    }
}

/// The gradient of the value for one head of one frame, `[cells, features]`, zeros before: every query adds to the cells
/// that it looked at, in their order.
pub(super) struct ValueGradient<'a> {
    pub(super) arguments: Arguments<'a>,
    pub(super) gradient: &'a [f32],
    pub(super) frame: usize,
    pub(super) head: usize,
    pub(super) of_value: &'a mut [f32],
}

impl Kernel for ValueGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Arguments { weights, heads, features, queries, .. } = self.arguments;
        for query in self.frame * queries..(self.frame + 1) * queries {
            let gradient = &self.gradient[(query * heads + self.head) * features..][..features];
            self.arguments.corners(query, self.head, |place, corner| {
                let factor = weights[place] * corner.share;
                let of_cell = &mut self.of_value[corner.cell * features..][..features];
                for (of_value, g) in of_cell.iter_mut().zip(gradient) {
                    *of_value = mul_add::<S>(factor, *g, *of_value);
                }
            });
        }
    }
}
