//! `order cancel`.

use clap::Args;

use super::{ClientFailure, OrderKey, Session};
use crate::proto::order::CancelOrderRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
Refunds what was paid and gives the stock back. An order can be cancelled until it is shipped; cancelling \
what is cancelled succeeds and changes nothing.

Examples:
  order-service order cancel ORD-7K3M9Q2XYZ --reason 'ordered twice'
  order-service order cancel ORD-7K3M9Q2XYZ --expected-version 7")]
pub(super) struct CancelArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// Free text, kept in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(super) async fn run(session: &Session, arguments: CancelArgs) -> Result<(), ClientFailure> {
    let CancelArgs { order, reason, expected_version, request_id } = arguments;
    let expected_version = expected_version.unwrap_or_default();
    let mut client = session.connect().await?;
    let id = order.resolve(&mut client).await?;
    session.show(client.cancel(CancelOrderRequest { id, reason, expected_version, request_id }).await?)
}
