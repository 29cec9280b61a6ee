//! Reading: what is asked of the database, and in which order the answers come.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, AssertSqlSafe, Row, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::fault::told;
use super::loader::Loader;
use super::pool::Pool;
use super::source::columns;
use crate::domain::Timestamp;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::ports::seen::Mark;
use crate::ports::store::{
    OPEN_AMONG, Quarantine, Regression, Scanned, StoreError, Stored, Trailed, Unfinished,
};
use crate::store::bind::Bound;
use crate::store::evidence::{evidence, trail};
use crate::store::rows::{self, Read, Source};

/// Connections for reading, and the texts they are asked.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) pool: Arc<Pool>,
    pub(super) columns: Arc<str>,
    loader: Loader,
    /// Loads marks only.
    marker: Loader,
}

pub(super) const EVENTS: &str =
    "SELECT * FROM order_events WHERE order_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
const BY_NUMBER: &str = "SELECT id FROM orders WHERE order_number = $1";
const VERSIONS: &str = "SELECT id, version FROM orders WHERE id = ANY($1)";
const QUARANTINE: &str = "INSERT INTO order_quarantines (order_id, known_version, stored_version, reason, since) \
     SELECT v.id, v.known, v.stored, 'REGRESSION', $4 FROM unnest($1, $2, $3) AS v(id, known, stored) \
     ON CONFLICT DO NOTHING";
const QUARANTINED: &str =
    "SELECT known_version, stored_version, since FROM order_quarantines WHERE order_id = $1";
const RELEASE: &str = "DELETE FROM order_quarantines WHERE order_id = $1";
/// Orders that somebody should look at, behind the nil id or the last one of a page. What runs is read by its small index
/// first: a walk by order would come by the sagas of all orders.
const STUCK: &str = "WITH running AS MATERIALIZED (SELECT order_id, attention, started_at FROM sagas WHERE NOT settled) \
     SELECT id FROM ( \
       (SELECT order_id AS id FROM running WHERE (attention IS NOT NULL OR started_at < $1) AND order_id > $2) \
       UNION (SELECT id FROM orders WHERE payment_status = 'REFUND_FAILED' AND id > $2 ORDER BY id LIMIT $3) \
       UNION (SELECT order_id AS id FROM order_quarantines WHERE order_id > $2 ORDER BY order_id LIMIT $3) \
     ) AS stuck ORDER BY id LIMIT $3";
pub(super) const COUNT_OF_USER: &str = "SELECT count(*) FROM (SELECT FROM orders WHERE user_id = $1 AND created_at >= $2 \
     ORDER BY created_at LIMIT $3) AS few";
pub(super) const OPEN_OF_USER: &str = "SELECT id FROM (SELECT id, status FROM orders WHERE user_id = $1 \
     ORDER BY created_at DESC, id DESC LIMIT $2) AS newest WHERE status = 'PENDING' LIMIT $3";
/// What [`mark`] reads, of `orders AS o`.
pub(super) const MARK: &str = "o.version, o.event_hash, o.updated_at, \
     EXISTS (SELECT FROM order_quarantines AS q WHERE q.order_id = o.id) AS quarantined";
const NOW: &str = "SELECT clock_timestamp()";

impl Reader {
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn new(pool: Pool) -> Self {
        let columns: Arc<str> = columns().into();
        let pool = Arc::new(pool);
        let load = AssertSqlSafe(load_statement(&columns)).into_sql_str();
        // Half of the connections are left for lists and histories.
        let loader = Loader::start(&pool, &load, pool.size().div_ceil(2));
        let marks = AssertSqlSafe(load_statement(&format!("o.id, {MARK}"))).into_sql_str();
        let marker = Loader::start(&pool, &marks, pool.size().div_ceil(4));
        Self { pool, columns, loader, marker }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.pool.rows("SELECT 1".into_sql_str(), PgArguments::default()).await.map(drop)
    }

