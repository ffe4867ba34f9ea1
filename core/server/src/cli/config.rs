//! `haggle config`.

use clap::{Args, Subcommand};

use super::{ConfigFrom, print};
use crate::{
    config::{DEFAULT_TOML, Effective},
    failure::Failure,
    plugins,
};

/// Check, show or print the configuration
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle config default > haggle.toml
  haggle config check --config haggle.toml && systemctl reload-or-restart haggle
  HAGGLE__SERVER__THREADS=1 haggle config show")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a server would start with it; exit code 2 when not
    Check(ConfigFrom),
    /// Print every value in force and where it comes from; secrets are masked
    Show(ConfigFrom),
    /// Print every key with its default and an explanation
    Default,
}

pub fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.command {
        ConfigCommand::Check(from) => {
            let settings = from.load()?.settings;
            settings.check()?;
            plugins::check_dialects(&settings)?;
            plugins::check_routes(&settings)?;
            print("the configuration is valid");
        }
        ConfigCommand::Show(from) => show(&from.load()?.effective),
        ConfigCommand::Default => print(DEFAULT_TOML.trim_end()),
    }
    Ok(())
}

fn show(effective: &[Effective]) {
    let lines: Vec<String> = effective.iter().map(|value| format!("{} = {}", value.key, value.value)).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(60);
    for (line, value) in lines.iter().zip(effective) {
        print(&format!("{line:width$}  # {}", value.source));
    }
}
