//! A way to Redis that nobody waits for: one connection, to a server or to a cluster, that is given up when its answers come
//! too late, and made again by a task of its own. While there is none, asking costs nothing.

mod url;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::url::Way;

/// Answers in a row that came too late, after which Redis is left alone.
const LATE: u32 = 3;
/// How long connecting may take. Nobody waits for it.
const CONNECTING: Duration = Duration::from_secs(1);

/// Where, and how patient.
#[derive(Clone)]
pub struct LinkConfig {
    /// `redis://USER:PASSWORD@HOST:PORT/DATABASE`, `rediss://…` with TLS, `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT`
    /// or `rediss+cluster://…`. Never shown.
    pub url: String,
    /// PEM of the authorities that are believed; none = those of the system.
    pub tls_ca: Option<Vec<u8>>,
    /// How long an answer to a PING may take.
    pub patience: Duration,
    /// How long a Redis that failed is left alone.
    pub retry_every: Duration,
    /// Told of what becomes of the connection.
    pub tell: fn(News),
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// Redis is there.
    There,
    /// It was there and is left alone now, because of this.
    Lost(&'static str),
    /// It is not there at the start, or not again, because of this. Told once.
    Missing(&'static str),
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// It did not come in time.
    Late,
    /// The connection is broken.
    Gone,
    /// Redis refuses to do it.
    Refused,
}

/// A connection; clones share it.
#[derive(Clone)]
pub enum Connection {
    /// To a server.
    One(MultiplexedConnection),
    /// To the servers of a cluster.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The way.
pub struct RedisLink {
    shared: Arc<Shared>,
    _ends: DropGuard,
}

struct Shared {
    /// None while Redis is left alone.
    connection: ArcSwapOption<Connection>,
    lost: Notify,
    late: AtomicU32,
    config: LinkConfig,
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_there = self.shared.connection.load().is_some();
        f.debug_struct("RedisLink").field("is_there", &is_there).finish_non_exhaustive()
    }
}

impl RedisLink {
    /// Begins to connect, and goes on for as long as it lives.
    ///
    /// # Errors
    /// When the URL is none of a Redis, or the authorities cannot be read. The text holds nothing of the URL.
    pub fn start(config: LinkConfig) -> Result<Self, String> {
        let way = Way::new(&config.url, config.tls_ca.clone())?;
        let shared = Arc::new(Shared {
            connection: ArcSwapOption::empty(),
            lost: Notify::new(),
            late: AtomicU32::new(0),
            config,
        });
        let ends = CancellationToken::new();
        tokio::spawn(ends.clone().run_until_cancelled_owned(keep(way, Arc::clone(&shared))));
        Ok(Self { shared, _ends: ends.drop_guard() })
    }

    /// The connection, while Redis is there.
    pub fn connection(&self) -> Option<Arc<Connection>> {
        self.shared.connection.load_full()
    }

    /// Waits for an answer that was asked for over this connection, for at most `patience`. A connection that is broken, or
    /// late several times in a row, is given up.
    ///
    /// # Errors
    /// When there is no answer, or Redis refused.
    pub async fn heard<T>(
        &self,
        over: &Arc<Connection>,
        patience: Duration,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, NoAnswer> {
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => {
                self.shared.late.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) if is_of_the_way(&error) => {
                self.is_broken(over);
                Err(NoAnswer::Gone)
            }
            Ok(Err(error)) => {
                tracing::debug!(category = error.category(), "Redis refused what it was asked");
                Err(NoAnswer::Refused)
            }
            Err(_elapsed) => {
                self.was_late(over);
                Err(NoAnswer::Late)
            }
        }
    }

    /// As [`Self::heard`], of answers to several questions that were asked together: to which of them there is none, or none in
    /// time, says nothing of the others. Together they count once.
    pub async fn heard_each<T, F: Future<Output = RedisResult<T>>>(
        &self,
        over: &Arc<Connection>,
        patience: Duration,
        answers: impl Iterator<Item = F>,
    ) -> Vec<Option<T>> {
        let answers = join_all(answers.map(|answer| timeout(patience, answer))).await;
        let broke =
            |answer: &Result<RedisResult<T>, _>| matches!(answer, Ok(Err(error)) if is_of_the_way(error));
        if answers.iter().any(broke) {
            self.is_broken(over);
        } else if answers.iter().any(Result::is_err) {
            self.was_late(over);
        } else {
            self.shared.late.store(0, Ordering::Relaxed);
        }
        answers.into_iter().map(|answer| answer.ok()?.ok()).collect()
    }

    fn is_broken(&self, over: &Arc<Connection>) {
        // The way to a cluster leads to several servers, and finds them again by itself.
        if matches!(**over, Connection::One(_)) {
            self.leave_alone(over, "the connection is broken");
        } else {
            self.was_late(over);
        }
    }

    /// One late answer may be chance.
    ///
    /// Of a cluster with one server that is gone or stuck, the others' answers begin the count anew, so it is not left alone: to do
    /// so would give up what the others have. Each call that needs that server waits for its patience, until the cluster has
    /// put a replica in its place or the way knows that the server is gone.
    fn was_late(&self, connection: &Arc<Connection>) {
        if self.shared.late.fetch_add(1, Ordering::Relaxed) >= LATE.saturating_sub(1) {
            self.leave_alone(connection, "its answers come too late");
        }
    }

    /// Gives this connection up; the first one who does says so.
    pub fn leave_alone(&self, connection: &Arc<Connection>, why: &'static str) {
        let shared = &self.shared;
        let is_it = shared.connection.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, connection));
        if is_it {
            shared.connection.store(None);
            shared.late.store(0, Ordering::Relaxed);
            (shared.config.tell)(News::Lost(why));
            shared.lost.notify_one();
        }
    }
}

