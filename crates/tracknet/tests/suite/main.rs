//! The tests of the library from outside, as one program: Burn is compiled and linked into it once.

mod adapters;
mod architecture;
mod bnb_checkpoints;
mod bnb_hostile;
mod bnb_support;
mod build_model;
mod checkpoints;
mod common;
mod convnext;
mod decoders;
mod distill;
mod losses;
mod original_configs;
mod overfit;
mod parity_adapters;
mod parity_backbones;
mod parity_decoder;
mod pictures;
mod resume;
mod run_faults;
mod training;
mod training_golden;
mod training_predictor;
mod training_support;
mod window_heatmaps;
mod windows;
