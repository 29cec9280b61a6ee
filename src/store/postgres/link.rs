//! The connection of one writer: made anew when it is lost, with growing pauses, and used only on a primary.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use tokio::sync::watch;

use super::config::{FIRST_PAUSE, PostgresConfig, Session};
use super::ear::Ear;
use super::fault::told;

/// What a connection has to hear before it is used.
const GREETING: &str = "order store: can you hear me";
/// Has the server say it: as a notice, which comes the way of a warning but does not fill the server's log.
const GREET: &str = "BEGIN; SET LOCAL client_min_messages = notice; \
     DO $$ BEGIN RAISE NOTICE 'order store: can you hear me'; END $$; COMMIT";

pub(super) struct Link {
    options: PgConnectOptions,
    connect_timeout: Duration,
    pauses: ExponentialBuilder,
    connection: Option<PgConnection>,
    /// Since when there is no connection that is fit; the pauses of this time.
    lost: Option<Lost>,
    /// Counts the connections made.
    reconnects: watch::Sender<u64>,
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
                Ok(connection) => {
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
    async fn connect(&self) -> Result<PgConnection, String> {
        let connecting = async {
            let mut connection = self.options.connect().await.map_err(|error| told(&error))?;
            let row =
                connection.fetch_one("SELECT pg_is_in_recovery()").await.map_err(|error| told(&error))?;
            if row.try_get::<bool, _>(0).map_err(|error| error.to_string())? {
                return Err(String::from("this server is a standby"));
            }
            let (greeted, heard) = self.ear.listen_closely(connection.execute(GREET)).await;
            greeted.map_err(|error| told(&error))?;
            if !heard.iter().any(|(_, words)| words.contains(GREETING)) {
                return Err(String::from(
                    "the server's warnings are not heard, so its commits cannot be trusted",
                ));
            }
            Ok(connection)
        };
        tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(String::from("connecting took too long")))
    }
}