/// Whether an error says that nothing more comes over this connection, not what a server thinks of a command.
fn is_of_the_way(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_unrecoverable_error()
}

/// Keeps a connection to a Redis that answers in time.
async fn keep(way: Way, shared: Arc<Shared>) {
    let mut told = false;
    loop {
        match connect(&way, shared.config.patience).await {
            Ok(connection) => {
                shared.connection.store(Some(Arc::new(connection)));
                (shared.config.tell)(News::There);
                told = false;
                shared.lost.notified().await;
            }
            Err(why) if !told => {
                told = true;
                (shared.config.tell)(News::Missing(why));
            }
            Err(_told_already) => {}
        }
        tokio::time::sleep(shared.config.retry_every).await;
    }
}

/// A connection that answers as fast as calls need it to.
async fn connect(way: &Way, patience: Duration) -> Result<Connection, &'static str> {
    let connecting = async {
        match way {
            Way::Server(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECTING))
                    .set_response_timeout(Some(CONNECTING));
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
            }
            Way::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    };
    let mut connection = match timeout(CONNECTING, connecting).await {
        Ok(Ok(connection)) => connection,
        // Its text may hold what stands in the URL.
        Ok(Err(error)) => return Err(if error.is_io_error() { "cannot connect" } else { "it refuses us" }),
        Err(_elapsed) => return Err("connecting takes too long"),
    };
    let asked = timeout(patience, redis::cmd("PING").query_async::<()>(&mut connection)).await;
    match asked {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(_)) => Err("it does not answer a PING"),
        Err(_elapsed) => Err("its answers come too late"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_url_is_shown() {
        let config = LinkConfig {
            url: "redis://:hush@nowhere:1/0".into(),
            tls_ca: None,
            patience: Duration::from_millis(20),
            retry_every: Duration::from_secs(1),
            tell: |_| {},
        };
        assert!(!format!("{config:?}").contains("hush"));
        let told = Way::new("redis://:hush@nowhere:x", None).err().unwrap();
        assert!(!told.contains("hush"), "{told}");
    }
}
