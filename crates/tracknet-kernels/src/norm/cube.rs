//! Normalization on GPUs: a team of units for each row, in f32 whatever the dtype.
//!
//! A row is what is normalized together, and its values lie in one run: the channels of a token, or the channels of a
//! group with their maps.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::{FusedActivation, NormOps, NormSpec};
use crate::cube::{
    Team, cast, contiguous, count, elem, expect, grid, launch, place_in_team, row_of_team, team_sum, teams, unwritten,
    vector_size, vector_sum,
};
use crate::gelu::cube::{gelu, gelu_slope};

/// Rows that one unit adds up for the gradients of weight and bias of a layer normalization.
const ROWS_PER_UNIT: usize = 256;

impl NormOps for CubeBackend {
    fn normalize(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, spec: NormSpec) -> (CubeTensor, CubeTensor) {
        let rows = RowInput::new(x, weight, bias, spec);
        let y = unwritten(&rows.x, rows.x.shape(), rows.x.dtype);
        let statistics = unwritten(&rows.x, [rows.count, 2], DType::F32);
        let (team, cubes, dim) = teams(&rows.x, rows.count, rows.vectors);
        // SAFETY: a team works on its row only if there is one, on vectors within it; the channel of a vector is below
        // the count of channels, which weight and bias have (checked).
        unsafe {
            launch!(
                forward,
                (cubes, dim),
                [rows.width, rows.parameter_width],
                [rows.x, rows.weight, rows.bias, y, statistics],
                rows.launch(),
                spec.epsilon,
                team,
                spec.activation,
                elem(y.dtype)
            );
        }
        (y, statistics)
    }

    fn normalize_gradients(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        statistics: CubeTensor,
        gradient: CubeTensor,
        spec: NormSpec,
        parameters: bool,
    ) -> (CubeTensor, Option<CubeTensor>, Option<CubeTensor>) {
        let types = [weight.dtype, bias.dtype];
        let rows = RowInput::new(x, weight, bias, spec);
        let gradient = cast(contiguous(gradient), rows.x.dtype);
        expect([(&gradient, count(&rows.x), rows.x.dtype), (&statistics, 2 * rows.count, DType::F32)]);
        let out = unwritten(&rows.x, rows.x.shape(), rows.x.dtype);
        let (team, cubes, dim) = teams(&rows.x, rows.count, rows.vectors);
        // SAFETY: as in forward; the gradient has the length and dtype of `x`, the statistics two numbers a row (checked).
        unsafe {
            launch!(
                backward,
                (cubes, dim),
                [rows.width, rows.parameter_width],
                [rows.x, rows.weight, rows.bias, statistics, gradient, out],
                rows.launch(),
                team,
                spec.activation,
                elem(out.dtype)
            );
        }
        if !parameters {
            return (out, None, None);
        }
        let [of_weight, of_bias] = rows.parameter_gradients(statistics, gradient, spec);
        (out, Some(cast(of_weight, types[0])), Some(cast(of_bias, types[1])))
    }
}

/// The input as rows.
struct RowInput {
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    batch: usize,
    channels: usize,
    space: usize,
    groups: usize,
    count: usize,
    /// Vectors in a row.
    vectors: usize,
    /// Values in a vector.
    width: usize,
    /// Channels in a vector: its width where channels lie side by side, 1 where a vector lies in one map.
    parameter_width: usize,
}

impl RowInput {
    fn new(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, spec: NormSpec) -> Self {
        let x = contiguous(x);
        let [weight, bias] = [weight, bias].map(|parameter| contiguous(cast(parameter, DType::F32)));
        let [batch, channels, space] = x.shape().dims();
        let groups = spec.groups;
        expect([(&weight, channels, DType::F32), (&bias, channels, DType::F32)]);
        assert!(channels.is_multiple_of(groups), "{channels} channels in {groups} groups");
        let in_one_map = space > 1;
        let width = vector_size(&x, x.dtype, [if in_one_map { space } else { channels / groups }]);
        // Weight and bias are read in f32: no wider than those may be.
        let width = if in_one_map { width } else { width.min(vector_size(&x, DType::F32, [channels / groups])) };
        let vectors = channels / groups * space / width;
        let parameter_width = if in_one_map { 1 } else { width };
        Self { x, weight, bias, batch, channels, space, groups, count: batch * groups, vectors, width, parameter_width }
    }

    fn launch(&self) -> RowLayoutLaunch {
        let per_channel = if self.space > 1 { self.space / self.width } else { 1 };
        let per_group = self.channels / self.groups / self.parameter_width;
        RowLayoutLaunch::new(self.count, self.vectors, self.groups, per_group, per_channel)
    }

