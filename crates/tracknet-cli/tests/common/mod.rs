//! What the tests of the command share: the command, what it printed, rendered rallies, and a tiny model to train on them.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used)] // Helpers beside the tests: a failure there is a failed test.

pub(crate) mod http;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tiny DINOv3 with random weights on 96×64 frames; seconds on one core, even in the dev profile.
pub(crate) const TINY: [&str; 15] = [
    "data.root=rallies",
    "data.split.train_games=[game1]",
    "data.split.val_games=[game2]",
    "data.preprocess.resize=[96,64]",
    "model.pretrained_model_name=null",
    "model.backbone.architecture={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}",
    "model.decoder.channels=[32,16]",
    "model.decoder.upsample=[2]",
    "model.heatmap.size=[24,16]",
    "training.epochs=1",
    "training.batch_size=2",
    "training.precision=fp32",
    "training.backbone_freeze_epochs=0",
    "training.scheduler.warmup_epochs=0",
    "training.data_loader.num_workers=1",
];

/// `tracknet` in `dir`, away from the settings of whoever runs the tests.
pub(crate) fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracknet"));
    command.current_dir(dir).env_remove("TRACKNET_CONFIG_DIR");
    command
}

/// Runs a command that must end with this exit code; returns what it wrote to standard output and to standard error.
pub(crate) fn finish(code: i32, command: &mut Command) -> [String; 2] {
    let output = command.output().unwrap();
    let [printed, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{printed}\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    [printed, said]
}

/// [`finish`] of `tracknet` with these arguments.
pub(crate) fn ends<S: AsRef<OsStr>>(code: i32, dir: &Path, args: impl IntoIterator<Item = S>) -> [String; 2] {
    finish(code, program(dir).args(args))
}

/// Runs `tracknet`, which must succeed; returns standard output.
pub(crate) fn ok<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> String {
    let [printed, _] = ends(0, dir, args);
    printed
}

/// Runs `tracknet`, which must fail with exit code 1; returns its message.
pub(crate) fn failure<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> String {
    let [_, message] = ends(1, dir, args);
    assert!(message.contains("error: "), "{message}");
    message
}

/// The help of a verb, whose example uses it.
pub(crate) fn help_with_example(dir: &Path, verb: &[&str]) -> String {
    let help = ok(dir, verb.iter().copied().chain(["--help"]));
    let command = format!("tracknet {}", verb.join(" "));
    let (_, example) = help.split_once("Example").unwrap_or_else(|| panic!("{command} has no example:\n{help}"));
    assert!(example.contains(&command), "the example of `{command}` does not use it:\n{help}");
    help
}

pub(crate) fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

/// Renders two games of one clip into `rallies`, 96×64.
pub(crate) fn render_rallies(dir: &Path, frames: usize) {
    let frames = frames.to_string();
    let sizes = ["--games", "2", "--clips", "1", "--frames", &frames, "--size", "96x64", "--seed", "3"];
    ok(dir, ["data", "generate", "rallies"].into_iter().chain(sizes));
}

/// Trains `model` on [`render_rallies`] with [`TINY`] and `overrides`; returns the run's directory below `dir`.
pub(crate) fn train(dir: &Path, model: &str, overrides: &[&str]) -> String {
    let flags = ["train", "--model", model, "--output-dir", "runs"];
    let printed = ok(dir, flags.iter().chain(&TINY).chain(overrides));
    assert!(printed.contains("best checkpoint on the validation games"), "{printed}");
    printed.lines().find_map(|line| line.strip_prefix("run: ")).unwrap().to_owned()
}

/// A file or directory of the library's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracknet/tests/fixtures").join(name)
}
