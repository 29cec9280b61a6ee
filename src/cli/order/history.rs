//! `order history`.

use clap::Args;
use serde::Serialize;

use super::view::EventJson;
use super::{ClientFailure, OrderKey, Session, print, print_json, table};
use crate::clients::orders::{ApiError, OrdersClient};
use crate::proto::order;

/// Events asked for at a time.
const PAGE: i32 = 200;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  order-service order history ORD-7K3M9Q2XYZ
  order-service order history ORD-7K3M9Q2XYZ --after-sequence 12 -o json")]
pub(super) struct HistoryArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// Only events behind this sequence.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    after_sequence: i64,
}

#[derive(Serialize)]
struct Answer {
    events: Vec<EventJson>,
}

pub(super) async fn run(session: &Session, arguments: HistoryArgs) -> Result<(), ClientFailure> {
    let mut client = session.connect().await?;
    let id = arguments.order.resolve(&mut client).await?;
    let events = all_after(&mut client, &id, arguments.after_sequence).await?;
    let events: Vec<EventJson> = events.into_iter().map(EventJson::from).collect();
    if session.is_json() { print_json(&Answer { events }) } else { print(&table::events(&events)) }
}

/// All stored events of an order behind a sequence.
pub(super) async fn all_after(
    client: &mut OrdersClient,
    order_id: &str,
    after_sequence: i64,
) -> Result<Vec<order::OrderEvent>, ApiError> {
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .events(order::ListOrderEventsRequest {
                order_id: order_id.to_owned(),
                after_sequence,
                page_size: PAGE,
                page_token,
            })
            .await?;
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return Ok(events);
        }
        page_token = page.next_page_token;
    }
}
