//! The CPU backend: queries are shared out to threads, and for the gradient of the value frames and heads.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};

use super::kernel::{Arguments, Attend, PlaceGradients, ValueGradient};
use super::ops::{DeformableOps, Pyramid};
use super::reference;
use crate::chunks;
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::simd::Level;

/// Queries of one task.
const QUERIES_PER_TASK: usize = 16;

impl DeformableOps for Flex {
    fn deformable_attention(
        value: FlexTensor,
        locations: FlexTensor,
        weights: FlexTensor,
        pyramid: Pyramid,
    ) -> FlexTensor {
        if !are_f32([&value, &locations, &weights]) {
            return reference::forward::<Flex>(value, locations, weights, &pyramid);
        }
        attend(Level::best(), [value, locations, weights], &pyramid)
    }

    fn deformable_attention_gradients(
        value: FlexTensor,
        locations: FlexTensor,
        weights: FlexTensor,
        gradient: FlexTensor,
        pyramid: Pyramid,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !are_f32([&value, &locations, &weights, &gradient]) {
            return reference::gradients::<Flex>([value, weights], locations, gradient, &pyramid);
        }
        gradients(Level::best(), [value, locations, weights], gradient, &pyramid)
    }
}

fn arguments<'a>(tensors: &'a [FlexTensor; 3], pyramid: &'a Pyramid) -> Arguments<'a> {
    let [value, locations, weights] = tensors;
    let [_, cells, heads, features] = value.shape().dims();
    let queries = weights.shape()[1];
    let [value, locations, weights] = [value, locations, weights].map(slice);
    Arguments { value, locations, weights, pyramid, cells, queries, heads, features }
}

fn attend(level: Level, tensors: [FlexTensor; 3], pyramid: &Pyramid) -> FlexTensor {
    let tensors = tensors.map(contiguous);
    let arguments = arguments(&tensors, pyramid);
    let (batch, Arguments { queries, heads, features, .. }) = (tensors[0].shape()[0], arguments);
    let work = 4 * features * arguments.weights.len();
    let task = QUERIES_PER_TASK * heads * features;
    let (y, _) = chunks::fill_from(batch * queries * heads * features, task, work, |number, y| {
        level.run(Attend { arguments, first: number * QUERIES_PER_TASK, y });
    });
    tensor(y, [batch, queries, heads * features])
}

fn gradients(
    level: Level,
    tensors: [FlexTensor; 3],
    gradient: FlexTensor,
    pyramid: &Pyramid,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (tensors, gradient) = (tensors.map(contiguous), contiguous(gradient));
    let arguments = arguments(&tensors, pyramid);
    let (batch, Arguments { cells, queries, heads, features, .. }) = (tensors[0].shape()[0], arguments);
    let (gradient, places) = (slice(&gradient), pyramid.places());
    let work = 4 * features * arguments.weights.len();

    let task = QUERIES_PER_TASK * heads * places * 3;
    let (of_places, _) = chunks::fill_from(3 * arguments.weights.len(), task, work, |number, of_places| {
        level.run(PlaceGradients { arguments, gradient, first: number * QUERIES_PER_TASK, of_places });
    });
    let of_weights = of_places.iter().step_by(3).copied().collect();
    let of_locations = of_places.as_chunks::<3>().0.iter().flat_map(|[_, x, y]| [*x, *y]).collect();

    let (of_value, _) = chunks::fill_from(arguments.value.len(), cells * features, work, |number, of_value| {
        level.run(ValueGradient { arguments, gradient, frame: number / heads, head: number % heads, of_value });
    });
    let by_head = tensor(of_value, [batch, heads, cells, features]);
    (
        Flex::float_permute(by_head, &[0, 2, 1, 3]),
        tensor(of_locations, [batch, queries, heads, places, 2]),
        tensor(of_weights, [batch, queries, heads, places]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(shape: &[usize], step: usize, scale: f32) -> FlexTensor {
        let count = shape.iter().product();
        tensor((0..count).map(|i| (((i * step) % 1009) as f32 / 1009.0 - 0.5) * scale).collect(), shape.to_vec())
    }

    /// Value, locations (some outside of their level), weights and the gradient of a result.
    fn inputs(batch: usize, queries: usize, heads: usize, features: usize, pyramid: &Pyramid) -> [FlexTensor; 4] {
        let places = pyramid.places();
        let locations = values(&[batch, queries, heads, places, 2], 7877, 1.6);
        let locations = tensor(slice(&locations).iter().map(|v| v + 0.5).collect(), locations.shape());
        [
            values(&[batch, pyramid.cells(), heads, features], 7919, 2.0),
            locations,
            values(&[batch, queries, heads, places], 6337, 2.0),
            values(&[batch, queries, heads * features], 5153, 2.0),
        ]
    }

    fn pyramids() -> [Pyramid; 3] {
        let of = |levels: &[[usize; 2]], points| Pyramid { levels: levels.to_vec(), points };
        [of(&[[1, 1]], 1), of(&[[3, 5], [2, 3]], 3), of(&[[7, 9], [4, 5], [2, 3], [1, 2]], 4)]
    }

    fn assert_close(found: &FlexTensor, expected: &FlexTensor, what: &str) {
        let (found, expected) = (contiguous(found.clone()), contiguous(expected.clone()));
        assert_eq!(found.shape(), expected.shape(), "{what}");
        // Two orders of at most a few hundred additions in f32.
        tracknet_testing::assert_close_above::<f32, f32>(slice(&found), slice(&expected), 1e-5, 1e-3, what);
    }

    #[test]
    fn every_instruction_set_agrees_with_the_composed_operations() {
        for pyramid in pyramids() {
            for [batch, queries, heads, features] in [[1, 1, 1, 1], [2, 37, 3, 5], [1, 19, 2, 33]] {
                let [value, locations, weights, gradient] = inputs(batch, queries, heads, features, &pyramid);
                let tensors = [value.clone(), locations.clone(), weights.clone()];
                let forward = reference::forward::<Flex>(value.clone(), locations.clone(), weights.clone(), &pyramid);
                let (of_value, of_locations, of_weights) =
                    reference::gradients::<Flex>([value, weights], locations, gradient.clone(), &pyramid);
                for level in Level::available() {
                    let what = format!("{level:?} {pyramid:?} {queries} queries");
                    assert_close(&attend(level, tensors.clone(), &pyramid), &forward, &what);
                    let found = gradients(level, tensors.clone(), gradient.clone(), &pyramid);
                    assert_close(&found.0, &of_value, &format!("{what}: value"));
                    assert_close(&found.1, &of_locations, &format!("{what}: locations"));
                    assert_close(&found.2, &of_weights, &format!("{what}: weights"));
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let pyramid = &pyramids()[2];
        let [value, locations, weights, gradient] = inputs(2, 61, 4, 33, pyramid);
        let tensors = [value, locations, weights];
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = attend(Level::best(), tensors.clone(), pyramid);
                let (a, b, c) = gradients(Level::best(), tensors.clone(), gradient.clone(), pyramid);
                [y, contiguous(a), b, c].map(|t| slice(&t).iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            })
        };
        assert_eq!(run(1), run(3));
    }
}
