//! Files with the keys and the layout of the original program's (quoted numbers, comments, keys that mean nothing here) load
//! without an edit, and each of its six models builds and trains a step.
//!
//! The files in `fixtures/original` are written for these tests, from the reference of the keys.

// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Device;
use tracknet::config::{Config, ConfigSources, DtypeName, LossName, ModelName, Precision, Temporal};
use tracknet::training::{FitOptions, Outcome, Silent, fit};

use crate::training_support::write_game;

/// A backbone and a decoder of the same kind as the file's, small enough for a test.
struct Tiny {
    file: &'static str,
    name: ModelName,
    overrides: &'static [&'static str],
}

const VIT: &str = "model.backbone.architecture={model_type: dinov3_vit, hidden_size: 32, num_hidden_layers: 1, \
                   num_attention_heads: 2, intermediate_size: 64}";
const CONVNEXT: &str =
    "model.backbone.architecture={model_type: dinov3_convnext, hidden_sizes: [8, 12, 16, 24], depths: [1, 1, 1, 1]}";

const MODELS: [Tiny; 6] = [
    Tiny { file: "vit_heatmap", name: ModelName::VitHeatmap, overrides: &[VIT, "model.decoder.channels=[32,16,8,8]"] },
    Tiny {
        file: "vit_lora_heatmap",
        name: ModelName::VitLoraHeatmap,
        overrides: &[VIT, "model.decoder.channels=[32,16,8,8]"],
    },
    Tiny {
        file: "vit_qlora_heatmap",
        name: ModelName::VitQloraHeatmap,
        overrides: &[VIT, "model.decoder.channels=[32,16,8,8]"],
    },
    Tiny {
        file: "convnext_fpn_heatmap",
        name: ModelName::ConvnextFpnHeatmap,
        overrides: &[CONVNEXT, "model.fpn.in_channels=[8,12,16,24]", "model.fpn.lateral_dim=8"],
    },
    Tiny {
        file: "convnext_hrnet_heatmap",
        name: ModelName::ConvnextHrnetHeatmap,
        overrides: &[
            CONVNEXT,
            "model.hrnet.in_channels=[8,12,16,24]",
            "model.hrnet.widths=[4,6,8,10]",
            "model.hrnet.out_channels=4",
        ],
    },
    Tiny {
        file: "convnext_deformable_fpn_heatmap",
        name: ModelName::ConvnextDeformableFpnHeatmap,
        overrides: &[
            CONVNEXT,
            "model.deformable_encoder.in_channels=[8,12,16,24]",
            "model.deformable_encoder.d_model=16",
            "model.deformable_encoder.nhead=2",
            "model.deformable_encoder.lateral_dim=8",
        ],
    },
];

fn sources(model: &str, overrides: Vec<String>) -> ConfigSources {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/original");
    let file = |group: &str, name: &str| Some(folder.join(group).join(format!("{name}.yaml")).display().to_string());
    ConfigSources {
        data: file("data", "tracknet"),
        model: file("model", model),
        training: file("training", "default"),
        overrides,
        ..ConfigSources::default()
    }
}

#[test]
fn the_files_load_as_they_are_and_mean_what_they_meant() {
    for Tiny { file, name, .. } in MODELS {
        let Config { data, model, training, .. } = Config::load(&sources(file, Vec::new())).unwrap().config;
        assert_eq!((model.model_name, model.heatmap.sigma, model.temporal), (name, 2.0, Temporal::None), "{file}");
        assert_eq!((data.preprocess.flip_prob, data.split.test_games.len()), (0.5, 0), "{file}");
        assert_eq!((training.precision, training.optimizer.lr), (Precision::Fp16, 5e-4), "{file}");
        assert_eq!((training.loss.name, training.log_dir.as_path()), (LossName::Mse, Path::new("outputs/logs")));
        assert_eq!(model.lora.enabled, file.contains("lora"), "{file}");
        assert_eq!(model.quantization.enabled, file.contains("qlora"), "{file}");
        if model.quantization.enabled {
            assert_eq!(model.quantization.compute_dtype, DtypeName::Bfloat16);
        }
    }
}

#[test]
fn each_model_builds_tiny_and_trains_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let rallies = dir.path().join("rallies");
    write_game(&rallies, "game1", 4);
    write_game(&rallies, "game2", 2);
    for Tiny { file, overrides, .. } in MODELS {
        let common = [
            format!("data.root={}", rallies.display()),
            format!("training.output_dir={}", dir.path().join(file).display()),
        ];
        let shared = [
            "data.split.train_games=[game1]",
            "data.split.val_games=[game2]",
            "data.preprocess.resize=[96,64]",
            "model.pretrained_model_name=null",
            "model.heatmap.size=[48,32]",
            "training.batch_size=2",
            "training.epochs=1",
            "training.limit_train_batches=1",
            "training.scheduler.warmup_epochs=0",
            "training.backbone_freeze_epochs=0",
        ];
        let overrides = common.into_iter().chain(shared.iter().chain(overrides).map(|text| (*text).to_owned()));
        let config = Config::load(&sources(file, overrides.collect())).unwrap().config;
        let report = fit(&config, FitOptions::new(Device::flex()), &mut Silent).unwrap();
        assert_eq!(
            (report.outcome, report.state.step, report.state.skipped_steps),
            (Outcome::Finished, 1, 0),
            "{file}"
        );
    }
}
