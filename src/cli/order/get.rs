//! `order get`.

use clap::Args;

use super::{ClientFailure, OrderKey, Session};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  order-service order get ORD-7K3M9Q2XYZ
  order-service order get 01900000-0000-7000-8000-000000000001 -o json | jq -r .total_amount")]
pub(super) struct GetArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
}

pub(super) async fn run(session: &Session, arguments: GetArgs) -> Result<(), ClientFailure> {
    let order = session.connect().await?.get(arguments.order.into_request()).await?;
    session.show(order)
}
