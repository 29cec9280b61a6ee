//! `migrate`: bring the store's tables up to date.

use clap::Args;

use super::{ConfigFiles, Failure, load_config, run_logged};
use crate::app;

#[derive(Args, Debug)]
#[command(after_help = "\
The store is the one that store.url names. Nodes may run as a role that cannot change tables or events: make it, name it \
with --grant-to with every migration, and give nodes its URL with store.migrate: false.

Examples:
  order-service migrate
  ORDER__STORE__URL=sqlite:/data/orders.db order-service migrate
  ORDER__STORE__URL='postgres://orders@127.0.0.1:5432/orders?sslmode=disable' order-service migrate
  ORDER__STORE__URL='postgres://owner@db/orders' order-service migrate --grant-to order_node
  ORDER__STORE__URL_FILE=/run/secrets/order-store-url order-service migrate")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Postgres: then give this role what a node needs and nothing more. It can add events and not change or delete them.
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
}

pub(super) fn run(files: &ConfigFiles, arguments: &MigrateArgs) -> Result<(), Failure> {
    let config = load_config(files)?;
    run_logged(config, |config, _| app::migrate(config, arguments.grant_to.as_deref()))
}
