//! Optimizer steps, as a run takes them.

use crate::error::Result;
use crate::models::build_model;
use crate::training::{
    NamedOptimizer, ParameterTable, batch_spec, set_checkpointing, set_precision, shape_of, thawed_stepper,
    training_device,
};

use super::{Compute, Measurement, Mode, Options, Size, process, setup};

pub(super) fn run(mode: Mode, size: Size, batch: usize, options: &Options) -> Result<Measurement> {
    let config = setup::training(mode, size, batch, &options.overrides)?;
    let device = training_device(&options.device);
    let (model, build) = build_model(&config.model, config.data.preprocess.resize, config.training.seed, &device)?;
    let table = ParameterTable::of(&model);
    let mut model = table.set_active(model, |_| true);
    set_checkpointing(&config, &mut model);
    let mixed = set_precision(config.training.precision, &mut model, &options.device);
    let shape = shape_of(&batch_spec(&config, &build));
    let mut stepper = thawed_stepper(&config, &model, shape, &device)?;
    let mut optimizer = NamedOptimizer::new(&config.training.optimizer);
    let batch = setup::batch(batch, shape);
    let shapes = setup::shapes(&config, &model);
    let flop = shapes.step(mode, batch.size);

    process::reset_peak();
    let mut step = 0;
    let time = options.repeat.time(|| {
        stepper.step(&mut model, &batch, &table, &mut optimizer, step, 1.0)?;
        step += 1;
        Ok(())
    })?;
    Ok(Measurement {
        frames: batch.size,
        flop: Some(flop),
        compute: Some(if mixed { Compute::Bf16 } else { setup::compute(&config) }),
        backbone_bytes: Some(build.memory.backbone_stored),
        backbone_f32_bytes: Some(build.memory.backbone_f32),
        ..Measurement::new(time)
    })
}
