//! The steps of a batch that goes as a transaction of several statements.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, Row, query_with};
use uuid::Uuid;

use super::fault::{Fault, told};
use super::statement::Statement;
use crate::domain::Timestamp;
use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CommitError, CouponMove, Owner};
use crate::store::committer::{Done, JobResult, KEY_DESTROYED};
use crate::store::coupon_rules::{code, judge};
use crate::store::written::Written;

/// What became of each order.
pub(super) type Results = HashMap<OrderId, JobResult>;

/// Whether one statement can do it: nothing is replaced, no coupon is counted against a limit.
pub(super) fn is_plain(commit: &Commit) -> bool {
    let replaces = commit.guard.version != 0 && (commit.touched.items || commit.touched.addresses);
    let is_limited = matches!(commit.coupon, Some(CouponMove::Claim { use_limit: Some(_), .. }));
    !replaces && !is_limited
}

pub(super) async fn fetch(
    connection: &mut PgConnection,
    Statement { sql, arguments }: Statement,
    persistent: bool,
) -> Result<Vec<PgRow>, sqlx::Error> {
    query_with(sql, arguments).persistent(persistent).fetch_all(connection).await
}

/// An error ahead of `COMMIT`: nothing is done, at worst the connection is gone.
pub(super) fn not_sent(error: &sqlx::Error) -> Fault {
    match Fault::of(error) {
        Fault::Unknown(what) => Fault::Server { what, gone: true },
        fault => fault,
    }
}

