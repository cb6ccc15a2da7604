//! Distillation into adapters: that students learn, that a seed decides everything, and what is refused.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use image::{Rgb, RgbImage};
use tempfile::TempDir;
use tracknet::config::{LoraConfig, QuantizationConfig};
use tracknet::models::pretrained::save::read_all;
use tracknet::models::state::{Group, state_dict};
use tracknet::models::{VisitProjections, build_backbone};
use tracknet::training::Silent;
use tracknet::training::distill::{
    Crops, DistillLoss, DistillOptions, FeatureKind, Student, StudentKind, Targets, teach, train_student,
};

use common::{fixture, largest_difference, pixels};

/// A picture with something at every scale.
fn picture(dir: &Path) -> PathBuf {
    let path = dir.join("picture.png");
    let wave = |x: f32| (127.0 + 120.0 * x.sin()) as u8;
    let pixel = |x: u32, y: u32| {
        let (x, y) = (x as f32, y as f32);
        Rgb([wave(0.05 * x + 0.002 * x * y), wave(0.11 * y), wave(0.3 * x - 0.07 * y)])
    };
    RgbImage::from_fn(400, 160, pixel).save(&path).unwrap();
    path
}

fn options(model: &str) -> DistillOptions {
    DistillOptions {
        steps: 24,
        batch_size: 5,
        lr: 3e-3,
        rank: 4,
        lora_alpha: 8.0,
        size: 64,
        crops: 12,
        validation_crops: 7,
        ..DistillOptions::new(fixture(model).display().to_string())
    }
}

/// Crops and targets, made once.
struct Lesson {
    _dir: TempDir,
    options: DistillOptions,
    crops: Crops,
    targets: Targets,
}

impl Lesson {
    fn new(options: DistillOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let crops = Crops::cut(&[picture(dir.path())], &options).unwrap();
        let (targets, _) = teach(&options, &crops, &Device::flex()).unwrap();
        Self { _dir: dir, options, crops, targets }
    }

    fn student(&self, kind: StudentKind) -> Student {
        train_student(&self.options, kind, &self.crops, &self.targets, &Device::flex(), &mut Silent).unwrap()
    }
}

fn refusal(options: &DistillOptions) -> String {
    let dir = tempfile::tempdir().unwrap();
    let crops = Crops::cut(&[picture(dir.path())], options).unwrap();
    teach(options, &crops, &Device::flex()).unwrap_err().to_string()
}

#[test]
fn both_students_learn_and_only_their_adapters_change() {
    let lesson = Lesson::new(options("dinov3_tiny"));
    let device = Device::flex();
    for kind in StudentKind::ALL {
        let student = lesson.student(kind);
        let report = &student.report;
        let (views, clean) = (report.validation_loss, report.clean_loss);
        assert!(views.after < 0.8 * views.before, "{kind}: {views:?}");
        assert!(report.train_loss.after < report.train_loss.before, "{kind}: {:?}", report.train_loss);
        assert!(clean.before < views.before, "{kind}: {clean:?} {views:?}");
        assert_eq!((report.losses.len(), report.skipped_steps), (24, 0));
        assert!(report.latency_ms > 0.0 && report.samples_per_s > 0.0 && report.train_step_ms > 0.0);

        let quantization = QuantizationConfig { enabled: kind == StudentKind::Qlora, ..QuantizationConfig::default() };
        let off = LoraConfig::default();
        let (base, build) = build_backbone(&lesson.options.model, &off, &quantization, &device).unwrap();
        assert_eq!(report.backbone_bytes, build.memory.backbone_stored);
        let state = |backbone| state_dict(backbone, |p| p.group == Group::Backbone);
        assert!(state(&base) == state(&student.model.backbone.valid()), "{kind}: the base changed");
        match kind {
            // The same model computes the same, whatever the pieces.
            StudentKind::Lora => assert!(clean.before < 1e-10, "{clean:?}"),
            StudentKind::Qlora => {
                assert!(clean.before > 1e-5, "4-bit storage lost nothing: {clean:?}");
                let mut packed = Vec::new();
                student.model.backbone.visit_projections(&mut |_, p| packed.push(p.base.dense().into_data()));
                let mut expected = Vec::new();
                base.visit_projections(&mut |_, p| expected.push(p.base.dense().into_data()));
                assert!(packed == expected, "the packed base changed");
            }
        }
    }
}

