//! The operation written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{BoolDType, FloatDType, IndexingUpdateOp, IntDType, Scalar, Shape, Slice};

use super::ops::Pyramid;

/// Sizes of the arguments.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    cells: usize,
    heads: usize,
    features: usize,
    queries: usize,
    points: usize,
}

impl Sizes {
    fn of<B: Backend>(value: &FloatTensor<B>, weights: &FloatTensor<B>, pyramid: &Pyramid) -> Self {
        let [batch, cells, heads, features] = value.shape().dims();
        Self { batch, cells, heads, features, queries: weights.shape()[1], points: pyramid.points }
    }

    /// Shape of one number for each place of a level: `[batch, heads, queries · points]`.
    fn places(self) -> Shape {
        Shape::from([self.batch, self.heads, self.queries * self.points])
    }

    /// Shape of the features at each place of a level: `[batch, heads, queries · points, features]`.
    fn samples(self) -> Shape {
        Shape::from([self.batch, self.heads, self.queries * self.points, self.features])
    }
}

/// One of the four cells around each place of a level; every tensor is `[batch, heads, queries · points]`.
struct Corner<B: Backend> {
    /// Number of the cell among those of all levels.
    index: IntTensor<B>,
    /// Its share of the place, along x and along y; 0 beyond the edge.
    share: [FloatTensor<B>; 2],
    /// By how much each share grows with x and with y of the place; 0 beyond the edge.
    slope: [FloatTensor<B>; 2],
}

pub(super) fn forward<B: Backend>(
    value: FloatTensor<B>,
    locations: FloatTensor<B>,
    weights: FloatTensor<B>,
    pyramid: &Pyramid,
) -> FloatTensor<B> {
    let sizes = Sizes::of::<B>(&value, &weights, pyramid);
    let Sizes { batch, heads, features, queries, points, .. } = sizes;
    let value = B::float_permute(value, &[0, 2, 1, 3]);
    let mut sum: Option<FloatTensor<B>> = None;
    for (level, (start, size)) in pyramid.with_starts().enumerate() {
        let [x, y, weight] = of_level::<B>(&locations, &weights, level, sizes);
        for corner in corners::<B>([x, y], start, size) {
            let [across, down] = corner.share;
            let factor = B::float_mul(B::float_mul(across, down), weight.clone());
            let samples = gather::<B>(value.clone(), corner.index, sizes);
            let samples = B::float_mul(samples, column::<B>(factor, sizes));
            let samples = B::float_reshape(samples, Shape::from([batch, heads, queries, points, features]));
            let of_corner = B::float_sum_dim(samples, 3);
            sum = Some(match sum {
                Some(sum) => B::float_add(sum, of_corner),
                None => of_corner,
            });
        }
    }
    let shape = Shape::from([batch, heads, queries, features]);
    let sum = match sum {
        Some(sum) => B::float_reshape(sum, shape),
        None => B::float_zeros(shape, &value.device(), FloatDType::from(value.dtype())),
    };
    B::float_reshape(B::float_permute(sum, &[0, 2, 1, 3]), Shape::from([batch, queries, heads * features]))
}

/// With `g` the gradient of the result, `v` the features of a corner and `s` its share of a place with weight `w`: the
/// gradient of `v` is `w s g`, that of `w` is `s v·g`, and that of the location `w v·g` times the slope of `s`.
pub(super) fn gradients<B: Backend>(
    [value, weights]: [FloatTensor<B>; 2],
    locations: FloatTensor<B>,
    gradient: FloatTensor<B>,
    pyramid: &Pyramid,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let sizes = Sizes::of::<B>(&value, &weights, pyramid);
    let Sizes { batch, cells, heads, features, queries, points } = sizes;
    let (device, dtype) = (value.device(), FloatDType::from(value.dtype()));
    let value = B::float_permute(value, &[0, 2, 1, 3]);
    let gradient =
        B::float_permute(B::float_reshape(gradient, Shape::from([batch, queries, heads, features])), &[0, 2, 1, 3]);
    let gradient = B::float_reshape(gradient, Shape::from([batch, heads, queries, 1, features]));
    let gradient = B::float_expand(gradient, Shape::from([batch, heads, queries, points, features]));
    let gradient = B::float_reshape(gradient, sizes.samples());

    let mut of_value = B::float_zeros(Shape::from([batch, heads, cells, features]), &device, dtype);
    let (mut of_locations, mut of_weights) = (Vec::new(), Vec::new());
    for (level, (start, size)) in pyramid.with_starts().enumerate() {
        let [x, y, weight] = of_level::<B>(&locations, &weights, level, sizes);
        let zeros = || B::float_zeros(sizes.places(), &device, dtype);
        let [mut of_x, mut of_y, mut of_weight] = [zeros(), zeros(), zeros()];
        for corner in corners::<B>([x, y], start, size) {
            let ([across, down], [across_slope, down_slope]) = (corner.share, corner.slope);
            let samples = gather::<B>(value.clone(), corner.index.clone(), sizes);
            let product = B::float_sum_dim(B::float_mul(samples, gradient.clone()), 3);
            let product = B::float_reshape(product, sizes.places());
            let weighted = B::float_mul(product.clone(), weight.clone());
            let share = B::float_mul(across.clone(), down.clone());
            of_weight = B::float_add(of_weight, B::float_mul(product, share.clone()));
            of_x = B::float_add(of_x, B::float_mul(weighted.clone(), B::float_mul(across_slope, down)));
            of_y = B::float_add(of_y, B::float_mul(weighted, B::float_mul(across, down_slope)));
            let factor = column::<B>(B::float_mul(share, weight.clone()), sizes);
            let update = B::float_mul(gradient.clone(), factor);
            of_value = B::float_scatter(2, of_value, wide::<B>(corner.index, sizes), update, IndexingUpdateOp::Add);
        }
        let place = |numbers| B::float_reshape(numbers, Shape::from([batch, heads, queries, points]));
        let pair = B::float_reshape(B::float_cat(vec![of_x, of_y], 2), Shape::from([batch, heads, 2, queries, points]));
        of_locations.push(B::float_permute(pair, &[0, 3, 1, 4, 2]));
        of_weights.push(B::float_permute(place(of_weight), &[0, 2, 1, 3]));
    }
    (B::float_permute(of_value, &[0, 2, 1, 3]), B::float_cat(of_locations, 3), B::float_cat(of_weights, 3))
}

