//! Connections for reading.
//!
//! The driver's own pool asks every connection that comes back whether it is well, which is a round trip for each read.
//! Here a connection comes back only after it answered, and one that turns out to be broken, as all are once the server
//! was restarted, is replaced and the question asked again: questions change nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Executor, Row, SqlStr, query_with};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::config::{FIRST_PAUSE, Pooler, PostgresConfig, Session, Target};
use super::fault::{is_gone, told};
use crate::ports::store::StoreError;
use crate::ports::usage::PoolUsage;

/// A connection is not used for longer than this, so that those behind a balancer move on in time.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// How long a connection that is closed may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A bounded number of connections, made when they are needed.
#[derive(Debug)]
pub(super) struct Pool {
    options: PgConnectOptions,
    /// What opens a transaction, where each statement needs one of its own.
    begin: Option<SqlStr>,
    timeout: Duration,
    pauses: ExponentialBuilder,
    size: usize,
    places: Semaphore,
    /// Those who wait for a place.
    waiting: AtomicUsize,
    idle: Mutex<Vec<Kept>>,
    /// Whether the server has to be a primary, and is waited for while it is away.
    is_primary: bool,
    /// Counts how often the writers found their server again: connections from before may lead to another one.
    reconnects: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Kept {
    connection: PgConnection,
    since: Instant,
    /// Of the writers' servers.
    generation: u64,
}

impl Pool {
    /// At most `config.readers` connections to the primary. None is made yet.
    pub(super) fn primary(config: &PostgresConfig, reconnects: watch::Receiver<u64>) -> Self {
        Self::new(config, &config.target, "read", true, reconnects)
    }

    /// The same to a replica, which is not waited for when it is away.
    pub(super) fn replica(
        config: &PostgresConfig,
        target: &Target,
        reconnects: watch::Receiver<u64>,
    ) -> Self {
        Self::new(config, target, "replica", false, reconnects)
    }

    fn new(
        config: &PostgresConfig,
        target: &Target,
        role: &str,
        is_primary: bool,
        reconnects: watch::Receiver<u64>,
    ) -> Self {
        let begin = (config.pooler == Pooler::Transaction).then(|| config.begin(Session::Read));
        let size = usize::try_from(config.readers.max(1)).unwrap_or(1);
        Self {
            options: config.connect(target, role, Some(Session::Read)),
            begin,
            timeout: config.read_timeout,
            pauses: config.pauses(),
            size,
            places: Semaphore::new(size),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            is_primary,
            reconnects,
        }
    }

    /// How long one read may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many connections there may be.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Asks, within the time that one read may take, the wait for a connection included.
    pub(super) async fn rows(&self, sql: SqlStr, arguments: PgArguments) -> Result<Vec<PgRow>, StoreError> {
        let asked = self.asked(sql, arguments).await;
        asked.map_err(|error| error.map_or_else(late, |error| StoreError::Unavailable(told(&error))))
    }

    /// As [`Self::rows`], with the driver's error; none when there was no answer in time.
    pub(super) async fn asked(
        &self,
        sql: SqlStr,
        arguments: PgArguments,
    ) -> Result<Vec<PgRow>, Option<sqlx::Error>> {
        let asking = async {
            let _place = self.place().await?;
            loop {
                let (mut kept, is_new) = match self.take() {
                    Some(kept) => (kept, false),
                    None => (self.connect().await?, true),
                };
                match self.ask(&mut kept.connection, sql.clone(), arguments.clone()).await {
                    Ok(rows) => {
                        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
                        return Ok(rows);
                    }
                    Err(error) if is_new || !is_gone(&error) => return Err(error),
                    Err(_broken) => {}
                }
            }
        };
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(asked) => asked.map_err(Some),
            Err(_elapsed) => Err(None),
        }
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, sqlx::Error> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let _waiting = Waiting::begin(&self.waiting);
        self.places.acquire().await.map_err(|_closed| sqlx::Error::PoolClosed)
    }

    /// How much of it is in use.
    pub(super) fn usage(&self, name: &'static str) -> PoolUsage {
        PoolUsage {
            name,
            idle: self.idle.lock().unwrap_or_else(PoisonError::into_inner).len(),
            used: self.size.saturating_sub(self.places.available_permits()),
            limit: self.size,
            waiting: Some(self.waiting.load(Ordering::Relaxed)),
        }
    }

    /// Takes no more questions, waits for those under way and says goodbye to the server.
    pub(super) async fn close(&self) {
        self.places.close();
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for kept in idle {
            // The server notices in any case.
            let _closed = tokio::time::timeout(GOODBYE, kept.connection.close()).await;
        }
    }

    fn take(&self) -> Option<Kept> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(kept) = idle.pop() {
            if kept.since.elapsed() < LIFETIME && kept.generation == *self.reconnects.borrow() {
                return Some(kept);
            }
        }
        None
    }

    /// A new connection; while the server is away or starting, it is tried again until the read's time is over.
    async fn connect(&self) -> Result<Kept, sqlx::Error> {
        let mut pauses = self.pauses.build();
        loop {
            let generation = *self.reconnects.borrow();
            match self.connect_once().await {
                Ok(connection) => return Ok(Kept { connection, since: Instant::now(), generation }),
                Err(error) if self.is_primary && may_pass(&error) => {
                    tokio::time::sleep(pauses.next().unwrap_or(FIRST_PAUSE)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect_once(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        if self.is_primary {
            let row = connection.fetch_one("SELECT pg_is_in_recovery()").await?;
            if row.try_get::<bool, _>(0)? {
                return Err(sqlx::Error::Protocol(String::from("this server is a standby")));
            }
        }
        Ok(connection)
    }

    async fn ask(
        &self,
        connection: &mut PgConnection,
        sql: SqlStr,
        arguments: PgArguments,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let Some(begin) = &self.begin else {
            return query_with(sql, arguments).fetch_all(connection).await;
        };
        connection.execute(begin.clone()).await?;
        let rows = query_with(sql, arguments).persistent(false).fetch_all(&mut *connection).await?;
        connection.execute("COMMIT").await?;
        Ok(rows)
    }
}

/// One who waits, also when it is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn late() -> StoreError {
    StoreError::Unavailable(String::from("no answer in time"))
}

/// Whether the server may be there a little later: it stops, starts or has no place left.
fn may_pass(error: &sqlx::Error) -> bool {
    const TOO_MANY_CONNECTIONS: &str = "53300";
    let code = error.as_database_error().and_then(|error| error.code());
    match code {
        Some(code) => code.starts_with("57P") || code == TOO_MANY_CONNECTIONS,
        None => is_gone(error),
    }
}
