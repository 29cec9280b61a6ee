//! `simulate`: the collaborators as one server.

use std::net::SocketAddr;

use clap::Args;

use super::{ConfigFiles, Failure, load_config, run_logged, stop_asked};
use crate::app;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  order-service simulate
  order-service simulate --listen 0.0.0.0:50061
  ORDER__COLLABORATORS__PAYMENT=http://127.0.0.1:50061 order-service serve")]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Address and port to listen on, over simulator.listen; port 0 takes a free port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

pub(super) fn run(files: &ConfigFiles, arguments: &SimulateArgs) -> Result<(), Failure> {
    let mut config = load_config(files)?;
    if let Some(listen) = arguments.listen {
        config.simulator.listen = listen;
    }
    run_logged(config, |config, telemetry| app::simulate(config, telemetry, stop_asked()))
}
