//! The configuration as a user meets it: files, overrides and flags in; a config, notes or an error out.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::load::{World, load};
use super::*;

/// A configs folder in a temporary directory, and an environment.
struct Bench {
    dir: tempfile::TempDir,
    sources: ConfigSources,
    env: Vec<(&'static str, String)>,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), sources: ConfigSources::default(), env: Vec::new() }
    }

    fn file(mut self, group: &str, text: &str) -> Self {
        let path = self.dir.path().join(format!("{group}.yaml"));
        std::fs::write(&path, text).unwrap();
        let slot = match group {
            "data" => &mut self.sources.data,
            "model" => &mut self.sources.model,
            _ => &mut self.sources.training,
        };
        *slot = Some(path.display().to_string());
        self
    }

    fn with(mut self, text: &str) -> Self {
        self.sources.overrides.push(text.to_owned());
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let env = |name: &str| self.env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        let now = jiff::civil::date(2026, 3, 4).at(5, 6, 7, 0).to_zoned_datetime(jiff::tz::TimeZone::UTC).unwrap();
        load(&self.sources, &World { env: &env, working: self.dir.path(), now })
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|e| panic!("{e}")).config
    }

    /// The messages, with the temporary directory taken out of them.
    fn errors(&self) -> Vec<String> {
        let error = self.load().unwrap_err();
        let dir = format!("{}/", self.dir.path().display());
        error.problems.iter().map(|p| p.to_string().replace(&dir, "")).collect()
    }
}

/// Every case is `group | text of its file | its one message`, or `override | section.key=value | the one message`. `…`
/// stands for any part of a message.
fn refuses(cases: &[&str]) {
    for case in cases {
        let [to, text, expected] = case.splitn(3, " | ").collect::<Vec<_>>()[..] else { panic!("{case}") };
        let bench = if to == "override" { Bench::new().with(text) } else { Bench::new().file(to, text) };
        let errors = bench.errors();
        assert_eq!(errors.len(), 1, "{case}: {errors:#?}");
        assert_like(&errors[0], expected);
    }
}

fn assert_like(message: &str, expected: &str) {
    let pattern: Vec<_> = expected.split('…').map(fancy_regex::escape).collect();
    let pattern = fancy_regex::Regex::new(&format!("(?s)^{}$", pattern.join(".*"))).unwrap();
    assert!(pattern.is_match(message).unwrap(), "{message}\n  is not\n{expected}");
}

const SEED_DESIGN: &str = r#"
model_name: "vit_lora_heatmap"
# ... existing vit config ...
lora:
  enabled: true
  r: 16
  lora_alpha: 32
  lora_dropout: 0.05
  target_modules: ["query", "key", "value", "dense"]
quantization:
  enabled: true
  quant_type: "nf4"
  compute_dtype: "bfloat16"
  skip_modules: ["pooler.dense"]
  mode: "manual"
"#;

#[test]
fn the_yaml_of_the_design_loads_as_written() {
    let bench = Bench::new().file("model", SEED_DESIGN);
    let loaded = bench.load().unwrap();
    assert_eq!(loaded.notes, Vec::<String>::new());
    let model = loaded.config.model;
    let targets = ["query", "key", "value", "dense"].map(str::to_owned).to_vec();
    assert_eq!(
        model.lora,
        LoraConfig { enabled: true, target_modules: Some(TargetModules::List(targets)), ..LoraConfig::default() }
    );
    assert_eq!((model.lora.r, model.lora.lora_alpha, model.lora.lora_dropout), (16, 32.0, 0.05));
    let skip_modules = Some(vec!["pooler.dense".to_owned()]);
    assert_eq!(model.quantization, QuantizationConfig { enabled: true, skip_modules, ..QuantizationConfig::default() });
    assert_eq!(model.model_name, ModelName::VitLoraHeatmap);
    assert_eq!(model.decoder, DecoderConfig::default());
}

#[test]
fn files_of_the_python_program_load_without_an_edit_and_mean_the_same() {
    let bench = Bench::new()
        .file(
            "data",
            "root: ./data/tracknet\nsplit:\n  train_games: [game1]\n  val_games: [game2]\n  test_games: null\n\
             preprocess:\n  resize: [512, 288]\n  normalize: true\n  flip_prob: 0.5\n\
             sequence:\n  enabled: false\n  length: 3\n  stride: 1\n",
        )
        .file(
            "model",
            "model_name: \"vit_heatmap\"\npretrained_model_name: facebook/dinov3-vits16-pretrain-lvd1689m\n\
             backbone:\n  freeze: true\n  device_map: \"auto\"\n  local_files_only: true\n  patch_size: 16\n\
             decoder:\n  channels: [384, 256, 128, 64]\n  upsample: [2, 2, 2]\n  dropout: 0.\n  # use_se: true\n\
             deformable_encoder:\n  d_model: 256\n  fuse: sum\n\
             lora:\n  enabled: true\n  lora_alpha: 32\n  task_type: FEATURE_EXTRACTION\n  use_dora: false\n\
             \x20 init_lora_weights: true\n  modules_to_save: null\n\
             quantization:\n  enabled: false\n  mode: manual\n  use_double_quant: true\n",
        )
        .file(
            "training",
            "amp: true\nbatch_size: 16\noptimizer:\n  name: AdamW\n  lr: 5e-4\n  weight_decay: 1\n\
             output_dir: ${oc.env:OUT,outputs}\nlog_dir: ${training.output_dir}/logs\n\
             ckpt_dir: ${.output_dir}/checkpoints\nema:\n  decay: 0.0\nearly_stopping: false\n",
        );
    let loaded = bench.load().unwrap_or_else(|e| panic!("{e}"));
    let Config { model, training, .. } = loaded.config;
    assert_eq!(training.precision, Precision::Fp16);
    assert_eq!((training.optimizer.lr, training.optimizer.weight_decay), (5e-4, 1.0));
    assert_eq!(training.log_dir, PathBuf::from("outputs/logs"));
    assert_eq!(training.ckpt_dir, PathBuf::from("outputs/checkpoints"));
    assert_eq!(model.lora.task_type.as_deref(), Some("FEATURE_EXTRACTION"));
    assert_eq!(model.decoder.dropout, 0.0);
    assert!(!training.early_stopping.enabled);
    assert_eq!(
        loaded.notes,
        [
            "model.backbone.device_map is ignored: the device is chosen by --device",
            "model.quantization.use_double_quant is ignored: it belongs to mode hf; mode manual reads \
             compress_statistics",
            "model.deformable_encoder is not read by vit_heatmap",
        ]
    );
}

