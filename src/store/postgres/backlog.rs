//! How much is unfinished.

use sqlx::postgres::PgRow;
use sqlx::{Arguments, Row, SqlSafeStr};

use super::read::{Reader, arguments, unavailable};
use crate::domain::Timestamp;
use crate::ports::store::StoreError;
use crate::ports::usage::Backlog;

/// Each number is counted up to $2. Sagas that run are found by their small index. A creation that has its
/// stock and is kept from being paid by a hold waits as it should, and is not stuck before that hold is over for long.
const BACKLOG: &str = "SELECT \
     (SELECT count(*) FROM (SELECT FROM sagas WHERE NOT settled LIMIT $2) AS running), \
     (SELECT count(*) FROM (SELECT FROM sagas WHERE NOT settled AND started_at < $1 \
       AND NOT (kind = 'CREATE' AND direction = 'FORWARD' AND EXISTS (SELECT FROM orders \
         WHERE id = order_id AND hold IS NOT NULL AND reservation_state = 'HELD' AND payment_status = 'PENDING' \
           AND (hold ->> 'until' IS NULL OR (hold ->> 'until')::timestamptz >= $1))) LIMIT $2) AS old), \
     (SELECT count(*) FROM (SELECT order_id FROM sagas WHERE NOT settled AND attention IS NOT NULL \
       UNION SELECT id FROM orders WHERE payment_status = 'REFUND_FAILED' LIMIT $2) AS calling), \
     (SELECT count(*) FROM (SELECT FROM order_quarantines LIMIT $2) AS aside)";

impl Reader {
    pub(super) async fn backlog(
        &self,
        started_before: Timestamp,
        at_most: u32,
    ) -> Result<Backlog, StoreError> {
        let bind = |args: &mut sqlx::postgres::PgArguments| {
            args.add(started_before)?;
            args.add(i64::from(at_most))
        };
        let rows = self.pool().rows(BACKLOG.into_sql_str(), arguments(bind)?).await?;
        let count = |row: &PgRow, index: usize| {
            row.try_get::<i64, _>(index).map(|count| u64::try_from(count).unwrap_or_default())
        };
        let read = |row: &PgRow| {
            Ok(Backlog {
                unfinished: count(row, 0)?,
                stuck: count(row, 1)?,
                attention: count(row, 2)?,
                quarantined: count(row, 3)?,
            })
        };
        rows.first().map_or_else(|| Ok(Backlog::default()), read).map_err(|error| unavailable(&error))
    }
}
