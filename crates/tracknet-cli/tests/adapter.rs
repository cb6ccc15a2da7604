//! `tracknet adapter …` and the adapter flags of eval and predict, as a user meets them.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use tracknet::artifacts::pretrained::save::read_all;

use common::{contains_all, ends, failure, fixture, help_with_example, ok, render_rallies, train};

/// `packed` adapts every layer of a 4-bit base; `unpacked` is it, merged.
fn packed_bases_merge_into_floats_and_into_four_bits(dir: &Path, on_base: &str, packed: &str, plain: &str) {
    let config = |name: &str| fs::read_to_string(dir.join(name).join("config.json")).unwrap();
    let weights = |name: &str| read_all(&dir.join(name).join("model.safetensors")).unwrap();
    // Layers that no adapter is on are written as floats, too.
    let few = ["training.seed=6", "model.lora.target_modules=[query]"];
    let partly = train(dir, "vit_qlora_heatmap", &[&[on_base][..], &few].concat());
    ok(dir, ["adapter", "merge", &partly, "partly-unpacked"]);
    for name in ["unpacked", "partly-unpacked"] {
        assert!(!config(name).contains("quantization_config"), "{name} says that it is in 4 bits");
        let shapes = |name: &str| weights(name).iter().map(|(n, d)| (n.clone(), d.shape().clone())).collect::<Vec<_>>();
        assert_eq!(shapes(name), shapes("base"), "{name}");
    }

    let merged = ok(dir, ["adapter", "merge", &partly, "packed-again", "--requantize"]);
    contains_all(&merged, &["output deviation: max", "in 4 bits again: output deviation: max", "wrote packed-again"]);
    contains_all(&config("packed-again"), &["\"quant_method\": \"bitsandbytes\"", "\"bnb_4bit_quant_type\": \"nf4\""]);
    contains_all(&ok(dir, ["inspect", "packed-again", "--json"]), &["packed_backbone", "\"packed\": true"]);
    ok(dir, ["quantize", "base", "base-packed"]);
    for name in ["packed-again", "base-packed"] {
        ok(dir, ["dequantize", name, &format!("{name}-floats")]);
    }
    let [again, once] = ["packed-again-floats", "base-packed-floats"].map(weights);
    for (name, data) in &once {
        // A layer without an adapter keeps its codes; a query was merged and rounded again.
        assert_eq!(*data == again[name], !name.ends_with("q_proj.weight"), "{name}");
    }
    let adapter = format!("{plain}/checkpoints/best/adapter");
    contains_all(&ok(dir, ["adapter", "status", &adapter, "--base", "packed-again"]), &["nf4/64+dq", "rslora"]);
    let refused = failure(dir, ["adapter", "merge", &adapter, "none", "--requantize"]);
    contains_all(&refused, &["--requantize: the base is not stored in 4 bits"]);
    ok(dir, ["adapter", "merge", packed, "all-packed-again", "--requantize", "--dtype", "float16"]);
    contains_all(&config("all-packed-again"), &["\"dtype\": \"float16\""]);
}

#[test]
fn the_help_of_every_verb_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    help_with_example(dir.path(), &["adapter"]);
    for verb in ["merge", "unmerge", "list", "status", "convert", "diff"] {
        help_with_example(dir.path(), &["adapter", verb]);
    }
    contains_all(&ok(dir.path(), ["--help"]), &["adapter"]);
    ends(2, dir.path(), ["adapter", "diff", "one"]);
    ends(2, dir.path(), ["adapter", "diff", "a", "b", "--tolerance", "-1"]);
    ends(2, dir.path(), ["eval", "run", "--adapter", "a", "--no-adapter"]);
    contains_all(&failure(dir.path(), ["adapter", "list", "."]), &["no adapter in it"]);
}