#[test]
fn amp_is_the_old_spelling_of_precision_and_the_later_layer_counts() {
    let precision = |bench: Bench| bench.config().training.precision;
    assert_eq!(precision(Bench::new().file("training", "amp: true")), Precision::Fp16);
    assert_eq!(precision(Bench::new().file("training", "amp: false")), Precision::Fp32);
    assert_eq!(precision(Bench::new().file("training", "amp: false").with("training.precision=bf16")), Precision::Bf16);
    assert_eq!(precision(Bench::new().file("training", "precision: bf16").with("training.amp=false")), Precision::Fp32);
    assert_eq!(precision(Bench::new().file("training", "amp: true\nprecision: bf16")), Precision::Bf16);
    refuses(&["training | precision: bf16\namp: false | \
               training.yaml:2: training.amp: false means precision fp32, but training.precision is bf16; keep one"]);
}

#[test]
fn an_unknown_key_is_named_with_file_line_path_and_the_nearest_key() {
    refuses(&[
        "model | model_name: vit_heatmap\nlora:\n  r: 4\n  lora_aplha: 8\n | \
         model.yaml:4: unknown key model.lora.lora_aplha; did you mean lora_alpha?",
        "model | lora_alpha: 8 | model.yaml:1: unknown key model.lora_alpha; did you mean model.lora.lora_alpha?",
        "override | model.lora.lora_aplha=8 | \
         override model.lora.lora_aplha=8: unknown key model.lora.lora_aplha; did you mean lora_alpha?",
        "override | seed=8 | override seed=8: unknown key seed; did you mean training.seed?",
        "override | training.seed.x=8 | \
         override training.seed.x=8: training.seed holds a whole number of at least 0, and has no keys of its own",
        "override | runtime.seed=3 | …is derived and cannot be set; set training.seed instead…",
    ]);
}

#[test]
fn a_wrong_type_is_named_with_key_value_and_what_was_expected() {
    refuses(&[
        "training | batch_size: many | \
         training.yaml:1: training.batch_size: expected a whole number of at least 1, found `many` (text)",
        "training | optimizer: adamw | \
         training.yaml:1: training.optimizer is a section with the keys name, lr, weight_decay, momentum, backbone_lr, \
         exclude_bias_and_norm, exclude_adapters; found `adamw` (text)",
        "model | heatmap:\n  size: [256, x]\n | \
         model.yaml:2: model.heatmap.size[1]: expected a whole number from 1 to 16384, found `x` (text)",
        "model | heatmap:\n  size: 256\n | \
         model.yaml:2: model.heatmap.size: expected a list of two, each a whole number from 1 to 16384, found 256",
        "model | pretrained_model_name: 5 | \
         model.yaml:1: model.pretrained_model_name: expected text, or null, found 5; put it in quotes",
        "model | decoder:\n  skip: 2 | model.yaml:2: model.decoder.skip: expected true or false, found 2",
        "override | training.epochs=[1] | \
         override training.epochs=[1]: training.epochs: expected a whole number of at least 1, found a list of 1",
        "override | model.lora.target_modules=[a | …not valid YAML…",
        "model | - a\n- b\n | …a model file holds `key: value` lines, found a list of 2…",
    ]);
}

#[test]
fn a_word_that_is_not_known_is_answered_with_those_that_are() {
    refuses(&[
        "model | quantization:\n  quant_type: nf5 | \
         model.yaml:2: model.quantization.quant_type: expected one of nf4, fp4, found `nf5` (text); did you mean nf4?",
        "model | model_name: resnet | \
         model.yaml:1: model.model_name: expected one of vit_heatmap, vit_lora_heatmap, vit_qlora_heatmap, \
         convnext_fpn_heatmap, convnext_hrnet_heatmap, convnext_deformable_fpn_heatmap, vit_unet_heatmap, found `resnet` (text)",
        "training | precision: fp8 | …expected one of fp32, fp16, bf16, found `fp8` (text)…",
    ]);
}

#[test]
fn spellings_of_precisions_and_types_are_brought_to_one() {
    for (text, expected) in
        [("fp16", Precision::Fp16), ("\"16\"", Precision::Fp16), ("32", Precision::Fp32), ("BF16", Precision::Bf16)]
    {
        let config = Bench::new().with(&format!("training.precision={text}")).config();
        assert_eq!(config.training.precision, expected, "{text}");
    }
    for (text, expected) in [
        ("bf16", DtypeName::Bfloat16),
        ("float16", DtypeName::Float16),
        ("torch.float16", DtypeName::Float16),
        ("fp32", DtypeName::Float32),
    ] {
        let config = Bench::new().with(&format!("model.quantization.compute_dtype={text}")).config();
        assert_eq!(config.model.quantization.compute_dtype, expected, "{text}");
    }
}

