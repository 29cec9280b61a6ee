//! `ops`: what operators ask and repair.

mod verify;

use clap::{Args, Subcommand};

use super::{ConfigFiles, Failure};

#[derive(Args, Debug)]
pub(super) struct OpsArgs {
    #[command(flatten)]
    files: ConfigFiles,
    #[command(subcommand)]
    command: OpsCommand,
}

#[derive(Subcommand, Debug)]
enum OpsCommand {
    /// Check the invariants on the configured store, also while nodes use it.
    Verify(verify::VerifyArgs),
}

pub(super) fn run(files: &ConfigFiles, arguments: OpsArgs) -> Result<(), Failure> {
    let files = files.and(&arguments.files);
    match arguments.command {
        OpsCommand::Verify(arguments) => verify::run(&files.and(&arguments.files), &arguments),
    }
}
