//! The row of the order itself: the statements that decide whether a change is taken.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::statement::{Statement, marks};
use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CommitError, Owner};
use crate::store::bind::Bind;
use crate::store::committer::{Done, KEY_DESTROYED};
use crate::store::fields::{CONDITION, FIXED, MUTABLE, OWNER, bind_change, bind_new};

pub(super) struct Guard {
    create: Statement,
    pub(super) live_keys: Statement,
    pub(super) update: Statement,
    pub(super) existing: Statement,
    pub(super) owners: Statement,
    pub(super) set_owner: Statement,
}

impl Guard {
    pub(super) fn new() -> Self {
        let columns: Vec<&str> = FIXED.iter().chain(&OWNER).chain(&MUTABLE).copied().collect();
        let width = CONDITION.len().saturating_add(MUTABLE.len());
        Self {
            create: Statement::insert("orders", &columns, "ON CONFLICT DO NOTHING RETURNING id"),
            live_keys: Statement::new(
                "SELECT key_id FROM user_keys WHERE destroyed_at IS NULL AND key_id IN (",
                "?",
                ")",
            ),
            update: Statement::new(&update_head(), &marks(width), &update_tail()),
            existing: Statement::new("SELECT id FROM orders WHERE id IN (", "?", ")"),
            owners: Statement::new(
                "SELECT id, owner_epoch, owner_incarnation FROM orders WHERE id IN (",
                "?",
                ")",
            ),
            set_owner: Statement::new(
                "UPDATE orders SET owner_epoch = v.column2, owner_incarnation = v.column3 FROM (VALUES",
                "(?,?,?)",
                ") AS v WHERE orders.id = v.column1",
            ),
        }
    }

    /// Inserts the rows of new orders; tells which were refused and why.
    pub(super) async fn create(
        &self,
        connection: &mut SqliteConnection,
        commits: &[&Commit],
    ) -> Result<HashMap<OrderId, CommitError>, sqlx::Error> {
        let mut lost = self.without_keys(connection, commits).await?;
        let commits: Vec<&Commit> =
            commits.iter().filter(|commit| !lost.contains_key(&commit.order.id)).copied().collect();
        let made =
            self.create.fetch(connection, &commits, |args, commit| bind_new(args, commit), read_id).await?;
        let refused = without(&commits, &made);
        // Refused because of the id or because of the number? If the id is not there, it was the number.
        let ids: Vec<OrderId> = refused.iter().map(|commit| commit.order.id).collect();
        let known: HashSet<OrderId> = self
            .existing
            .fetch(connection, &ids, |args, id| args.id(id.0), read_id)
            .await?
            .into_iter()
            .collect();
        lost.extend(ids.into_iter().map(|id| {
            (id, if known.contains(&id) { CommitError::Conflict } else { CommitError::NumberTaken })
        }));
        Ok(lost)
    }

    /// Of new orders, those whose texts nobody could read, since their key was destroyed meanwhile.
    async fn without_keys(
        &self,
        connection: &mut SqliteConnection,
        commits: &[&Commit],
    ) -> Result<HashMap<OrderId, CommitError>, sqlx::Error> {
        let sealed: Vec<(OrderId, i64)> =
            commits.iter().filter_map(|commit| Some((commit.order.id, commit.guard.key?.0))).collect();
        let bind = |args: &mut SqliteArguments, (_, key): &(OrderId, i64)| args.int(*key);
        let live = self.live_keys.fetch(connection, &sealed, bind, |row| row.try_get::<i64, _>(0)).await?;
        let live: HashSet<i64> = live.into_iter().collect();
        let refused = || CommitError::NotCommitted(String::from(KEY_DESTROYED));
        Ok(sealed.into_iter().filter(|(_, key)| !live.contains(key)).map(|(id, _)| (id, refused())).collect())
    }

    /// Updates the rows that are at the version and with the owner their commit names; tells which were not.
    pub(super) async fn update(
        &self,
        connection: &mut SqliteConnection,
        commits: &[&Commit],
    ) -> Result<HashMap<OrderId, CommitError>, sqlx::Error> {
        let done =
            self.update.fetch(connection, commits, |args, commit| bind_change(args, commit), read_id).await?;
        Ok(without(commits, &done)
            .into_iter()
            .map(|commit| (commit.order.id, CommitError::Conflict))
            .collect())
    }

    /// Gives each order the owner that claims it, unless it belongs to a higher epoch.
    ///
    /// A claim by the owner it has already writes nothing.
    pub(super) async fn claim(
        &self,
        connection: &mut SqliteConnection,
        claims: &[(OrderId, Owner)],
    ) -> Result<HashMap<OrderId, Result<Done, CommitError>>, sqlx::Error> {
        let owners: HashMap<OrderId, Owner> = self
            .owners
            .fetch(
                connection,
                claims,
                |args, (id, _)| args.id(id.0),
                |row| {
                    let owner = Owner { epoch: row.try_get(1)?, incarnation: row.try_get(2)? };
                    Ok((read_id(row)?, owner))
                },
            )
            .await?
            .into_iter()
            .collect();
        let mut results = HashMap::with_capacity(claims.len());
        let mut changes = Vec::new();
        for (id, owner) in claims {
            let result = match owners.get(id) {
                None => Ok(Done::NoSuchOrder),
                Some(now) if now.epoch > owner.epoch => Err(CommitError::Conflict),
                Some(now) => {
                    if now != owner {
                        changes.push((*id, *owner));
                    }
                    Ok(Done::Claimed)
                }
            };
            results.insert(*id, result);
        }
        self.set_owner
            .run(connection, &changes, |args, (id, owner)| {
                args.id(id.0)?;
                args.int(owner.epoch)?;
                args.int(owner.incarnation)
            })
            .await?;
        Ok(results)
    }
}

fn update_head() -> String {
    let set: Vec<String> = MUTABLE
        .iter()
        .zip(CONDITION.len().saturating_add(1)..)
        .map(|(column, place)| format!("{column} = v.column{place}"))
        .collect();
    format!("UPDATE orders SET {} FROM (VALUES", set.join(", "))
}

fn update_tail() -> String {
    let condition: Vec<String> = CONDITION
        .iter()
        .zip(1..)
        .map(|(column, place)| format!("orders.{column} = v.column{place}"))
        .collect();
    format!(") AS v WHERE {} RETURNING id", condition.join(" AND "))
}

fn read_id(row: &SqliteRow) -> Result<OrderId, sqlx::Error> {
    row.try_get::<Uuid, _>(0).map(OrderId)
}

fn without<'a>(commits: &[&'a Commit], done: &[OrderId]) -> Vec<&'a Commit> {
    if commits.len() == done.len() {
        return Vec::new();
    }
    let done: HashSet<&OrderId> = done.iter().collect();
    commits.iter().filter(|commit| !done.contains(&commit.order.id)).copied().collect()
}
