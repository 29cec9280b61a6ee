//! `serve`: run a node.

use clap::Args;

use super::{ConfigFiles, Failure, last_words, stop_asked};
use crate::app;

// No arguments: a node is described by its configuration.
#[derive(Args, Debug)]
#[command(after_help = "\
Without any configuration it keeps orders in ./data/orders.db, simulates its collaborators (what they did is kept \
in ./data/orders.db.simulator.jsonl), answers gRPC on 127.0.0.1:50051 and HTTP (health, metrics) on 127.0.0.1:9464.

Examples:
  order-service serve
  order-service serve --config config/production.yaml
  ORDER__GRPC__LISTEN=0.0.0.0:50051 ORDER__STORE__URL=sqlite:/data/orders.db order-service serve
  ORDER__STORE__URL_FILE=/run/secrets/order-store-url order-service serve")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
}

pub(super) fn run(files: &ConfigFiles) -> Result<(), Failure> {
    last_words::serve(files, |_| {}, |config, telemetry| app::serve(config, telemetry, stop_asked()))
}
