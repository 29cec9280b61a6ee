//! One batch, one transaction, and what is done when its end is in doubt.
//!
//! Nearly always a batch is one statement, one round trip: everything is as the commits expect, or all of it fails. Only
//! when it fails so, or needs more than one statement, the same batch goes as a transaction of several, which tells the
//! jobs that are refused from those that are not.
//!
//! A batch whose end is unknown is written again. What the first attempt did, or may still do, makes no difference: a
//! row is changed by whichever comes first, since either names the version before. A row that is found at the version
//! and with the owner that the commit gives it was changed by the first.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row, SqlSafeStr, SqlStr, query_with};
use tokio::sync::watch;
use uuid::Uuid;

use super::claim::{self, CLAIM, Doubts};
use super::config::{Pooler, PostgresConfig, Session};
use super::fault::Fault;
use super::link::Link;
use super::statement::{Statement, Texts};
use super::steps::{Results, drop_replaced, exhausted, fetch, held, is_plain, not_sent, reasons, refused};
use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CommitError, Owner};
use crate::store::committer::{BatchError, BatchWriter, Done, Job, JobResult};

/// How often a transaction that others got in the way of is tried again.
const AGAIN: u32 = 20;
/// Pause before such a try, and before a look whether a standby is back.
const PAUSE: Duration = Duration::from_millis(20);
/// How much longer than the server a client waits for the end of a statement.
const GRACE: Duration = Duration::from_secs(1);

/// One lane's way into the database.
pub(super) struct PostgresWriter {
    link: Link,
    lane: i32,
    texts: Texts,
    doubts: Doubts,
    patience: Duration,
    timeout: Duration,
    /// `BEGIN`, with the session's settings where no session can keep them.
    begin: SqlStr,
    pooled: bool,
}

/// Why the end of a batch is in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doubt {
    /// The connection was lost before the answer came.
    Unanswered,
    /// It is done, but the server warned that it may not outlive the server.
    Warned,
}

impl PostgresWriter {
    pub(super) fn new(
        config: &PostgresConfig,
        lane: usize,
        doubts: Doubts,
        reconnects: watch::Sender<u64>,
    ) -> Self {
        let pooled = config.pooler == Pooler::Transaction;
        Self {
            link: Link::new(config, &format!("commit {lane}"), reconnects),
            lane: i32::try_from(lane).unwrap_or(i32::MAX),
            texts: Texts::default(),
            doubts,
            patience: config.outage_patience,
            timeout: config.commit_timeout.saturating_add(GRACE),
            begin: config.begin(Session::Commit),
            pooled,
        }
    }

