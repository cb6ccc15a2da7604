//! The `tracknet` command: parse → call the library → exit code. One file a verb.
//!
//! Exit codes: 0 done (also when the reader of standard output left), 1 failed, 2 wrong usage, 130/143/129 interrupted by
//! SIGINT/SIGTERM/SIGHUP after a checkpoint or the rows at hand.
#![recursion_limit = "256"]

mod adapter;
mod args;
mod bench;
mod config;
mod data;
mod demo;
mod device;
mod eval;
mod export;
mod inspect;
mod interrupt;
mod label;
mod out;
mod predict;
mod quantize;
mod quickstart;
mod serve;
mod shipped;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Finds the ball in sports video: trains, evaluates and runs heatmap detectors built from a pretrained vision
/// transformer, with LoRA adapters on a backbone stored in 4 bits.
#[derive(Parser)]
#[command(name = "tracknet", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start with: tracknet quickstart")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Quickstart(quickstart::QuickstartArgs),
    Train(train::TrainArgs),
    Eval(eval::EvalArgs),
    Predict(predict::PredictArgs),
    Label(label::LabelArgs),
    Serve(serve::ServeArgs),
    Data(data::DataArgs),
    Config(config::ConfigVerbArgs),
    Export(export::ExportArgs),
    Quantize(quantize::QuantizeArgs),
    Dequantize(quantize::DequantizeArgs),
    Inspect(inspect::InspectArgs),
    Adapter(adapter::AdapterArgs),
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    tracknet_kernels::allocator::keep_large_blocks();
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Quickstart(args) => quickstart::run(&args),
        Verb::Train(args) => train::run(&args),
        Verb::Eval(args) => eval::run(&args),
        Verb::Predict(args) => predict::run(&args),
        Verb::Label(args) => label::run(&args),
        Verb::Serve(args) => serve::run(&args),
        Verb::Data(args) => data::run(&args),
        Verb::Config(args) => config::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Quantize(args) => quantize::quantize(&args),
        Verb::Dequantize(args) => quantize::dequantize(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Adapter(args) => adapter::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Demo(args) => demo::run(&args),
    };
    result.unwrap_or_else(|error| {
        if error.is::<out::Closed>() {
            return ExitCode::SUCCESS;
        }
        tracknet::console::say(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
