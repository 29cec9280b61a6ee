//! Walking through all orders with everything that is stored of them.

use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, query};
use uuid::Uuid;

use super::read::unavailable;
use super::source;
use crate::domain::Timestamp;
use crate::domain::ids::OrderId;
use crate::ports::store::{Scanned, StoreError, Trailed};
use crate::store::evidence::{evidence, trail};
use crate::store::rows::Source;

/// The events, in the order in which [`crate::store::evidence`] reads their columns.
const EVENTS: &str = "
 (SELECT json_group_array(json_array(seq, version, type, payload, principal, role, reason, request_id, at, hex(hash)))
  FROM order_events WHERE order_id = o.id) AS events";

/// What a scan reads besides [`source::COLUMNS`] and [`EVENTS`].
const HISTORY: &str = "
 (SELECT json_group_array(json_array(seq, status, created_at))
  FROM order_status_history WHERE order_id = o.id) AS history";

/// One page. One statement sees one state of the file, and a reader of the write-ahead log keeps no writer waiting.
pub(super) async fn scan(
    pool: &SqlitePool,
    after: Option<OrderId>,
    limit: u32,
) -> Result<Vec<Scanned>, StoreError> {
    let mut asked = query(AssertSqlSafe(statement(after.is_some())));
    if let Some(after) = after {
        asked = asked.bind(after.0);
    }
    let found = asked.bind(limit.max(1)).fetch_all(pool).await.map_err(|error| unavailable(&error))?;
    let mut page = Vec::with_capacity(found.len());
    for row in found {
        let id = row.id("id").map_err(StoreError::Unavailable)?;
        page.push(Scanned { id: OrderId(id), found: evidence(&row) });
    }
    // The statement picks the right orders; that it also returns them in order is not promised.
    page.sort_by_key(|scanned| scanned.id);
    Ok(page)
}

pub(super) fn statement(has_after: bool) -> String {
    let behind = if has_after { "WHERE id > ?" } else { "" };
    format!(
        "SELECT {}, {EVENTS}, {HISTORY} FROM (SELECT id FROM orders {behind} ORDER BY id LIMIT ?) AS k \
         CROSS JOIN orders AS o ON o.id = k.id",
        source::COLUMNS
    )
}

/// One page of orders with their events alone.
pub(super) async fn trails(
    pool: &SqlitePool,
    after: Option<OrderId>,
    since: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<Trailed>, StoreError> {
    let found = query(AssertSqlSafe(trails_statement()))
        .bind(after.map_or_else(Uuid::nil, |after| after.0))
        .bind(since.map_or(i64::MIN, |since| since.timestamp_micros()))
        .bind(limit.max(1))
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    let mut page = Vec::with_capacity(found.len());
    for row in found {
        let id = row.id("id").map_err(StoreError::Unavailable)?;
        page.push(Trailed { id: OrderId(id), found: trail(&row) });
    }
    page.sort_by_key(|trailed| trailed.id);
    Ok(page)
}

/// No order has the nil id, so it is a place ahead of all.
pub(super) fn trails_statement() -> String {
    format!(
        "SELECT o.id, o.event_seq, o.event_hash, {EVENTS} \
         FROM (SELECT id FROM orders WHERE id > ?1 AND updated_at >= ?2 ORDER BY id LIMIT ?3) AS k \
         CROSS JOIN orders AS o ON o.id = k.id"
    )
}