    /// Writes until the end is known, for as long as the patience lasts. Where another transaction holds rows of some, the
    /// others are written without them.
    async fn commit(&mut self, commits: &[&Commit], may_split: bool) -> Result<Results, BatchError> {
        let started = Instant::now();
        let mut strict = !self.pooled && commits.iter().all(|commit| is_plain(commit));
        let (mut doubt, mut again) = (None, 0u32);
        loop {
            let patience = self.patience;
            // Counted from the loss: whoever comes when the patience is at an end already is told at once.
            let deadline = |since: Instant| since.checked_add(patience).unwrap_or(since);
            let mut connection = match self.link.get(deadline).await {
                Ok(connection) => connection,
                Err(why) => return Err(self.give_up(commits, doubt, BatchError::Refused(why))),
            };
            let timeout = self.timeout;
            let attempt = async {
                if strict {
                    self.strictly(&mut connection, commits).await
                } else {
                    self.carefully(&mut connection, commits, doubt).await
                }
            };
            let tried = tokio::time::timeout(timeout, attempt).await;
            let fault = match tried.unwrap_or_else(|_| Err(Fault::Unknown(String::from("no answer in time"))))
            {
                Ok(Attempt::Done(results)) => {
                    self.link.put(connection);
                    return Ok(results);
                }
                Ok(Attempt::Warned(warning)) => {
                    self.link.put(connection);
                    if doubt.is_none() {
                        tracing::warn!(warning, "a commit of the order store may not outlive its server");
                        metrics::counter!("order_store_doubts_total", "why" => "warned").increment(1);
                    }
                    (doubt, strict) = (Some(Doubt::Warned), false);
                    if started.elapsed() >= self.patience {
                        return Err(self.give_up(commits, doubt, BatchError::Unknown(warning)));
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(fault) => fault,
            };
            let is_held = matches!(fault, Fault::Held(_));
            match fault {
                Fault::Unknown(why) => {
                    metrics::counter!("order_store_doubts_total", "why" => "unanswered").increment(1);
                    self.link.lose(Some(connection), &why);
                    doubt = doubt.or(Some(Doubt::Unanswered));
                    strict = false;
                }
                Fault::Server { what, gone: true } => self.link.lose(Some(connection), &what),
                Fault::Server { what, gone: false } => {
                    self.link.put(connection);
                    return Err(self.give_up(commits, doubt, BatchError::Refused(what)));
                }
                Fault::Refusal(_) if strict => {
                    self.link.put(connection);
                    strict = false;
                }
                Fault::Refusal(what) | Fault::Suspect(what) => {
                    self.link.put(connection);
                    // Halves would not know of the doubt; without one the lane finds out which job is to blame.
                    return Err(self.give_up(commits, doubt, BatchError::Suspect(what)));
                }
                Fault::Again(what) | Fault::Held(what) => {
                    // In doubt, what was asked for has to be settled as a whole.
                    if is_held && may_split && doubt.is_none() {
                        let orders = commits.iter().map(|commit| commit.order.id);
                        match held(&mut connection, orders, self.timeout, !self.pooled).await {
                            Ok(held) if (1..commits.len()).contains(&held.len()) => {
                                self.link.put(connection);
                                let free: Vec<&Commit> = commits
                                    .iter()
                                    .filter(|one| !held.contains(&one.order.id))
                                    .copied()
                                    .collect();
                                let mut results = Box::pin(self.commit(&free, false)).await?;
                                results.extend(refused(held, &what));
                                return Ok(results);
                            }
                            Ok(_) => {}
                            Err(why) => {
                                self.link.lose(Some(connection), &why);
                                continue;
                            }
                        }
                    }
                    self.link.put(connection);
                    again = again.saturating_add(1);
                    metrics::counter!("order_store_retries_total").increment(1);
                    if again > AGAIN || started.elapsed() >= self.patience {
                        return Err(self.give_up(commits, doubt, BatchError::Refused(what)));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The error that ends a batch; where its end is in doubt it stays so until the orders are claimed again.
    fn give_up(&self, commits: &[&Commit], doubt: Option<Doubt>, error: BatchError) -> BatchError {
        if doubt.is_none() {
            return error;
        }
        self.doubts.add(commits.iter().map(|commit| commit.order.id));
        let (BatchError::Suspect(why) | BatchError::Refused(why) | BatchError::Unknown(why)) = error;
        BatchError::Unknown(why)
    }

    /// All in one statement, which fails as a whole when anything is not as expected.
    async fn strictly(
        &mut self,
        connection: &mut PgConnection,
        commits: &[&Commit],
    ) -> Result<Attempt, Fault> {
        let Statement { sql, arguments } = self.texts.strict(commits).map_err(|error| Fault::of(&error))?;
        let sent = query_with(sql, arguments).execute(connection);
        let (ended, heard) = self.link.ear.listen(sent).await;
        ended.map_err(|error| Fault::of(&error))?;
        let done = commits.iter().map(|commit| (commit.order.id, Ok(Done::Committed))).collect();
        Ok(Attempt::new(done, heard))
    }

    /// Step by step: those that are refused drop out, those that are not are written.
    async fn carefully(
        &mut self,
        connection: &mut PgConnection,
        commits: &[&Commit],
        doubt: Option<Doubt>,
    ) -> Result<Attempt, Fault> {
        let mut excluded: HashSet<OrderId> = HashSet::new();
        loop {
            let rest: Vec<&Commit> =
                commits.iter().filter(|commit| !excluded.contains(&commit.order.id)).copied().collect();
            let filled = self.fill(connection, &rest, doubt).await;
            let (mut results, exhausted) = match filled {
                Ok(filled) => filled,
                Err(error) => return Err(self.roll_back(connection, &error).await),
            };
            if !exhausted.is_empty() {
                connection.execute("ROLLBACK").await.map_err(|error| not_sent(&error))?;
                excluded.extend(exhausted);
                continue;
            }
            let (ended, heard) = self.link.ear.listen(connection.execute("COMMIT")).await;
            ended.map_err(|error| Fault::of(&error))?;
            results.extend(excluded.iter().map(|order| (*order, Err(CommitError::CouponExhausted))));
            return Ok(Attempt::new(results, heard));
        }
    }

    /// From `BEGIN` to the last row. Returns the orders that asked for a coupon in vain: when there are any, the
    /// transaction has to be done without them.
    async fn fill(
        &mut self,
        connection: &mut PgConnection,
        commits: &[&Commit],
        doubt: Option<Doubt>,
    ) -> Result<(Results, HashSet<OrderId>), sqlx::Error> {
        let persistent = !self.pooled;
        connection.execute(self.begin.clone()).await?;
        if doubt.is_some() {
            // Something to wait for the standby with: once this is safe, so is everything before it, also what the first
            // attempt may have done without waiting.
            let mark = "INSERT INTO commit_marks (lane, at) VALUES ($1, now()) ON CONFLICT (lane) DO UPDATE SET at = now()";
            sqlx::query(mark).bind(self.lane).persistent(persistent).execute(&mut *connection).await?;
        }
        if commits.is_empty() {
            return Ok((Results::new(), HashSet::new()));
        }
        let rows = fetch(connection, self.texts.orders(commits)?, persistent).await?;
        let taken: HashSet<OrderId> =
            rows.iter().map(|row| row.try_get::<Uuid, _>(0).map(OrderId)).collect::<Result<_, _>>()?;
        let (accepted, refused): (Vec<&Commit>, Vec<&Commit>) =
            commits.iter().partition(|commit| taken.contains(&commit.order.id));
        let mut results: Results =
            accepted.iter().map(|commit| (commit.order.id, Ok(Done::Committed))).collect();
        if !refused.is_empty() {
            results.extend(reasons(connection, &refused, doubt.is_some(), persistent).await?);
        }
        let exhausted = exhausted(connection, &accepted, persistent).await?;
        if exhausted.is_empty() && !accepted.is_empty() {
            drop_replaced(connection, &accepted, persistent).await?;
            if let Some(statement) = self.texts.children(&accepted)? {
                fetch(connection, statement, persistent).await?;
            }
        }
        Ok((results, exhausted))
    }

    /// Ends a transaction that failed before its `COMMIT`: whatever happens now, nothing of it stays.
    async fn roll_back(&self, connection: &mut PgConnection, error: &sqlx::Error) -> Fault {
        let fault = not_sent(error);
        if matches!(fault, Fault::Server { gone: true, .. }) {
            return fault;
        }
        match connection.execute("ROLLBACK").await {
            Ok(_) => fault,
            Err(error) => Fault::Server { what: error.to_string(), gone: true },
        }
    }

    /// Makes the orders the askers' own. Repeating it is harmless, so its end is never in doubt for long.
    async fn claim(&mut self, claims: &[(OrderId, Owner)], may_split: bool) -> Result<Results, BatchError> {
        let started = Instant::now();
        let (mut all_doubtful, mut again) = (false, 0u32);
        loop {
            let patience = self.patience;
            let deadline = |since: Instant| since.checked_add(patience).unwrap_or(since);
            let mut connection = self.link.get(deadline).await.map_err(BatchError::Refused)?;
            let claiming = self.claim_once(&mut connection, claims, all_doubtful);
            let tried = tokio::time::timeout(self.timeout, claiming).await;
            let late = || Err(Fault::Unknown(String::from("no answer in time")));
            let why = match tried.unwrap_or_else(|_| late()) {
                Ok(Some(results)) => {
                    self.link.put(connection);
                    return Ok(results);
                }
                Ok(None) => {
                    self.link.put(connection);
                    // The same claim again would find nothing to write, and so nothing to wait for.
                    all_doubtful = true;
                    String::from("the server warned of its commit, or another claim was faster")
                }
                Err(Fault::Held(why)) if may_split && !all_doubtful => {
                    let orders = claims.iter().map(|(id, _)| *id);
                    match held(&mut connection, orders, self.timeout, !self.pooled).await {
                        Ok(held) if (1..claims.len()).contains(&held.len()) => {
                            self.link.put(connection);
                            let free: Vec<_> =
                                claims.iter().filter(|(id, _)| !held.contains(id)).copied().collect();
                            let mut results = Box::pin(self.claim(&free, false)).await?;
                            results.extend(refused(held, &why));
                            return Ok(results);
                        }
                        Ok(_) => self.link.put(connection),
                        Err(why) => self.link.lose(Some(connection), &why),
                    }
                    why
                }
                Err(Fault::Again(why) | Fault::Held(why)) => {
                    self.link.put(connection);
                    why
                }
                Err(Fault::Unknown(why) | Fault::Server { what: why, gone: true }) => {
                    self.link.lose(Some(connection), &why);
                    why
                }
                Err(Fault::Server { what, .. }) => {
                    self.link.put(connection);
                    return Err(BatchError::Refused(what));
                }
                Err(Fault::Refusal(what) | Fault::Suspect(what)) => {
                    self.link.put(connection);
                    return Err(BatchError::Suspect(what));
                }
            };
            again = again.saturating_add(1);
            if again > AGAIN || started.elapsed() >= self.patience {
                return Err(BatchError::Unknown(why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// None when it has to be done again.
    async fn claim_once(
        &self,
        connection: &mut PgConnection,
        claims: &[(OrderId, Owner)],
        all_doubtful: bool,
    ) -> Result<Option<Results>, Fault> {
        let fault = |error: sqlx::Error| Fault::of(&error);
        let arguments = claim::arguments(claims, &self.doubts, all_doubtful).map_err(fault)?;
        let asked = Statement { sql: CLAIM.into_sql_str(), arguments };
        let (rows, heard) = if self.pooled {
            if let Err(error) = connection.execute(self.begin.clone()).await {
                return Err(self.roll_back(connection, &error).await);
            }
            let rows = match fetch(connection, asked, false).await {
                Ok(rows) => rows,
                Err(error) => return Err(self.roll_back(connection, &error).await),
            };
            let (ended, heard) = self.link.ear.listen(connection.execute("COMMIT")).await;
            ended.map_err(fault)?;
            (rows, heard)
        } else {
            let (rows, heard) = self.link.ear.listen(fetch(connection, asked, true)).await;
            (rows.map_err(fault)?, heard)
        };
        if !heard.is_empty() {
            return Ok(None);
        }
        claim::results(&rows, &self.doubts).map_err(fault)
    }
}

/// What a transaction that was committed came to.
enum Attempt {
    Done(Results),
    /// Done, with a warning beside it.
    Warned(String),
}

impl Attempt {
    fn new(results: Results, heard: Vec<String>) -> Self {
        if heard.is_empty() { Self::Done(results) } else { Self::Warned(heard.join("; ")) }
    }
}

#[async_trait]
impl BatchWriter for PostgresWriter {
    async fn write(&mut self, jobs: &[Job]) -> Result<Vec<JobResult>, BatchError> {
        let (mut claims, mut commits) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Claim { id, owner } => claims.push((*id, *owner)),
                Job::Commit(commit) => commits.push(&**commit),
            }
        }
        let mut results = Results::with_capacity(jobs.len());
        if !claims.is_empty() {
            match self.claim(&claims, true).await {
                Ok(done) => results.extend(done),
                Err(error @ BatchError::Suspect(_)) if jobs.len() > 1 => return Err(error),
                // Commits have nothing to do with a row that could not be claimed.
                Err(error) => {
                    let error = CommitError::from(error);
                    results.extend(claims.iter().map(|(id, _)| (*id, Err(error.clone()))));
                }
            }
        }
        if !commits.is_empty() {
            match self.commit(&commits, true).await {
                Ok(done) => results.extend(done),
                Err(error @ BatchError::Suspect(_)) if commits.len() > 1 => return Err(error),
                // Claims that are made stay made.
                Err(error) => {
                    let error = CommitError::from(error);
                    results.extend(commits.iter().map(|commit| (commit.order.id, Err(error.clone()))));
                }
            }
        }
        let missing = || Err(CommitError::Unknown(String::from("no result")));
        Ok(jobs.iter().map(|job| results.remove(&job.order()).unwrap_or_else(missing)).collect())
    }

    async fn close(&mut self) {
        self.link.close().await;
    }
}
