//! The command as a user meets it: help, exit codes, messages, and a whole run on a tiny model.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tracknet::config::Config;

use common::{TINY, contains_all, ends, failure, fixture, help_with_example, ok, program, render_rallies, train};

/// Two games of one clip of three frames, in `rallies`.
fn with_rallies() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    render_rallies(dir.path(), 3);
    dir
}

fn assert_files(dir: &Path, names: &[&str]) {
    for name in names {
        assert!(dir.join(name).is_file(), "{} is missing", dir.join(name).display());
    }
}

#[test]
fn the_help_of_every_verb_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let verbs: [&[&str]; 17] = [
        &["quickstart"],
        &["train"],
        &["eval"],
        &["predict"],
        &["serve"],
        &["export"],
        &["quantize"],
        &["dequantize"],
        &["inspect"],
        &["config"],
        &["config", "print"],
        &["config", "explain"],
        &["data"],
        &["data", "generate"],
        &["data", "import"],
        &["data", "check"],
        &["data", "preview"],
    ];
    for verb in verbs {
        help_with_example(dir.path(), verb);
    }
}

#[test]
fn the_help_of_the_program_names_every_verb_and_where_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let help = ok(dir.path(), ["--help"]);
    contains_all(
        &help,
        &["train", "eval", "predict", "data", "config", "export", "quantize", "inspect", "tracknet quickstart"],
    );
    assert_eq!(ok(dir.path(), ["--version"]).trim(), format!("tracknet {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_ends_with_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: [&[&str]; 8] = [
        &[],
        &["data"],
        &["tarin"],
        &["train", "--no-such-flag"],
        &["predict", "only-a-run"],
        &["data", "generate", "rallies", "--size", "12"],
        &["eval", "run", "--visible", "0"],
        &["export", "run", "out", "--dtype", "int3"],
    ];
    for args in wrong {
        let [_, message] = ends(2, dir.path(), args);
        assert!(message.contains("Usage") || message.contains("--help"), "{args:?}: {message}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "wrong usage wrote something");
}

#[test]
fn a_number_that_makes_no_sense_is_wrong_usage_that_says_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let score = "expected a number from 0 to 1";
    let wrong: [(&[&str], &str); 8] = [
        (&["eval", "run", "--threshold", "nan"], score),
        (&["eval", "run", "--threshold", "2"], score),
        (&["predict", "run", "frames", "--threshold=-0.1"], score),
        (&["eval", "run", "--tolerance=-1"], "expected a number of pixels above 0"),
        (&["eval", "run", "--tolerance", "0"], "expected a number of pixels above 0"),
        (&["eval", "run", "--tolerance", "inf"], "expected a number of pixels above 0"),
        (&["data", "preview", "rallies", "--count", "0"], "expected a whole number of at least 1"),
        (&["data", "preview", "rallies", "--count=-3"], "expected a whole number of at least 1"),
    ];
    for (args, expected) in wrong {
        let [_, message] = ends(2, dir.path(), args);
        contains_all(&message, &["invalid value", expected]);
    }
}

#[test]
fn a_misspelt_key_is_answered_with_the_nearest_one() {
    let dir = tempfile::tempdir().unwrap();
    let message = failure(dir.path(), ["config", "print", "model.lora.lora_aplha=3"]);
    contains_all(&message, &["override model.lora.lora_aplha=3", "did you mean lora_alpha?"]);

    fs::write(dir.path().join("mine.yaml"), "batch_size: 4\nepochz: 3\n").unwrap();
    let message = failure(dir.path(), ["train", "--training", "mine.yaml", "--dry-run"]);
    contains_all(&message, &["mine.yaml:2: unknown key training.epochz", "did you mean epochs?"]);
}

#[test]
fn a_configuration_that_does_not_exist_is_answered_with_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let message = failure(dir.path(), ["config", "print", "--data", "tracknte"]);
    contains_all(&message, &["no data config is named tracknte", "did you mean tracknet?", "quickstart"]);
}

#[test]
fn a_key_is_explained_and_an_unknown_one_answered_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let text = ok(dir.path(), ["config", "explain", "model.lora.r"]);
    assert!(text.contains("Rank of the two thin matrices.") && text.contains("default: 16"), "{text}");
    let section = ok(dir.path(), ["config", "explain", "data.sequence"]);
    assert!(section.contains("data.sequence.length") && section.contains("data.sequence.stride"), "{section}");
    let message = failure(dir.path(), ["config", "explain", "model.lora.alpha_patern"]);
    assert!(message.contains("did you mean alpha_pattern?"), "{message}");
}

