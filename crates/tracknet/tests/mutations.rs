//! The checks of the fuzz targets (`fuzz/parsers.rs`) on inputs that a deterministic mutator makes of the seeds, on a stable
//! compiler: a few thousand of each in `cargo test`, as many as fit with `TRACKNET_FUZZ_SECONDS=60` (for each parser), or
//! `TRACKNET_FUZZ_COUNT=1000000`; other inputs with another `TRACKNET_FUZZ_SEED=1`. And what they hold in memory stays within a multiple of the input.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // Helpers of tests; in the tests themselves they are allowed anyway.

#[path = "suite/bnb_support/mod.rs"]
mod bnb_support;
#[path = "suite/common/mod.rs"]
mod common;
#[path = "../../../fuzz/parsers.rs"]
mod parsers;

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracknet::artifacts::pretrained::Weights;
use tracknet::artifacts::pretrained::bnb::{is_packed, read_packed};
use tracknet_random::Stream;
use tracknet_testing::{CountingAllocator, peak_of};

use parsers::Folder;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A range of up to 16 places.
fn range(random: &mut Stream, length: usize) -> std::ops::Range<usize> {
    let start = random.below(length + 1);
    start..(start + 1 + random.below(16)).min(length).max(start)
}

/// Values that parsers get wrong.
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "2",
    "64",
    "255",
    "256",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e309",
    "-0.0",
    "0.5",
    "1e-400",
];
const TOKENS: [&str; 48] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\"../x\"",
    "\"/x\"",
    "\\u0000",
    "\\ud800",
    "\u{1b}",
    "(",
    "(?:",
    "*",
    "{9999}",
    "é",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\u{feff}",
    ";",
    "'",
    "nan",
    "inf",
    "- ",
    ": ",
    "&a ",
    "*a",
    "<<: *a",
    "| ",
    ">-",
    "---\n",
    "...\n",
    "!!str ",
    "? ",
    "#",
    "${data.root}",
    "${env:HOME}",
    "~",
    "  ",
];

