//! `order hold` and `order release`.

use chrono::DateTime;
use clap::Args;
use prost_types::Timestamp;

use super::{ClientFailure, OrderKey, Session};
use crate::proto::order::{HoldOrderRequest, ReleaseOrderRequest};

#[derive(Args, Debug)]
#[command(after_help = "\
A hold stops the charge of a new order and forward moves (PROCESSING, SHIPPED, DELIVERED), not cancels, returns \
and refunds. Holding what is held already replaces the hold.

Examples:
  order-service order hold ORD-7K3M9Q2XYZ --reason 'address looks wrong'
  order-service order hold ORD-7K3M9Q2XYZ --reason 'fraud check' --until 2026-02-01T12:00:00Z")]
pub(super) struct HoldArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// Why; up to 200 characters, shown with the order.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// When it ends by itself, as RFC 3339; left out, it lasts until `order release`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Releasing what is not on hold succeeds and changes nothing.

Example:
  order-service order release ORD-7K3M9Q2XYZ --note 'address confirmed'")]
pub(super) struct ReleaseArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// Free text, kept in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(super) async fn hold(session: &Session, arguments: HoldArgs) -> Result<(), ClientFailure> {
    let HoldArgs { order, reason, until, expected_version, request_id } = arguments;
    let expected_version = expected_version.unwrap_or_default();
    let mut client = session.connect().await?;
    let id = order.resolve(&mut client).await?;
    session.show(client.hold(HoldOrderRequest { id, reason, until, expected_version, request_id }).await?)
}

pub(super) async fn release(session: &Session, arguments: ReleaseArgs) -> Result<(), ClientFailure> {
    let ReleaseArgs { order, note: notes, expected_version, request_id } = arguments;
    let expected_version = expected_version.unwrap_or_default();
    let mut client = session.connect().await?;
    let id = order.resolve(&mut client).await?;
    session.show(client.release(ReleaseOrderRequest { id, notes, expected_version, request_id }).await?)
}

fn time(text: &str) -> Result<Timestamp, String> {
    let time = DateTime::parse_from_rfc3339(text.trim())
        .map_err(|_| "no time; write it like 2026-02-01T12:00:00Z".to_owned())?;
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Ok(Timestamp { seconds: time.timestamp(), nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let noon = Timestamp { seconds: 1_714_737_600, nanos: 500_000_000 };
        assert_eq!(time(" 2024-05-03T14:00:00.5+02:00 "), Ok(noon));
        for text in ["", "tomorrow", "2024-05-03", "2024-05-03T12:00:00"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
