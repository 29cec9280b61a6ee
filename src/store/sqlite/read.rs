//! Reading: what is asked of the database, and in which order the answers come.

use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row, query, query_scalar, query_with};
use uuid::Uuid;

use super::source::COLUMNS;
use crate::domain::Timestamp;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::ports::seen::Mark;
use crate::ports::store::{ListQuery, OPEN_AMONG, StoreError, Stored, Unfinished};
use crate::store::bind::{Bind, Bound as Binding};
use crate::store::rows::{self, Source};

pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

pub(super) async fn load(pool: &SqlitePool, id: OrderId) -> Result<Option<Stored>, StoreError> {
    let row = query(AssertSqlSafe(load_statement()))
        .bind(id.0)
        .fetch_optional(pool)
        .await
        .map_err(|e| unavailable(&e))?;
    row.map(|row| rows::stored(&row)).transpose().map_err(|what| StoreError::Corrupt { order: id, what })
}

const MARK: &str = "SELECT version, event_hash, updated_at FROM orders WHERE id = ?";

pub(super) async fn mark(pool: &SqlitePool, id: OrderId) -> Result<Option<Mark>, StoreError> {
    let row = query(MARK).bind(id.0).fetch_optional(pool).await.map_err(|e| unavailable(&e))?;
    let read = |row: &SqliteRow| {
        Ok(Mark { version: row.int("version")?, head: rows::head(row)?, updated_at: row.time("updated_at")? })
    };
    row.as_ref().map(read).transpose().map_err(|what| StoreError::Corrupt { order: id, what })
}

pub(super) fn load_statement() -> String {
    format!("SELECT {} FROM orders AS o WHERE o.id = ?", COLUMNS)
}

pub(super) async fn find_by_number(
    pool: &SqlitePool,
    number: &OrderNumber,
) -> Result<Option<OrderId>, StoreError> {
    let id: Option<Uuid> = query_scalar("SELECT id FROM orders WHERE order_number = ?")
        .bind(number.as_str().to_owned())
        .fetch_optional(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    Ok(id.map(OrderId))
}

pub(super) async fn versions(pool: &SqlitePool, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let version: Option<i64> = query_scalar("SELECT version FROM orders WHERE id = ?")
            .bind(id.0)
            .fetch_optional(pool)
            .await
            .map_err(|error| unavailable(&error))?;
        found.extend(version.map(|version| (*id, version)));
    }
    Ok(found)
}

pub(super) const EVENTS: &str =
    "SELECT * FROM order_events WHERE order_id = ? AND seq > ? ORDER BY seq LIMIT ?";

pub(super) async fn events(
    pool: &SqlitePool,
    id: OrderId,
    after_seq: i64,
    limit: u32,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let rows = query(EVENTS)
        .bind(id.0)
        .bind(after_seq)
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    let read: Result<Vec<_>, _> = rows.iter().map(rows::event).collect();
    read.map_err(|what| StoreError::Corrupt { order: id, what })
}

pub(super) async fn unfinished(
    pool: &SqlitePool,
    due_before: Timestamp,
    after: Option<Unfinished>,
    limit: u32,
) -> Result<Vec<Unfinished>, StoreError> {
    due(pool, unfinished_statement(after.is_some()), due_before, after, limit).await
}

pub(super) async fn timers(
    pool: &SqlitePool,
    due_before: Timestamp,
    after: Option<Unfinished>,
    limit: u32,
) -> Result<Vec<Unfinished>, StoreError> {
    due(pool, timers_statement(after.is_some()), due_before, after, limit).await
}

async fn due(
    pool: &SqlitePool,
    sql: String,
    due_before: Timestamp,
    after: Option<Unfinished>,
    limit: u32,
) -> Result<Vec<Unfinished>, StoreError> {
    let mut asked = query(AssertSqlSafe(sql)).bind(due_before.timestamp_micros());
    if let Some(after) = after {
        asked = asked.bind(after.due_at.timestamp_micros()).bind(after.order_id.0);
    }
    let rows = asked.bind(limit).fetch_all(pool).await.map_err(|error| unavailable(&error))?;
    rows.iter()
        .map(|row| {
            let key = Key::of(row).map_err(|error| unavailable(&error))?;
            let order_id = OrderId(key.id);
            let due_at = Timestamp::from_timestamp_micros(key.at)
                .ok_or_else(|| StoreError::Corrupt { order: order_id, what: String::from("due_at") })?;
            Ok(Unfinished { order_id, due_at })
        })
        .collect()
}

