//! How much is unfinished.

use sqlx::query_as;
use sqlx::sqlite::SqlitePool;

use super::read::unavailable;
use crate::domain::Timestamp;
use crate::ports::store::StoreError;
use crate::ports::usage::Backlog;

/// Each number is counted up to ?2. A creation that has its stock and is kept from being paid by a hold waits as it should, and
/// is not stuck before that hold is over for long. Nothing is ever set aside: what was synced to this one file is not lost.
pub(super) const BACKLOG: &str = "SELECT \
     (SELECT count(*) FROM (SELECT 1 FROM sagas INDEXED BY sagas_due WHERE settled = 0 LIMIT ?2)), \
     (SELECT count(*) FROM (SELECT 1 FROM sagas INDEXED BY sagas_due WHERE settled = 0 AND started_at < ?1 \
       AND NOT (kind = 'CREATE' AND direction = 'FORWARD' AND EXISTS (SELECT 1 FROM orders \
         WHERE id = order_id AND hold IS NOT NULL AND reservation_state = 'HELD' AND payment_status = 'PENDING' \
           AND (hold ->> 'until' IS NULL OR rtrim(hold ->> 'until', 'Z') >= ?3))) LIMIT ?2)), \
     (SELECT count(*) FROM (SELECT order_id FROM sagas INDEXED BY sagas_due WHERE settled = 0 AND attention IS NOT NULL \
       UNION SELECT id FROM orders INDEXED BY orders_refund_failed WHERE payment_status = 'REFUND_FAILED' LIMIT ?2))";

pub(super) async fn backlog(
    pool: &SqlitePool,
    started_before: Timestamp,
    at_most: u32,
) -> Result<Backlog, StoreError> {
    let (unfinished, stuck, attention): (i64, i64, i64) = query_as(BACKLOG)
        .bind(started_before.timestamp_micros())
        .bind(at_most)
        // Within JSON a time is a text, with as many digits as it needs.
        .bind(started_before.format("%Y-%m-%dT%H:%M:%S%.6f").to_string())
        .fetch_one(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    let [unfinished, stuck, attention] =
        [unfinished, stuck, attention].map(|count| u64::try_from(count).unwrap_or_default());
    Ok(Backlog { unfinished, stuck, attention, quarantined: 0 })
}
