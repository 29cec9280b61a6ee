//! Counting the uses of coupons, inside the transaction of the orders that use them.

use std::collections::{BTreeMap, HashSet};

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::statement::Statement;
use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CouponMove};
use crate::store::bind::Bind;
use crate::store::coupon_rules::{code, judge};

pub(super) struct Coupons {
    counters: Statement,
    pub(super) claims: Statement,
    count: Statement,
    claim: Statement,
    pub(super) release: Statement,
}

impl Coupons {
    pub(super) fn new() -> Self {
        Self {
            counters: Statement::new("SELECT code, used FROM coupon_counters WHERE code IN (", "?", ")"),
            claims: Statement::new(
                "SELECT c.code, c.order_id FROM (VALUES",
                "(?,?)",
                ") AS v CROSS JOIN coupon_claims AS c WHERE c.code = v.column1 AND c.order_id = v.column2",
            ),
            count: Statement::insert(
                "coupon_counters",
                &["code", "used"],
                "ON CONFLICT (code) DO UPDATE SET used = excluded.used",
            ),
            claim: Statement::insert("coupon_claims", &["code", "order_id"], ""),
            release: Statement::new(
                "DELETE FROM coupon_claims WHERE (code, order_id) IN (VALUES",
                "(?,?)",
                ")",
            ),
        }
    }

    /// Carries out the coupon moves of `commits`, one after the other. When a coupon has no uses left, nothing at all is
    /// written and the orders that asked in vain are returned: the transaction has to go without them.
    pub(super) async fn apply(
        &self,
        connection: &mut SqliteConnection,
        commits: &[&Commit],
    ) -> Result<HashSet<OrderId>, sqlx::Error> {
        let moves: Vec<(&str, OrderId, &CouponMove)> = commits
            .iter()
            .filter_map(|commit| commit.coupon.as_ref().map(|coupon| (code(coupon), commit.order.id, coupon)))
            .collect();
        if moves.is_empty() {
            return Ok(HashSet::new());
        }
        let codes: BTreeMap<&str, i64> = moves.iter().map(|(code, ..)| (*code, 0)).collect();
        let mut used = codes.clone();
        let codes: Vec<&str> = codes.into_keys().collect();
        let counted = self
            .counters
            .fetch(
                connection,
                &codes,
                |args, code| args.text(code),
                |row| Ok((row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?)),
            )
            .await?;
        for (code, count) in &counted {
            if let Some(slot) = used.get_mut(code.as_str()) {
                *slot = *count;
            }
        }
        // An order that is new in this transaction has claimed nothing yet.
        let known: Vec<(&str, OrderId, &CouponMove)> = commits
            .iter()
            .filter(|commit| commit.guard.version != 0)
            .filter_map(|commit| commit.coupon.as_ref().map(|coupon| (code(coupon), commit.order.id, coupon)))
            .collect();
        let claimed: HashSet<(String, OrderId)> = self
            .claims
            .fetch(
                connection,
                &known,
                |args, (code, order, _)| {
                    args.text(code)?;
                    args.id(order.0)
                },
                |row| Ok((row.try_get(0)?, OrderId(row.try_get::<Uuid, _>(1)?))),
            )
            .await?
            .into_iter()
            .collect();

        let verdict = judge(commits, &mut used, &claimed);
        if !verdict.exhausted.is_empty() {
            return Ok(verdict.exhausted);
        }
        let bind = |args: &mut sqlx::sqlite::SqliteArguments, (code, order): &(&str, OrderId)| {
            args.text(code)?;
            args.id(order.0)
        };
        self.claim.run(connection, &verdict.claims, bind).await?;
        self.release.run(connection, &verdict.releases, bind).await?;
        let counts: Vec<(&str, i64)> = used.into_iter().collect();
        self.count
            .run(connection, &counts, |args, (code, used)| {
                args.text(code)?;
                args.int(*used)
            })
            .await?;
        Ok(HashSet::new())
    }
}
