//! Optimizer steps, as a run takes them.

use crate::artifacts::build_model;
use crate::error::Result;
use crate::models::is_cpu;
use crate::training::{
    NamedOptimizer, ParameterTable, StagedBatch, Staging, batch_spec, set_checkpointing, set_precision, shape_of,
    thawed_stepper, training_device,
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
    let mut stepper = thawed_stepper(&config, &model, &device)?;
    let mut optimizer = NamedOptimizer::new(&config.training.optimizer);
    let first = setup::batch(batch, shape);
    let shapes = setup::shapes(&config, &model)?;
    let flop = shapes.step(mode, batch);

    process::reset_peak();
    let mut step = 0;
    let mut take_step = |batch: &StagedBatch| -> Result<()> {
        stepper.step(&mut model, batch, &table, &mut optimizer, step, 1.0)?;
        step += 1;
        Ok(())
    };
    let time = match is_cpu(&device) {
        true => {
            let batch = shape.stage(first, &device)?;
            options.repeat.time(|| take_step(&batch))?
        }
        // Each batch is copied to the device while the step before it computes, as in a run.
        false => {
            let mut batches = Staging::new(shape, &device).stage(std::iter::repeat_with(move || Ok(first.clone())));
            options.repeat.time(|| batches.next().map_or(Ok(()), |batch| take_step(&batch?)))?
        }
    };
    Ok(Measurement {
        frames: batch,
        flop: Some(flop),
        compute: Some(if mixed { Compute::Bf16 } else { setup::compute(&config) }),
        backbone_bytes: Some(build.memory.backbone_stored),
        backbone_f32_bytes: Some(build.memory.backbone_f32),
        ..Measurement::new(time)
    })
}
