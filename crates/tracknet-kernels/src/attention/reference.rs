//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and an oracle
//! that the kernel is tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Scalar, Shape, Slice};

use super::ops::AttentionFormat;

/// The backend's fused attention on rotated queries and keys.
pub(super) fn forward<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    table: FloatTensor<B>,
    format: AttentionFormat,
) -> FloatTensor<B> {
    let heads = Heads::new::<B>(&query, format);
    let rotary = RotaryTable::<B>::new(table, heads, format);
    let query = rotary.apply(heads.split::<B>(query));
    let key = rotary.apply(heads.split::<B>(key));
    let options = AttentionModuleOptions { scale: Some(f64::from(format.scale)), ..Default::default() };
    heads.join::<B>(B::attention(query, key, heads.split::<B>(value), None, None, options))
}

/// Gradients of query, key and value; the probabilities are computed again as a whole.
pub(super) fn backward<B: Backend>(
    [query, key, value]: [FloatTensor<B>; 3],
    table: FloatTensor<B>,
    format: AttentionFormat,
    output: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let heads = Heads::new::<B>(&query, format);
    let rotary = RotaryTable::<B>::new(table, heads, format);
    let [value, output, gradient] = [value, output, gradient].map(|x| heads.split::<B>(x));
    let query = B::float_mul_scalar(rotary.apply(heads.split::<B>(query)), Scalar::from(format.scale));
    let key = rotary.apply(heads.split::<B>(key));

    let scores = B::float_matmul(query.clone(), B::float_transpose(key.clone()));
    let powers = B::float_exp(B::float_sub(scores.clone(), B::float_max_dim(scores, 3)));
    let p = B::float_div(powers.clone(), B::float_sum_dim(powers, 3));
    let d_value = B::float_matmul(B::float_transpose(p.clone()), gradient.clone());
    let delta = B::float_sum_dim(B::float_mul(gradient.clone(), output), 3);
    let d_p = B::float_matmul(gradient, B::float_transpose(value));
    let d_scores = B::float_mul(p, B::float_sub(d_p, delta));
    let d_key = B::float_matmul(B::float_transpose(d_scores.clone()), query);
    let d_query = B::float_mul_scalar(B::float_matmul(d_scores, key), Scalar::from(format.scale));
    (heads.join::<B>(rotary.invert(d_query)), heads.join::<B>(rotary.invert(d_key)), heads.join::<B>(d_value))
}

#[derive(Clone, Copy)]
struct Heads {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Heads {
    fn new<B: Backend>(query: &FloatTensor<B>, format: AttentionFormat) -> Self {
        let [batch, tokens, hidden] = query.shape().dims();
        Self { batch, tokens, heads: format.heads, head_dim: hidden / format.heads }
    }

    /// `[batch, tokens, heads · head_dim]` to `[batch, heads, tokens, head_dim]`.
    fn split<B: Backend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        let shape = Shape::from([self.batch, self.tokens, self.heads, self.head_dim]);
        B::float_swap_dims(B::float_reshape(x, shape), 1, 2)
    }

    /// The reverse.
    fn join<B: Backend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        let shape = Shape::from([self.batch, self.tokens, self.heads * self.head_dim]);
        B::float_reshape(B::float_swap_dims(x, 1, 2), shape)
    }
}

/// Cosines and sines as `[1, 1, tokens, head_dim / 2]`, where queries and keys are rotated.
struct RotaryTable<B: Backend>(Option<[FloatTensor<B>; 2]>, Heads);

impl<B: Backend> RotaryTable<B> {
    fn new(table: FloatTensor<B>, heads: Heads, format: AttentionFormat) -> Self {
        let part = |index: usize| {
            let one = B::float_slice(table.clone(), &[Slice::from(index..index + 1)]);
            B::float_reshape(one, Shape::from([1, 1, heads.tokens, heads.head_dim / 2]))
        };
        Self(format.rotary.then(|| [part(0), part(1)]), heads)
    }

