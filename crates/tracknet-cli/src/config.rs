//! `tracknet config print`: the merged, resolved configuration.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use tracknet::config::Config;
use tracknet::console;

use crate::args::ConfigArgs;
use crate::out::out;

/// Show the configuration that a run would use.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet config print --model vit_qlora_heatmap training.optimizer.lr=1e-4")]
pub(crate) struct ConfigVerbArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the merged, resolved configuration as YAML.
    #[command(after_help = "Example:\n  tracknet config print --model vit_qlora_heatmap training.optimizer.lr=1e-4")]
    Print(ConfigArgs),
}

pub(crate) fn run(args: &ConfigVerbArgs) -> Result<ExitCode> {
    let Action::Print(config) = &args.action;
    let loaded = Config::load(&config.sources()).map_err(tracknet::Error::from)?;
    for note in &loaded.notes {
        console::note(note);
    }
    out!("{}", loaded.config.to_yaml().map_err(tracknet::Error::from)?)?;
    Ok(ExitCode::SUCCESS)
}
