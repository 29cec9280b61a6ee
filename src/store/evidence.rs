//! From rows to all that is stored of an order.

use serde::Deserialize;

use super::rows::{self, Read, Source, at, children, from_json};
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::status::OrderStatus;
use crate::domain::verify::Entered;
use crate::ports::store::Evidence;

/// The order in a row, with the arrays `events` and `history`.
pub(super) fn evidence(row: &impl Source) -> Read<Evidence> {
    Ok(Evidence { stored: rows::stored(row)?, events: events(row)?, history: history(row)? })
}

#[derive(Deserialize)]
struct EventRow {
    seq: i64,
    version: i64,
    r#type: String,
    payload: String,
    principal: String,
    request_id: Option<String>,
    at: i64,
}

fn events(row: &impl Source) -> Read<Vec<RecordedEvent>> {
    let mut rows: Vec<EventRow> = children(row, "events")?;
    rows.sort_by_key(|row| row.seq);
    let read = rows.into_iter().map(|row| {
        let event: OrderEvent = from_json(&row.payload).ok_or("order_events.payload")?;
        if event.kind() != row.r#type {
            return Err(String::from("order_events.type"));
        }
        Ok(RecordedEvent {
            seq: row.seq,
            version: row.version,
            at: at(row.at).ok_or("order_events.at")?,
            principal: row.principal,
            request_id: row.request_id,
            event,
        })
    });
    read.collect()
}

#[derive(Deserialize)]
struct HistoryRow {
    seq: i64,
    status: String,
    created_at: i64,
}

fn history(row: &impl Source) -> Read<Vec<Entered>> {
    let mut rows: Vec<HistoryRow> = children(row, "history")?;
    rows.sort_by_key(|row| row.seq);
    let read = rows.into_iter().map(|row| {
        Ok(Entered {
            seq: row.seq,
            status: OrderStatus::parse(&row.status).ok_or("order_status_history.status")?,
            at: at(row.created_at).ok_or("order_status_history.created_at")?,
        })
    });
    read.collect()
}