#[test]
fn a_seed_decides_everything_whatever_the_threads() {
    let adapters = |student: &Student| state_dict(&student.model.backbone, |p| p.group == Group::Adapter);
    let options = DistillOptions { steps: 4, ..options("dinov3_tiny") };
    let lesson = Lesson::new(options.clone());
    let once = lesson.student(StudentKind::Qlora);
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let again = one_thread.install(|| {
        let again = Lesson::new(options.clone());
        assert_eq!((&again.crops, &again.targets), (&lesson.crops, &lesson.targets));
        again.student(StudentKind::Qlora)
    });
    assert_eq!(once.report.losses, again.report.losses);
    assert_eq!(once.report.validation_loss, again.report.validation_loss);
    assert!(adapters(&once) == adapters(&again));
    let other = Lesson::new(DistillOptions { seed: 7, ..options }).student(StudentKind::Qlora);
    assert_ne!(once.report.losses, other.report.losses);
    assert!(adapters(&once) != adapters(&other));
}

#[test]
fn the_adapter_directory_gives_the_student_again() {
    let lesson = Lesson::new(DistillOptions {
        feature: FeatureKind::Pooler,
        loss: DistillLoss::Mse,
        steps: 12,
        ..options("vit_tiny")
    });
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for kind in StudentKind::ALL {
        let student = lesson.student(kind);
        assert!(student.report.validation_loss.after < student.report.validation_loss.before, "{:?}", student.report);
        let adapter = dir.path().join(kind.name());
        student.write_adapter(&adapter).unwrap();
        let lora = LoraConfig { enabled: true, adapter: Some(adapter), ..LoraConfig::default() };
        let quantization = QuantizationConfig { enabled: kind == StudentKind::Qlora, ..QuantizationConfig::default() };
        let (loaded, _) = build_backbone(&lesson.options.model, &lora, &quantization, &device).unwrap();
        let tokens = |backbone: &tracknet::models::Vit| backbone.tokens(pixels(&device)).into_data();
        assert!(tokens(&loaded.valid()) == tokens(&student.model.backbone.valid()), "{kind}");
    }
    let config = fs::read_to_string(dir.path().join("qlora/adapter_config.json")).unwrap();
    assert!(config.contains("vit_tiny") && config.contains("\"r\": 4"), "{config}");
}

