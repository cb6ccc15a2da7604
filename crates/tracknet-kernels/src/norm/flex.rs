//! The CPU backend: groups, or runs of rows, are shared out to threads.

use std::marker::PhantomData;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::kernel::{NormalizeGroup, NormalizeGroupGradient, NormalizeRows, NormalizeRowsGradient, Statistics};
use super::ops::{FusedActivation, NormOps, NormSpec};
use super::reference;
use crate::chunks;
use crate::gelu::kernel::{Activate, Gelu, Identity, Relu};
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::simd::Level;

/// Rows of one task. Fixed, because the sums over rows are added up by task.
const ROWS_PER_TASK: usize = 32;

impl NormOps for Flex {
    fn normalize(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, spec: NormSpec) -> (FlexTensor, FlexTensor) {
        if !are_f32([&x, &weight, &bias]) {
            return reference::normalize::<Flex>(x, weight, bias, spec);
        }
        forward(Level::best(), [x, weight, bias], spec)
    }

    fn normalize_gradients(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        statistics: FlexTensor,
        gradient: FlexTensor,
        spec: NormSpec,
        parameters: bool,
    ) -> (FlexTensor, Option<FlexTensor>, Option<FlexTensor>) {
        let tensors = [x, weight, bias, statistics, gradient];
        if !are_f32(tensors.each_ref()) {
            return reference::gradients::<Flex>(tensors, spec, parameters);
        }
        backward(Level::best(), tensors, spec, parameters)
    }
}

fn forward(level: Level, tensors: [FlexTensor; 3], spec: NormSpec) -> (FlexTensor, FlexTensor) {
    let tensors = tensors.map(contiguous);
    let shape = tensors[0].shape();
    let work = Normalization { level, spec, shape: shape.dims() };
    let arguments = tensors.each_ref().map(slice);
    let (y, statistics) = match spec.activation {
        FusedActivation::None => work.forward::<Identity>(arguments),
        FusedActivation::Gelu => work.forward::<Gelu>(arguments),
        FusedActivation::Relu => work.forward::<Relu>(arguments),
    };
    let rows = statistics.len();
    (tensor(y, shape), tensor(statistics.into_flattened(), [rows, 2]))
}

fn backward(
    level: Level,
    tensors: [FlexTensor; 5],
    spec: NormSpec,
    parameters: bool,
) -> (FlexTensor, Option<FlexTensor>, Option<FlexTensor>) {
    let tensors = tensors.map(contiguous);
    let shape = tensors[0].shape();
    let work = Normalization { level, spec, shape: shape.dims() };
    let arguments = tensors.each_ref().map(slice);
    let (of_x, sums) = match spec.activation {
        FusedActivation::None => work.backward::<Identity>(arguments, parameters),
        FusedActivation::Gelu => work.backward::<Gelu>(arguments, parameters),
        FusedActivation::Relu => work.backward::<Relu>(arguments, parameters),
    };
    let channels = shape[1];
    let (of_weight, of_bias) = match sums {
        Some([of_weight, of_bias]) => (Some(tensor(of_weight, [channels])), Some(tensor(of_bias, [channels]))),
        None => (None, None),
    };
    (tensor(of_x, shape), of_weight, of_bias)
}

/// A normalization of `[batch, channels, space]`.
#[derive(Clone, Copy)]
struct Normalization {
    level: Level,
    spec: NormSpec,
    shape: [usize; 3],
}

impl Normalization {
    /// A row of channels is one group whose weights change from value to value; elsewhere they are those of a plane.
    fn is_rows(self) -> bool {
        self.spec.groups == 1 && self.shape[2] == 1
    }

    /// Channels of a group and the values of all of them.
    fn group(self) -> [usize; 2] {
        let channels = self.shape[1] / self.spec.groups;
        [channels, channels * self.shape[2]]
    }

    fn forward<F: Activate>(self, [x, weight, bias]: [&[f32]; 3]) -> (Vec<f32>, Vec<Statistics>) {
        let (level, epsilon, activation) = (self.level, self.spec.epsilon, PhantomData::<F>);
        if self.is_rows() {
            let task = ROWS_PER_TASK * self.shape[1];
            let (y, statistics) = chunks::fill(x.len(), task, |number, y| {
                let x = &x[number * task..][..y.len()];
                level.run(NormalizeRows { x, weight, bias, epsilon, y, activation })
            });
            return (y, statistics.concat());
        }
        let [channels, values] = self.group();
        chunks::fill(x.len(), values, |number, y| {
            let first = number % self.spec.groups * channels;
            let [weight, bias] = [weight, bias].map(|all| &all[first..][..channels]);
            level.run(NormalizeGroup { x: &x[number * values..][..values], weight, bias, epsilon, y, activation })
        })
    }

    /// The gradients of `x`, and of weight and bias.
    fn backward<F: Activate>(
        self,
        [x, weight, bias, statistics, gradient]: [&[f32]; 5],
        parameters: bool,
    ) -> (Vec<f32>, Option<[Vec<f32>; 2]>) {
        let (level, statistics, activation) = (self.level, statistics.as_chunks::<2>().0, PhantomData::<F>);
        let all = self.shape[1];
        if self.is_rows() {
            let task = ROWS_PER_TASK * all;
            let (of_x, sums) = chunks::fill(x.len(), task, |number, of_x| {
                let statistics = &statistics[number * ROWS_PER_TASK..];
                let [x, gradient] = [x, gradient].map(|all| &all[number * task..][..of_x.len()]);
                level.run(NormalizeRowsGradient { x, weight, bias, statistics, gradient, of_x, parameters, activation })
            });
            return (of_x, parameters.then(|| sum_of_tasks(&sums, all)));
        }
        let [channels, values] = self.group();
        let (of_x, sums) = chunks::fill(x.len(), values, |number, of_x| {
            let first = number % self.spec.groups * channels;
            let [weight, bias] = [weight, bias].map(|all| &all[first..][..channels]);
            let [x, gradient] = [x, gradient].map(|all| &all[number * values..][..values]);
            let statistics = statistics[number];
            level.run(NormalizeGroupGradient { x, weight, bias, statistics, gradient, of_x, activation })
        });
        (of_x, parameters.then(|| sum_of_groups(&sums, all)))
    }
}

/// Sums of tasks, each `[weight, bias]` of all channels, added in order.
fn sum_of_tasks(sums: &[Vec<f32>], channels: usize) -> [Vec<f32>; 2] {
    let mut total = [vec![0.0; channels], vec![0.0; channels]];
    for sums in sums {
        for (total, sums) in total.iter_mut().zip(sums.chunks_exact(channels)) {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
    }
    total
}

/// Sums of groups, each a pair for each channel of the group, added over the batch in order.
fn sum_of_groups(sums: &[Vec<[f32; 2]>], channels: usize) -> [Vec<f32>; 2] {
    let mut total = [vec![0.0; channels], vec![0.0; channels]];
    for (at, [of_weight, of_bias]) in sums.iter().flatten().enumerate() {
        total[0][at % channels] += of_weight;
        total[1][at % channels] += of_bias;
    }
    total
}

#[cfg(test)]
mod tests;