#[test]
fn numbers_may_be_quoted_whole_or_short() {
    let bench = Bench::new()
        .with("training.batch_size=\"8\"")
        .with("training.epochs=1e1")
        .with("training.optimizer.lr=1")
        .with("training.optimizer.weight_decay=.5");
    let training = bench.config().training;
    assert_eq!((training.batch_size, training.epochs), (8, 10));
    assert_eq!((training.optimizer.lr, training.optimizer.weight_decay), (1.0, 0.5));
}

#[test]
fn values_out_of_range_are_refused_with_what_is_allowed() {
    for (text, expected) in [
        ("model.lora.r=0", "a whole number from 1 to 65536, found 0"),
        ("model.lora.lora_alpha=0", "a number above 0, found 0"),
        ("model.lora.lora_dropout=1.5", "a number from 0 to 1, found 1.5"),
        ("model.lora.lora_dropout=.nan", "a number from 0 to 1, found .nan"),
        ("model.lora.bias=some", "one of none, all, lora_only, found `some`"),
        ("model.quantization.blocksize=48", "one of 32, 64, 128, 256, 512, 1024, 2048, 4096, found 48"),
        ("model.quantization.compute_dtype=int8", "one of bfloat16, float16, float32, found `int8`"),
        ("model.quantization.mode=auto", "one of manual, hf, found `auto`"),
        ("data.preprocess.flip_prob=-0.1", "a number from 0 to 1, found -0.1"),
        ("data.augment.zoom_max=0.5", "a number from 1 to 100, found 0.5"),
        ("data.augment.jpeg_quality=[0,101]", "a whole number from 1 to 100, found 0"),
        ("model.decoder.channels=[384]", "a list of at least 2, each a whole number of at least 1, found a list of 1"),
        ("model.decoder.channels=[384,0]", "a whole number of at least 1, found 0"),
        ("model.heatmap.sigma=0", "a number from 0.1 to 1000, found 0"),
        ("training.scheduler.warmup_epochs=-1", "a whole number of at least 0, found -1"),
        ("training.optimizer.lr=1e99", "a number above 0, found 1e99; the largest is 3.4e38"),
        ("training.grad_clip=.inf", "a number of at least 0, found .inf; the largest is 3.4e38"),
        ("training.mb_backoff_factor=1", "a whole number from 2 to 1024, found 1"),
        ("training.epochs=99999999999", "a whole number of at least 1, found 99999999999; the largest is 16777216"),
        ("training.seed=-1", "a whole number of at least 0, found -1"),
        ("training.output_dir=\"\"", "text, found `` (text)"),
        ("data.split.train_games=null", "a list, each text, found null"),
    ] {
        let errors = Bench::new().with(text).errors();
        let key = text.split_once('=').unwrap().0;
        assert_like(&errors[0], &format!("override {text}: {key}…expected {expected}…"));
    }
}

/// Whatever a key is given, the answer is a configuration that can be written and read, or an error that begins with the key.
#[test]
fn every_key_takes_or_refuses_every_strange_value_by_its_name() {
    let long = "x".repeat(10_000);
    let values = [
        "18446744073709551615",
        "-1",
        "1e18",
        "1e400",
        ".nan",
        "-.inf",
        "[]",
        "[1e9, 0]",
        "{a: b}",
        "null",
        "y",
        "010",
        "\"\\u001b[2J\\u0000\"",
        &long,
    ];
    let keys = known_keys().iter().filter(|key| key.status != Status::Derived);
    for (key, value) in keys.flat_map(|key| values.iter().map(move |value| (key, value))) {
        let nested = key.path.rsplit('.').fold((*value).to_owned(), |inner, part| format!("{{{part}: {inner}}}"));
        match Config::from_yaml("x", &nested) {
            Ok(config) => {
                let back = Config::from_yaml("again", &config.to_yaml().unwrap());
                assert_eq!(back.as_ref(), Ok(&config), "{nested}");
            }
            Err(error) => {
                let named = error.problems.iter().all(|p| p.to_string().contains(&key.path));
                assert!(named, "{nested}: {error}");
                assert!(error.to_string().len() < 8192, "{}: {} bytes", key.path, error.to_string().len());
            }
        }
    }
}

#[test]
fn values_that_would_exhaust_the_machine_are_refused_with_their_bound() {
    let cases = [
        ("training.batch_size=18446744073709551615", "found 18446744073709551615; the largest is 16777216"),
        ("training.batch_size=18446744073709551616", "the largest is 16777216"),
        ("training.epochs=1e18", "the largest is 16777216"),
        ("training.data_loader.num_workers=1e9", "a whole number from 0 to 4096, found 1000000000.0"),
        ("training.data_loader.prefetch_factor=1e9", "a whole number from 0 to 4096"),
        ("data.preprocess.resize=[0, 0]", "a whole number from 1 to 16384, found 0"),
        ("data.preprocess.resize=[1e9, 1e9]", "a whole number from 1 to 16384, found 1000000000.0"),
        ("model.heatmap.sigma=1e-30", "a number from 0.1 to 1000, found 1e-30"),
        ("model.heatmap.sigma=.nan", "a number from 0.1 to 1000, found .nan"),
        ("training.optimizer.lr=1e400", "larger than any number here"),
        ("model.decoder.channels=[384, 16777216]", "would have up to"),
        ("model.decoder.blocks_per_stage=1024", "would have up to"),
    ];
    for (text, expected) in cases {
        let errors = Bench::new().with(text).errors();
        let key = text.split_once('=').unwrap().0;
        assert!(errors.iter().any(|error| error.contains(expected) && error.contains(key)), "{errors:?}");
    }
    let mut deep = "model.backbone.architecture".to_owned();
    deep.push_str(&".a".repeat(100_000));
    let error = Bench::new().with(&format!("{deep}=1")).load().unwrap_err().to_string();
    assert!(error.contains("a key has at most 32 parts") && error.len() < 1000, "{}", error.len());
}