#[test]
fn a_printed_configuration_loads_back_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let printed = ok(dir.path(), ["config", "print", "--model", "vit_qlora_heatmap", "training.optimizer.lr=1e-4"]);
    let config = Config::from_yaml("printed", &printed).unwrap();
    assert_eq!(config.training.optimizer.lr, 1e-4);
    assert!(config.model.quantization.enabled);
    assert_eq!(config.to_yaml().unwrap(), printed);

    fs::write(dir.path().join("printed.yaml"), &printed).unwrap();
    let groups = ["--data", "--model", "--training"].into_iter().flat_map(|flag| [flag, "./printed.yaml"]);
    let again = ok(dir.path(), ["config", "print"].into_iter().chain(groups));
    let again = Config::from_yaml("again", &again).unwrap();
    assert_eq!((again.data, again.model, again.training), (config.data, config.model, config.training));
}

#[test]
fn a_missing_dataset_names_the_key_and_leaves_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["train", "--model", "vit_heatmap", "--output-dir", "runs"];
    let message = failure(dir.path(), flags.iter().chain(&TINY).chain(&["data.root=nowhere"]));
    contains_all(&message, &["dataset root nowhere", "data.root", "tracknet data generate"]);
    assert!(!dir.path().join("runs").exists());

    for verb in [&["data", "check", "nowhere"], &["data", "preview", "nowhere"]] {
        contains_all(&failure(dir.path(), verb), &["dataset root nowhere"]);
    }
}