    pub(super) async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let corrupt = |what| StoreError::Corrupt { order: id, what };
        match self.loader.load(id).await? {
            Some(row) => stored(&row).map(Some).map_err(corrupt),
            None => {
                let (pool, asked) = (Arc::clone(&self.pool), arguments(|args| args.add(id.0))?);
                // In a task of its own: a caller that goes away takes no connection with it.
                let lost = tokio::spawn(async move { pool.rows(QUARANTINED.into_sql_str(), asked).await });
                let lost = lost.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
                if lost.is_empty() { Ok(None) } else { Err(corrupt(String::from("the store has lost it"))) }
            }
        }
    }

    pub(super) async fn mark(&self, id: OrderId) -> Result<Option<Mark>, StoreError> {
        let Some(row) = self.marker.load(id).await? else { return Ok(None) };
        mark(&row).map(Some).map_err(|what| StoreError::Corrupt { order: id, what })
    }

    pub(super) async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError> {
        let rows =
            self.pool.rows(BY_NUMBER.into_sql_str(), arguments(|args| args.add(number.as_str()))?).await?;
        rows.first()
            .map(|row| row.try_get::<Uuid, _>(0).map(OrderId))
            .transpose()
            .map_err(|e| unavailable(&e))
    }

    pub(super) async fn versions(&self, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self.pool.rows(VERSIONS.into_sql_str(), arguments(|args| args.add(ids))?).await?;
        let read = |row: &PgRow| Ok((OrderId(row.try_get::<Uuid, _>(0)?), row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(|error| unavailable(&error))
    }

    /// Writes down which orders somebody has to look at. Through a reader's connection: it is rare, and must not wait
    /// behind the changes of other orders.
    pub(super) async fn quarantine(&self, all: &[Regression], at: Timestamp) -> Result<(), StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(all.iter().map(|one| one.id.0).collect::<Vec<Uuid>>())?;
            args.add(all.iter().map(|one| one.known).collect::<Vec<i64>>())?;
            args.add(all.iter().map(|one| one.stored).collect::<Vec<i64>>())?;
            args.add(at)
        };
        self.pool.rows(QUARANTINE.into_sql_str(), arguments(bind)?).await.map(drop)
    }

    pub(super) async fn quarantined(&self, id: OrderId) -> Result<Option<Quarantine>, StoreError> {
        let rows = self.pool.rows(QUARANTINED.into_sql_str(), arguments(|args| args.add(id.0))?).await?;
        let read = |row: &PgRow| {
            let regression = Regression { id, known: row.try_get(0)?, stored: row.try_get(1)? };
            Ok(Quarantine { regression, since: row.try_get(2)? })
        };
        rows.first().map(read).transpose().map_err(|error: sqlx::Error| unavailable(&error))
    }

    pub(super) async fn release(&self, id: OrderId) -> Result<(), StoreError> {
        self.pool.rows(RELEASE.into_sql_str(), arguments(|args| args.add(id.0))?).await.map(drop)
    }

    pub(super) async fn stuck(
        &self,
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(started_before)?;
            args.add(after.map_or_else(Uuid::nil, |after| after.0))?;
            args.add(i64::from(limit))
        };
        let rows = self.pool.rows(STUCK.into_sql_str(), arguments(bind)?).await?;
        let read = |row: &PgRow| row.try_get::<Uuid, _>(0).map(OrderId);
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(|error| unavailable(&error))
    }

    pub(super) async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(id.0)?;
            args.add(after_seq)?;
            args.add(i64::from(limit))
        };
        let rows = self.pool.rows(EVENTS.into_sql_str(), arguments(bind)?).await?;
        let read: Result<Vec<_>, _> = rows.iter().map(rows::event).collect();
        read.map_err(|what| StoreError::Corrupt { order: id, what })
    }

    pub(super) async fn unfinished(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        self.due(unfinished_statement(after.is_some()), due_before, after, limit).await
    }

    pub(super) async fn timers(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        self.due(timers_statement(after.is_some()), due_before, after, limit).await
    }

    async fn due(
        &self,
        sql: String,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(due_before)?;
            if let Some(after) = after {
                args.add(after.due_at)?;
                args.add(after.order_id.0)?;
            }
            args.add(i64::from(limit))
        };
        let rows = self.pool.rows(AssertSqlSafe(sql).into_sql_str(), arguments(bind)?).await?;
        let read = |row: &PgRow| {
            Ok(Unfinished { due_at: row.try_get(0)?, order_id: OrderId(row.try_get::<Uuid, _>(1)?) })
        };
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(|error| unavailable(&error))
    }

    pub(super) async fn count_of_user(
        &self,
        user: UserId,
        since: Timestamp,
        at_most: u32,
    ) -> Result<u32, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(user.0)?;
            args.add(since)?;
            args.add(i64::from(at_most))
        };
        let rows = self.pool.rows(COUNT_OF_USER.into_sql_str(), arguments(bind)?).await?;
        let count = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>(0));
        count.map(|count| u32::try_from(count).unwrap_or(u32::MAX)).map_err(|error| unavailable(&error))
    }

    pub(super) async fn open_of_user(&self, user: UserId, at_most: u32) -> Result<Vec<OrderId>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(user.0)?;
            args.add(i64::from(OPEN_AMONG))?;
            args.add(i64::from(at_most))
        };
        let rows = self.pool.rows(OPEN_OF_USER.into_sql_str(), arguments(bind)?).await?;
        let read = |row: &PgRow| row.try_get::<Uuid, _>(0).map(OrderId);
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(|error| unavailable(&error))
    }

    pub(super) async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        let rows = self.pool.rows(NOW.into_sql_str(), PgArguments::default()).await?;
        rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| unavailable(&error))
    }

    /// Asks what another part of this folder wants to know.
    pub(super) async fn ask(&self, sql: SqlStr, arguments: PgArguments) -> Result<Vec<PgRow>, StoreError> {
        self.pool.rows(sql, arguments).await
    }

    /// Everything that is stored of a page of orders: one statement sees one state of the database.
    pub(super) async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(i64::from(limit.max(1)))?;
            after.map_or(Ok(()), |after| args.add(after.0))
        };
        let sql = AssertSqlSafe(scan_statement(&self.columns, after.is_some())).into_sql_str();
        let rows = self.pool.rows(sql, arguments(bind)?).await?;
        let mut page = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = OrderId(row.id("id").map_err(StoreError::Unavailable)?);
            let found = stored(row).and_then(|_| evidence(row));
            page.push(Scanned { id, found });
        }
        page.sort_by_key(|scanned| scanned.id);
        Ok(page)
    }

    /// The events of a page of orders.
    pub(super) async fn trails(
        &self,
        after: Option<OrderId>,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Trailed>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(after.map_or_else(Uuid::nil, |after| after.0))?;
            args.add(since)?;
            args.add(i64::from(limit.max(1)))
        };
        let sql = AssertSqlSafe(trails_statement()).into_sql_str();
        let rows = self.pool.rows(sql, arguments(bind)?).await?;
        let mut page = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = OrderId(row.id("id").map_err(StoreError::Unavailable)?);
            page.push(Trailed { id, found: trail(row) });
        }
        page.sort_by_key(|trailed| trailed.id);
        Ok(page)
    }
}