#[test]
fn a_flag_or_number_that_python_reads_otherwise_is_not_guessed() {
    refuses(&[
        "training | batch_size: 010 | training.yaml:1: key training.batch_size is `010`: 8 to PyYAML…",
        "override | training.epochs=1:30 | …key training.epochs is `1:30`: a number in base 60…",
        "model | decoder:\n  skip: y | model.yaml:2: model.decoder.skip: expected true or false, found `y` (text)",
    ]);
    let split =
        Bench::new().file("data", "split:\n  train_games: [n, y, None]\n  val_games: ['no']\n").config().data.split;
    assert_eq!(
        (split.train_games, split.val_games),
        (vec!["n".into(), "y".into(), "None".into()], vec!["no".to_owned()])
    );
    assert!(Bench::new().file("model", "decoder: {skip: Yes}").config().model.decoder.skip);
}

#[test]
fn thousands_of_problems_are_answered_with_the_first_of_them() {
    let text: String = (0..9_000).map(|i| format!("unknown{i}: 1\n")).collect();
    let error = Bench::new().file("training", &text).load().unwrap_err();
    assert_eq!(error.problems.len(), 9_000);
    let message = error.to_string();
    assert!(message.ends_with("… and 8950 more problems") && message.len() < 30_000, "{}", message.len());
}

#[test]
fn a_run_id_that_leads_elsewhere_is_refused() {
    let bench = Bench::new();
    let yaml = bench.config().to_yaml().unwrap();
    let id = "run-20260304-050607-s42";
    assert!(yaml.contains(id));
    for other in ["../../etc", "a/b", "..", "", ".hidden", "a\\\\b", "/tmp/x"] {
        let error = Config::from_yaml("config.yaml", &yaml.replace(id, &format!("\"{other}\"")));
        let error = error.map(|config| config.runtime.run_id).unwrap_err().to_string();
        assert!(error.contains("runtime.run_id"), "{error}");
    }
    assert!(Config::from_yaml("config.yaml", &yaml.replace(id, "mine_2.b")).is_ok());
}

#[test]
fn a_run_directory_with_something_else_in_place_of_its_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("config.yaml")).unwrap();
    let error = Config::from_run_dir(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("config.yaml: is a directory, expected a YAML file"), "{error}");
    let mut bench = Bench::new();
    bench.sources.run = Some(dir.path().to_path_buf());
    assert!(bench.errors()[0].ends_with("config.yaml: is a directory, expected a YAML file"));
}

#[test]
fn the_size_must_fit_the_patches_and_the_nearest_legal_sizes_are_named() {
    refuses(&["override | data.preprocess.resize=[500,288] | \
               override data.preprocess.resize=[500,288]: data.preprocess.resize [500, 288] is not a multiple of \
               model.backbone.patch_size 16: the nearest legal sizes are [496, 288] and [512, 288]"]);
    assert_eq!(
        Bench::new().with("data.preprocess.resize=[512,288]").with("model.backbone.patch_size=14").errors(),
        ["override data.preprocess.resize=[512,288]: data.preprocess.resize [512, 288] is not a multiple of \
          model.backbone.patch_size 14: the nearest legal sizes are [504, 280] and [518, 294]; models with patches of \
          14 need multiples of 14"]
    );
}

#[test]
fn a_batch_that_is_normalized_as_a_whole_cannot_be_split() {
    let split = || Bench::new().with("training.micro_batch_size=5").with("training.batch_size=8");
    let errors = split().with("model.decoder.norm=bn").errors();
    assert!(errors[0].starts_with("override training.micro_batch_size=5: model.decoder.norm: bn takes"), "{errors:?}");
    split().with("model.decoder.norm=gn").config();
    Bench::new()
        .with("training.micro_batch_size=8")
        .with("training.batch_size=8")
        .with("model.decoder.norm=bn")
        .config();
    // Statistics that stand still are nobody's.
    split().with("model.decoder.norm=frozen_bn").with("model.decoder.pretrained=head").config();
}

#[test]
fn frozen_statistics_are_those_of_a_trained_decoder() {
    let errors = Bench::new().with("model.decoder.norm=frozen_bn").errors();
    assert!(errors.len() == 1 && errors[0].contains("model.decoder.pretrained, which is not set"), "{errors:?}");
}

#[test]
fn the_hrnet_decoder_normalizes_the_batch_and_an_unread_norm_does_not() {
    let split =
        |text| Bench::new().file("model", text).with("training.micro_batch_size=5").with("training.batch_size=8");
    let errors = split("model_name: convnext_hrnet_heatmap\n").errors();
    assert!(errors[0].contains("model.model_name: convnext_hrnet_heatmap has batch normalization"), "{errors:?}");
    assert!(errors[0].contains("set micro_batch_size to 0, or use another model_name"), "{errors:?}");
    let loaded = split("model_name: convnext_fpn_heatmap\ndecoder:\n  norm: bn\n").load().unwrap();
    assert_eq!(loaded.notes, ["model.decoder is not read by convnext_fpn_heatmap"]);
    let bench = Bench::new().file("model", "model_name: convnext_fpn_heatmap\ndecoder:\n  pretrained: head\n");
    assert_eq!(bench.load().unwrap().notes, Vec::<String>::new());
}

#[test]
fn stages_come_from_fine_to_coarse_and_once_each() {
    refuses(&[
        "model | backbone:\n  return_stages: [4, 3] | \
         model.yaml:2: model.backbone.return_stages [4, 3] is not in ascending order…",
        "model | backbone:\n  return_stages: [1, 1] | \
         model.yaml:2: model.backbone.return_stages [1, 1] is not in ascending order…",
        "model | backbone:\n  return_stages: [5] | …a whole number from 1 to 4…",
    ]);
    let config = Bench::new().file("model", "backbone:\n  return_stages: [2, 4]\n").config();
    assert_eq!(config.model.backbone.return_stages, [2, 4]);
}

