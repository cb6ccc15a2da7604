//! `tracknet adapter …` and the adapter flags of eval and predict, as a user meets them.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use burn::tensor::TensorData;
use tracknet::artifacts::pretrained::save::read_all;

/// A tiny DINOv3 on 96×64 frames.
const TINY: [&str; 14] = [
    "data.root=rallies",
    "data.split.train_games=[game1]",
    "data.split.val_games=[game2]",
    "data.preprocess.resize=[96,64]",
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

fn tracknet<S: AsRef<str>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracknet"));
    for arg in args {
        command.arg(arg.as_ref());
    }
    command.current_dir(dir).env_remove("TRACKNET_CONFIG_DIR").output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must end with this exit code; returns all that it printed.
fn ends<S: AsRef<str>>(code: i32, dir: &Path, args: impl IntoIterator<Item = S>) -> String {
    let output = tracknet(dir, args);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(code), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    printed
}

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

fn train(dir: &Path, model: &str, overrides: &[&str]) -> String {
    let flags = ["train", "--model", model, "--output-dir", "runs"];
    let printed = ends(0, dir, flags.iter().chain(&TINY).chain(overrides));
    printed.lines().find_map(|line| line.strip_prefix("run: ")).unwrap().to_owned()
}

/// `packed` adapts every layer of a 4-bit base; `unpacked` is it, merged.
fn packed_bases_merge_into_floats_and_into_four_bits(dir: &Path, on_base: &str, packed: &str, plain: &str) {
    let config = |name: &str| fs::read_to_string(dir.join(name).join("config.json")).unwrap();
    let weights = |name: &str| read_all(&dir.join(name).join("model.safetensors")).unwrap();
    // Layers that no adapter is on are written as floats, too.
    let few = ["training.seed=6", "model.lora.target_modules=[query]"];
    let partly = train(dir, "vit_qlora_heatmap", &[&[on_base][..], &few].concat());
    ends(0, dir, ["adapter", "merge", &partly, "partly-unpacked"]);
    for name in ["unpacked", "partly-unpacked"] {
        assert!(!config(name).contains("quantization_config"), "{name} says that it is in 4 bits");
        let shapes = |name: &str| weights(name).iter().map(|(n, d)| (n.clone(), d.shape().clone())).collect::<Vec<_>>();
        assert_eq!(shapes(name), shapes("base"), "{name}");
    }

    let merged = ends(0, dir, ["adapter", "merge", &partly, "packed-again", "--requantize"]);
    contains_all(&merged, &["output deviation: max", "in 4 bits again: output deviation: max", "wrote packed-again"]);
    contains_all(&config("packed-again"), &["\"quant_method\": \"bitsandbytes\"", "\"bnb_4bit_quant_type\": \"nf4\""]);
    contains_all(&ends(0, dir, ["inspect", "packed-again", "--json"]), &["packed_backbone", "\"packed\": true"]);
    ends(0, dir, ["quantize", "base", "base-packed"]);
    for name in ["packed-again", "base-packed"] {
        ends(0, dir, ["dequantize", name, &format!("{name}-floats")]);
    }
    let [again, once] = ["packed-again-floats", "base-packed-floats"].map(weights);
    for (name, data) in &once {
        // A layer without an adapter keeps its codes; a query was merged and rounded again.
        assert_eq!(*data == again[name], !name.ends_with("q_proj.weight"), "{name}");
    }
    let adapter = format!("{plain}/checkpoints/best/adapter");
    contains_all(&ends(0, dir, ["adapter", "status", &adapter, "--base", "packed-again"]), &["nf4/64+dq", "rslora"]);
    let refused = ends(1, dir, ["adapter", "merge", &adapter, "none", "--requantize"]);
    contains_all(&refused, &["--requantize: the base is not stored in 4 bits"]);
    ends(0, dir, ["adapter", "merge", packed, "all-packed-again", "--requantize", "--dtype", "float16"]);
    contains_all(&config("all-packed-again"), &["\"dtype\": \"float16\""]);
}

#[test]
fn the_help_of_every_verb_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["", "merge", "unmerge", "list", "status", "convert", "diff"] {
        let words = ["adapter", verb];
        let help = ends(0, dir.path(), words.into_iter().filter(|w| !w.is_empty()).chain(["--help"]));
        let command = format!("tracknet adapter {verb}");
        let (_, example) = help.split_once("Example").unwrap_or_else(|| panic!("{command} has no example:\n{help}"));
        assert!(example.contains(command.trim()), "{help}");
    }
    contains_all(&ends(0, dir.path(), ["--help"]), &["adapter"]);
    ends(2, dir.path(), ["adapter", "diff", "one"]);
    ends(2, dir.path(), ["adapter", "diff", "a", "b", "--tolerance", "-1"]);
    ends(2, dir.path(), ["eval", "run", "--adapter", "a", "--no-adapter"]);
    contains_all(&ends(1, dir.path(), ["adapter", "list", "."]), &["no adapter in it"]);
}

