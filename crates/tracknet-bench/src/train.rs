//! Optimizer steps, as a run takes them.

use tracknet::Result;
use tracknet::artifacts::build_model;
use tracknet::compute;
use tracknet::datasets::BatchSpec;
use tracknet::training::{StagedBatch, Staging, set_checkpointing, set_precision, shape_of, unfrozen_trainer};
use tracknet_io::process;

use crate::{Arithmetic, Measurement, Mode, Options, Size, setup};

pub(crate) fn run(mode: Mode, size: Size, batch: usize, options: &Options) -> Result<Measurement> {
    let config = setup::training(mode, size, batch, &options.overrides)?;
    let compute = compute::Compute::new(&options.device).with_precision(config.training.precision);
    let device = compute.training_device();
    let (mut model, build) = build_model(&config.model, &config.data, config.training.seed, &device)?;
    set_checkpointing(&config, &mut model);
    let mixed = set_precision(&mut model, &compute);
    let shape = shape_of(&BatchSpec::new(&config, build.normalization()));
    let first = setup::batch(batch, shape);
    let shapes = setup::shapes(&config, &model)?;
    let flop = shapes.step(mode, batch);
    let mut trainer = unfrozen_trainer(&config, model, &compute)?;

    process::reset_peak();
    let mut step = 0;
    let mut take_step = |batch: &StagedBatch| -> Result<()> {
        trainer.step(batch, step, 1.0)?;
        step += 1;
        Ok(())
    };
    let time = match compute.side_by_side() {
        true => {
            let batch = shape.stage(first, &compute)?;
            options.repeat.time(|| take_step(&batch))?
        }
        // Each batch is copied to the device while the step before it computes, as in a run.
        false => {
            let mut batches = Staging::new(shape, &compute).stage(std::iter::repeat_with(move || Ok(first.clone())));
            options.repeat.time(|| batches.next().map_or(Ok(()), |batch| take_step(&batch?)))?
        }
    };
    Ok(Measurement {
        frames: batch,
        flop: Some(flop),
        compute: Some(if mixed { Arithmetic::Bf16 } else { setup::compute(&config) }),
        backbone_bytes: Some(build.memory.backbone_stored),
        backbone_f32_bytes: Some(build.memory.backbone_f32),
        ..Measurement::new(time)
    })
}
