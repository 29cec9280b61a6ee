//! One connection to the cluster's records: made when it is needed, and made again after a failure.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Executor, Row, SqlStr, query_with};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::config::{Pooler, PostgresConfig, Session, Target};
use super::super::ear::Ear;
use super::super::fault::{Fault, told};
use super::super::keeper::{Hold, take, wait_for};
use super::super::open::OpenError;
use super::super::statement::Statement;
use super::super::steps::not_sent;

/// How long a connection that is closed may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Asks one statement at a time.
pub(super) struct Line {
    target: Target,
    options: PgConnectOptions,
    connect_timeout: Duration,
    /// What opens a transaction, where each statement needs one of its own.
    begin: Option<SqlStr>,
    /// Hears of commits that may not outlive the server. None where that does not matter.
    ear: Option<Ear>,
    /// Whether the connection holds the lock that members share.
    holds: bool,
    /// Counts the connections made after the first, where they count.
    reconnects: Option<watch::Sender<u64>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Taken out while it is used: whoever gives up or goes away meanwhile takes it along.
    connection: Option<PgConnection>,
    /// Whether there was one before.
    had_one: bool,
    is_closed: bool,
}

/// Whether a statement may be sent again: over a new connection after the old one turned out to be broken, or after
/// another transaction was in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repeat {
    /// To do it twice is as good as once.
    Harmless,
    /// What became of the first has to be known.
    Never,
}

impl Line {
    /// For renewals: holds the lock, does not wait for the server's disk, and counts how often it was made again.
    pub(super) fn for_renewals(config: &PostgresConfig, reconnects: watch::Sender<u64>) -> Self {
        let line = Self::new(config, "renew", Session::Renew);
        Self { holds: config.pooler == Pooler::None, reconnects: Some(reconnects), ..line }
    }

    /// For changes: what is done is on the server's disk, and its standbys' if it has any to wait for.
    pub(super) fn for_changes(config: &PostgresConfig, role: &str) -> Self {
        Self { ear: Some(Ear::new()), ..Self::new(config, role, Session::Commit) }
    }

    fn new(config: &PostgresConfig, role: &str, session: Session) -> Self {
        Self {
            target: config.target.clone(),
            options: config.connect(&config.target, role, Some(session)),
            connect_timeout: config.connect_timeout,
            begin: (config.pooler == Pooler::Transaction).then(|| config.begin(session)),
            ear: None,
            holds: false,
            reconnects: None,
            kept: Mutex::default(),
        }
    }

    /// Makes the first connection and takes the lock, with some patience for a node that is just ending.
    pub(super) async fn open(&self) -> Result<(), OpenError> {
        let mut kept = self.kept.lock().await;
        let unreachable = |what| OpenError::Unreachable { target: self.target.to_string(), what };
        let mut connection = self.within_limit(self.connect()).await.map_err(unreachable)?;
        if self.holds {
            wait_for(&mut connection, Hold::Shared, &self.target).await?;
        }
        (kept.connection, kept.had_one) = (Some(connection), true);
        Ok(())
    }

    /// The rows that a statement gives, within `limit`, the wait for whoever asks already and for a connection included.
    pub(super) async fn ask(
        &self,
        statement: Statement,
        limit: Duration,
        repeat: Repeat,
    ) -> Result<Vec<PgRow>, Fault> {
        let now = Instant::now();
        let until = now.checked_add(limit).unwrap_or(now);
        let not_made = |what| Fault::Server { what, gone: true };
        let late = || String::from("no connection in time");
        let mut kept = timeout_at(until, self.kept.lock()).await.map_err(|_| not_made(late()))?;
        loop {
            let (mut connection, is_new) = match kept.connection.take() {
                Some(connection) => (connection, false),
                None => {
                    let made = timeout_at(until, self.connect_again(&mut kept)).await;
                    (made.unwrap_or_else(|_| Err(late())).map_err(not_made)?, true)
                }
            };
            let sent = self.send(&mut connection, &statement.sql, statement.arguments.clone());
            let fault = match timeout_at(until, sent).await {
                Ok(Ok(rows)) => {
                    kept.connection = Some(connection);
                    return Ok(rows);
                }
                Ok(Err(fault)) => fault,
                Err(_elapsed) => return Err(Fault::Unknown(String::from("no answer in time"))),
            };
            let is_again = matches!(fault, Fault::Again(_));
            let is_gone = matches!(fault, Fault::Unknown(_) | Fault::Server { gone: true, .. });
            if !is_gone {
                kept.connection = Some(connection);
            }
            // Where the database asks for a stricter isolation, another transaction may have been in the way.
            if repeat == Repeat::Never || !(is_again || is_gone && !is_new) {
                return Err(fault);
            }
        }
    }