#[test]
fn adapters_of_runs_are_listed_shown_merged_taken_out_compared_converted_and_switched() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sizes = ["--games", "2", "--clips", "1", "--frames", "3", "--size", "96x64", "--seed", "3"];
    ends(0, dir, ["data", "generate", "rallies"].into_iter().chain(sizes));
    let random = ["model.pretrained_model_name=null", "model.backbone.freeze=false", "training.seed=1"];
    let whole = train(dir, "vit_heatmap", &random);
    ends(0, dir, ["export", &whole, "base"]);
    let on_base = "model.pretrained_model_name=./base";
    let plain = train(dir, "vit_lora_heatmap", &[on_base, "training.seed=2", "model.lora.use_rslora=true"]);
    let pissa = train(dir, "vit_lora_heatmap", &[on_base, "training.seed=3", "model.lora.init_lora_weights=pissa"]);
    let packed = train(dir, "vit_qlora_heatmap", &[on_base, "training.seed=4"]);
    let adapter = |run: &str| format!("{run}/checkpoints/best/adapter");

    contains_all(&ends(0, dir, ["adapter", "list", &plain]), &["name", "best", "last", "rslora", "./base"]);
    let status = ends(0, dir, ["adapter", "status", &packed]);
    contains_all(&status, &["layer.0.attention.q_proj", "linear", "lora", "nf4/64+dq", "yes"]);
    contains_all(&ends(0, dir, ["adapter", "status", &adapter(&plain)]), &["rslora", "float32"]);

    // Merging: the backbone alone, and a run with its head; what is a user's is never overwritten.
    let merged = ends(0, dir, ["adapter", "merge", &adapter(&plain), "merged"]);
    contains_all(&merged, &["output deviation: max", "wrote merged"]);
    assert!(dir.join("merged/config.json").is_file() && !dir.join("merged/tracknet_head.safetensors").exists());
    fs::create_dir(dir.join("mine")).unwrap();
    fs::write(dir.join("mine/notes.txt"), "mine").unwrap();
    contains_all(&ends(1, dir, ["adapter", "merge", &plain, "mine"]), &["mine", "--overwrite"]);
    assert_eq!(fs::read_to_string(dir.join("mine/notes.txt")).unwrap(), "mine");
    let merged = ends(0, dir, ["adapter", "merge", &packed, "unpacked"]);
    contains_all(&merged, &["output deviation: max", "wrote unpacked"]);
    assert!(dir.join("unpacked/tracknet_head.safetensors").is_file());
    packed_bases_merge_into_floats_and_into_four_bits(dir, on_base, &packed, &plain);
    contains_all(&ends(1, dir, ["adapter", "merge", &whole, "none"]), &["the run has no adapters"]);
    contains_all(
        &ends(1, dir, ["adapter", "merge", &adapter(&plain), "none", "--base", "nowhere/at/all"]),
        &["nowhere/at/all"],
    );

    fs::rename(dir.join("base"), dir.join("moved")).unwrap();
    contains_all(&ends(1, dir, ["adapter", "status", &adapter(&plain)]), &["was made for ./base", "--base"]);
    ends(0, dir, ["adapter", "status", &adapter(&plain), "--base", "moved"]);
    fs::rename(dir.join("moved"), dir.join("base")).unwrap();

    ends(0, dir, ["adapter", "unmerge", "merged", &adapter(&plain), "again"]);
    let weights = |name: &str| read_all(&dir.join(name).join("model.safetensors")).unwrap();
    let [base, merged, again] = ["base", "merged", "again"].map(weights);
    let apart = |a: &TensorData, b: &TensorData| {
        a.iter::<f32>().zip(b.iter::<f32>()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    for (name, want) in &base {
        // A sum and a difference of values below 1, rounded.
        assert!(apart(&again[name], want) < 1e-6, "{name}");
    }
    assert!(base.iter().any(|(name, want)| apart(&merged[name], want) > 1e-5), "merging changed nothing");
    contains_all(&ends(1, dir, ["adapter", "unmerge", "merged", &adapter(&pissa), "x"]), &["convert"]);

    // Exit code 1 tells that two adapters differ.
    assert_eq!(ends(0, dir, ["adapter", "diff", &adapter(&plain), &adapter(&plain)]).trim(), "the adapters are equal");
    contains_all(&ends(1, dir, ["adapter", "diff", &adapter(&plain), &adapter(&pissa)]), &["pissa", "max"]);

    contains_all(&ends(0, dir, ["adapter", "convert", &adapter(&plain), "named"]), &["r 16, lora_alpha 128"]);
    let differ = ["adapter", "diff", &adapter(&plain), "named", "--tolerance", "1e-5"];
    ends(0, dir, differ);
    contains_all(&ends(0, dir, ["adapter", "convert", &adapter(&pissa), "doubled"]), &["r 32"]);

    // Other adapters on the run's base, by directory and by name, and none.
    fs::create_dir_all(dir.join(&plain).join("adapters")).unwrap();
    fs::rename(dir.join("doubled"), dir.join(&plain).join("adapters/doubled")).unwrap();
    for flags in [&["--adapter", "named"][..], &["--adapter", "doubled"], &["--no-adapter"]] {
        let printed = ends(0, dir, ["eval", &plain].into_iter().chain(flags.iter().copied()));
        contains_all(&printed, &["F1", "game2"]);
        let predict = ["predict", &plain, "rallies/game2/Clip1"];
        contains_all(&ends(0, dir, predict.into_iter().chain(flags.iter().copied())), &["of 3 frames"]);
    }
    let refused = ends(1, dir, ["eval", &plain, "--adapter", "nobody"]);
    contains_all(&refused, &["--adapter nobody", "names: best, last, doubled"]);
    contains_all(&ends(1, dir, ["eval", &whole, "--no-adapter"]), &["the backbone trained"]);

    // A run that goes on from a directory.
    let from = format!("model.lora.adapter={}", adapter(&plain));
    let next = train(dir, "vit_lora_heatmap", &[on_base, "training.seed=5", &from]);
    contains_all(&ends(0, dir, ["adapter", "status", &next]), &["rslora", "yes"]);
}

/// A file or directory of the library's fixtures.
fn fixture(name: &str) -> String {
    format!("{}/../tracknet/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_damaged_adapter_is_listed_with_its_reason_beside_the_others() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    for name in ["good", "cut"] {
        fs::create_dir(dir.join(name)).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(format!("{}/{file}", fixture("peft_lora")), dir.join(name).join(file)).unwrap();
        }
    }
    let path = dir.join("cut/adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let printed = ends(0, dir, ["adapter", "list", "."]);
    let line = |name: &str| printed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{printed}"));
    contains_all(line("cut"), &["cannot be read: ", "adapter_model.safetensors"]);
    contains_all(line("good"), &["12", "lora"]);
    fs::remove_dir_all(dir.join("good")).unwrap();
    contains_all(&ends(1, dir, ["adapter", "list", "."]), &["cut/adapter_model.safetensors"]);
}

#[test]
fn an_adapter_where_a_model_belongs_and_the_other_way_round_are_told_apart() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let (adapter, base) = (fixture("peft_loftq"), fixture("dinov3_tiny"));
    contains_all(&ends(1, dir, ["adapter", "merge", &base, "out"]), &["is a model, no adapter"]);
    let swapped = ends(1, dir, ["adapter", "merge", &adapter, "out", "--base", &adapter]);
    contains_all(&swapped, &["is an adapter; --base takes the model"]);
    let merged = ends(0, dir, ["adapter", "merge", &adapter, "out", "--base", &base]);
    contains_all(&merged, &["output deviation: max", "wrote out"]);
}
