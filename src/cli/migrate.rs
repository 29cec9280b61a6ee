//! `migrate`: bring the store's tables up to date.

use clap::Args;

use super::{ConfigFiles, Failure, load_config, run_logged};
use crate::app;

// No arguments: the store is described by the configuration.
#[derive(Args, Debug)]
#[command(after_help = "\
The store is the one that store.url names.

Examples:
  order-service migrate
  ORDER__STORE__URL=sqlite:/data/orders.db order-service migrate
  ORDER__STORE__URL='postgres://orders@127.0.0.1:5432/orders?sslmode=disable' order-service migrate
  ORDER__STORE__URL_FILE=/run/secrets/order-store-url order-service migrate")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
}

pub(super) fn run(files: &ConfigFiles) -> Result<(), Failure> {
    let config = load_config(files)?;
    run_logged(config, |config, _| app::migrate(config))
}
