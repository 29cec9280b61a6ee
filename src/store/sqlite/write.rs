//! One batch, one transaction.
//!
//! First the rows of the orders, because they decide who takes part: a row that is at another version or has another
//! owner is simply not updated, and its commit drops out. Then coupons, then everything else of those that are left.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, query, query_scalar};

use super::children::Children;
use super::coupons::Coupons;
use super::guard::Guard;
use super::open::FileLock;
use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CommitError, Owner};
use crate::store::committer::{BatchError, BatchWriter, Done, Job, JobResult};

/// The only writer of a file.
pub(super) struct SqliteWriter {
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    /// Closed before the writing connection is, which as the last one tidies the write-ahead log away.
    readers: SqlitePool,
    /// Held until the connection is closed.
    lock: Option<FileLock>,
    /// What became of the last transaction is not known.
    in_doubt: bool,
    guard: Guard,
    coupons: Coupons,
    children: Children,
}

/// What the statements of a transaction came to.
struct Filled {
    results: HashMap<OrderId, JobResult>,
    /// Orders that asked for a coupon in vain; when there are any, the transaction has to be done without them.
    exhausted: HashSet<OrderId>,
}

impl SqliteWriter {
    pub(super) fn new(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        readers: SqlitePool,
        lock: FileLock,
    ) -> Self {
        Self {
            connection: Some(connection),
            options,
            readers,
            lock: Some(lock),
            in_doubt: false,
            guard: Guard::new(),
            coupons: Coupons::new(),
            children: Children::new(),
        }
    }

    /// An open connection; a new one after the last was given up.
    async fn connection(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.options.connect().await,
        }
    }

    /// The statements of one transaction, from `BEGIN` to the last row.
    async fn fill(
        &self,
        connection: &mut SqliteConnection,
        jobs: &[Job],
        excluded: &HashSet<OrderId>,
    ) -> Result<Filled, sqlx::Error> {
        query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        if self.in_doubt {
            settle_doubt(connection).await?;
        }
        let mut results: HashMap<OrderId, JobResult> = HashMap::with_capacity(jobs.len());
        let (mut new, mut changed, mut claims) = (Vec::new(), Vec::new(), Vec::<(OrderId, Owner)>::new());
        for job in jobs {
            match job {
                Job::Claim { id, owner } => claims.push((*id, *owner)),
                Job::Commit(commit) if excluded.contains(&commit.order.id) => {
                    results.insert(commit.order.id, Err(CommitError::CouponExhausted));
                }
                Job::Commit(commit) if commit.guard.version == 0 => new.push(&**commit),
                Job::Commit(commit) => changed.push(&**commit),
            }
        }
        results.extend(self.guard.claim(connection, &claims).await?);
        let mut refused = self.guard.create(connection, &new).await?;
        refused.extend(self.guard.update(connection, &changed).await?);
        let accepted: Vec<&Commit> =
            new.into_iter().chain(changed).filter(|commit| !refused.contains_key(&commit.order.id)).collect();

        let exhausted = self.coupons.apply(connection, &accepted).await?;
        if exhausted.is_empty() {
            self.children.write(connection, &accepted).await?;
        }
        results.extend(accepted.iter().map(|commit| (commit.order.id, Ok(Done::Committed))));
        results.extend(refused.into_iter().map(|(order, error)| (order, Err(error))));
        Ok(Filled { results, exhausted })
    }

    /// Ends a transaction that wrote nothing worth keeping; false when the connection is not fit for another one.
    async fn roll_back(&self, connection: &mut SqliteConnection) -> bool {
        match query("ROLLBACK").execute(&mut *connection).await {
            Ok(_) => true,
            // Some errors (full disk) make SQLite roll back by itself; then there is nothing to roll back.
            Err(sqlx::Error::Database(error)) => error.message().contains("no transaction is active"),
            Err(_) => false,
        }
    }
}

