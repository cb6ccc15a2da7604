//! `tracknet config`: the merged, resolved configuration, and what a key means.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use tracknet::config::{Config, explain};
use tracknet::console;

use crate::args::ConfigArgs;
use crate::out::out;

/// Show the configuration that a run would use, or what a key means.
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
    /// Say what a key means, its default and what it takes; of a section, every key.
    #[command(after_help = "Example:\n  tracknet config explain model.lora.r")]
    Explain {
        /// A key or a section, such as `training.optimizer`.
        key: String,
    },
}

pub(crate) fn run(args: &ConfigVerbArgs) -> Result<ExitCode> {
    match &args.action {
        Action::Print(config) => print(config),
        Action::Explain { key } => {
            out!("{}", explain(key).map_err(|message| anyhow!(message))?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print(config: &ConfigArgs) -> Result<ExitCode> {
    let loaded = Config::load(&config.sources()).map_err(tracknet::Error::from)?;
    for note in &loaded.notes {
        console::note(note);
    }
    out!("{}", loaded.config.to_yaml().map_err(tracknet::Error::from)?)?;
    Ok(ExitCode::SUCCESS)
}