#[test]
fn a_run_that_does_not_fit_into_memory_leaves_no_directory() {
    let dir = with_rallies();
    let flags = ["train", "--model", "vit_heatmap", "--output-dir", "runs", "--memory-limit", "0"];
    let message = failure(dir.path(), flags.iter().chain(&TINY));
    contains_all(&message, &["only 0 MiB are allowed by the memory limit", "raise the memory limit"]);
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn a_missing_split_directory_is_answered_with_those_that_exist() {
    let dir = with_rallies();
    let flags = ["train", "--model", "vit_heatmap", "--output-dir", "runs"];
    let message = failure(dir.path(), flags.iter().chain(&TINY).chain(&["data.split.val_games=[gmae2]"]));
    contains_all(&message, &["data.split.val_games", "gmae2", "game1", "game2"]);
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn a_size_that_cannot_be_cut_into_patches_is_answered_with_the_nearest_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let message = failure(dir.path(), ["train", "--dry-run", "data.preprocess.resize=[500,288]"]);
    contains_all(&message, &["[500, 288]", "[496, 288] and [512, 288]"]);
}

#[test]
fn a_missing_run_or_source_is_named() {
    let dir = with_rallies();
    let missing_source = failure(dir.path(), ["predict", "no-run", "no-frames"]);
    contains_all(&missing_source, &["no-frames: no such file or directory"]);
    let missing_run = failure(dir.path(), ["predict", "no-run", "rallies/game1/Clip1"]);
    contains_all(&missing_run, &["no-run: no checkpoint here"]);
    contains_all(&failure(dir.path(), ["eval", "no-run"]), &["no-run: no checkpoint here"]);
    contains_all(&failure(dir.path(), ["export", "no-run", "out"]), &["no-run: no checkpoint here"]);
    contains_all(&failure(dir.path(), ["train", "--resume", "no-run"]), &["no-run"]);
    assert!(!dir.path().join("out").exists() && !dir.path().join("predictions").exists());
}

#[test]
fn the_cause_of_a_failed_write_is_said_once() {
    let dir = with_rallies();
    fs::write(dir.path().join("file"), "").unwrap();
    let message = failure(dir.path(), ["data", "preview", "rallies", "--output", "file/sheet.png"]);
    assert_eq!(message.matches("os error").count(), 1, "{message}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_never_a_fallback() {
    let dir = tempfile::tempdir().unwrap();
    let dry_run = ["train", "--dry-run", "--model", "vit_heatmap"];
    let on = |device: &'static str| dry_run.iter().chain(&TINY).copied().chain(["--device", device]);
    contains_all(&failure(dir.path(), on("tpu")), &["--device tpu", "auto, cpu, cuda"]);
    contains_all(&failure(dir.path(), on("cpu:x")), &["`x` is not a device number"]);
    #[cfg(not(feature = "cuda"))]
    contains_all(&failure(dir.path(), on("cuda")), &["--features cuda"]);
}

#[test]
fn generated_rallies_pass_the_check_and_can_be_looked_at() {
    let dir = with_rallies();
    let checked = ok(dir.path(), ["data", "check", "rallies", "--strict"]);
    contains_all(&checked, &["game1", "game2", "6 of 96×64", "no problems"]);
    let previewed = ok(dir.path(), ["data", "preview", "rallies", "--output", "sheets/all.png", "--count", "4"]);
    assert!(previewed.contains("sheets/all.png"), "{previewed}");
    let png = fs::read(dir.path().join("sheets/all.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 1000, "{} bytes", png.len());

    let again = failure(dir.path(), ["data", "generate", "rallies", "--games", "1", "--frames", "1"]);
    assert!(again.contains("exists already"), "{again}");
}

#[test]
fn a_broken_label_row_is_named_with_file_and_line_and_fails_a_strict_check() {
    let dir = with_rallies();
    let labels = dir.path().join("rallies/game1/Clip1/Label.csv");
    let text = fs::read_to_string(&labels).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "0001.jpg,1,many,5,0";
    fs::write(&labels, lines.join("\n")).unwrap();

    let tolerant = ok(dir.path(), ["data", "check", "rallies"]);
    contains_all(&tolerant, &["rallies/game1/Clip1/Label.csv:3: 0001.jpg: x `many` is not a number"]);
    let [report, message] = ends(1, dir.path(), ["data", "check", "rallies", "--strict"]);
    contains_all(&report, &["Label.csv:3:"]);
    contains_all(&message, &["error: rallies has problems"]);
    ok(dir.path(), ["data", "check", "rallies", "--strict", "--games", "game2"]);
}

#[test]
fn labels_outside_the_frame_are_reported_when_training_begins() {
    let dir = with_rallies();
    let outside = |game: &str, rows: usize| {
        let labels = dir.path().join(format!("rallies/{game}/Clip1/Label.csv"));
        let text = fs::read_to_string(&labels).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        let names = ["0000.jpg,1,500,5,0", "0001.jpg,1,500,5,0", "0002.jpg,1,500,5,0"];
        lines.splice(1..=rows, names.into_iter().take(rows));
        fs::write(&labels, lines.join("\n")).unwrap();
    };
    outside("game1", 1);
    let args = ["train", "--model", "vit_heatmap", "--output-dir", "runs"];
    let [_, report] = ends(0, dir.path(), args.iter().chain(&TINY));
    contains_all(&report, &["1 problem, skipped:", "coordinates outside the frame"]);
    contains_all(&report, &["game1/Clip1/Label.csv:2: 0000.jpg: (500, 5) is outside the 96×64 image"]);

    outside("game2", 3);
    let message = failure(dir.path(), args.iter().chain(&TINY));
    contains_all(&message, &["data.split.val_games: no usable frame", "game2/Clip1/Label.csv:4: 0002.jpg: (500, 5)"]);
}

#[test]
fn labels_that_cannot_be_true_are_said_by_the_check_the_training_and_the_evaluation() {
    let dir = with_rallies();
    for game in ["game1", "game2"] {
        let rows = "0000.jpg,1,0.125,0.333,0\n0001.jpg,1,0.144,0.350,0\n0002.jpg,0,,,\n";
        let text = format!("file name,visibility,x-coordinate,y-coordinate,status\n{rows}");
        fs::write(dir.path().join(format!("rallies/{game}/Clip1/Label.csv")), text).unwrap();
    }
    let doubt = |game: &str| format!("rallies/{game}/Clip1/Label.csv: 2 of 2 positions lie within 0..1");
    let expected = [doubt("game1"), doubt("game2"), "multiply x by 96 and y by 64".to_owned()];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let checked = ok(dir.path(), ["data", "check", "rallies"]);
    contains_all(&checked, &expected);
    assert!(!checked.contains("no problems"), "{checked}");
    ends(1, dir.path(), ["data", "check", "rallies", "--strict"]);
    ends(1, dir.path(), ["data", "check", "rallies", "--strict", "--skip-images"]);

    let args = ["train", "--model", "vit_heatmap", "--output-dir", "runs"];
    let [_, notes] = ends(0, dir.path(), args.iter().chain(&TINY));
    contains_all(&notes, &expected);
    let run = fs::read_dir(dir.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    let [_, notes] = ends(0, dir.path(), ["eval", run.to_str().unwrap(), "--games", "game2"]);
    contains_all(&notes, &["note: the labels of this evaluation: 1 doubt", &doubt("game2")]);
}

#[test]
fn a_game_or_a_parent_given_as_root_is_answered_with_the_directory_that_is_meant() {
    let dir = with_rallies();
    let message = failure(dir.path(), ["data", "check", "rallies/game1"]);
    contains_all(&message, &["rallies/game1: no game here; it is a game (it holds Clip1)", "above it: rallies"]);
    assert!(!message.contains("data.split"), "{message}");
    contains_all(&failure(dir.path(), ["data", "check", "rallies/game1/Clip1"]), &["it is a clip", "game: rallies"]);
    contains_all(&failure(dir.path(), ["data", "check", "."]), &["./rallies holds the games (game1, game2)"]);
    let message = failure(dir.path(), ["data", "check", "rallies", "--games", "gmae1"]);
    contains_all(&message, &["--games asks for gmae1", "did you mean game1?", "it has: game1, game2"]);
}

#[test]
fn an_image_that_does_not_decode_is_named() {
    let dir = with_rallies();
    fs::write(dir.path().join("rallies/game2/Clip1/0001.jpg"), b"not a picture").unwrap();
    let [report, _] = ends(1, dir.path(), ["data", "check", "rallies", "--strict"]);
    contains_all(&report, &["game2/Clip1/0001.jpg", "images that cannot be decoded"]);
    ok(dir.path(), ["data", "check", "rallies", "--strict", "--skip-images"]);
}

#[test]
fn a_dry_run_reports_parameters_and_memory_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["train", "--model", "vit_qlora_heatmap", "--dry-run"];
    let printed = ok(dir.path(), flags.iter().chain(&TINY));
    contains_all(&printed, &["4-bit: 6 modules", "adapted 6 modules", "trainable params: ", "as stored", "peak"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn targets_that_match_nothing_and_packed_weights_that_should_train_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let with = |extra: &'static [&'static str]| {
        ["train", "--model", "vit_qlora_heatmap", "--dry-run"].into_iter().chain(TINY).chain(extra.iter().copied())
    };
    let message = failure(dir.path(), with(&["model.lora.target_modules=[no_such_layer]"]));
    contains_all(&message, &["[no_such_layer] matches no linear layer", "layer.*.attention.q_proj (1)"]);
    let message = failure(dir.path(), with(&["model.lora.r=0"]));
    contains_all(&message, &["model.lora.r", "found 0"]);
    let message = failure(dir.path(), with(&["model.lora.enabled=false", "model.backbone.freeze=false"]));
    contains_all(&message, &["model.quantization.enabled", "no gradient"]);
    let message = failure(dir.path(), with(&["model.quantization.mode=auto"]));
    contains_all(&message, &["model.quantization.mode", "one of manual, hf"]);
}

/// The tiny checkpoint of the library's tests.
fn tiny_checkpoint() -> String {
    fixture("dinov3_tiny").display().to_string()
}

#[test]
fn a_checkpoint_goes_to_4_bits_and_back_and_is_inspected() {
    let dir = tempfile::tempdir().unwrap();
    let (source, at) = (tiny_checkpoint(), |name: &str| dir.path().join(name));
    let printed = ok(
        dir.path(),
        ["quantize", &source, "q", "--quant-type", "fp4", "--blocksize", "128", "--skip", "o_proj,k_proj"],
    );
    contains_all(&printed, &["4-bit: 8 modules", "4 left as floats", "layer.1.mlp.up_proj", "wrote q"]);
    assert_files(&at("q"), &["config.json", "model.safetensors"]);
    let printed = ok(dir.path(), ["inspect", "q", "--against", &source]);
    contains_all(
        &printed,
        &["4-bit backbone", "fp4, blocks of 128, double quantization", "error of 8 layers", "worst: "],
    );
    let json: serde_json::Value = serde_json::from_str(&ok(dir.path(), ["inspect", "q", "--json"])).unwrap();
    assert_eq!((&json["kind"], &json["totals"]["parameters"]), (&"packed_backbone".into(), &116_800.into()));
    contains_all(&ok(dir.path(), ["dequantize", "q", "f", "--dtype", "bfloat16"]), &["8 layers", "wrote f"]);
    contains_all(&ok(dir.path(), ["inspect", "f"]), &["backbone (float weights)", "bfloat16", "16.000 bits"]);
    contains_all(&ok(dir.path(), ["quantize", &source, "p", "--double-quant", "--no-double-quant"]), &["12 modules"]);
    assert!(!ok(dir.path(), ["inspect", "p"]).contains("double quantization"));

    // What tracknet wrote is replaced; what somebody added to it is not, unless they say so.
    ok(dir.path(), ["quantize", &source, "q"]);
    fs::write(at("q").join("notes.txt"), "mine").unwrap();
    contains_all(&failure(dir.path(), ["quantize", &source, "q"]), &["q: holds notes.txt", "--overwrite"]);
    ok(dir.path(), ["quantize", &source, "q", "--overwrite"]);
    let [packed, over] = [at("q"), at("q/..")].map(|path| path.display().to_string());
    contains_all(&failure(dir.path(), ["dequantize", &packed, "./q/../q", "--overwrite"]), &["is the input"]);
    contains_all(&failure(dir.path(), ["dequantize", &packed, &over, "--overwrite"]), &["holds the input"]);
    contains_all(&failure(dir.path(), ["dequantize", &source, "g"]), &["is no 4-bit checkpoint"]);
    contains_all(&failure(dir.path(), ["inspect", "no-such"]), &["no-such"]);
    ends(2, dir.path(), ["quantize", &source, "g", "--blocksize", "100"]);
    assert!(!at("g").exists());
}

#[test]
fn a_run_on_a_checkpoint_in_4_bits_trains_resumes_its_identity_and_is_inspected() {
    let dir = with_rallies();
    ok(dir.path(), ["quantize", &tiny_checkpoint(), "q"]);
    let pretrained = ["model.pretrained_model_name=q", "model.decoder.channels=[64,16]", "model.quantization.mode=hf"];
    let run = train(dir.path(), "vit_qlora_heatmap", &pretrained);
    let printed = ok(dir.path(), ["inspect", &run]);
    contains_all(&printed, &["tracknet run", "checkpoint: ", "base: q (sha256 ", "adapter: ", "of adapters)", "rank"]);
    let best = format!("{run}/checkpoints/best");
    contains_all(&ok(dir.path(), ["inspect", &best]), &["tracknet checkpoint", "optimizer steps"]);
    contains_all(&ok(dir.path(), ["eval", &run]), &["F1"]);
    // Another base is told apart by its packed bytes.
    ok(dir.path(), ["quantize", &tiny_checkpoint(), "other", "--quant-type", "fp4"]);
    failure(dir.path(), ["eval", &run, "--base", "other"]);
}

/// What a command whose reader leaves at once writes to standard error; it must succeed.
#[cfg(unix)]
fn unheard(dir: &Path, args: &[&str]) -> String {
    let mut child = program(dir).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    said
}

#[cfg(unix)]
#[test]
fn an_inspection_whose_reader_leaves_ends_quietly() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(unheard(dir.path(), &["inspect", &tiny_checkpoint(), "--json"]), "");
}

#[test]
fn a_quantized_run_with_adapters_goes_from_frames_to_marked_pictures() {
    let dir = with_rallies();
    let name = train(dir.path(), "vit_qlora_heatmap", &[]);
    let run = dir.path().join(&name);
    assert_files(
        &run,
        &[
            "config.yaml",
            "logs/metrics.csv",
            "logs/metrics.jsonl",
            "overlays_pred/epoch000/sample_00.png",
            "overlays_target/epoch000/sample_00.png",
        ],
    );
    for checkpoint in ["best", "last"] {
        let checkpoint = run.join("checkpoints").join(checkpoint);
        let files = ["config.yaml", "state.json", "optimizer.safetensors", "tracknet_head.safetensors"];
        assert_files(&checkpoint, &files);
        assert_files(&checkpoint, &["checksums.json", "adapter/adapter_config.json"]);
        assert_files(&checkpoint, &["adapter/adapter_model.safetensors"]);
        assert!(!checkpoint.join("backbone").exists(), "a packed base was copied");
    }

    let report = ok(dir.path(), ["eval", &name, "--json", "report.json"]);
    contains_all(&report, &["F1", "game2", "total"]);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(json["total"]["frames"], 3);
    let report = ok(dir.path(), ["eval", &name, "--games", "game1,game2", "--visible", "1,2"]);
    contains_all(&report, &["game1", "game2", "visible = {1,2}"]);

    let clip = "rallies/game2/Clip1";
    let pictures = ["--overlays", "--heatmaps", "--jsonl", "--output", "found"];
    let printed = ok(dir.path(), ["predict", &name, clip].into_iter().chain(pictures));
    contains_all(&printed, &["of 3 frames", "Clip1.csv"]);
    let csv = fs::read_to_string(dir.path().join("found/Clip1.csv")).unwrap();
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!((rows[0], rows.len()), ("Frame,Visibility,X,Y,Score", 4));
    assert!(rows[1].starts_with("0,") && rows[3].starts_with("2,"), "{csv}");
    assert_files(&dir.path().join("found"), &["Clip1.jsonl", "overlays/0000.png", "overlays/0002.png"]);
    assert_files(&dir.path().join("found"), &["heatmaps/0000.png", "heatmaps/0002.png"]);
    ok(dir.path(), ["predict", &name, "rallies/game1/Clip1/0000.jpg"]);
    assert_files(dir.path(), &["predictions/0000/0000.csv"]);

    let refused = failure(dir.path(), ["export", &name, "exported"]);
    contains_all(&refused, &["stored in 4 bits"]);
    assert!(!dir.path().join("exported").exists());
}

#[test]
fn a_finished_run_goes_on_when_its_epochs_are_raised() {
    let dir = with_rallies();
    let name = train(dir.path(), "vit_lora_heatmap", &[]);
    let run = dir.path().join(&name);
    let printed = ok(dir.path(), ["train", "--resume", &name, "training.epochs=2"]);
    assert!(printed.contains(&format!("run: {name}")), "{printed}");
    let state = fs::read(run.join("checkpoints/last/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    assert_eq!((&state["epoch"], &state["step"]), (&2.into(), &4.into()));
    let log = fs::read_to_string(run.join("logs/metrics.csv")).unwrap();
    assert_eq!(log.lines().filter(|row| row.starts_with("epoch,")).count(), 2, "{log}");

    let refused = failure(dir.path(), ["export", &name, "exported"]);
    contains_all(&refused, &[&name, "LoRA adapters", "would not be the model that was trained"]);
    assert!(!dir.path().join("exported").exists());
}

#[test]
fn a_backbone_that_trained_is_exported_and_can_be_started_from() {
    let dir = with_rallies();
    let name = train(dir.path(), "vit_heatmap", &["model.backbone.freeze=false"]);
    assert_files(
        &dir.path().join(&name),
        &["checkpoints/best/backbone/config.json", "checkpoints/best/backbone/model.safetensors"],
    );
    ok(dir.path(), ["export", &name, "mine"]);
    assert_files(&dir.path().join("mine"), &["config.json", "model.safetensors", "tracknet_head.safetensors"]);
    fs::write(dir.path().join("mine/config.json"), "{}").unwrap();
    let message = failure(dir.path(), ["export", &name, "mine"]);
    assert!(message.contains("mine: config.json was changed since tracknet wrote it"), "{message}");
    ok(dir.path(), ["export", &name, "mine", "--overwrite"]);

    let start = ["model.pretrained_model_name=./mine", "model.decoder.pretrained=mine"];
    let flags = ["train", "--model", "vit_qlora_heatmap", "--dry-run"];
    let printed = ok(dir.path(), flags.iter().chain(&TINY).chain(&start));
    contains_all(&printed, &["backbone: ./mine", "4-bit: 6 modules"]);
}

#[test]
fn a_base_that_was_moved_is_found_with_base_and_another_is_refused() {
    let dir = with_rallies();
    for seed in ["1", "2"] {
        let extra = ["model.backbone.freeze=false".to_owned(), format!("training.seed={seed}")];
        let trained = train(dir.path(), "vit_heatmap", &extra.each_ref().map(String::as_str));
        ok(dir.path(), ["export", &trained, &format!("base{seed}")]);
        let refused = failure(dir.path(), ["eval", &trained, "--base", "base1"]);
        contains_all(&refused, &["the backbone trained and is in the checkpoint"]);
    }
    let on_base = |seed| ["model.pretrained_model_name=./base1", seed];
    let run = train(dir.path(), "vit_qlora_heatmap", &on_base("training.seed=3"));
    let frozen = train(dir.path(), "vit_heatmap", &on_base("training.seed=4"));
    fs::rename(dir.path().join("base1"), dir.path().join("moved")).unwrap();

    let clip = "rallies/game2/Clip1";
    contains_all(&failure(dir.path(), ["eval", &run]), &["./base1", "neither a directory"]);
    contains_all(&ok(dir.path(), ["eval", &run, "--base", "moved"]), &["game2", "F1"]);
    contains_all(&ok(dir.path(), ["predict", &run, clip, "--base", "moved"]), &["of 3 frames"]);
    ok(dir.path(), ["export", &frozen, "exported", "--base", "moved"]);
    assert_files(&dir.path().join("exported"), &["config.json", "model.safetensors", "tracknet_head.safetensors"]);
    for verb in [&["eval", &run][..], &["predict", &run, clip]] {
        let refused = failure(dir.path(), verb.iter().copied().chain(["--base", "base2"]));
        contains_all(&refused, &["trained on base `./base1`", "point --base"]);
    }
    for ignored in [&["model.pretrained_model_name=moved"][..], &["--model", "vit_heatmap"]] {
        let refused = failure(dir.path(), ["eval", &run].into_iter().chain(ignored.iter().copied()));
        contains_all(&refused, &[&ignored.join(" "), "cannot be replaced", "--base DIR"]);
    }
}

#[test]
fn the_guide_shows_the_example_as_it_is() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = fs::read_to_string(crates.join("tracknet/examples/lora_vit.rs")).unwrap();
    let guide = fs::read_to_string(crates.join("../docs/lora-quantization.md")).unwrap();
    let (_, code) = example.split_once("use burn").unwrap();
    assert!(guide.contains(code), "docs/lora-quantization.md has another version of examples/lora_vit.rs");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_early_ends_the_program_quietly() {
    let dir = with_rallies();
    let dry_run: Vec<&str> = ["train", "--model", "vit_heatmap", "--dry-run"].into_iter().chain(TINY).collect();
    for args in [vec!["config", "print"], vec!["data", "check", "rallies"], dry_run] {
        let said = unheard(dir.path(), &args);
        assert!(!said.contains("panicked") && !said.contains("error:"), "{args:?}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn a_training_that_nobody_listens_to_any_more_is_finished_and_evaluated() {
    let dir = with_rallies();
    let mut run = program(dir.path())
        .args(["train", "--model", "vit_lora_heatmap", "--output-dir", "runs"])
        .args(TINY)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((run.stdout.take(), run.stderr.take()));
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let run = fs::read_dir(dir.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    assert_files(&run, &["checkpoints/best/state.json", "checkpoints/last/state.json", "evaluation.json"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_writes_a_checkpoint_and_leaves_with_the_code_of_the_signal() {
    use std::io::{BufRead, BufReader};

    let dir = with_rallies();
    let hangup = cfg!(target_os = "linux").then_some(("-HUP", 129));
    for (signal, code) in [("-INT", 130), ("-TERM", 143)].into_iter().chain(hangup) {
        let output_dir = format!("runs{signal}");
        let mut run = program(dir.path())
            .args(["train", "--model", "vit_heatmap", "--output-dir", &output_dir])
            .args(TINY)
            .arg("training.epochs=100000")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = Vec::new();
        for line in BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap) {
            // The summary of the first epoch, not a line about one of its batches.
            if line.starts_with("epoch 1/") && line.contains("val/loss") {
                assert!(Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
            }
            told.push(line);
        }
        assert_eq!(run.wait().unwrap().code(), Some(code), "{told:#?}");
        let hint = told.iter().find_map(|line| line.split_once("continue with: tracknet train --resume ")).unwrap().1;
        assert!(hint.starts_with(&output_dir), "{hint}");
        assert_files(&dir.path().join(hint), &["checkpoints/last/state.json"]);
    }
}