    /// `(x₁, x₂)` to `(x₁ cos − x₂ sin, x₂ cos + x₁ sin)` for the halves of each head.
    fn apply(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        match &self.0 {
            Some([cos, sin]) => self.rotate(x, cos, sin),
            None => x,
        }
    }

    /// The reverse, and the transpose.
    fn invert(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        match &self.0 {
            Some([cos, sin]) => self.rotate(x, cos, &B::float_neg(sin.clone())),
            None => x,
        }
    }

    fn rotate(&self, x: FloatTensor<B>, cos: &FloatTensor<B>, sin: &FloatTensor<B>) -> FloatTensor<B> {
        let Heads { batch, tokens, heads, head_dim } = self.1;
        let half = |range: std::ops::Range<usize>| {
            let all = [0..batch, 0..heads, 0..tokens, range];
            B::float_slice(x.clone(), &all.map(Slice::from))
        };
        let (x1, x2) = (half(0..head_dim / 2), half(head_dim / 2..head_dim));
        let times = |x: &FloatTensor<B>, factor: &FloatTensor<B>| B::float_mul(x.clone(), factor.clone());
        let y1 = B::float_sub(times(&x1, cos), times(&x2, sin));
        let y2 = B::float_add(times(&x2, cos), times(&x1, sin));
        B::float_cat(vec![y1, y2], 3)
    }
}

#[cfg(feature = "flex")]
#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::ComputeDtype;
    use crate::attention::ops::AttentionOps;

    fn primitive(shape: [usize; 3], seed: usize) -> FloatTensor<Flex> {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| ((i * 7919 + seed * 613) % 1009) as f32 / 500.0 - 1.0).collect();
        Tensor::<3>::from_data(TensorData::new(values, shape), &Device::flex()).try_into_primitive::<Flex>().unwrap()
    }

    fn assert_close(found: FloatTensor<Flex>, expected: FloatTensor<Flex>, what: &str) {
        let [found, expected] = [found, expected].map(Tensor::<3>::from_primitive::<Flex>);
        let largest: f32 = expected.clone().abs().max().into_scalar();
        let distance: f32 = (found - expected).abs().max().into_scalar();
        // Both round to f32, in different orders.
        assert!(distance <= 2e-5 * largest, "{what}: {distance} of {largest}");
    }

    #[test]
    fn the_kernel_agrees_with_the_composed_operations_forward_and_backward() {
        for [batch, tokens, heads, head_dim] in [[1, 1, 1, 8], [2, 5, 3, 6], [1, 65, 2, 32], [3, 70, 1, 80]] {
            for rotary in [false, true] {
                let what = format!("{batch}x{tokens}x{heads}x{head_dim} {rotary}");
                let shape = [batch, tokens, heads * head_dim];
                let format = AttentionFormat { heads, scale: 0.4, rotary, compute: ComputeDtype::F32 };
                let [query, key, value, gradient] = [1, 2, 3, 4].map(|seed| primitive(shape, seed));
                // Any numbers will do: the operations do not ask that a table rotates.
                let table = primitive([2, tokens, head_dim / 2], 5);

                let inputs = [query.clone(), key.clone(), value.clone()];
                let composed = forward::<Flex>(query.clone(), key.clone(), value.clone(), table.clone(), format);
                let (output, statistics) = Flex::multi_head_attention_with_statistics(
                    query.clone(),
                    key.clone(),
                    value.clone(),
                    table.clone(),
                    format,
                );
                assert_close(output.clone(), composed.clone(), &what);
                let by_hand = backward::<Flex>(inputs, table.clone(), format, composed, gradient.clone());
                let kernel =
                    Flex::multi_head_attention_backward(query, key, value, table, format, output, statistics, gradient);
                if tokens > 1 {
                    // With one token the gradients of query and key are zero, and rounding is all there is.
                    assert_close(kernel.0, by_hand.0, &what);
                    assert_close(kernel.1, by_hand.1, &what);
                }
                assert_close(kernel.2, by_hand.2, &what);
            }
        }
    }
}
