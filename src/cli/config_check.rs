//! `config check`: what is in force, and where it comes from.

use std::io::{self, Write};

use clap::Args;

use super::{ConfigFiles, Failure, environment};
use crate::config::{Config, ConfigErrors, Merged, price_book};

/// Longest `key = value` that is padded, in characters; longer ones stick out.
const WIDEST: usize = 64;

// No arguments of its own.
#[derive(Args, Debug)]
#[command(after_help = "\
Secrets and passwords are shown as ***. All errors are told at once, on standard error.

Examples:
  order-service config check
  order-service config check --config config/production.yaml --config mine.yaml")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
}

pub(super) fn run(files: &ConfigFiles) -> Result<(), Failure> {
    let merged = Merged::collect(&files.config, environment());
    let config = Config::from_merged(&merged)?;
    price_book(&config.pricing).map_err(|error| ConfigErrors(vec![error]))?;
    let lines: Vec<(String, String)> = merged
        .settings()
        .map(|setting| (format!("{} = {}", setting.key, setting.value), setting.origin.to_string()))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default().min(WIDEST);
    let mut out = io::stdout().lock();
    for (line, origin) in lines {
        writeln!(out, "{line:width$}  # {origin}")?;
    }
    out.flush()?;
    Ok(())
}
