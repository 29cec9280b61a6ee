//! `ops unquarantine`.

use clap::Args;

use super::session::{self, ServerArgs};
use crate::cli::Failure;
use crate::proto::admin::UnquarantineOrderRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
An order is quarantined when the store has lost changes of it that were acknowledged, or when its actor keeps failing. \
Compare it with the books of the other services first: from here on what is stored counts, and its saga goes on.

Example:
  order-service ops unquarantine 01900000-0000-7000-8000-000000000001 --reason 'ledgers agree, ticket 4711' --by ada")]
pub(super) struct UnquarantineArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The order's id.
    #[arg(value_name = "ORDER_ID", value_parser = session::order_id)]
    order_id: String,
    /// Why; up to 500 characters, kept in the history, without personal data.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who wants it, besides the principal of the call; up to 100 characters, kept in the history.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    by: String,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(super) fn run(arguments: UnquarantineArgs) -> Result<(), Failure> {
    let UnquarantineArgs { server, order_id, reason, by, request_id } = arguments;
    let request = UnquarantineOrderRequest { order_id, reason, by, request_id };
    session::run(&server, async |client| client.unquarantine(request).await, session::show_repaired)
}