#[test]
fn a_decoder_that_fits_into_no_memory_is_refused() {
    refuses(&[
        "model | model_name: convnext_fpn_heatmap\nfpn: {in_channels: [8, 8], lateral_dim: 20000} | \
         …model.fpn would have up to…",
        "model | model_name: convnext_hrnet_heatmap\nhrnet: {widths: [20000]} | …model.hrnet would have up to…",
        "model | model_name: convnext_deformable_fpn_heatmap\ndeformable_encoder: {d_model: 16384} | \
         …model.deformable_encoder would have up to…",
    ]);
}

#[test]
fn a_packed_backbone_that_should_train_is_refused_with_the_reason() {
    refuses(&["model | backbone:\n  freeze: false\nquantization:\n  enabled: true\n | \
               model.yaml:2: model.quantization.enabled is true…no gradient flows into packed 4-bit weights…"]);
    Bench::new().file("model", "backbone:\n  freeze: false\nquantization: true\nlora: true\n").config();
    Bench::new().file("model", "quantization:\n  enabled: true\n").config();
}

#[test]
fn combinations_that_cannot_work_are_named() {
    refuses(&[
        "model | decoder:\n  channels: [8, 4]\n  upsample: [2, 2]\n | \
         model.yaml:3: model.decoder.upsample has 2 factors, but model.decoder.channels [8, 4] make 1 stages (one less \
         than channels); leave out factors or add channels",
        "override | data.augment.jpeg_quality=[90,40] | \
         override data.augment.jpeg_quality=[90,40]: data.augment.jpeg_quality is [low, high]; found [90, 40]",
        "model | backbone:\n  architecture: {model_type: vit, patch_size: 8}\n | \
         …architecture.patch_size is 8, but model.backbone.patch_size is 16; make them equal",
    ]);
}

#[test]
fn features_that_this_version_lacks_are_refused_when_they_are_switched_on() {
    refuses(&[
        "data | format: frames | data.yaml:1: data.format: frames is not available in this version of tracknet…",
        "data | augment:\n  mixup: 0.2 | data.yaml:2: data.augment.mixup: 0.2 is not available in this version of tracknet…",
        "model | lora:\n  enabled: true\n  lora_bias: true | \
         model.yaml:3: model.lora.lora_bias: true…is not available in this version of tracknet…",
        "model | lora:\n  enabled: true\n  eva_config: {rho: 2} | \
         model.yaml:3: model.lora.eva_config…is not available in this version of tracknet…",
        "model | lora:\n  enabled: true\n  fan_in_fan_out: true | \
         model.yaml:3: model.lora.fan_in_fan_out…is not available in this version of tracknet…",
        "training | ema:\n  decay: 0.999 | \
         training.yaml:2: training.ema.decay: 0.999 is not available in this version of tracknet…",
    ]);
}

#[test]
fn windows_are_read_if_the_model_sees_them_and_seen_if_they_are_read() {
    refuses(&[
        "data | sequence:\n  length: 3 | data.yaml:2: data.sequence.length is 3, but data.sequence.enabled is not set…",
        "data | sequence:\n  length: 17 | data.yaml:2: data.sequence.length: expected a whole number from 1 to 16…",
        "data | sequence:\n  stride: 0 | data.yaml:2: data.sequence.stride: expected a whole number from 1 to 16…",
        "data | sequence:\n  enabled: true\n  length: 3 | \
         data.yaml:3: data.sequence makes windows of 3 frames, but model.temporal is none…",
        "model | temporal: stack | model.yaml:1: model.temporal is stack, but data.sequence makes no windows…",
        "model | temporal: optical_flow | model.yaml:1: model.temporal: expected one of none, stack, difference…",
        "model | heatmap: {frames: all} | \
         model.yaml:1: model.heatmap.frames is all, but data.sequence makes no windows…",
        "model | heatmap: {frames: first} | model.yaml:1: model.heatmap.frames: expected one of last, all…",
    ]);
    let on = "sequence:\n  enabled: true\n  length: 3\n";
    for (model, expected) in [
        (
            "model_name: convnext_fpn_heatmap\ntemporal: stack\n",
            "model.yaml:1: model.temporal_input is stem, but the fpn decoder of convnext_fpn_heatmap has no…",
        ),
        ("temporal: difference\n", "model.yaml:1: model.temporal_input is stem, but model.decoder.skip is false…"),
    ] {
        let errors = Bench::new().file("data", on).file("model", model).errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_like(&errors[0], expected);
    }
    let load = |data: &str, model: &str| Bench::new().file("data", data).file("model", model).load().unwrap().config;
    let config = load(on, "temporal: stack\ndecoder: {skip: true}\n");
    assert_eq!((config.data.sequence.frames(), config.model.temporal), (3, Temporal::Stack));
    assert_eq!(config.model.heatmap.frames, HeatmapFrames::Last);
    let config = load(on, "temporal: stack\ndecoder: {skip: true}\nheatmap: {frames: all}\n");
    assert_eq!(config.model.heatmap.frames, HeatmapFrames::All);
    let config = load("sequence: {enabled: false, length: 3}\n", "temporal: null\n");
    assert_eq!((config.data.sequence.frames(), config.model.temporal), (1, Temporal::None));
}

