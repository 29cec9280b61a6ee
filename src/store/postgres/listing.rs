//! Pages of orders.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, AssertSqlSafe, Row, SqlSafeStr};
use uuid::Uuid;

use super::read::{MARK, Reader, mark, stored, unavailable};
use crate::domain::Timestamp;
use crate::domain::ids::OrderId;
use crate::ports::seen::Mark;
use crate::ports::store::{ListQuery, StoreError, Stored};

impl Reader {
    /// The marks of a page of orders, in its order; none when one of them is quarantined.
    pub(super) async fn marks(&self, asked: &ListQuery) -> Result<Option<Vec<(OrderId, Mark)>>, StoreError> {
        let after = asked.after.map(|cursor| Key { at: cursor.created_at, id: cursor.id.0 });
        let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        let (sql, arguments) = list_statement(MARK, asked, after, limit)
            .map_err(|error| unavailable(&sqlx::Error::Encode(error)))?;
        let rows = self.pool.rows(AssertSqlSafe(sql).into_sql_str(), arguments).await?;
        let mut keyed = Vec::with_capacity(rows.len());
        for row in &rows {
            let Ok(mark) = mark(row) else { return Ok(None) };
            keyed.push((Key::of(row).map_err(|error| unavailable(&error))?, mark));
        }
        keyed.sort_by_key(|(key, _)| *key);
        if !asked.oldest_first {
            keyed.reverse();
        }
        Ok(Some(keyed.into_iter().map(|(key, mark)| (OrderId(key.id), mark)).collect()))
    }

    /// A page of orders; `corrupt` is told of those that had to be left out, and others take their place.
    pub(super) async fn list(
        &self,
        asked: &ListQuery,
        corrupt: impl Fn(OrderId, &str),
    ) -> Result<Vec<Stored>, StoreError> {
        let mut page = Vec::new();
        let mut after = asked.after.map(|cursor| Key { at: cursor.created_at, id: cursor.id.0 });
        let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        while page.len() < limit {
            let wanted = limit.saturating_sub(page.len());
            let (sql, arguments) = list_statement(&self.columns, asked, after, wanted)
                .map_err(|error| unavailable(&sqlx::Error::Encode(error)))?;
            let rows = self.pool.rows(AssertSqlSafe(sql).into_sql_str(), arguments).await?;
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
                match stored(row) {
                    Ok(stored) => page.push(stored),
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
}

/// A place in a list: time, then id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) at: Timestamp,
    pub(super) id: Uuid,
}

impl Key {
    /// From the first two columns.
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { at: row.try_get(0)?, id: row.try_get(1)? })
    }
}

/// The statement for one page behind `after`: the keys by one index, in its order, then the orders they name.
///
/// Without a user it is one walk over the index by status for each status asked for (all of them when none is), merged
/// as they go; so a page costs what is on it, however many orders there are. With a user, the statuses are looked up
/// order by order: that user's orders are few.
pub(super) fn list_statement(
    columns: &str,
    asked: &ListQuery,
    after: Option<Key>,
    limit: usize,
) -> Result<(String, PgArguments), sqlx::error::BoxDynError> {
    use crate::domain::status::OrderStatus;
    let mut statuses: Vec<&str> = asked.statuses.iter().map(|status| status.as_str()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let mut arguments = PgArguments::default();
    let mut next = 0usize;
    let mut mark = || {
        next = next.saturating_add(1);
        format!("${next}")
    };
    let limited = mark();
    arguments.add(i64::try_from(limit)?)?;
    let mut range = String::new();
    let (from, until) = (asked.created_after, asked.created_before);
    let forward = after.filter(|_| asked.oldest_first);
    let backward = after.filter(|_| !asked.oldest_first);
    // At most one limit on each side, so that each becomes an end of the index range: of two, the nearer implies the
    // other.
    match (from, forward) {
        (from, Some(key)) if from.is_none_or(|from| key.at >= from) => {
            range.push_str(&format!(" AND (created_at, id) > ({}, {})", mark(), mark()));
            arguments.add(key.at)?;
            arguments.add(key.id)?;
        }
        (Some(from), _) => {
            range.push_str(&format!(" AND created_at >= {}", mark()));
            arguments.add(from)?;
        }
        (None, _) => {}
    }
    match (until, backward) {
        (until, Some(key)) if until.is_none_or(|until| key.at < until) => {
            range.push_str(&format!(" AND (created_at, id) < ({}, {})", mark(), mark()));
            arguments.add(key.at)?;
            arguments.add(key.id)?;
        }
        (Some(until), _) => {
            range.push_str(&format!(" AND created_at < {}", mark()));
            arguments.add(until)?;
        }
        (None, _) => {}
    }
    let direction = if asked.oldest_first { "ASC" } else { "DESC" };
    let order = format!("ORDER BY created_at {direction}, id {direction} LIMIT {limited}");
    let keys = match asked.user_id {
        Some(user) => {
            let mut own = format!("user_id = {}", mark());
            arguments.add(user.0)?;
            if !statuses.is_empty() {
                own.push_str(&format!(" AND status = ANY({})", mark()));
                arguments.add(statuses)?;
            }
            format!("SELECT created_at, id FROM orders WHERE {own}{range} {order}")
        }
        None => {
            if statuses.is_empty() {
                statuses = OrderStatus::ALL.iter().map(|status| status.as_str()).collect();
            }
            let walks: Vec<String> = statuses
                .into_iter()
                .map(|status| {
                    arguments.add(status)?;
                    let own = format!("status = {}", mark());
                    Ok(format!("(SELECT created_at, id FROM orders WHERE {own}{range} {order})"))
                })
                .collect::<Result<_, sqlx::error::BoxDynError>>()?;
            format!("SELECT created_at, id FROM ({}) AS walks {order}", walks.join(" UNION ALL "))
        }
    };
    let sql =
        format!("SELECT k.created_at, k.id, {columns} FROM ({keys}) AS k JOIN orders AS o ON o.id = k.id");
    Ok((sql, arguments))
}
