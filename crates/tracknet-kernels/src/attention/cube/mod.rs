//! Attention on GPUs: in tiles where the device has matrix units for it ([`flash`]); elsewhere, and in float32, Burn's matrix
//! products and a kernel for everything between two of them.
//!
//! In the second way scores exist, but never all of them: frames are taken a few at a time, so that their scores fit a
//! bound. Tokens are filled up with zeros to a multiple of 16, which lets every product load its factors in wide pieces.

mod flash;
mod heads;
mod scores;

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::ops::{AttentionFormat, AttentionOps};
use crate::cube::{contiguous, count, expect, product, unwritten};

use flash::Flash;
use heads::Heads;

/// Bytes of scores, probabilities and their gradients that are held at once, at most, unless a single frame has more.
const SCORE_BYTES: usize = 256 << 20;

impl AttentionOps for CubeBackend {
    fn multi_head_attention(
        query: CubeTensor,
        key: CubeTensor,
        value: CubeTensor,
        table: CubeTensor,
        format: AttentionFormat,
    ) -> CubeTensor {
        Self::multi_head_attention_with_statistics(query, key, value, table, format).0
    }

    fn multi_head_attention_with_statistics(
        query: CubeTensor,
        key: CubeTensor,
        value: CubeTensor,
        table: CubeTensor,
        format: AttentionFormat,
    ) -> (CubeTensor, CubeTensor) {
        let [query, key, value, table] = [query, key, value, table].map(contiguous);
        expect([&key, &value].map(|tensor| (tensor, count(&query), tensor.dtype)));
        let heads = Heads::new(&query, table, format);
        if let Some(flash) = Flash::new(&heads, format.scale, &query.client) {
            return flash.forward(query, key, value);
        }
        let output = unwritten(&query, query.shape(), query.dtype);
        let dtype = heads.dtype;
        for frames in parts(&heads, size_of::<f32>() + dtype.size()) {
            let keys = CubeBackend::float_transpose(heads.split(&key, &frames, Some(1.0)));
            let scores = product(heads.split(&query, &frames, Some(format.scale)), keys, DType::F32);
            let probabilities = scores::softmax(scores, heads.tokens, dtype);
            let values = product(probabilities, heads.split(&value, &frames, None), dtype);
            heads.join(values, &frames, None, &output);
        }
        // Backward computes everything else again.
        (output.clone(), output)
    }

    fn multi_head_attention_backward(
        query: CubeTensor,
        key: CubeTensor,
        value: CubeTensor,
        table: CubeTensor,
        format: AttentionFormat,
        output: CubeTensor,
        statistics: CubeTensor,
        gradient: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [query, key, value, gradient, table] = [query, key, value, gradient, table].map(contiguous);
        expect([&key, &value, &gradient].map(|tensor| (tensor, count(&query), tensor.dtype)));
        let heads = Heads::new(&query, table, format);
        if let Some(flash) = Flash::new(&heads, format.scale, &query.client) {
            let rows = heads.batch * heads.heads * heads.tokens;
            expect([(&output, count(&query), gradient.dtype), (&statistics, rows, DType::F32)]);
            return flash.backward(query, key, value, output, statistics, gradient);
        }
        let [of_query, of_key, of_value] = [(); 3].map(|()| unwritten(&query, query.shape(), query.dtype));
        let dtype = heads.dtype;
        for frames in parts(&heads, 2 * (size_of::<f32>() + dtype.size())) {
            let queries = heads.split(&query, &frames, Some(format.scale));
            let keys = heads.split(&key, &frames, Some(1.0));
            let gradients = heads.split(&gradient, &frames, None);
            let values = CubeBackend::float_transpose(heads.split(&value, &frames, None));
            let scores = product(queries.clone(), CubeBackend::float_transpose(keys.clone()), DType::F32);
            let of_probabilities = product(gradients.clone(), values, DType::F32);
            let (probabilities, of_scores) = scores::gradients(scores, of_probabilities, heads.tokens, dtype);
            let values = product(CubeBackend::float_transpose(probabilities), gradients, dtype);
            heads.join(values, &frames, None, &of_value);
            heads.join(product(of_scores.clone(), keys, dtype), &frames, Some(format.scale), &of_query);
            let keys = product(CubeBackend::float_transpose(of_scores), queries, dtype);
            heads.join(keys, &frames, Some(1.0), &of_key);
        }
        (of_query, of_key, of_value)
    }
}

/// The frames that are worked on together, for so many bytes that each score takes.
fn parts(heads: &Heads, bytes_per_score: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let bytes = heads.heads * heads.padded * heads.padded * bytes_per_score;
    let (batch, step) = (heads.batch, (SCORE_BYTES / bytes.max(1)).max(1));
    (0..batch).step_by(step).map(move |start| start..(start + step).min(batch))
}
