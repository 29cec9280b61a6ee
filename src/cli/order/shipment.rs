//! `order add-shipment`.

use clap::Args;

use super::{ClientFailure, OrderKey, Session};
use crate::proto::order::{AddShipmentRequest, Tracking};

#[derive(Args, Debug)]
#[command(after_help = "\
For an order in PROCESSING that goes out in more than one parcel. Without a tracking number a label is made.

Examples:
  order-service order add-shipment ORD-7K3M9Q2XYZ
  order-service order add-shipment ORD-7K3M9Q2XYZ --carrier UPS --tracking-number 1Z999")]
pub(super) struct ShipmentArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// Who carries the parcel.
    #[arg(long, value_name = "NAME", requires = "tracking_number")]
    carrier: Option<String>,
    /// The carrier's number of the parcel, where its label was made elsewhere.
    #[arg(long, value_name = "NUMBER")]
    tracking_number: Option<String>,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(super) async fn run(session: &Session, arguments: ShipmentArgs) -> Result<(), ClientFailure> {
    let mut client = session.connect().await?;
    let id = arguments.order.resolve(&mut client).await?;
    let carrier = arguments.carrier.unwrap_or_default();
    let tracking = arguments.tracking_number.map(|tracking_number| Tracking { carrier, tracking_number });
    let expected_version = arguments.expected_version.unwrap_or_default();
    let content = AddShipmentRequest { id, tracking, expected_version, request_id: arguments.request_id };
    session.show(client.add_shipment(content).await?)
}
