//! One node has the database, or the members of one cluster share it: whoever does holds a lock there for as long as it
//! lives.
//!
//! The lock only spares operators two nodes that take each other's orders away; that nothing is written twice is the
//! business of the guards. It goes with its connection, so a node that died lets go at once, and one that lost the
//! connection takes it again.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row, query, query_scalar};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{PostgresConfig, Target};
use super::fault::told;
use super::open::{OpenError, connect};

/// The lock: "ORDS", and the number of its purpose.
const KEY: i64 = 0x4F52_4453_0000;

/// How long a starting node waits for one that is just ending.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile, and how often a holder makes sure of its connection.
const LOOK: Duration = Duration::from_millis(50);
const BEAT: Duration = Duration::from_secs(1);

/// How the lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// By a node that has the database for itself.
    Alone,
    /// By a member of a cluster, beside the others.
    Shared,
}

/// Holds the lock until it is stopped.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: CancellationToken,
    task: TaskTracker,
}

impl Keeper {
    /// Takes the lock.
    pub(super) async fn start(
        config: &PostgresConfig,
        reconnects: watch::Sender<u64>,
    ) -> Result<Self, OpenError> {
        let mut connection = connect(config, "owner").await?;
        wait_for(&mut connection, Hold::Alone, &config.target).await?;
        let (stop, task) = (CancellationToken::new(), TaskTracker::new());
        let (config, stopped) = (config.clone(), stop.clone());
        task.spawn(async move { stopped.run_until_cancelled(keep(connection, &config, &reconnects)).await });
        task.close();
        Ok(Self { stop, task })
    }

    /// Lets go of the lock.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes the lock, or tells who has it after some patience with one that is just ending.
pub(super) async fn wait_for(
    connection: &mut PgConnection,
    hold: Hold,
    target: &Target,
) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| OpenError::Server { target: target.to_string(), what: told(&error) };
    let started = tokio::time::Instant::now();
    while !take(connection, hold).await.map_err(failed)? {
        if started.elapsed() > PATIENCE {
            let holder = holder(connection).await.map_err(failed)?;
            return Err(OpenError::InUse { target: target.to_string(), holder });
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Takes the lock if it is to be had now.
pub(super) async fn take(connection: &mut PgConnection, hold: Hold) -> Result<bool, sqlx::Error> {
    let take = match hold {
        Hold::Alone => "SELECT pg_try_advisory_lock($1)",
        Hold::Shared => "SELECT pg_try_advisory_lock_shared($1)",
    };
    let asked = query_scalar(take).bind(KEY).fetch_one(connection);
    // A server that says nothing must not hold up a start, nor this node's next look.
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Who holds it, as the server sees it.
async fn holder(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let sql = "SELECT coalesce(host(a.client_addr), 'local') || ', since ' || a.backend_start::text \
               FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid \
               WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint << 32 | l.objid::bigint = $1 \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = query(sql).bind(KEY).fetch_optional(connection).await?;
    row.map_or_else(|| Ok(String::from("one that is just ending")), |row| row.try_get(0))
}

/// Makes sure of the connection, and takes the lock again when it was lost.
async fn keep(mut connection: PgConnection, config: &PostgresConfig, reconnects: &watch::Sender<u64>) {
    let mut warned = false;
    loop {
        tokio::time::sleep(BEAT).await;
        let asked = tokio::time::timeout(config.connect_timeout, connection.execute("SELECT 1")).await;
        if matches!(asked, Ok(Ok(_))) {
            continue;
        }
        loop {
            if let Ok(mut again) = connect(config, "owner").await
                && let Ok(taken) = take(&mut again, Hold::Alone).await
            {
                if taken {
                    // Without a change to store, nobody else would notice that it is another server now.
                    reconnects.send_modify(|count| *count = count.wrapping_add(1));
                    connection = again;
                    warned = false;
                    break;
                }
                if !warned {
                    tracing::error!("another node uses the same order store; stop one of the two");
                    metrics::counter!("order_store_shared_total").increment(1);
                    warned = true;
                }
                let _closed = again.close().await;
            }
            tokio::time::sleep(BEAT).await;
        }
    }
}
