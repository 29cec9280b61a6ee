//! Who owns an order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, Row};
use uuid::Uuid;

use super::arrays::Arrays;
use crate::domain::ids::OrderId;
use crate::ports::store::{CommitError, Owner};
use crate::store::bind::Bind;
use crate::store::committer::{Done, JobResult};

/// At most so many orders in doubt are told apart; beyond that every claim counts as in doubt.
const KEPT: usize = 100_000;

/// Orders with a commit of unknown fate.
///
/// Such a commit may still be on its way: to look whether it arrived proves nothing, it may arrive after the look. So the
/// next claim of such an order raises its version, whereupon a late commit finds another version than it names.
#[derive(Clone, Default, Debug)]
pub(super) struct Doubts(Arc<Mutex<Doubtful>>);

#[derive(Default, Debug)]
struct Doubtful {
    orders: HashSet<OrderId>,
    all: bool,
}

impl Doubts {
    pub(super) fn add(&self, orders: impl Iterator<Item = OrderId>) {
        let mut doubtful = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for order in orders {
            if doubtful.orders.len() >= KEPT {
                doubtful.all = true;
            } else {
                doubtful.orders.insert(order);
            }
        }
    }

    fn has(&self, order: OrderId) -> bool {
        let doubtful = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubtful.all || doubtful.orders.contains(&order)
    }

    fn remove(&self, order: OrderId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).orders.remove(&order);
    }
}

/// Gives each order the owner that asks, unless it belongs to a higher epoch; raises the version where asked to.
///
/// First a row for each order, as it was before the statement began, then the ids of those that were claimed.
pub(super) const CLAIM: &str = "\
WITH asked AS MATERIALIZED (
  SELECT * FROM unnest($1, $2, $3, $4) AS v(id, epoch, incarnation, doubtful)),
claimed AS (
  UPDATE orders AS o
  SET owner_epoch = v.epoch, owner_incarnation = v.incarnation, version = o.version + v.doubtful::int
  FROM asked AS v
  WHERE o.id = v.id AND o.owner_epoch <= v.epoch
    AND (v.doubtful OR o.owner_epoch <> v.epoch OR o.owner_incarnation <> v.incarnation)
  RETURNING o.id)
SELECT v.id, false AS claimed, o.id IS NULL AS missing, coalesce(o.owner_epoch > v.epoch, false) AS newer,
  coalesce(o.owner_epoch = v.epoch AND o.owner_incarnation = v.incarnation, false) AND NOT v.doubtful AS held,
  EXISTS (SELECT FROM order_quarantines AS q WHERE q.order_id = v.id) AS quarantined
FROM asked AS v LEFT JOIN orders AS o ON o.id = v.id
UNION ALL SELECT id, true, false, false, false, false FROM claimed";

/// The values of [`CLAIM`]; `all_doubtful` after a claim of unknown fate.
pub(super) fn arguments(
    claims: &[(OrderId, Owner)],
    doubts: &Doubts,
    all_doubtful: bool,
) -> Result<PgArguments, sqlx::Error> {
    let arrays = Arrays::of(claims, |args, (id, owner)| {
        args.id(id.0)?;
        args.int(owner.epoch)?;
        args.int(owner.incarnation)?;
        args.flag(all_doubtful || doubts.has(*id))
    })?;
    let mut arguments = PgArguments::default();
    for column in arrays.columns {
        arguments.add(column).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// What became of each claim; none for one that another claim overtook, which has to be made again.
pub(super) fn results(
    rows: &[PgRow],
    doubts: &Doubts,
) -> Result<Option<HashMap<OrderId, JobResult>>, sqlx::Error> {
    let mut results = HashMap::with_capacity(rows.len());
    let mut undecided = HashSet::new();
    for row in rows {
        let id = OrderId(row.try_get::<Uuid, _>("id")?);
        let is = |column: &str| row.try_get::<bool, _>(column);
        let result = if is("claimed")? {
            undecided.remove(&id);
            // What is quarantined stays so, whoever owns it.
            if results.contains_key(&id) {
                continue;
            }
            Ok(Done::Claimed)
        } else if is("quarantined")? {
            Err(CommitError::Quarantined)
        } else if is("held")? {
            Ok(Done::Claimed)
        } else if is("missing")? {
            Ok(Done::NoSuchOrder)
        } else if is("newer")? {
            Err(CommitError::Conflict)
        } else {
            // Claimed by a row that follows, unless another claim was faster.
            undecided.insert(id);
            continue;
        };
        results.insert(id, result);
    }
    if !undecided.is_empty() {
        return Ok(None);
    }
    for (id, result) in &results {
        if *result == Ok(Done::Claimed) {
            doubts.remove(*id);
        }
    }
    Ok(Some(results))
}
