//! `simulate`: the collaborators as one server.

mod ledger;

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use super::{ConfigFiles, Failure, last_words, stop_asked};
use crate::app;
use crate::config::Config;

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  order-service simulate
  order-service simulate --listen 0.0.0.0:50061
  order-service simulate ledger 01900000-0000-7000-8000-000000000001
  ORDER__COLLABORATORS__PAYMENT=http://127.0.0.1:50061 order-service serve"
)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Address and port to listen on, over simulator.listen; port 0 takes a free port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    #[command(subcommand)]
    command: Option<SimulateCommand>,
}

#[derive(Subcommand, Debug)]
enum SimulateCommand {
    /// Show what a running simulator did for one order: money kept, goods sold.
    Ledger(ledger::LedgerArgs),
}

pub(super) fn run(files: &ConfigFiles, arguments: &SimulateArgs) -> Result<(), Failure> {
    if let Some(SimulateCommand::Ledger(arguments)) = &arguments.command {
        return ledger::run(arguments);
    }
    let adjust = |config: &mut Config| {
        if let Some(listen) = arguments.listen {
            config.simulator.listen = listen;
        }
    };
    last_words::serve(files, adjust, |config, telemetry| app::simulate(config, telemetry, stop_asked()))
}