/// x, y and weight of the places of a level.
fn of_level<B: Backend>(
    locations: &FloatTensor<B>,
    weights: &FloatTensor<B>,
    level: usize,
    sizes: Sizes,
) -> [FloatTensor<B>; 3] {
    let Sizes { batch, heads, queries, points, .. } = sizes;
    let places = level * points..(level + 1) * points;
    let by_head = |numbers: FloatTensor<B>| {
        let numbers = B::float_reshape(numbers, Shape::from([batch, queries, heads, points]));
        B::float_reshape(B::float_permute(numbers, &[0, 2, 1, 3]), sizes.places())
    };
    let axis = |axis: usize| {
        let slices = [0..batch, 0..queries, 0..heads, places.clone(), axis..axis + 1].map(Slice::from);
        by_head(B::float_slice(locations.clone(), &slices))
    };
    let slices = [0..batch, 0..queries, 0..heads, places.clone()].map(Slice::from);
    [axis(0), axis(1), by_head(B::float_slice(weights.clone(), &slices))]
}

/// The four cells around places of a level of `[height, width]` cells whose first is number `start`.
fn corners<B: Backend>([x, y]: [FloatTensor<B>; 2], start: usize, [height, width]: [usize; 2]) -> Vec<Corner<B>> {
    let across = [0, 1].map(|far| neighbour::<B>(x.clone(), width, far));
    let down = [0, 1].map(|far| neighbour::<B>(y.clone(), height, far));
    let mut corners = Vec::with_capacity(4);
    for (row, down, down_slope) in &down {
        for (column, across, across_slope) in &across {
            let index = B::float_add(B::float_mul_scalar(row.clone(), Scalar::from(width)), column.clone());
            let index = B::float_add_scalar(index, Scalar::from(start));
            corners.push(Corner {
                index: B::float_into_int(index, IntDType::I32),
                share: [across.clone(), down.clone()],
                slope: [across_slope.clone(), down_slope.clone()],
            });
        }
    }
    corners
}

/// Along one axis of `size` cells: the cell before (`far` = 0) or behind (1) each place, its share, and by how much that
/// grows with the location.
fn neighbour<B: Backend>(
    location: FloatTensor<B>,
    size: usize,
    far: usize,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (device, dtype) = (location.device(), FloatDType::from(location.dtype()));
    let place = B::float_sub_scalar(B::float_mul_scalar(location, Scalar::from(size)), Scalar::from(0.5));
    let before = B::float_floor(place.clone());
    let cell = B::float_add_scalar(before.clone(), Scalar::from(far));
    let held = B::float_clamp(cell.clone(), Scalar::from(0), Scalar::from(size - 1));
    let inside = B::bool_into_float(B::float_equal(cell, held.clone(), bool_dtype::<B>(&device)), dtype);
    let fraction = B::float_sub(place, before);
    let (share, slope) = match far {
        0 => (B::float_add_scalar(B::float_neg(fraction), Scalar::from(1)), -(size as f32)),
        _ => (fraction, size as f32),
    };
    (held, B::float_mul(share, inside.clone()), B::float_mul_scalar(inside, Scalar::from(slope)))
}

fn bool_dtype<B: Backend>(device: &B::Device) -> BoolDType {
    burn::backend::get_or_init_device_settings::<B>(device).bool_dtype
}

/// One number for each place, to multiply its features with: `[batch, heads, queries · points, 1]`.
fn column<B: Backend>(numbers: FloatTensor<B>, sizes: Sizes) -> FloatTensor<B> {
    let Sizes { batch, heads, queries, points, .. } = sizes;
    B::float_reshape(numbers, Shape::from([batch, heads, queries * points, 1]))
}

/// The number of a cell for each feature of a place.
fn wide<B: Backend>(index: IntTensor<B>, sizes: Sizes) -> IntTensor<B> {
    let Sizes { batch, heads, queries, points, .. } = sizes;
    B::int_expand(B::int_reshape(index, Shape::from([batch, heads, queries * points, 1])), sizes.samples())
}

/// The features of cells, of a value `[batch, heads, cells, features]`.
fn gather<B: Backend>(value: FloatTensor<B>, index: IntTensor<B>, sizes: Sizes) -> FloatTensor<B> {
    B::float_gather(2, value, wide::<B>(index, sizes))
}