    /// The gradients of weight and bias, f32 `[channels]`: parts, then their sum.
    fn parameter_gradients(&self, statistics: CubeTensor, gradient: CubeTensor, spec: NormSpec) -> [CubeTensor; 2] {
        let parts = if self.space > 1 { self.batch } else { self.batch.div_ceil(ROWS_PER_UNIT) };
        let [of_weight, of_bias] = [(); 2].map(|()| unwritten(&self.x, [parts, self.channels], DType::F32));
        if self.space > 1 {
            let maps = self.batch * self.channels;
            let (team, cubes, dim) = teams(&self.x, maps, self.space / self.width);
            // SAFETY: a team works on its map only if there is one, on vectors within it, and writes one number to each
            // output, which have one for each map.
            unsafe {
                launch!(
                    of_maps,
                    (cubes, dim),
                    [self.width],
                    [self.x, self.weight, self.bias, statistics, gradient, of_weight, of_bias],
                    maps,
                    self.space / self.width,
                    self.channels,
                    self.channels / self.groups,
                    team,
                    spec.activation,
                    elem(self.x.dtype)
                );
            }
        } else {
            // SAFETY: a unit works on one channel of the rows of its part, which end with the last row, and writes one
            // number to each output, if its position is below their length.
            unsafe {
                launch!(
                    of_channels,
                    grid(&self.x, parts * self.channels),
                    [],
                    [self.x, self.weight, self.bias, statistics, gradient, of_weight, of_bias],
                    parts * self.channels,
                    self.batch,
                    self.channels,
                    self.groups,
                    ROWS_PER_UNIT,
                    spec.activation,
                    elem(self.x.dtype)
                );
            }
        }
        [of_weight, of_bias]
            .map(|parts| CubeBackend::float_reshape(CubeBackend::float_sum_dim(parts, 0), Shape::from([self.channels])))
    }
}

/// Where the values of a row are, in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct RowLayout {
    rows: usize,
    vectors: usize,
    groups: usize,
    /// Vectors of weight and bias that belong to a group.
    per_group: usize,
    /// Vectors in a row that share weight and bias.
    per_channel: usize,
}

#[cube]
impl RowLayout {
    /// The vector of weight and bias for vector `at` of `row`.
    fn parameter(&self, row: usize, at: usize) -> usize {
        row % self.groups * self.per_group + at / self.per_channel
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn forward<F: Float, N: Size, P: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<f32, P>],
    bias: &[Vector<f32, P>],
    y: &mut [Vector<F, N>],
    statistics: &mut [f32],
    layout: RowLayout,
    epsilon: f32,
    #[comptime] team: Team,
    #[comptime] activation: FusedActivation,
    #[define(F)] _dtype: ElemType,
) {
    let row = row_of_team(team);
    // A whole team leaves together: no barrier waits for it.
    if row >= layout.rows {
        terminate!();
    }
    let (place, units) = place_in_team(team);
    let start = row * layout.vectors;
    let values = f32::cast_from(layout.vectors * N::value());

    let mut sum = 0.0f32;
    let mut at = place;
    while at < layout.vectors {
        sum += vector_sum(Vector::<f32, N>::cast_from(x[start + at]));
        at += units;
    }
    let mean = team_sum(sum, team) / values;

    let mut squares = 0.0f32;
    let mut at = place;
    while at < layout.vectors {
        let centred = Vector::<f32, N>::cast_from(x[start + at]) - Vector::new(mean);
        squares += vector_sum(centred * centred);
        at += units;
    }
    let inverse = 1.0f32 / (team_sum(squares, team) / values + epsilon).sqrt();

    let mut at = place;
    while at < layout.vectors {
        let normal = (Vector::<f32, N>::cast_from(x[start + at]) - Vector::new(mean)) * Vector::new(inverse);
        let parameter = layout.parameter(row, at);
        let z = normal * spread(weight[parameter]) + spread(bias[parameter]);
        y[start + at] = Vector::cast_from(activate(z, activation));
        at += units;
    }
    if place == 0 {
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = inverse;
    }
}

/// With `n` the normalized values, `z = n w + b` and `g` the gradient of `z`: the gradient of `x` is
/// `(g w − mean(g w) − n · mean(g w n)) / deviation` with means over the row.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward<F: Float, N: Size, P: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<f32, P>],
    bias: &[Vector<f32, P>],
    statistics: &[f32],
    gradient: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    layout: RowLayout,
    #[comptime] team: Team,
    #[comptime] activation: FusedActivation,
    #[define(F)] _dtype: ElemType,
) {
    let row = row_of_team(team);
    if row >= layout.rows {
        terminate!();
    }
    let (place, units) = place_in_team(team);
    let start = row * layout.vectors;
    let values = f32::cast_from(layout.vectors * N::value());
    let mean = statistics[2 * row];
    let inverse = statistics[2 * row + 1];

    let mut first = 0.0f32;
    let mut second = 0.0f32;
    let mut at = place;
    while at < layout.vectors {
        let normal = (Vector::<f32, N>::cast_from(x[start + at]) - Vector::new(mean)) * Vector::new(inverse);
        let parameter = layout.parameter(row, at);
        let w = spread(weight[parameter]);
        let g = Vector::<f32, N>::cast_from(gradient[start + at]);
        let g = through(normal * w + spread(bias[parameter]), g, activation) * w;
        first += vector_sum(g);
        second += vector_sum(g * normal);
        at += units;
    }
    let first = team_sum(first, team) / values;
    let second = team_sum(second, team) / values;

    let mut at = place;
    while at < layout.vectors {
        let normal = (Vector::<f32, N>::cast_from(x[start + at]) - Vector::new(mean)) * Vector::new(inverse);
        let parameter = layout.parameter(row, at);
        let w = spread(weight[parameter]);
        let g = Vector::<f32, N>::cast_from(gradient[start + at]);
        let g = through(normal * w + spread(bias[parameter]), g, activation) * w;
        let of_x = (g - Vector::new(first) - normal * Vector::new(second)) * Vector::new(inverse);
        out[start + at] = Vector::cast_from(of_x);
        at += units;
    }
}