#[test]
fn the_pooler_is_that_of_transformers() {
    let options = DistillOptions { feature: FeatureKind::Pooler, ..options("vit_tiny") };
    // A rate that moves nothing: what is compared is the model that the student began as.
    let lesson = Lesson::new(DistillOptions { steps: 1, lr: 1e-12, ..options });
    let student = lesson.student(StudentKind::Lora);
    let images = pixels(&Device::flex()).slice([0..2, 0..3, 0..64, 0..64]);
    let found = student.model.valid().features(images).into_data();
    let expected = &read_all(&fixture("vit_tiny/io.safetensors")).unwrap()["pooler_output_64x64"];
    let difference = largest_difference(&found, expected);
    // f32 sums in another order. Without its tanh, the pooler would be off by 0.9.
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn targets_go_through_a_file_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("targets.safetensors");
    let targets =
        Targets { features: 3, train: vec![0.1, -0.0, 3.0, 4.0, 5.0, 1e-40], validation: vec![7.0, 8.0, 9.0] };
    targets.write(&path).unwrap();
    assert_eq!(Targets::read(&path).unwrap(), targets);
    fs::write(&path, b"junk").unwrap();
    assert!(Targets::read(&path).unwrap_err().to_string().contains("targets.safetensors"));
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_by_name() {
    let pooler = DistillOptions { feature: FeatureKind::Pooler, ..options("dinov3_tiny") };
    let message = refusal(&pooler);
    assert!(message.contains("dinov3_tiny") && message.contains("no pooler") && message.contains("cls"), "{message}");
    let message = refusal(&options("bnb_checkpoint"));
    assert!(message.contains("in 4 bits") && message.contains("tracknet dequantize"), "{message}");
    let message = refusal(&DistillOptions { size: 70, ..options("dinov3_tiny") });
    assert!(message.starts_with("size: ") && message.contains("64 or 80"), "{message}");
    let message = refusal(&options("no_such_model"));
    assert!(message.contains("no_such_model"), "{message}");

    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("vit_tiny/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let with = |text: &str| {
        fs::write(dir.path().join("config.json"), text).unwrap();
        let model = dir.path().display().to_string();
        refusal(&DistillOptions { model, feature: FeatureKind::Pooler, ..options("vit_tiny") })
    };
    let message = with(r#"{"model_type": "dinov3_convnext"}"#);
    assert!(message.contains("`dinov3_convnext` is not supported") && message.contains("dinov2"), "{message}");
    let text = fs::read_to_string(fixture("vit_tiny/config.json")).unwrap();
    let message = with(&text.replace("\"tanh\"", "\"softmax\""));
    assert!(message.contains("pooler_act") && message.contains("`softmax`"), "{message}");
}

#[test]
fn values_that_cannot_work_are_named_before_anything_is_read() {
    let good = DistillOptions::new("nowhere");
    good.check().unwrap();
    let cases = [
        (DistillOptions { steps: 0, ..good.clone() }, "steps: is 0"),
        (DistillOptions { batch_size: 0, ..good.clone() }, "batch_size: is 0"),
        (DistillOptions { lr: f64::NAN, ..good.clone() }, "lr: is NaN"),
        (DistillOptions { lr: -1.0, ..good.clone() }, "lr: is -1"),
        (DistillOptions { rank: 0, ..good.clone() }, "lora.r: is 0"),
        (DistillOptions { rank: usize::MAX, ..good.clone() }, "rank: is 18446744073709551615"),
        (DistillOptions { lora_alpha: 0.0, ..good.clone() }, "lora.lora_alpha: is 0"),
        (DistillOptions { size: usize::MAX, ..good.clone() }, "size: 160 crops"),
        (DistillOptions { crops: 1 << 40, ..good.clone() }, "2048 MiB"),
    ];
    for (options, expected) in cases {
        let message = options.check().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn targets_of_other_crops_are_refused() {
    let lesson = Lesson::new(options("dinov3_tiny"));
    let mut targets = lesson.targets.clone();
    targets.train.truncate(64);
    let found =
        train_student(&lesson.options, StudentKind::Lora, &lesson.crops, &targets, &Device::flex(), &mut Silent);
    let message = found.unwrap_err().to_string();
    assert!(message.contains("[12, 7] crops") && message.contains("[64, 448]"), "{message}");
}

#[test]
fn weights_that_explode_are_reported_instead_of_taught() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("dinov3_tiny/config.json"), dir.path().join("config.json")).unwrap();
    let mut weights = read_all(&fixture("dinov3_tiny/model.safetensors")).unwrap();
    let shape = weights["norm.weight"].shape().to_vec();
    weights.insert("norm.weight".to_owned(), TensorData::new(vec![f32::MAX; 64], shape));
    let path = dir.path().join("model.safetensors");
    tracknet::models::pretrained::save::write_tensors(&path, weights, tracknet::models::pretrained::StoredAs::F32)
        .unwrap();
    let model = dir.path().display().to_string();
    let message = refusal(&DistillOptions { model, ..options("dinov3_tiny") });
    assert!(message.contains("training crop 0") && message.contains("inf"), "{message}");
}