pub(super) fn unfinished_statement(has_after: bool) -> String {
    let behind = if has_after { "AND (due_at, order_id) > (?, ?)" } else { "" };
    format!(
        "SELECT due_at, order_id FROM sagas INDEXED BY sagas_due WHERE settled = 0 AND due_at < ? {behind} \
         ORDER BY due_at, order_id LIMIT ?"
    )
}

/// Orders that somebody should look at, behind the nil id or the last one of a page.
pub(super) const STUCK: &str = "SELECT order_id FROM sagas INDEXED BY sagas_due \
     WHERE settled = 0 AND (attention IS NOT NULL OR started_at < ?1) AND order_id > ?2 \
     UNION SELECT id FROM orders INDEXED BY orders_refund_failed WHERE payment_status = 'REFUND_FAILED' AND id > ?2 \
     ORDER BY 1 LIMIT ?3";

pub(super) async fn stuck(
    pool: &SqlitePool,
    started_before: Timestamp,
    after: Option<OrderId>,
    limit: u32,
) -> Result<Vec<OrderId>, StoreError> {
    let ids: Vec<Uuid> = query_scalar(STUCK)
        .bind(started_before.timestamp_micros())
        .bind(after.map_or_else(Uuid::nil, |after| after.0))
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    Ok(ids.into_iter().map(OrderId).collect())
}

pub(super) fn timers_statement(has_after: bool) -> String {
    let behind = if has_after { "AND (due_at, order_id) > (?, ?)" } else { "" };
    format!(
        "SELECT due_at, order_id FROM order_timers INDEXED BY order_timers_due \
         WHERE due_at IS NOT NULL AND due_at < ? {behind} ORDER BY due_at, order_id LIMIT ?"
    )
}

pub(super) const COUNT_OF_USER: &str = "SELECT created_at FROM orders INDEXED BY orders_by_user \
     WHERE user_id = ? AND created_at >= ? ORDER BY created_at LIMIT ?";

pub(super) async fn count_of_user(
    pool: &SqlitePool,
    user: UserId,
    since: Timestamp,
    at_most: u32,
) -> Result<u32, StoreError> {
    let found: Vec<i64> = query_scalar(COUNT_OF_USER)
        .bind(user.0)
        .bind(since.timestamp_micros())
        .bind(at_most)
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

pub(super) const OPEN_OF_USER: &str = "SELECT id FROM (SELECT id, status FROM orders INDEXED BY orders_by_user \
     WHERE user_id = ? ORDER BY created_at DESC, id DESC LIMIT ?) WHERE status = 'PENDING' LIMIT ?";

pub(super) async fn open_of_user(
    pool: &SqlitePool,
    user: UserId,
    at_most: u32,
) -> Result<Vec<OrderId>, StoreError> {
    let found: Vec<Uuid> = query_scalar(OPEN_OF_USER)
        .bind(user.0)
        .bind(OPEN_AMONG)
        .bind(at_most)
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable(&error))?;
    Ok(found.into_iter().map(OrderId).collect())
}

/// A place in a list: time, then id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) at: i64,
    pub(super) id: Uuid,
}

impl Key {
    /// From the first two columns.
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self { at: row.try_get(0)?, id: row.try_get(1)? })
    }
}

/// A page of orders; `corrupt` is told of those that had to be left out, and others take their place.
pub(super) async fn list(
    pool: &SqlitePool,
    asked: &ListQuery,
    corrupt: impl Fn(OrderId, &str),
) -> Result<Vec<Arc<Order>>, StoreError> {
    let mut page = Vec::new();
    let mut after =
        asked.after.map(|cursor| Key { at: cursor.created_at.timestamp_micros(), id: cursor.id.0 });
    let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
    while page.len() < limit {
        let wanted = limit.saturating_sub(page.len());
        let (sql, arguments) = statement(asked, after, wanted).map_err(|error| unavailable(&error))?;
        let rows =
            query_with(AssertSqlSafe(sql), arguments).fetch_all(pool).await.map_err(|e| unavailable(&e))?;
        let mut keyed = Vec::with_capacity(rows.len());
        for row in &rows {
            keyed.push((Key::of(row).map_err(|error| unavailable(&error))?, row));
        }
        // The statement picks the right orders; that it also returns them in order is not promised.
        keyed.sort_by_key(|(key, _)| *key);
        if !asked.oldest_first {
            keyed.reverse();
        }
        for (key, row) in &keyed {
            match rows::stored(*row) {
                Ok(stored) => page.push(stored.order),
                Err(what) => corrupt(OrderId(key.id), &what),
            }
        }
        after = keyed.last().map(|(key, _)| *key);
        if rows.len() < wanted {
            break;
        }
    }
    Ok(page)
}