#[test]
fn every_option_of_lora_is_read_and_kept() {
    let text = "lora:\n  enabled: true\n  use_rslora: true\n  use_dora: true\n  init_lora_weights: gaussian\n  \
                target_modules: [query, key]\n  exclude_modules: [k_proj]\n  layers_to_transform: 1\n  \
                layers_pattern: layer\n  rank_pattern: {z.*: 8, a: 4}\n  alpha_pattern: {q_proj: 2.5}\n  \
                bias: lora_only\n  modules_to_save: [norm]\n";
    let config = Bench::new().file("model", text).config();
    let lora = &config.model.lora;
    assert!(lora.use_rslora && lora.use_dora);
    assert_eq!((lora.init_lora_weights, lora.bias), (InitMethod::Gaussian, Bias::LoraOnly));
    assert_eq!(lora.layers_to_transform, Some(vec![1]));
    assert_eq!(lora.layers_pattern, Some(vec!["layer".to_owned()]));
    assert_eq!(lora.rank_pattern.0, [("z.*".to_owned(), 8), ("a".to_owned(), 4)], "the order of the file counts");
    assert_eq!(lora.alpha_pattern.0, [("q_proj".to_owned(), 2.5)]);
    assert_eq!(lora.modules_to_save, Some(vec!["norm".to_owned()]));
    let again = Config::from_yaml("again", &config.to_yaml().unwrap()).unwrap();
    assert_eq!(again.model, config.model);
    for (method, text) in [(InitMethod::Kaiming, "true"), (InitMethod::Random, "false"), (InitMethod::Olora, "olora")] {
        let config = Bench::new().with(&format!("model.lora.init_lora_weights={text}")).config();
        assert_eq!(config.model.lora.init_lora_weights, method);
    }
}

#[test]
fn options_of_lora_that_cannot_work_are_refused_with_their_key_and_line() {
    for (text, expected) in [
        ("layers_pattern: [layer]", "layers_pattern has no effect without layers_to_transform"),
        ("layers_to_transform: [1]\n  target_modules: .*q_proj", "layers_to_transform needs a list"),
        ("target_modules: (", "target_modules `(` is not a regular expression"),
        ("rank_pattern: {'(': 4}", "rank_pattern `(` is not a regular expression"),
        ("init_lora_weights: orthogonal\n  r: 3", "init_lora_weights is orthogonal, which needs an even rank"),
        ("init_lora_weights: loftq", "init_lora_weights: loftq makes up for what 4-bit storage loses"),
        ("rank_pattern: {q_proj: 0}", "rank_pattern.q_proj: expected a whole number from 1 to 65536"),
        ("layers_to_transform: [-1]", "layers_to_transform[0]: expected"),
        ("init_lora_weights: eva", "init_lora_weights: expected one of true, false, gaussian"),
    ] {
        refuses(&[&format!("model | lora:\n  enabled: true\n  {text} | model.yaml:3: model.lora.{expected}…")]);
    }
}

#[test]
fn keys_that_an_adapter_directory_decides_are_noted() {
    let text = "lora:\n  enabled: true\n  adapter: some/dir\n  r: 4\n  rank_pattern: {a: 3}\n";
    let loaded = Bench::new().file("model", text).load().unwrap();
    let notes: Vec<&String> = loaded.notes.iter().filter(|n| n.contains("is not read")).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("model.lora.r is not read"), "{notes:?}");
}

#[test]
fn all_problems_of_all_files_and_overrides_are_reported_at_once() {
    let errors = Bench::new()
        .file("data", "rot: x\npreprocess:\n  flip_prob: 2\n")
        .file("model", "lora:\n  r: -1\n  r: 2\nlora_alpha: 3\n")
        .file("training", "epochs: [\n")
        .with("training.epochs")
        .with("training.loss.name=mae")
        .errors();
    assert_eq!(errors.len(), 8, "{errors:#?}");
    let starts = [
        "model.yaml:3: key model.lora.r is already given on line 2",
        "training.yaml:1: not valid YAML",
        "override training.epochs: an override is written section.key=value",
        "data.yaml:1: unknown key data.rot; did you mean root?",
        "model.yaml:4: unknown key model.lora_alpha",
        "data.yaml:3: data.preprocess.flip_prob",
        "model.yaml:2: model.lora.r: expected",
        "override training.loss.name=mae: training.loss.name: expected one of mse, focal, wbce",
    ];
    for (error, start) in errors.iter().zip(starts) {
        assert_like(error, &format!("{start}…"));
    }
}

#[test]
fn a_file_may_be_nested_under_its_section() {
    let config = Bench::new().file("model", "model:\n  lora:\n    r: 3\n").config();
    assert_eq!(config.model.lora.r, 3);
    let loaded = Bench::new().file("model", "model:\n  lora:\n    r: 3\ntraining:\n  epochs: 1\n").load().unwrap();
    assert_eq!(loaded.config.training.epochs, 20);
    assert!(loaded.notes[0].ends_with("read for its model section; its section training is not used"));
    refuses(&["model | model:\n  lora:\n    rr: 3\n | model.yaml:3: unknown key model.lora.rr; did you mean r?"]);
}

#[test]
fn empty_files_and_empty_sections_are_defaults() {
    let config = Bench::new().file("data", "").file("model", "# nothing\n").file("training", "optimizer:\n").config();
    assert_eq!(config.data, DataConfig::default());
    assert_eq!(config.model, ModelConfig::default());
    assert_eq!(config.training, TrainingConfig::default());
}

#[test]
fn overrides_apply_last_in_order_and_in_yaml_syntax() {
    let model = Bench::new()
        .file("model", SEED_DESIGN)
        .with("model.lora.target_modules=null")
        .with("model.lora={r: 4, lora_alpha: 8}")
        .with("model.lora.r=2")
        .with("model.backbone.architecture={model_type: vit}")
        .with("model.backbone.architecture.hidden_size=64")
        .with("model.pretrained_model_name=a=b")
        .config()
        .model;
    assert_eq!(model.lora.target_modules, None);
    assert_eq!((model.lora.r, model.lora.lora_alpha), (2, 8.0));
    let architecture = model.backbone.architecture.unwrap();
    assert_eq!(serde_json::Value::Object(architecture), serde_json::json!({"model_type": "vit", "hidden_size": 64}));
    assert_eq!(model.pretrained_model_name.as_deref(), Some("a=b"));
    let config = Bench::new().with("data.preprocess.resize=[640, 352]").with("training.optimizer.lr=1e-4").config();
    assert_eq!((config.data.preprocess.resize, config.training.optimizer.lr), ([640, 352], 1e-4));
}

