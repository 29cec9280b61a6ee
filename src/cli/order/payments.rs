//! `order payments`.

use clap::Args;
use serde::Serialize;

use super::view::PaymentJson;
use super::{ClientFailure, OrderKey, Session, print, print_json, table};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  order-service order payments ORD-7K3M9Q2XYZ")]
pub(super) struct PaymentsArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
}

#[derive(Serialize)]
struct Answer {
    transactions: Vec<PaymentJson>,
}

pub(super) async fn run(session: &Session, arguments: PaymentsArgs) -> Result<(), ClientFailure> {
    let mut client = session.connect().await?;
    let id = arguments.order.resolve(&mut client).await?;
    let answer = client.payments(id).await?;
    let payments: Vec<PaymentJson> = answer.transactions.into_iter().map(PaymentJson::from).collect();
    if session.is_json() {
        print_json(&Answer { transactions: payments })
    } else {
        print(&table::payments(&payments))
    }
}
