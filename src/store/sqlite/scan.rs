//! Walking through all orders with everything that is stored of them.

use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, query};

use super::read::unavailable;
use super::source;
use crate::domain::ids::OrderId;
use crate::ports::store::{Scanned, StoreError};
use crate::store::evidence::evidence;
use crate::store::rows::Source;

/// What a scan reads besides [`source::COLUMNS`], in the order in which [`crate::store::evidence`] reads them.
const COLUMNS: &str = "
 (SELECT json_group_array(json_array(seq, version, type, payload, principal, request_id, at))
  FROM order_events WHERE order_id = o.id) AS events,
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
        "SELECT {}, {COLUMNS} FROM (SELECT id FROM orders {behind} ORDER BY id LIMIT ?) AS k \
         CROSS JOIN orders AS o ON o.id = k.id",
        source::COLUMNS
    )
}