#[test]
fn interpolation_works_across_files_and_in_overrides() {
    let mut bench = Bench::new()
        .file("training", "log_dir: ${training.output_dir}/l\nbatch_size: ${oc.env:BATCH}\n")
        .with("training.ckpt_dir=${training.log_dir}/c")
        .with("data.root=${oc.env:ROOT,/none}/tennis")
        .with("model.heatmap.size=${oc.env:SIZE}");
    bench.env = vec![("BATCH", "12".into()), ("SIZE", "[128, 72]".into())];
    let config = bench.config();
    assert_eq!(config.training.ckpt_dir, PathBuf::from("outputs/l/c"));
    assert_eq!((config.training.batch_size, config.model.heatmap.size), (12, [128, 72]));
    assert_eq!(config.data.root, PathBuf::from("/none/tennis"));
    refuses(&["override | data.root=${oc.env:NONE} | override data.root=${oc.env:NONE}: data.root: …"]);
}

#[test]
fn a_value_that_an_interpolation_made_wrong_is_named_at_its_key() {
    refuses(&["training | epochs: 3\nbatch_size: ${.output_dir}\n | \
               training.yaml:2: training.batch_size: expected a whole number…found `outputs` (text)"]);
}

#[test]
fn seed_and_output_dir_are_flags_that_come_last() {
    let mut bench = Bench::new().file("training", "seed: 1\n").with("training.seed=2");
    bench.sources.seed = Some(7);
    bench.sources.output_dir = Some("/runs/a".into());
    let config = bench.config();
    assert_eq!(config.training.seed, 7);
    assert_eq!(
        config.runtime,
        Runtime {
            seed: 7,
            run_id: "run-20260304-050607-s7".into(),
            output_dir: "/runs/a".into(),
            log_dir: "/runs/a/logs".into(),
            ckpt_dir: "/runs/a/checkpoints".into(),
        }
    );
    assert_eq!(config.training.log_dir, PathBuf::from("/runs/a/logs"));
}

#[test]
fn output_dir_moves_interpolated_and_foreign_directories_too() {
    let mut bench = Bench::new().file("training", "log_dir: ${training.output_dir}/tb\nckpt_dir: /mnt/fast\n");
    bench.sources.output_dir = Some("outputs/x".into());
    let training = bench.config().training;
    assert_eq!(training.log_dir, PathBuf::from("outputs/x/tb"));
    assert_eq!(training.ckpt_dir, PathBuf::from("outputs/x/checkpoints"));
}

#[test]
fn every_shipped_combination_loads_without_notes() {
    let names = |group| EMBEDDED.iter().filter(move |e| e.group == group);
    for (data, model, training) in names("data")
        .flat_map(|d| names("model").map(move |m| (d, m)))
        .flat_map(|(d, m)| names("training").map(move |t| (d, m, t)))
    {
        let mut bench = Bench::new();
        bench.sources.data = Some(data.name.into());
        bench.sources.model = Some(model.name.into());
        bench.sources.training = Some(training.name.into());
        // Windows of frames are for the models that see them.
        let windows = ["tracknet_windows", "finetune", "quickstart", "detector"].contains(&data.name);
        if windows != ["vit_unet_heatmap", "finetune", "detector"].contains(&model.name) {
            let errors = bench.errors();
            assert!(errors.len() == 1 && errors[0].contains("data.sequence"), "{errors:?}");
            continue;
        }
        let loaded = bench.load().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(loaded.notes, Vec::<String>::new(), "{} {} {}", data.name, model.name, training.name);
        // Pretraining is what starts from nothing.
        assert_eq!(loaded.config.model.pretrained_model_name.is_none(), model.name == "pretrain", "{}", model.name);
    }
}

#[test]
fn groups_that_are_not_given_are_the_default_configs() {
    let loaded = Bench::new().load().unwrap();
    assert_eq!(
        loaded.files,
        ["data/tracknet", "model/vit_heatmap", "training/default"].map(|n| format!("configs/{n}.yaml (built in)"))
    );
    let bench = Bench::new();
    std::fs::create_dir_all(bench.dir.path().join("configs/training")).unwrap();
    std::fs::write(bench.dir.path().join("configs/training/default.yaml"), "epochs: 3").unwrap();
    assert_eq!(bench.config().training.epochs, 3);
}

#[test]
fn the_default_data_and_training_configs_say_what_the_defaults_are() {
    let config = Bench::new().config();
    assert_eq!(config.data, DataConfig::default());
    assert_eq!(config.training, TrainingConfig::default());
}

#[test]
fn a_configs_folder_is_named_by_the_flag_or_by_the_environment() {
    let mut bench = Bench::new();
    for (folder, epochs) in [("flag", 3), ("variable", 4)] {
        let dir = bench.dir.path().join(folder).join("training");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("mine.yaml"), format!("epochs: {epochs}")).unwrap();
    }
    bench.sources.training = Some("mine".into());
    bench.env = vec![(CONFIG_DIR_VARIABLE, bench.dir.path().join("variable").display().to_string())];
    assert_eq!(bench.config().training.epochs, 4);
    bench.sources.config_dir = Some(bench.dir.path().join("flag"));
    assert_eq!(bench.config().training.epochs, 3);
}

