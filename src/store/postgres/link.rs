//! The connection of one writer: made anew when it is lost, with growing pauses, and used only on a primary.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use tokio::sync::watch;

use super::config::{FIRST_PAUSE, Pooler, PostgresConfig, Session};
use super::ear::Ear;
use super::fault::told;

/// Whether this is a standby, and which of its processes we talk to.
const WHO: &str = "SELECT pg_is_in_recovery(), pg_backend_pid()";
/// Processes of ours that are still at work, oldest first as given.
const LEFT: &str = "SELECT a.pid FROM unnest($1) WITH ORDINALITY AS v(pid, place) \
     JOIN pg_stat_activity AS a ON a.pid = v.pid WHERE a.state = 'active' AND a.usename = current_user \
     AND a.application_name = current_setting('application_name') ORDER BY v.place";
/// Ends one that waits for a standby.
const END: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
/// How long this may take.
const END_WITHIN: Duration = Duration::from_secs(1);
/// So many may wait in the server for each writer. While one waits nobody sees what it has written; once it is ended,
/// readers do, although no standby has it.
const LEFT_BEHIND: usize = 4;

/// Ends what connections that were given up have left at work, but for the last few. A commit that waits for a standby that
/// is away waits for ever, and no time limit ends that: it would keep its place among the server's connections until none
/// is left. Such a commit stays in doubt.
async fn end_processes(connection: &mut PgConnection, processes: &mut Vec<i32>) -> Result<(), sqlx::Error> {
    let left = sqlx::query(LEFT).bind(&*processes).persistent(false).fetch_all(&mut *connection).await?;
    *processes = left.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let surplus = processes.len().saturating_sub(LEFT_BEHIND);
    for process in processes.iter().take(surplus) {
        sqlx::query(END).bind(process).persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

pub(super) struct Link {
    options: PgConnectOptions,
    connect_timeout: Duration,
    pauses: ExponentialBuilder,
    connection: Option<PgConnection>,
    /// Since when there is no connection that is fit; the pauses of this time.
    lost: Option<Lost>,
    /// Counts the connections made.
    reconnects: watch::Sender<u64>,
    /// The server's process behind the connection.
    process: Option<i32>,
    /// Processes that may still be at work for connections that were given up, oldest first. None behind a pooler, where
    /// they may work for others.
    left_behind: Vec<i32>,
    is_pooled: bool,
    pub(super) ear: Ear,
}

struct Lost {
    since: Instant,
    next_try: Instant,
    pauses: ExponentialBackoff,
    why: String,
}

impl Link {
    pub(super) fn new(config: &PostgresConfig, role: &str, reconnects: watch::Sender<u64>) -> Self {
        let options = config.connect(&config.target, role, Some(Session::Commit));
        Self {
            options: options.statement_cache_capacity(256),
            connect_timeout: config.connect_timeout,
            pauses: config.pauses(),
            connection: None,
            lost: None,
            reconnects,
            process: None,
            left_behind: Vec::new(),
            is_pooled: config.pooler == Pooler::Transaction,
            ear: Ear::new(),
        }
    }

    /// The connection, if there is one or one can be had by `deadline`; else why not. Between two tries it waits, unless
    /// the deadline has passed: then it tries at most once, and not before that try is due.
    pub(super) async fn get(
        &mut self,
        deadline: impl Fn(Instant) -> Instant,
    ) -> Result<PgConnection, String> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        loop {
            let now = Instant::now();
            let (since, next_try) = self.lost.as_ref().map_or((now, now), |lost| (lost.since, lost.next_try));
            let until = deadline(since);
            if next_try > now {
                if next_try > until {
                    return Err(self.why());
                }
                tokio::time::sleep_until(next_try.into()).await;
            }
            match self.connect().await {
                Ok((mut connection, process)) => {
                    if !self.left_behind.is_empty() {
                        let ending = end_processes(&mut connection, &mut self.left_behind);
                        // Those that are left are seen to by the next connection. One that is broken shows it when used.
                        let _ended = tokio::time::timeout(END_WITHIN, ending).await;
                    }
                    self.process = Some(process);
                    // Also for the first one of a lane: others may have been to another server before.
                    self.reconnects.send_modify(|count| *count = count.wrapping_add(1));
                    if self.lost.is_some() {
                        tracing::info!("the order store is connected again");
                    }
                    return Ok(connection);
                }
                Err(why) => {
                    self.note_loss(&why);
                    if Instant::now() >= until {
                        return Err(why);
                    }
                }
            }
        }
    }

    /// Keeps a connection that is fit for more. Only now the loss of the one before is over: a server that takes
    /// connections and then fails whatever is asked of it shall not be hurried, nor waited for any longer.
    pub(super) fn put(&mut self, connection: PgConnection) {
        self.lost = None;
        self.connection = Some(connection);
    }

    /// Gives a connection up.
    pub(super) fn lose(&mut self, connection: Option<PgConnection>, why: &str) {
        drop(connection);
        self.left_behind.extend(self.process.take().filter(|_| !self.is_pooled));
        if self.lost.is_none() {
            tracing::warn!(why, "the order store lost its connection");
        }
        self.note_loss(why);
    }

    /// Says goodbye to the server.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The server notices in any case.
            let _closed = tokio::time::timeout(self.connect_timeout, connection.close()).await;
        }
    }

    fn why(&self) -> String {
        self.lost.as_ref().map_or_else(|| String::from("there is no connection"), |lost| lost.why.clone())
    }

    fn note_loss(&mut self, why: &str) {
        metrics::counter!("order_store_connection_failures_total").increment(1);
        let now = Instant::now();
        let pauses = self.pauses;
        let lost = self.lost.get_or_insert_with(|| Lost {
            since: now,
            next_try: now,
            pauses: pauses.build(),
            why: String::new(),
        });
        let pause = lost.pauses.next().unwrap_or(FIRST_PAUSE);
        lost.next_try = now.checked_add(pause).unwrap_or(now);
        why.clone_into(&mut lost.why);
    }

    /// A connection to a primary that is heard when it warns.
    async fn connect(&self) -> Result<(PgConnection, i32), String> {
        let connecting = async {
            let mut connection = self.options.connect().await.map_err(|error| told(&error))?;
            let row = connection.fetch_one(WHO).await.map_err(|error| told(&error))?;
            if row.try_get::<bool, _>(0).map_err(|error| error.to_string())? {
                return Err(String::from("this server is a standby"));
            }
            self.ear.prove(&mut connection).await?;
            let process = row.try_get(1).map_err(|error| error.to_string())?;
            Ok((connection, process))
        };
        tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(String::from("connecting took too long")))
    }
}