/// Applies one to four changes.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Stream) {
    for _ in 0..=random.below(4) {
        match random.below(9) {
            0 if !input.is_empty() => {
                let at = random.below(input.len());
                input[at] ^= 1 << random.below(8);
            }
            1 if !input.is_empty() => {
                let at = random.below(input.len());
                input[at] = random.next_u64() as u8;
            }
            2 => {
                let range = range(random, input.len());
                drop(input.drain(range));
            }
            3 => {
                let copy = input[range(random, input.len())].to_vec();
                let at = random.below(input.len() + 1);
                input.splice(at..at, copy);
            }
            4 | 5 => replace_a_number(input, random),
            6 => {
                let at = random.below(input.len() + 1);
                input.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes());
            }
            7 => input.truncate(random.below(input.len() + 1)),
            _ => {
                // The begin of this one and the end of another.
                let other = &seeds[random.below(seeds.len())];
                input.truncate(random.below(input.len() + 1));
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    // Mutations of mutations must not grow without end.
    input.truncate(1 << 16);
}

fn replace_a_number(input: &mut Vec<u8>, random: &mut Stream) {
    let starts: Vec<usize> = (0..input.len())
        .filter(|i| input[*i].is_ascii_digit() && (*i == 0 || !input[*i - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[random.below(starts.len())];
    let length = input[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    input.splice(start..start + length, NUMBERS[random.below(NUMBERS.len())].bytes());
}

/// What a parser may hold at its peak: `factor` bytes for each of the input, and `constant` bytes for what it has anyway.
#[derive(Clone, Copy)]
struct Memory {
    factor: usize,
    constant: usize,
}

/// Held by each test from its begin: the memory that is counted is that of the whole program.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Inputs of `cargo test`, and the memory that each may take.
type Bounds = (u64, Memory);

/// Runs `check`, which tells whether it accepts an input, on the seeds and on mutations of them; says how many there were.
fn run(name: &str, seeds: &[Vec<u8>], (default_count, memory): Bounds, mut check: impl FnMut(&[u8]) -> bool) {
    let number = |key: &str| env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("TRACKNET_FUZZ_SECONDS").map(Duration::from_secs);
    let count = number("TRACKNET_FUZZ_COUNT").unwrap_or(default_count);
    let mut random = Stream::from_state(number("TRACKNET_FUZZ_SEED").unwrap_or(0x5eed));
    let start = Instant::now();
    let (mut done, mut accepted, mut highest, mut steepest) = (0, 0_u64, 0, 0);
    let mut input = Vec::new();
    while seconds.map_or(done < count, |limit| start.elapsed() < limit) {
        // Mostly one step from a seed; at times a walk of several.
        if done == 0 || random.below(4) > 0 {
            input.clone_from(&seeds[random.below(seeds.len())]);
        }
        if done < seeds.len() as u64 {
            input.clone_from(&seeds[done as usize]);
        } else {
            mutate(&mut input, seeds, &mut random);
        }
        let (peak, outcome) = peak_of(|| catch_unwind(AssertUnwindSafe(|| check(&input))));
        let shown = || format!("{name}: input {done}: {:?}", String::from_utf8_lossy(&input));
        match outcome {
            Ok(accept) => accepted += u64::from(accept),
            Err(panic) => {
                eprintln!("{}", shown());
                resume_unwind(panic);
            }
        }
        let most = memory.constant + memory.factor * input.len();
        assert!(peak <= most, "{}: {peak} bytes at the peak for {} of input, at most {most}", shown(), input.len());
        highest = highest.max(peak);
        steepest = steepest.max(peak.saturating_sub(memory.constant).div_ceil(input.len().max(1)));
        done += 1;
    }
    assert!(accepted > 0, "{name}: none of {done} inputs was accepted, not even a seed");
    println!(
        "{name}: {done} inputs, {accepted} accepted, in {:.1} s; at most {highest} bytes, or {} and {steepest} a byte of input",
        start.elapsed().as_secs_f64(),
        memory.constant
    );
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Trees of JSON, rows, and a buffer of 64 KiB to hash files with.
const TEXT: Memory = Memory { factor: 64, constant: 128 << 10 };
/// Also patterns: `regex` stops at 10 MiB of a compiled one, and holds it a few times on the way (`]{797287}` takes 25 MB).
const PATTERNS: Memory = Memory { factor: 64, constant: 64 << 20 };
/// Also the values and texts that aliases may stand for in a document.
const ALIASES: Memory = Memory { factor: 1024, constant: 32 << 20 };

#[test]
fn adapter_configurations_never_panic() {
    let _alone = alone();
    run("adapter_config", &seeds("adapter_config"), (3000, PATTERNS), parsers::adapter_config);
}

#[test]
fn states_of_4_bit_weights_never_panic() {
    let _alone = alone();
    run("quant_state", &seeds("quant_state"), (3000, PATTERNS), parsers::quant_state);
}

#[test]
fn indices_of_shards_never_panic_or_leave_their_directory() {
    let _alone = alone();
    run("safetensors_index", &seeds("safetensors_index"), (3000, TEXT), parsers::safetensors_index);
}

#[test]
fn headers_never_panic_or_point_outside_of_the_file() {
    let _alone = alone();
    run("safetensors_header", &seeds("safetensors_header"), (3000, TEXT), parsers::safetensors_header);
}

#[test]
fn configurations_never_panic_and_come_back_as_they_were() {
    let _alone = alone();
    run("config_yaml", &seeds("config_yaml"), (300, ALIASES), parsers::config_yaml);
}

#[test]
fn label_files_never_panic_or_name_frames_elsewhere() {
    let _alone = alone();
    let folder = Folder::new();
    run("label_file", &seeds("label_file"), (1000, TEXT), |data| folder.label_file(data));
}

#[test]
fn preprocessor_files_never_panic() {
    let _alone = alone();
    let folder = Folder::new();
    run("preprocessor", &seeds("preprocessor"), (500, TEXT), |data| folder.preprocessor(data));
}

#[test]
fn backbone_configurations_never_panic_or_promise_what_the_weights_cannot_hold() {
    let _alone = alone();
    let folder = Folder::new();
    run("backbone_config", &seeds("backbone_config"), (1000, TEXT), |data| folder.backbone_config(data));
}

#[test]
fn states_of_runs_never_panic_and_come_back_as_they_were() {
    let _alone = alone();
    let folder = Folder::new();
    run("run_state", &seeds("run_state"), (1000, TEXT), |data| folder.run_state(data));
}

#[test]
fn manifests_of_checkpoints_never_panic() {
    let _alone = alone();
    let folder = Folder::new();
    let mut seeds = seeds("manifest");
    seeds.push(folder.whole_manifest());
    run("manifest", &seeds, (1000, TEXT), |data| folder.manifest(data));
}

#[test]
fn states_of_optimizers_never_panic() {
    let _alone = alone();
    let folder = Folder::new();
    run("optimizer", &seeds("optimizer"), (1000, TEXT), |data| folder.optimizer(data));
}

#[test]
fn logs_that_are_continued_never_panic_and_keep_no_later_step() {
    let _alone = alone();
    let folder = Folder::new();
    run("metrics", &seeds("metrics"), (1000, TEXT), |data| folder.metrics(data));
}

/// A whole file: header, state and tensors of one packed weight, read as a checkpoint is.
#[test]
fn whole_files_with_a_4_bit_weight_never_panic() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let seed = |checkpoint: &str| {
        let mut tensors = bnb_support::read_raw(&common::fixture(checkpoint).join("model.safetensors"));
        tensors.retain(|name, _| name.starts_with("layer.0.attention.q_proj"));
        bnb_support::write_raw(&path, &tensors);
        fs::read(&path).unwrap()
    };
    let seeds = [seed("bnb_checkpoint"), seed("bnb_checkpoint_nf4_plain")];
    let mut read = 0;
    run("checkpoint_file", &seeds, (500, TEXT), |bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(weights) = Weights::open_file(&path) else { return false };
        for name in weights.names().filter(|name| is_packed(&weights, name)) {
            if let Ok((weight, state)) = read_packed(&weights, name) {
                assert_eq!(weight.shape(), state.shape);
                assert_eq!(weight.dequantize().len(), state.shape[0] * state.shape[1]);
                read += 1;
            }
        }
        true
    });
    assert!(read > 0, "the seeds themselves are read");
}
