//! Forward passes, as the predictor makes them.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use tracknet::Result;
use tracknet::artifacts::build_model;
use tracknet::compute::DeviceError;
use tracknet::datasets::BatchSpec;
use tracknet::models::HeatmapModel;
use tracknet::training::shape_of;
use tracknet_io::process;

use crate::{Measurement, Options, Size, Weights, setup};

pub(crate) fn run(weights: Weights, size: Size, batch: usize, options: &Options) -> Result<Measurement> {
    let config = setup::inference(weights, size, batch, &options.overrides)?;
    let resize = config.data.preprocess.resize;
    let (model, build) = build_model(&config.model, &config.data, config.training.seed, &options.device)?;
    let model = model.valid();
    let batch = setup::batch(batch, shape_of(&BatchSpec::new(&config, build.normalization())));
    let flop = setup::shapes(&config, &model)?.inference(batch.size);

    process::reset_peak();
    let time =
        options.repeat.time(|| heatmaps(&model, &batch.images, batch.size, resize, &options.device).map(drop))?;
    Ok(Measurement {
        frames: batch.size,
        flop: Some(flop),
        compute: Some(setup::compute(&config)),
        backbone_bytes: Some(build.memory.backbone_stored),
        backbone_f32_bytes: Some(build.memory.backbone_f32),
        ..Measurement::new(time)
    })
}

/// Heatmaps of normalized windows of frames of `[W, H]`, on the host.
pub(crate) fn heatmaps(
    model: &HeatmapModel,
    images: &[f32],
    frames: usize,
    [width, height]: [usize; 2],
    device: &Device,
) -> Result<Vec<f32>> {
    let channels = images.len() / (frames * height * width);
    let images = Tensor::from_data(TensorData::new(images.to_vec(), [frames, channels, height, width]), device);
    let heatmaps = model.predict(images).try_into_vec_as::<f32>();
    Ok(heatmaps.map_err(|e| DeviceError::new("heatmap", e))?)
}