#[test]
fn a_written_configuration_is_read_back_equal() {
    let mut bench = Bench::new().file("model", SEED_DESIGN).with("training.optimizer.backbone_lr=1e-5");
    bench.sources.seed = Some(u64::MAX);
    let mut config = bench.config();
    config.data.root = PathBuf::from("odd ${name} \\${x} \u{85}\u{7f} 'a': #b\n");
    config.training.optimizer.lr = 0.1 + 0.2;
    let yaml = config.to_yaml().unwrap();
    assert_eq!(Config::from_yaml("x", &yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}")), config);
    let order: Vec<_> = yaml.lines().filter(|l| !l.starts_with(' ')).collect();
    assert_eq!(order, ["data:", "model:", "training:", "runtime:"]);
    assert!(yaml.contains("lora_dropout: 0.05\n"), "{yaml}");
    assert!(yaml.contains("resize: [512, 288]\n"), "{yaml}");
}

#[test]
fn a_run_directory_is_read_back_with_its_run_id_and_is_a_base_for_overrides() {
    let mut bench = Bench::new().file("training", "epochs: 3\n");
    let config = bench.config();
    let run = bench.dir.path().join("run");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("config.yaml"), config.to_yaml().unwrap()).unwrap();
    assert_eq!(Config::from_run_dir(&run).unwrap(), config);

    bench.sources = ConfigSources { run: Some(run.clone()), ..ConfigSources::default() };
    bench.sources.overrides = vec!["training.batch_size=2".into()];
    let loaded = bench.load().unwrap();
    assert_eq!(loaded.notes, Vec::<String>::new());
    assert_eq!((loaded.config.training.epochs, loaded.config.training.batch_size), (3, 2));
    assert_eq!(loaded.config.runtime.run_id, config.runtime.run_id);

    bench.sources.training = Some("default".into());
    assert_eq!(bench.config().training.epochs, 20);

    let missing = Config::from_run_dir(bench.dir.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("none/config.yaml: cannot be read"), "{missing}");
}

#[test]
fn a_configuration_that_was_built_in_code_is_checked_by_the_same_rules() {
    let mut config = Bench::new().config();
    config.validate().unwrap();
    config.model.lora.r = 0;
    config.data.preprocess.flip_prob = f32::NAN;
    let error = config.validate().unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
    assert_eq!(error.problems[1].key, "model.lora.r");
}

#[test]
fn scores_are_calibrated_where_there_are_logits_and_validation_frames() {
    refuses(&[
        "training | calibrate: true | training.yaml:1: training.calibrate is true, but training.loss.name is mse…",
    ]);
    let notes = |split: &str| {
        let bench = Bench::new().file("data", split).file("training", "calibrate: true\nloss:\n  name: wbce\n");
        bench.load().unwrap().notes
    };
    assert_eq!(notes("split:\n  val_games: [game10]\n"), Vec::<String>::new());
    assert_eq!(notes("split:\n  val_games: []\n  val_share: 0.2\n"), Vec::<String>::new());
    let expected = "training.calibrate does nothing without validation games: data.split.val_games is empty";
    assert_eq!(notes("split:\n  val_games: []\n"), [expected]);
}

#[test]
fn suspicious_values_are_noted() {
    let loaded = Bench::new()
        .with("data.split.val_games=[game9]")
        .with("training.epochs=2")
        .with("training.scheduler.warmup_epochs=2")
        .with("training.early_stopping.monitor=val/f1")
        .load()
        .unwrap();
    assert_eq!(
        loaded.notes,
        [
            "game9 is a training game and a validation game: scores will flatter",
            "training.scheduler.warmup_epochs 2 reaches past training.epochs 2: the full learning rate is never \
             reached",
            "training.early_stopping.monitor val/f1 is watched with mode min: the smallest value counts as the best; set \
             training.early_stopping.mode if larger is better",
        ]
    );
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let mut bench = Bench::new();
    bench.sources.model = Some("nowhere/x.yaml".into());
    assert!(bench.errors()[0].starts_with("nowhere/x.yaml: cannot be read"));
    assert!(!Path::new("nowhere").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn arbitrary_text_in_files_and_overrides_never_panics(file in "\\PC{0,80}", text in any::<String>()) {
        let _ = Config::from_yaml("x", &file);
        let _ = Config::from_yaml("x", &text);
        let _ = Bench::new().file("model", &file).with(&text).load();
    }

    #[test]
    fn text_made_of_the_pieces_of_a_config_never_panics(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("model:"), Just("lora"), Just("r"), Just(": "), Just("\n"), Just("  "), Just("["), Just("]"),
                Just("${"), Just("}"), Just("oc.env:"), Just("."), Just(","), Just("- "), Just("&a"), Just("*a"),
                Just("<<"), Just("null"), Just("1e999"), Just("'"), Just("\""), Just("\\"), Just("{"), Just("# "),
                Just("training"), Just("data"), Just("preprocess"), Just("resize"), Just("=")
            ],
            0..40,
        )
    ) {
        let text = pieces.concat();
        let _ = Config::from_yaml("x", &text);
        let _ = Bench::new().file("model", &text).with(&text).load();
    }

    #[test]
    fn any_values_survive_writing_and_reading(
        root in "[^\\x00]{1,20}", lr in 1e-12f64..1e3, seed in any::<u64>(), dropout in 0f32..1.0, sigma in 0.1f32..1e3,
    ) {
        let mut config = Config::from_sections(Default::default(), Default::default(), Default::default());
        config.data.root = PathBuf::from(root);
        config.training.optimizer.lr = lr;
        config.training.seed = seed;
        config.runtime.seed = seed;
        config.model.decoder.dropout = dropout;
        config.model.heatmap.sigma = sigma;
        let yaml = config.to_yaml().unwrap();
        prop_assert_eq!(Config::from_yaml("x", &yaml).map_err(|e| TestCaseError::fail(format!("{e}\n{yaml}")))?, config);
    }
}
