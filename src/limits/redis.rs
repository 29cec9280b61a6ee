//! Counts in Redis, for all nodes together: one call of one script, by Redis's clock. Where Redis does not answer in time,
//! this node counts for itself, by the same limits: then a principal may do up to as much on each node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::gcra::Rate;
use super::local::LocalLimiter;
use crate::ports::limiter::{Counted, Limiter, UsedUp};

/// As `gcra::Rate::next`, first for all keys, then, if none refuses, for good. Answers the place of the limit that is used
/// up, from 1 on, and the microseconds until then; zeros when none is.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local next = {}
for i, key in ipairs(KEYS) do
    local every, ahead = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local full = tonumber(redis.call('GET', key) or now)
    -- A clock that was set back, or a limit that was lowered, must not lock anybody out.
    full = math.min(math.max(full, now), now + ahead + every)
    if full - now > ahead then
        return {i, full - now - ahead}
    end
    next[i] = full + every
end
for i, key in ipairs(KEYS) do
    redis.call('SET', key, string.format('%.0f', next[i]), 'PX', math.ceil((next[i] - now) / 1000))
end
return {0, 0}
";

/// Answers in a row that came too late, after which Redis is left alone.
const LATE: u32 = 3;
/// How long connecting may take. Nobody waits for it.
const CONNECTING: Duration = Duration::from_secs(1);

/// Where, and how patient.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://USER:PASSWORD@HOST:PORT/DATABASE`. Never shown.
    pub url: String,
    /// How long a call waits for Redis before this node counts itself.
    pub patience: Duration,
    /// How long a Redis that failed is left alone.
    pub retry_every: Duration,
    /// Keys that this node remembers when it counts itself.
    pub max_keys: usize,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// Counts in Redis, or here while that is away or slow. Clones of a connection share it.
pub struct RedisLimiter {
    shared: Arc<Shared>,
    local: LocalLimiter,
    script: Script,
    _ends: DropGuard,
}

struct Shared {
    /// The connection; none while Redis is left alone, which then costs a call nothing.
    link: ArcSwapOption<MultiplexedConnection>,
    lost: Notify,
    late: AtomicU32,
    config: RedisConfig,
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_there = self.shared.link.load().is_some();
        f.debug_struct("RedisLimiter").field("is_there", &is_there).finish_non_exhaustive()
    }
}

impl RedisLimiter {
    /// Begins to connect, and goes on for as long as it lives; whether Redis is there or not, it counts from the start.
    ///
    /// # Errors
    /// When the URL is none of a Redis server. The text holds nothing of it.
    pub fn start(config: RedisConfig) -> Result<Self, String> {
        let client = Client::open(config.url.as_str()).map_err(|_told_nobody| {
            "is not the URL of a Redis server; write redis://USER:PASSWORD@HOST:PORT/DATABASE".to_owned()
        })?;
        let local = LocalLimiter::new(config.max_keys);
        let shared = Arc::new(Shared {
            link: ArcSwapOption::empty(),
            lost: Notify::new(),
            late: AtomicU32::new(0),
            config,
        });
        let ends = CancellationToken::new();
        let keeping = keep(client, Arc::clone(&shared));
        tokio::spawn(ends.clone().run_until_cancelled_owned(keeping));
        Ok(Self { shared, local, script: Script::new(SCRIPT), _ends: ends.drop_guard() })
    }

    /// What Redis says; none when it says nothing in time.
    async fn ask(&self, counted: &[Counted]) -> Option<Result<(), UsedUp>> {
        let link = self.shared.link.load_full()?;
        let mut call = self.script.prepare_invoke();
        for Counted { key, quota } in counted {
            let rate = Rate::from(*quota);
            // One hash slot for all keys of a call.
            call.key(format!("{{order-limits}}:{key:016x}")).arg(rate.every).arg(rate.ahead);
        }
        let mut connection = MultiplexedConnection::clone(&link);
        let answer = timeout(self.shared.config.patience, call.invoke_async(&mut connection)).await;
        match answer {
            Ok(Ok((0, _))) => {
                self.shared.late.store(0, Ordering::Relaxed);
                Some(Ok(()))
            }
            Ok(Ok((place, wait))) => {
                self.shared.late.store(0, Ordering::Relaxed);
                let (place, wait): (usize, u64) = (place, wait);
                Some(Err(UsedUp {
                    which: place.saturating_sub(1),
                    retry_after: Duration::from_micros(wait.max(1)),
                }))
            }
            Ok(Err(error)) => {
                self.shared.leave_alone(&link, error.category());
                None
            }
            Err(_elapsed) => {
                // One late answer may be chance.
                if self.shared.late.fetch_add(1, Ordering::Relaxed) >= LATE.saturating_sub(1) {
                    self.shared.leave_alone(&link, "its answers come too late");
                }
                None
            }
        }
    }
}

#[async_trait]
impl Limiter for RedisLimiter {
    async fn take(&self, counted: &[Counted]) -> Result<(), UsedUp> {
        if let Some(answer) = self.ask(counted).await {
            return answer;
        }
        metrics::counter!("order_limits_counted_alone_total").increment(1);
        self.local.count(counted)
    }
}

impl Shared {
    /// Gives this connection up; the first one who does says so.
    fn leave_alone(&self, link: &Arc<MultiplexedConnection>, why: &str) {
        let is_it = self.link.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, link));
        if !is_it {
            return;
        }
        self.link.store(None);
        self.late.store(0, Ordering::Relaxed);
        tracing::warn!(
            why,
            "Redis does not count the limits; each node counts for itself until it does again"
        );
        metrics::gauge!("order_limits_redis_is_there").set(0.0);
        self.lost.notify_one();
    }
}

/// Keeps a connection to a Redis that answers in time.
async fn keep(client: Client, shared: Arc<Shared>) {
    let mut told = false;
    loop {
        match connect(&client, shared.config.patience).await {
            Ok(connection) => {
                shared.link.store(Some(Arc::new(connection)));
                metrics::gauge!("order_limits_redis_is_there").set(1.0);
                tracing::info!("Redis counts the limits");
                told = false;
                shared.lost.notified().await;
            }
            Err(why) if !told => {
                told = true;
                tracing::warn!(why, "Redis is not there to count the limits; each node counts for itself");
            }
            Err(_told_already) => {}
        }
        tokio::time::sleep(shared.config.retry_every).await;
    }
}

/// A connection that answers as fast as calls need it to.
async fn connect(client: &Client, patience: Duration) -> Result<MultiplexedConnection, &'static str> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECTING))
        .set_response_timeout(Some(CONNECTING));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
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
