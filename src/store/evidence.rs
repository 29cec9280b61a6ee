//! From rows to all that is stored of an order.

use std::sync::Arc;

use serde::Deserialize;

use super::rows::{self, Read, Source, at, children, from_json};
use crate::domain::access::Role;
use crate::domain::chain::{self, Row, Trail};
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::ids::OrderId;
use crate::domain::status::OrderStatus;
use crate::domain::verify::Entered;
use crate::ports::store::Evidence;

/// The order in a row, with the arrays `events` and `history`.
pub(super) fn evidence(row: &impl Source) -> Read<Evidence> {
    let trail = trail(row)?;
    let events = trail.rows.iter().map(event).collect::<Read<_>>()?;
    Ok(Evidence { stored: rows::stored(row)?, events, history: history(row)?, chain: chain::check(&trail) })
}

/// The events of the order in a row, as they are stored: the array `events`.
pub(super) fn trail(row: &impl Source) -> Read<Trail> {
    let mut rows: Vec<EventRow> = children(row, "events")?;
    rows.sort_by_key(|row| row.seq);
    Ok(Trail {
        order: OrderId(row.id("id")?),
        event_seq: row.int("event_seq")?,
        head: rows::head(row)?,
        rows: rows.into_iter().map(Row::from).collect(),
    })
}

#[derive(Deserialize)]
struct EventRow {
    seq: i64,
    version: i64,
    r#type: String,
    payload: String,
    principal: String,
    role: Option<String>,
    reason: Option<String>,
    request_id: Option<String>,
    at: i64,
    hash: Option<String>,
}

impl From<EventRow> for Row {
    fn from(row: EventRow) -> Self {
        Self {
            seq: row.seq,
            version: row.version,
            at: row.at,
            kind: row.r#type,
            payload: row.payload,
            principal: row.principal,
            role: row.role,
            reason: row.reason,
            request_id: row.request_id,
            // In SQLite the hexadecimal digits of nothing are an empty text.
            hash: row.hash.filter(|hash| !hash.is_empty()).map(|hash| hash.to_ascii_lowercase()),
        }
    }
}

fn event(row: &Row) -> Read<RecordedEvent> {
    let event: OrderEvent = from_json(&row.payload).ok_or("order_events.payload")?;
    if event.kind() != row.kind {
        return Err(String::from("order_events.type"));
    }
    Ok(RecordedEvent {
        seq: row.seq,
        version: row.version,
        at: at(row.at).ok_or("order_events.at")?,
        principal: row.principal.clone(),
        role: row.role.as_deref().and_then(Role::parse),
        reason: row.reason.as_deref().map(Arc::from),
        request_id: row.request_id.clone(),
        event,
    })
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
