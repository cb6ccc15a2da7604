//! 32-bit floats to NF4 with double quantization.

use tracknet::Result;
use tracknet::models::ModelError;
use tracknet_io::process;
use tracknet_kernels::{PackedWeight, QuantType, QuantizeOptions};

use tracknet::models::nn::{Fill, RandomSource, Source};

use crate::{Measurement, Options};

/// The linear layers of a block of ViT-B, `[out, in]`.
const SHAPES: [[usize; 2]; 6] = [[768, 768], [768, 768], [768, 768], [768, 768], [3072, 768], [768, 3072]];
/// More than caches hold: 113 MB.
const BLOCKS: usize = 4;

pub(crate) fn run(options: &Options) -> Result<Measurement> {
    let format = QuantizeOptions { quant_type: QuantType::Nf4, blocksize: 64, double_quant: true };
    let source = RandomSource { seed: 1 };
    let mut weights = Vec::new();
    for block in 0..BLOCKS {
        for (layer, shape) in SHAPES.into_iter().enumerate() {
            weights.push((shape, source.values(&format!("{block}.{layer}"), &shape, Fill::Normal(0.02))));
        }
    }
    process::reset_peak();
    let time = options.repeat.time(|| -> Result<()> {
        for (shape, values) in &weights {
            let packed = PackedWeight::quantize(values, *shape, &format);
            packed.map_err(|e| ModelError::Tensor { name: "random weight".to_owned(), message: e.to_string() })?;
        }
        Ok(())
    })?;
    let values: usize = weights.iter().map(|(_, values)| values.len()).sum();
    Ok(Measurement { input_bytes: Some(4 * values), ..Measurement::new(time) })
}