/// The statement for one page behind `after`: the keys by one index, in its order, then the orders they name.
///
/// Several statuses without a user are several walks over the index by status, merged by SQLite as they go; so a page
/// costs what is on it, however many orders there are. With a user, the statuses are looked up order by order: that
/// user's orders are few.
pub(super) fn statement(
    asked: &ListQuery,
    after: Option<Key>,
    limit: usize,
) -> Result<(String, SqliteArguments), sqlx::Error> {
    let mut statuses: Vec<&str> = asked.statuses.iter().map(|status| status.as_str()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let (conditions, bounds) = bounds(asked, after);
    let mut arguments = SqliteArguments::default();
    let mut branches = Vec::new();
    let mut branch = |index: &str, own: &str, bind: &dyn Fn(&mut SqliteArguments) -> Binding| {
        let range = conditions.iter().fold(String::new(), |range, condition| range + " AND " + condition);
        branches.push(format!("SELECT created_at, id FROM orders INDEXED BY {index} WHERE {own}{range}"));
        bind(&mut arguments)?;
        for bound in &bounds {
            match bound {
                Bound::Time(at) => arguments.int(*at)?,
                Bound::Key(key) => {
                    arguments.int(key.at)?;
                    arguments.id(key.id)?;
                }
            }
        }
        Ok(())
    };
    let built = match asked.user_id {
        Some(user) => {
            let marks = vec!["?"; statuses.len()].join(", ");
            let own = if statuses.is_empty() {
                String::from("user_id = ?")
            } else {
                format!("user_id = ? AND status IN ({marks})")
            };
            branch("orders_by_user", &own, &|args| {
                args.id(user.0)?;
                statuses.iter().try_for_each(|status| args.text(status))
            })
        }
        None if statuses.is_empty() => branch("orders_by_time", "true", &|_| Ok(())),
        None => statuses
            .iter()
            .try_for_each(|status| branch("orders_by_status", "status = ?", &|args| args.text(status))),
    };
    built.and_then(|()| arguments.int(limit)).map_err(sqlx::Error::Encode)?;
    let direction = if asked.oldest_first { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT k.created_at, k.id, {} FROM ({} ORDER BY created_at {direction}, id {direction} LIMIT ?) AS k \
         CROSS JOIN orders AS o ON o.id = k.id",
        COLUMNS,
        branches.join(" UNION ALL "),
    );
    Ok((sql, arguments))
}

enum Bound {
    Time(i64),
    Key(Key),
}

/// The limits of the walk: at most one on each side, so that each becomes an end of the index range. Of two limits on
/// one side the nearer one implies the other.
fn bounds(asked: &ListQuery, after: Option<Key>) -> (Vec<&'static str>, Vec<Bound>) {
    let from = asked.created_after.map(|at| at.timestamp_micros());
    let until = asked.created_before.map(|at| at.timestamp_micros());
    let (mut conditions, mut bounds) = (Vec::new(), Vec::new());
    let mut add = |condition, bound| {
        conditions.push(condition);
        bounds.push(bound);
    };
    match (from, after.filter(|_| asked.oldest_first)) {
        (from, Some(key)) if from.is_none_or(|from| key.at >= from) => {
            add("(created_at, id) > (?, ?)", Bound::Key(key));
        }
        (Some(from), _) => add("created_at >= ?", Bound::Time(from)),
        (None, _) => {}
    }
    match (until, after.filter(|_| !asked.oldest_first)) {
        (until, Some(key)) if until.is_none_or(|until| key.at < until) => {
            add("(created_at, id) < (?, ?)", Bound::Key(key));
        }
        (Some(until), _) => add("created_at < ?", Bound::Time(until)),
        (None, _) => {}
    }
    (conditions, bounds)
}