#[async_trait]
impl BatchWriter for SqliteWriter {
    async fn write(&mut self, jobs: &[Job]) -> Result<Vec<JobResult>, BatchError> {
        let mut connection =
            self.connection().await.map_err(|error| BatchError::Refused(error.to_string()))?;
        let mut excluded = HashSet::new();
        let mut results = loop {
            let filled = self.fill(&mut connection, jobs, &excluded).await;
            match filled {
                Ok(filled) if filled.exhausted.is_empty() => break filled.results,
                failed => {
                    // Keeping the connection is an economy; giving it up is always right.
                    let fit = self.roll_back(&mut connection).await;
                    let exhausted = match failed {
                        Ok(filled) => filled.exhausted,
                        Err(error) => {
                            self.connection = fit.then_some(connection);
                            return Err(classify(&error));
                        }
                    };
                    excluded.extend(exhausted);
                    if !fit {
                        connection = self.options.connect().await.map_err(|error| classify(&error))?;
                    }
                }
            }
        };
        if let Err(error) = query("COMMIT").execute(&mut connection).await {
            // The connection goes, and with it whatever is left of the transaction.
            self.in_doubt = true;
            return Err(BatchError::Unknown(error.to_string()));
        }
        self.in_doubt = false;
        self.connection = Some(connection);
        let missing = || Err(CommitError::Unknown(String::from("no result")));
        Ok(jobs.iter().map(|job| results.remove(&job.order()).unwrap_or_else(missing)).collect())
    }

    async fn close(&mut self) {
        self.readers.close().await;
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the order store was not closed cleanly; nothing is lost");
        }
        self.lock = None;
    }
}

/// Makes sure that a transaction of unknown fate can no longer come to life.
///
/// When syncing the log fails, SQLite reports an error and forgets the transaction, but its pages may be in the log and
/// come back when the file is opened after a crash. The next transaction that writes takes their place; this makes the
/// next one write in any case, so that whatever is read after it holds. `user_version` has no other use here.
async fn settle_doubt(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let version: i32 = query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    let next = version.wrapping_add(1);
    query(AssertSqlSafe(format!("PRAGMA user_version = {next}"))).execute(&mut *connection).await?;
    Ok(())
}

/// Whether an error before `COMMIT` points at one of the jobs or at the database as a whole.
fn classify(error: &sqlx::Error) -> BatchError {
    const ERROR: i32 = 1;
    const CORRUPT: i32 = 11;
    const TOO_BIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    const RANGE: i32 = 25;
    let text = error.to_string();
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xFF);
            match code {
                // A damaged page belongs to some orders, not to all.
                Some(ERROR | CORRUPT | TOO_BIG | CONSTRAINT | MISMATCH | RANGE) => BatchError::Suspect(text),
                _ => BatchError::Refused(text),
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed => {
            BatchError::Refused(text)
        }
        _ => BatchError::Suspect(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::open::{SqliteConfig, open, readers};
    use super::*;

    #[tokio::test]
    async fn after_a_commit_of_unknown_fate_the_next_transaction_writes_for_certain() {
        let folder = tempfile::tempdir().unwrap();
        let config = SqliteConfig { path: folder.path().join("orders.db"), ..SqliteConfig::default() };
        let opened = open(&config).await.unwrap();
        let pool = readers(&config).await.unwrap();
        let mut writer = SqliteWriter::new(opened.writer, opened.writing, pool.clone(), opened.lock);
        let claim =
            [Job::Claim { id: OrderId(uuid::Uuid::nil()), owner: Owner { epoch: 1, incarnation: 1 } }];
        let version = async || -> i32 { query_scalar("PRAGMA user_version").fetch_one(&pool).await.unwrap() };
        assert_eq!(writer.write(&claim).await, Ok(vec![Ok(Done::NoSuchOrder)]));
        assert_eq!(version().await, 0);

        // Every COMMIT of this connection fails.
        writer.connection.as_mut().unwrap().lock_handle().await.unwrap().set_commit_hook(|| false);
        assert!(matches!(writer.write(&claim).await, Err(BatchError::Unknown(_))));
        assert!(writer.connection.is_none());
        for _ in 0..2 {
            assert_eq!(writer.write(&claim).await, Ok(vec![Ok(Done::NoSuchOrder)]));
            assert_eq!(version().await, 1);
        }
        writer.close().await;
    }
}