#[test]
fn adapters_of_runs_are_listed_shown_merged_taken_out_compared_converted_and_switched() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    render_rallies(dir, 3);
    let random = ["model.pretrained_model_name=null", "model.backbone.freeze=false", "training.seed=1"];
    let whole = train(dir, "vit_heatmap", &random);
    ok(dir, ["export", &whole, "base"]);
    let on_base = "model.pretrained_model_name=./base";
    let plain = train(dir, "vit_lora_heatmap", &[on_base, "training.seed=2", "model.lora.use_rslora=true"]);
    let pissa = train(dir, "vit_lora_heatmap", &[on_base, "training.seed=3", "model.lora.init_lora_weights=pissa"]);
    let packed = train(dir, "vit_qlora_heatmap", &[on_base, "training.seed=4"]);
    let adapter = |run: &str| format!("{run}/checkpoints/best/adapter");

    contains_all(&ok(dir, ["adapter", "list", &plain]), &["name", "best", "last", "rslora", "./base"]);
    let status = ok(dir, ["adapter", "status", &packed]);
    contains_all(&status, &["layer.0.attention.q_proj", "linear", "lora", "nf4/64+dq", "yes"]);
    contains_all(&ok(dir, ["adapter", "status", &adapter(&plain)]), &["rslora", "float32"]);

    // Merging: the backbone alone, and a run with its head; what is a user's is never overwritten.
    let merged = ok(dir, ["adapter", "merge", &adapter(&plain), "merged"]);
    contains_all(&merged, &["output deviation: max", "wrote merged"]);
    assert!(dir.join("merged/config.json").is_file() && !dir.join("merged/tracknet_head.safetensors").exists());
    fs::create_dir(dir.join("mine")).unwrap();
    fs::write(dir.join("mine/notes.txt"), "mine").unwrap();
    contains_all(&failure(dir, ["adapter", "merge", &plain, "mine"]), &["mine", "--overwrite"]);
    assert_eq!(fs::read_to_string(dir.join("mine/notes.txt")).unwrap(), "mine");
    let merged = ok(dir, ["adapter", "merge", &packed, "unpacked"]);
    contains_all(&merged, &["output deviation: max", "wrote unpacked"]);
    assert!(dir.join("unpacked/tracknet_head.safetensors").is_file());
    packed_bases_merge_into_floats_and_into_four_bits(dir, on_base, &packed, &plain);
    contains_all(&failure(dir, ["adapter", "merge", &whole, "none"]), &["the run has no adapters"]);
    contains_all(
        &failure(dir, ["adapter", "merge", &adapter(&plain), "none", "--base", "nowhere/at/all"]),
        &["nowhere/at/all"],
    );

    fs::rename(dir.join("base"), dir.join("moved")).unwrap();
    contains_all(&failure(dir, ["adapter", "status", &adapter(&plain)]), &["was made for ./base", "--base"]);
    ok(dir, ["adapter", "status", &adapter(&plain), "--base", "moved"]);
    fs::rename(dir.join("moved"), dir.join("base")).unwrap();

    ok(dir, ["adapter", "unmerge", "merged", &adapter(&plain), "again"]);
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
    contains_all(&failure(dir, ["adapter", "unmerge", "merged", &adapter(&pissa), "x"]), &["convert"]);

    // Exit code 1 tells that two adapters differ.
    assert_eq!(ok(dir, ["adapter", "diff", &adapter(&plain), &adapter(&plain)]).trim(), "the adapters are equal");
    let [differences, _] = ends(1, dir, ["adapter", "diff", &adapter(&plain), &adapter(&pissa)]);
    contains_all(&differences, &["pissa", "max"]);

    contains_all(&ok(dir, ["adapter", "convert", &adapter(&plain), "named"]), &["r 16, lora_alpha 128"]);
    let differ = ["adapter", "diff", &adapter(&plain), "named", "--tolerance", "1e-5"];
    ok(dir, differ);
    contains_all(&ok(dir, ["adapter", "convert", &adapter(&pissa), "doubled"]), &["r 32"]);

    // Other adapters on the run's base, by directory and by name, and none.
    fs::create_dir_all(dir.join(&plain).join("adapters")).unwrap();
    fs::rename(dir.join("doubled"), dir.join(&plain).join("adapters/doubled")).unwrap();
    for flags in [&["--adapter", "named"][..], &["--adapter", "doubled"], &["--no-adapter"]] {
        let printed = ok(dir, ["eval", &plain].into_iter().chain(flags.iter().copied()));
        contains_all(&printed, &["F1", "game2"]);
        let predict = ["predict", &plain, "rallies/game2/Clip1"];
        contains_all(&ok(dir, predict.into_iter().chain(flags.iter().copied())), &["of 3 frames"]);
    }
    let refused = failure(dir, ["eval", &plain, "--adapter", "nobody"]);
    contains_all(&refused, &["--adapter nobody", "names: best, last, doubled"]);
    contains_all(&failure(dir, ["eval", &whole, "--no-adapter"]), &["the backbone trained"]);

    // A run that goes on from a directory.
    let from = format!("model.lora.adapter={}", adapter(&plain));
    let next = train(dir, "vit_lora_heatmap", &[on_base, "training.seed=5", &from]);
    contains_all(&ok(dir, ["adapter", "status", &next]), &["rslora", "yes"]);
}

#[test]
fn a_damaged_adapter_is_listed_with_its_reason_beside_the_others() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    for name in ["good", "cut"] {
        fs::create_dir(dir.join(name)).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(fixture("peft_lora").join(file), dir.join(name).join(file)).unwrap();
        }
    }
    let path = dir.join("cut/adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let printed = ok(dir, ["adapter", "list", "."]);
    let line = |name: &str| printed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{printed}"));
    contains_all(line("cut"), &["cannot be read: ", "adapter_model.safetensors"]);
    contains_all(line("good"), &["12", "lora"]);
    fs::remove_dir_all(dir.join("good")).unwrap();
    contains_all(&failure(dir, ["adapter", "list", "."]), &["cut/adapter_model.safetensors"]);
}

#[test]
fn an_adapter_where_a_model_belongs_and_the_other_way_round_are_told_apart() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let [adapter, base] = ["peft_loftq", "dinov3_tiny"].map(|name| fixture(name).display().to_string());
    contains_all(&failure(dir, ["adapter", "merge", &base, "out"]), &["is a model, no adapter"]);
    let swapped = failure(dir, ["adapter", "merge", &adapter, "out", "--base", &adapter]);
    contains_all(&swapped, &["is an adapter; --base takes the model"]);
    let merged = ok(dir, ["adapter", "merge", &adapter, "out", "--base", &base]);
    contains_all(&merged, &["output deviation: max", "wrote out"]);
}