/// The mark in a row, unless the order is quarantined.
pub(super) fn mark(row: &PgRow) -> Read<Mark> {
    if row.try_get("quarantined").unwrap_or(true) {
        return Err(String::from("the store has lost changes of it"));
    }
    Ok(Mark { version: row.int("version")?, head: rows::head(row)?, updated_at: row.time("updated_at")? })
}

pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable(told(error))
}

/// An order in a row, unless the order is quarantined.
pub(super) fn stored(row: &PgRow) -> Read<Stored> {
    if row.try_get("quarantined").unwrap_or(true) {
        return Err(String::from("the store has lost changes of it"));
    }
    rows::stored(row)
}

pub(super) fn arguments(bind: impl FnOnce(&mut PgArguments) -> Bound) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    bind(&mut arguments).map_err(|error| unavailable(&sqlx::Error::Encode(error)))?;
    Ok(arguments)
}

/// Orders by an array of their ids.
pub(super) fn load_statement(columns: &str) -> String {
    format!("SELECT {columns} FROM orders AS o WHERE o.id = ANY($1)")
}

/// One order by its id: what the loading of orders is compared with.
pub(super) fn load_one_statement(columns: &str) -> String {
    format!("SELECT {columns} FROM orders AS o WHERE o.id = $1")
}

pub(super) fn unfinished_statement(has_after: bool) -> String {
    let (behind, limit) = if has_after { ("AND (due_at, order_id) > ($2, $3)", 4) } else { ("", 2) };
    format!(
        "SELECT due_at, order_id FROM sagas WHERE NOT settled AND due_at < $1 {behind} \
         ORDER BY due_at, order_id LIMIT ${limit}"
    )
}

pub(super) fn timers_statement(has_after: bool) -> String {
    let (behind, limit) = if has_after { ("AND (due_at, order_id) > ($2, $3)", 4) } else { ("", 2) };
    format!(
        "SELECT due_at, order_id FROM order_timers WHERE due_at IS NOT NULL AND due_at < $1 {behind} \
         ORDER BY due_at, order_id LIMIT ${limit}"
    )
}

/// The events of an order, in the order in which [`crate::store::evidence`] reads their columns.
const EVENTS_OF: &str = "coalesce((SELECT json_agg(json_build_array(seq, version, type, payload::text, principal, role, \
     reason, request_id, round(date_part('epoch', at) * 1e6)::bigint, encode(hash, 'hex'))) \
     FROM order_events WHERE order_id = o.id), '[]')::text AS events";

pub(super) fn scan_statement(columns: &str, has_after: bool) -> String {
    let behind = if has_after { "WHERE id > $2" } else { "" };
    format!(
        "SELECT {columns}, {EVENTS_OF}, \
         coalesce((SELECT json_agg(json_build_array(seq, status, round(date_part('epoch', created_at) * 1e6)::bigint)) \
           FROM order_status_history WHERE order_id = o.id), '[]')::text AS history \
         FROM (SELECT id FROM orders {behind} ORDER BY id LIMIT $1) AS k JOIN orders AS o ON o.id = k.id"
    )
}

/// No order has the nil id, so it is a place ahead of all.
pub(super) fn trails_statement() -> String {
    format!(
        "SELECT o.id, o.event_seq, o.event_hash, {EVENTS_OF} \
         FROM (SELECT id FROM orders WHERE id > $1 AND ($2::timestamptz IS NULL OR updated_at >= $2) \
         ORDER BY id LIMIT $3) AS k JOIN orders AS o ON o.id = k.id"
    )
}