    /// Says goodbye to the server. From then on nothing is asked.
    pub(super) async fn close(&self) {
        let mut kept = self.kept.lock().await;
        kept.is_closed = true;
        if let Some(connection) = kept.connection.take() {
            // The server notices in any case.
            let _closed = timeout(GOODBYE, connection.close()).await;
        }
    }

    async fn connect_again(&self, kept: &mut Kept) -> Result<PgConnection, String> {
        if kept.is_closed {
            return Err(String::from("this node has closed its connections"));
        }
        let connecting = async {
            let mut connection = self.connect().await?;
            if self.holds && !take(&mut connection, Hold::Shared).await.map_err(|error| told(&error))? {
                return Err(String::from("the order store is in use by a node that has it for itself"));
            }
            Ok(connection)
        };
        let connection = self.within_limit(connecting).await?;
        if kept.had_one {
            // It may be another server now, with less in it.
            if let Some(reconnects) = &self.reconnects {
                reconnects.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
        kept.had_one = true;
        Ok(connection)
    }

    async fn within_limit<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let late = |_| Err(String::from("connecting took too long"));
        timeout(self.connect_timeout, work).await.unwrap_or_else(late)
    }

    /// A connection to a primary.
    async fn connect(&self) -> Result<PgConnection, String> {
        let mut connection = self.options.connect().await.map_err(|error| told(&error))?;
        let row = connection.fetch_one("SELECT pg_is_in_recovery()").await.map_err(|error| told(&error))?;
        if row.try_get::<bool, _>(0).map_err(|error| error.to_string())? {
            return Err(String::from("this server is a standby"));
        }
        if let Some(ear) = &self.ear {
            ear.prove(&mut connection).await?;
        }
        Ok(connection)
    }

    async fn send(
        &self,
        connection: &mut PgConnection,
        sql: &SqlStr,
        arguments: PgArguments,
    ) -> Result<Vec<PgRow>, Fault> {
        let asked = query_with(sql.clone(), arguments);
        let Some(begin) = &self.begin else {
            let rows = self.listen(asked.fetch_all(connection)).await?;
            return Ok(rows);
        };
        // Nothing is prepared by name: the next transaction may be in another session.
        connection.execute(begin.clone()).await.map_err(|error| not_sent(&error))?;
        match asked.persistent(false).fetch_all(&mut *connection).await.map_err(|error| not_sent(&error)) {
            Ok(rows) => {
                self.listen(connection.execute("COMMIT")).await?;
                Ok(rows)
            }
            Err(fault @ Fault::Server { gone: true, .. }) => Err(fault),
            // Whatever happens now, nothing of it stays.
            Err(fault) => match connection.execute("ROLLBACK").await {
                Ok(_) => Err(fault),
                Err(error) => Err(Fault::Server { what: told(&error), gone: true }),
            },
        }
    }

    /// Sends what ends a transaction. Done with a warning is not done for certain.
    async fn listen<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Fault> {
        let (ended, heard) = match &self.ear {
            Some(ear) => ear.listen(work).await,
            None => (work.await, Vec::new()),
        };
        let ended = ended.map_err(|error| Fault::of(&error))?;
        if heard.is_empty() { Ok(ended) } else { Err(Fault::Unknown(heard.join("; "))) }
    }
}
