//! `order status`.

use clap::Args;

use super::{ClientFailure, OrderKey, Session, parse_status};
use crate::proto::order::{OrderStatus, Tracking, UpdateOrderStatusRequest};

#[derive(Args, Debug)]
#[command(after_help = "\
PROCESSING makes the shipping label; SHIPPED needs a tracking number (the label's, or --tracking-number); \
DELIVERED and RETURNED end the journey. CONFIRMED is set by the service itself; CANCELLED is the same as \
`order cancel`.

Examples:
  order-service order status ORD-7K3M9Q2XYZ PROCESSING
  order-service order status ORD-7K3M9Q2XYZ SHIPPED --carrier UPS --tracking-number 1Z999
  order-service order status ORD-7K3M9Q2XYZ DELIVERED --note 'left with the neighbor'")]
pub(super) struct StatusArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// The status to ask for, such as PROCESSING.
    #[arg(value_name = "NEW_STATUS", value_parser = parse_status)]
    new_status: OrderStatus,
    /// Free text, kept in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    /// Who carries the parcel.
    #[arg(long, value_name = "NAME", requires = "tracking_number")]
    carrier: Option<String>,
    /// The carrier's number of the parcel.
    #[arg(long, value_name = "NUMBER")]
    tracking_number: Option<String>,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(super) async fn run(session: &Session, arguments: StatusArgs) -> Result<(), ClientFailure> {
    let mut client = session.connect().await?;
    let id = arguments.order.resolve(&mut client).await?;
    let carrier = arguments.carrier.unwrap_or_default();
    let tracking = arguments.tracking_number.map(|tracking_number| Tracking { carrier, tracking_number });
    let content = UpdateOrderStatusRequest {
        id,
        status: arguments.new_status.into(),
        notes: arguments.note,
        tracking,
        expected_version: arguments.expected_version.unwrap_or_default(),
        request_id: arguments.request_id,
    };
    session.show(client.set_status(content).await?)
}