/// Why orders were refused. In doubt, an order that is just as its commit makes it was made so by that commit. Its version
/// alone does not say so: a claim that comes late raises it too, and another attempt to create makes another version 1.
pub(super) async fn reasons(
    connection: &mut PgConnection,
    refused: &[&Commit],
    in_doubt: bool,
    persistent: bool,
) -> Result<Results, sqlx::Error> {
    let ids: Vec<Uuid> = refused.iter().map(|commit| commit.order.id.0).collect();
    let found = sqlx::query(
        "SELECT id, version, owner_epoch, owner_incarnation, request_hash, event_seq, updated_at FROM orders \
         WHERE id = ANY($1)",
    )
    .bind(&ids)
    .persistent(persistent)
    .fetch_all(&mut *connection)
    .await?;
    let mut known: HashMap<OrderId, (i64, Owner, Vec<u8>, i64, Timestamp)> =
        HashMap::with_capacity(found.len());
    for row in &found {
        let owner = Owner { epoch: row.try_get(2)?, incarnation: row.try_get(3)? };
        let state = (row.try_get(1)?, owner, row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
        known.insert(OrderId(row.try_get::<Uuid, _>(0)?), state);
    }
    let lost = "SELECT order_id FROM order_quarantines WHERE order_id = ANY($1)";
    let lost = sqlx::query(lost).bind(&ids).persistent(persistent).fetch_all(&mut *connection).await?;
    let lost: HashSet<OrderId> =
        lost.iter().map(|row| row.try_get::<Uuid, _>(0).map(OrderId)).collect::<Result<_, _>>()?;
    let keys: Vec<i64> = refused.iter().filter_map(|commit| commit.guard.key).map(|key| key.0).collect();
    let mut there: HashSet<i64> = HashSet::new();
    if !keys.is_empty() {
        let live = "SELECT key_id FROM user_keys WHERE key_id = ANY($1) AND destroyed_at IS NULL";
        for row in &sqlx::query(live).bind(keys).persistent(persistent).fetch_all(connection).await? {
            there.insert(row.try_get(0)?);
        }
    }
    let reason = |commit: &&Commit| {
        let order = &commit.order;
        let result = match known.get(&order.id) {
            Some((version, owner, hash, events, updated))
                if in_doubt
                    && (*version, *owner) == (order.version, commit.guard.owner)
                    && *events == order.event_seq
                    && is_of(*updated, order.updated_at)
                    && *hash == order.request_hash =>
            {
                Ok(Done::Committed)
            }
            _ if lost.contains(&order.id) => Err(CommitError::Quarantined),
            Some(_) => Err(CommitError::Conflict),
            None if commit.guard.key.is_some_and(|key| !there.contains(&key.0)) => {
                Err(CommitError::NotCommitted(String::from(KEY_DESTROYED)))
            }
            // Refused because of the id or because of the number? The id is not there, so it was the number.
            None if commit.guard.version == 0 => Err(CommitError::NumberTaken),
            None => Err(CommitError::Conflict),
        };
        (order.id, result)
    };
    Ok(refused.iter().map(reason).collect())
}

/// Whether what was stored at one time may be found with the other: an erasure that came between moves it by a microsecond.
fn is_of(found: Timestamp, stored: Timestamp) -> bool {
    (0..=1).contains(&found.signed_duration_since(stored).num_microseconds().unwrap_or(i64::MAX))
}

/// Takes the limited coupons' counters, so that nobody else counts meanwhile, and tells who asks in vain.
pub(super) async fn exhausted(
    connection: &mut PgConnection,
    accepted: &[&Commit],
    persistent: bool,
) -> Result<HashSet<OrderId>, sqlx::Error> {
    let limited: BTreeMap<&str, i64> = accepted
        .iter()
        .filter_map(|commit| match &commit.coupon {
            Some(CouponMove::Claim { code, use_limit: Some(_) }) => Some((code.as_str(), 0)),
            _ => None,
        })
        .collect();
    if limited.is_empty() {
        return Ok(HashSet::new());
    }
    let codes: Vec<&str> = limited.keys().copied().collect();
    let begin = "INSERT INTO coupon_counters (code, used) \
                 SELECT v.code, (SELECT count(*) FROM coupon_claims AS c WHERE c.code = v.code) \
                 FROM unnest($1) AS v(code) \
                 WHERE NOT EXISTS (SELECT FROM coupon_counters AS k WHERE k.code = v.code) ON CONFLICT DO NOTHING";
    sqlx::query(begin).bind(&codes).persistent(persistent).execute(&mut *connection).await?;
    let count = "SELECT code, used FROM coupon_counters WHERE code = ANY($1) ORDER BY code FOR UPDATE";
    let counted = sqlx::query(count).bind(&codes).persistent(persistent).fetch_all(&mut *connection).await?;
    let mut used = limited;
    for row in &counted {
        if let Some(count) = used.get_mut(row.try_get::<&str, _>(0)?) {
            *count = row.try_get(1)?;
        }
    }
    let asking: Vec<Uuid> = accepted
        .iter()
        .filter(|commit| commit.coupon.as_ref().is_some_and(|coupon| used.contains_key(code(coupon))))
        .map(|commit| commit.order.id.0)
        .collect();
    let claims = "SELECT code, order_id FROM coupon_claims WHERE code = ANY($1) AND order_id = ANY($2)";
    let claims =
        sqlx::query(claims).bind(codes).bind(asking).persistent(persistent).fetch_all(connection).await?;
    let mut claimed = HashSet::new();
    for row in &claims {
        claimed.insert((row.try_get::<String, _>(0)?, OrderId(row.try_get::<Uuid, _>(1)?)));
    }
    Ok(judge(accepted, &mut used, &claimed).exhausted)
}

/// Removes the lines and addresses that others take the place of.
pub(super) async fn drop_replaced(
    connection: &mut PgConnection,
    accepted: &[&Commit],
    persistent: bool,
) -> Result<(), sqlx::Error> {
    let rows = Written::of(accepted);
    for (sql, orders) in [
        ("DELETE FROM order_items WHERE order_id = ANY($1)", &rows.replaced_items),
        ("DELETE FROM order_addresses WHERE order_id = ANY($1)", &rows.replaced_addresses),
    ] {
        if !orders.is_empty() {
            let orders: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
            sqlx::query(sql).bind(orders).persistent(persistent).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// Which of these orders' rows other transactions hold right now. An error says that the connection is of no more use.
///
/// In a transaction that is rolled back: what takes locks for a moment only must not wait for a standby.
pub(super) async fn held(
    connection: &mut PgConnection,
    orders: impl Iterator<Item = OrderId>,
    within: Duration,
    persistent: bool,
) -> Result<HashSet<OrderId>, String> {
    const FREE: &str = "SELECT id FROM orders WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED";
    const OTHERS: &str = "SELECT id FROM orders WHERE id = ANY($1) AND id <> ALL($2)";
    let all: Vec<Uuid> = orders.map(|order| order.0).collect();
    let ids =
        |rows: &[PgRow]| rows.iter().map(|row| row.try_get::<Uuid, _>(0)).collect::<Result<Vec<_>, _>>();
    let asking = async {
        connection.execute("BEGIN").await?;
        let free = sqlx::query(FREE).bind(&all).persistent(persistent).fetch_all(&mut *connection).await?;
        let free = ids(&free)?;
        let others = sqlx::query(OTHERS).bind(&all).bind(free).persistent(persistent);
        let others = ids(&others.fetch_all(&mut *connection).await?)?;
        connection.execute("ROLLBACK").await?;
        Ok::<_, sqlx::Error>(others.into_iter().map(OrderId).collect())
    };
    match tokio::time::timeout(within, asking).await {
        Ok(asked) => asked.map_err(|error| told(&error)),
        Err(_elapsed) => Err(String::from("no answer in time")),
    }
}

/// The answer to those whose rows are held: their neighbors shall not wait for them any longer.
pub(super) fn refused(held: HashSet<OrderId>, why: &str) -> Results {
    tracing::warn!(orders = held.len(), why, "what other transactions hold is not written");
    held.into_iter().map(|order| (order, Err(CommitError::NotCommitted(why.to_owned())))).collect()
}
