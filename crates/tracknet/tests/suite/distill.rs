//! Distillation into adapters: that students learn, that a seed decides everything, and what is refused.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use image::{Rgb, RgbImage};
use tempfile::TempDir;
use tracknet::artifacts::build_backbone;
use tracknet::artifacts::pretrained::StoredAs;
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::config::{LoraConfig, Precision, QuantizationConfig};
use tracknet::models::VisitLayers;
use tracknet::models::state::{Group, state_dict};
use tracknet::training::distill::{
    Crops, DistillLoss, DistillOptions, FeatureKind, FeatureModel, Student, StudentKind, Targets, Views, teach,
    train_student,
};
use tracknet::training::{Reporter, Silent, StepProgress};

use crate::common::{fixture, largest_difference, pixels};

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
        self.noted(kind).0
    }

    /// The student, and what was noted on the way.
    fn noted(&self, kind: StudentKind) -> (Student, Vec<String>) {
        let mut notes = Notes::default();
        let student =
            train_student(&self.options, kind, &self.crops, &self.targets, &Device::flex(), &mut notes).unwrap();
        (student, notes.0)
    }
}

/// Keeps the notes.
#[derive(Default)]
struct Notes(Vec<String>);

impl Reporter for Notes {
    fn report(&mut self, _text: &str) {}
    fn note(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
    fn step(&mut self, _progress: &StepProgress) {}
    fn epoch(&mut self, _text: &str) {}
}

/// Paths of a student's projections that are in 4 bits, and of those that are not.
fn storage(student: &Student) -> [Vec<String>; 2] {
    let mut paths = [Vec::new(), Vec::new()];
    student.model.backbone.visit_linears(&mut |path, linear| {
        paths[usize::from(!linear.is_quantized())].push(path.to_owned());
    });
    paths
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
            StudentKind::Lora => assert_eq!(clean.before, 0.0),
            StudentKind::Qlora => {
                assert!(clean.before > 1e-5, "4-bit storage lost nothing: {clean:?}");
                let mut packed = Vec::new();
                student.model.backbone.visit_linears(&mut |_, p| packed.push(p.weight.dense().into_data()));
                let mut expected = Vec::new();
                base.visit_linears(&mut |_, p| expected.push(p.weight.dense().into_data()));
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
        let tokens = |backbone: &tracknet::models::Backbone| backbone.tokens(pixels(&device)).into_data();
        assert!(tokens(&loaded.valid()) == tokens(&student.model.backbone.valid()), "{kind}");
    }
    let config = fs::read_to_string(dir.path().join("qlora/adapter_config.json")).unwrap();
    assert!(config.contains("vit_tiny") && config.contains("\"r\": 4"), "{config}");
}

#[test]
fn the_pooler_output_is_that_of_transformers_for_every_family() {
    let device = Device::flex();
    let all = pixels(&device);
    let square = all.clone().slice([0..2, 0..3, 0..64, 0..64]);
    let cases = [
        ("vit_tiny", "pooler_output_64x64", &square),
        ("dinov2_tiny", "pooler_output", &all),
        ("dinov2_tiny_swiglu", "pooler_output", &all),
        ("dinov2_reg_tiny", "pooler_output", &all),
        ("dinov3_tiny", "pooler_output", &all),
        ("dinov3_tiny_gated", "pooler_output", &all),
    ];
    for (name, tensor, images) in cases {
        let options = DistillOptions { feature: FeatureKind::Pooler, ..options(name) };
        let (model, _) = FeatureModel::build(&options, &QuantizationConfig::default(), &device).unwrap();
        let found = model.features(images.clone()).into_data();
        let expected = &read_all(&fixture(name).join("io.safetensors")).unwrap()[tensor];
        let difference = largest_difference(&found, expected);
        // Features of size 1 after two blocks in float32; sums in another order move them by a few 1e-6.
        assert!(difference < 2e-5, "{name}: {difference}");
        let cls = DistillOptions { feature: FeatureKind::Cls, ..options };
        let (cls, _) = FeatureModel::build(&cls, &QuantizationConfig::default(), &device).unwrap();
        let same = cls.features(images.clone()).into_data() == found;
        assert_eq!(same, name != "vit_tiny", "{name}: only the plain ViT has weights for it");
    }
}

#[test]
fn students_that_see_what_the_teacher_sees_make_up_for_their_storage_only() {
    let lesson = Lesson::new(DistillOptions { views: Views::Same, ..options("dinov3_tiny") });
    let report = |kind| lesson.student(kind).report;
    let (lora, qlora) = (report(StudentKind::Lora), report(StudentKind::Qlora));
    for report in [&lora, &qlora] {
        assert_eq!(report.validation_loss, report.clean_loss);
    }
    // The float student starts as its teacher, and dropout on adapters that are zero changes nothing.
    assert_eq!((lora.validation_loss.before, lora.losses[0]), (0.0, 0.0));
    assert!(lora.losses.iter().all(|&loss| loss == 0.0), "a gradient of zero moves nothing: {:?}", lora.losses);
    let loss = qlora.validation_loss;
    assert!(loss.before > 0.0 && loss.after < 0.8 * loss.before, "{loss:?}");
}

#[test]
fn epochs_are_passes_over_the_crops_and_the_last_batch_is_what_is_left() {
    // Two passes of 12 crops in batches of 5: 5 + 5 + 5 + 5 + 4.
    let passes = Lesson::new(DistillOptions { epochs: Some(2), steps: 1, ..options("dinov3_tiny") });
    let steps = Lesson::new(DistillOptions { steps: 5, ..options("dinov3_tiny") });
    let [passes, steps] = [passes, steps].map(|lesson| lesson.student(StudentKind::Lora).report.losses);
    assert_eq!((passes.len(), steps.len()), (5, 5));
    assert_eq!(passes[..4], steps[..4]);
    assert_ne!(passes[4], steps[4]);
}

#[test]
fn half_precision_is_used_where_the_device_has_it_and_a_note_says_where_not() {
    let steps = DistillOptions { steps: 4, ..options("dinov3_tiny") };
    let with = |precision| Lesson::new(DistillOptions { precision, ..steps.clone() }).noted(StudentKind::Lora);
    let (full, notes) = with(Precision::Fp32);
    assert_eq!((full.report.precision, notes.len()), (Precision::Fp32, 0), "{notes:?}");
    // The CPU has no float16.
    let (half, notes) = with(Precision::Fp16);
    assert_eq!(half.report.precision, Precision::Fp32);
    assert_eq!(half.report.losses, full.report.losses);
    assert_eq!(notes, ["precision fp16: not mixed on this device, using fp32"]);
    let (brain, notes) = with(Precision::Bf16);
    if tracknet_kernels::block::has_bfloat16() {
        assert_eq!((brain.report.precision, notes.len()), (Precision::Bf16, 0), "{notes:?}");
        assert_ne!(brain.report.losses, full.report.losses);
        for (brain, full) in brain.report.losses.iter().zip(&full.report.losses) {
            // Factors with 8 bits: the losses are differences of features that are each good to 2^-8 of their length.
            assert!((brain - full).abs() < 0.05 * full + 1e-4, "{brain} {full}");
        }
    } else {
        assert_eq!(brain.report.precision, Precision::Fp32);
        assert_eq!(brain.report.losses, full.report.losses);
        assert_eq!(notes, ["precision bf16: not mixed on this device, using fp32"]);
    }
}

#[test]
fn skipped_layers_stay_floats_as_the_mode_reads_them() {
    let with = |mode: &str, skip: &[&str]| {
        let skip_modules = skip.iter().map(|&s| s.to_owned()).collect();
        let lesson = Lesson::new(DistillOptions {
            steps: 2,
            quant_mode: mode.parse().unwrap(),
            skip_modules,
            ..options("dinov3_tiny")
        });
        lesson.noted(StudentKind::Qlora)
    };
    let (everything, notes) = with("manual", &[]);
    let [packed, float] = storage(&everything);
    assert_eq!((packed.len(), float.len(), notes.len()), (12, 0, 0), "{notes:?}");
    assert_eq!((everything.report.packed_layers, everything.report.linear_layers), (12, 12));

    // Both modes store the same bytes of the same layers, so that nothing else differs.
    let (streamed, _) = with("hf", &[]);
    assert_eq!(streamed.report.losses, everything.report.losses);

    // A part of a path in manual mode; for transformers the same text is the end of no path.
    let (parts, notes) = with("manual", &["1.mlp", "_proj.x"]);
    let [packed, float] = storage(&parts);
    assert_eq!(float, ["layer.1.mlp.up_proj", "layer.1.mlp.down_proj"], "{packed:?}");
    assert_eq!((parts.report.packed_layers, parts.report.linear_layers), (10, 12));
    assert!(parts.report.backbone_bytes > everything.report.backbone_bytes);
    assert_eq!(notes.iter().filter(|note| note.contains("`_proj.x` matches nothing")).count(), 1, "{notes:?}");
    let (ends, _) = with("hf", &["q_proj"]);
    assert_eq!(storage(&ends)[1], ["layer.0.attention.q_proj", "layer.1.attention.q_proj"]);
}

#[test]
fn what_trains_is_counted_as_peft_counts_it() {
    for (name, feature, pooler) in
        [("dinov3_tiny", FeatureKind::Cls, 0), ("vit_tiny", FeatureKind::Pooler, 64 * 64 + 64)]
    {
        let lesson = Lesson::new(DistillOptions { steps: 1, feature, ..options(name) });
        let base = lesson.student(StudentKind::Lora).report;
        let packed = lesson.student(StudentKind::Qlora).report;
        let (teacher, _) = build_backbone(
            &lesson.options.model,
            &LoraConfig::default(),
            &QuantizationConfig::default(),
            &Device::flex(),
        )
        .unwrap();
        let parameters = tracknet::models::MemoryReport::of(&teacher).parameters;
        assert_eq!(base.trainable_parameters, base.adapter_parameters);
        assert_eq!(base.parameters, parameters + base.adapter_parameters + pooler);
        // Packed weights count as what they stand for.
        assert_eq!((packed.trainable_parameters, packed.parameters), (base.trainable_parameters, base.parameters));
    }
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
    let message = with(r#"{"model_type": "swin"}"#);
    assert!(message.contains("`swin` is not supported") && message.contains("dinov2"), "{message}");
    let text = fs::read_to_string(fixture("vit_tiny/config.json")).unwrap();
    let mut weights = read_all(&fixture("vit_tiny/model.safetensors")).unwrap();
    weights.retain(|name, _| !name.contains("pooler"));
    let headless = tempfile::tempdir().unwrap();
    fs::write(headless.path().join("config.json"), &text).unwrap();
    write_tensors(&headless.path().join("model.safetensors"), weights, StoredAs::F32).unwrap();
    let model = headless.path().display().to_string();
    let message = refusal(&DistillOptions { model, feature: FeatureKind::Pooler, ..options("vit_tiny") });
    assert!(message.contains("no pooler") && message.contains("feature cls"), "{message}");
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
        (DistillOptions { batch_size: usize::MAX, ..good.clone() }, "size: 18446744073709551615 crops"),
        (DistillOptions { steps: usize::MAX, ..good.clone() }, "steps: make 18446744073709551615 optimizer steps"),
        (DistillOptions { epochs: Some(0), ..good.clone() }, "epochs: is 0"),
        (DistillOptions { epochs: Some(usize::MAX), ..good.clone() }, "epochs: make"),
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
    write_tensors(&path, weights, StoredAs::F32).unwrap();
    let model = dir.path().display().to_string();
    let message = refusal(&DistillOptions { model, ..options("dinov3_tiny") });
    assert!(message.contains("training crop 0") && message.contains("inf"), "{message}");
}