/// The sums of `g n` and `g` over each map.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn of_maps<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[f32],
    bias: &[f32],
    statistics: &[f32],
    gradient: &[Vector<F, N>],
    of_weight: &mut [f32],
    of_bias: &mut [f32],
    maps: usize,
    vectors: usize,
    channels: usize,
    per_group: usize,
    #[comptime] team: Team,
    #[comptime] activation: FusedActivation,
    #[define(F)] _dtype: ElemType,
) {
    let map = row_of_team(team);
    if map >= maps {
        terminate!();
    }
    let (place, units) = place_in_team(team);
    let start = map * vectors;
    // Maps are numbered by frame and channel, rows by frame and group: a group is a run of channels.
    let row = map / per_group;
    let channel = map % channels;
    let mean = Vector::<f32, N>::new(statistics[2 * row]);
    let inverse = Vector::<f32, N>::new(statistics[2 * row + 1]);
    let w = Vector::<f32, N>::new(weight[channel]);
    let b = Vector::<f32, N>::new(bias[channel]);

    let mut scaled = 0.0f32;
    let mut plain = 0.0f32;
    let mut at = place;
    while at < vectors {
        let normal = (Vector::<f32, N>::cast_from(x[start + at]) - mean) * inverse;
        let g = through(normal * w + b, Vector::<f32, N>::cast_from(gradient[start + at]), activation);
        scaled += vector_sum(g * normal);
        plain += vector_sum(g);
        at += units;
    }
    let scaled = team_sum(scaled, team);
    let plain = team_sum(plain, team);
    if place == 0 {
        of_weight[map] = scaled;
        of_bias[map] = plain;
    }
}

/// The sums of `g n` and `g` over some rows, a unit for each channel.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn of_channels<F: Float>(
    x: &[F],
    weight: &[f32],
    bias: &[f32],
    statistics: &[f32],
    gradient: &[F],
    of_weight: &mut [f32],
    of_bias: &mut [f32],
    units: usize,
    rows: usize,
    channels: usize,
    groups: usize,
    rows_per_unit: usize,
    #[comptime] activation: FusedActivation,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let channel = ABSOLUTE_POS % channels;
    let from = ABSOLUTE_POS / channels * rows_per_unit;
    let to = min(from + rows_per_unit, rows);
    let group = channel / (channels / groups);
    let w = Vector::<f32, Const<1>>::new(weight[channel]);
    let b = Vector::<f32, Const<1>>::new(bias[channel]);
    let mut scaled = 0.0f32;
    let mut plain = 0.0f32;
    for row in from..to {
        let statistic = 2 * (row * groups + group);
        let at = row * channels + channel;
        let centred = f32::cast_from(x[at]) - statistics[statistic];
        let normal = Vector::<f32, Const<1>>::new(centred * statistics[statistic + 1]);
        let g = through(normal * w + b, Vector::new(f32::cast_from(gradient[at])), activation);
        scaled += vector_sum(g * normal);
        plain += vector_sum(g);
    }
    of_weight[ABSOLUTE_POS] = scaled;
    of_bias[ABSOLUTE_POS] = plain;
}

/// Weight or bias for each value of a vector: one each, or one for all.
#[cube]
fn spread<N: Size, P: Size>(parameter: Vector<f32, P>) -> Vector<f32, N> {
    let channels = P::value();
    let values = N::value();
    if comptime!(channels == values) {
        Vector::<f32, N>::cast_from(parameter)
    } else {
        Vector::<f32, N>::new(parameter.extract(0usize))
    }
}

#[cube]
fn activate<N: Size>(z: Vector<f32, N>, #[comptime] activation: FusedActivation) -> Vector<f32, N> {
    match activation {
        FusedActivation::None => z,
        FusedActivation::Gelu => gelu(z),
        FusedActivation::Relu => z.max(Vector::new(0.0f32)),
    }
}

/// The gradient before the activation.
#[cube]
fn through<N: Size>(
    z: Vector<f32, N>,
    gradient: Vector<f32, N>,
    #[comptime] activation: FusedActivation,
) -> Vector<f32, N> {
    match activation {
        FusedActivation::None => gradient,
        FusedActivation::Gelu => gradient * gelu_slope(z),
        FusedActivation::Relu => {
            let zero = Vector::new(0.0f32);
            select_many(z.greater_than(&zero), gradient, zero)
        }
    }
}
