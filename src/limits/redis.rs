//! Counts in Redis, for all nodes together: one call of one script, by Redis's clock. Where Redis does not answer in time,
//! this node counts for itself, by the same limits: then a principal may do up to as much on each node.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::gcra::Rate;
use super::local::LocalLimiter;
use crate::ports::limiter::{Counted, Limiter, UsedUp};
use crate::redis_link::{Connection, LinkConfig, News, NoAnswer, RedisLink};

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

/// Where, and how patient.
#[derive(Clone)]
pub struct RedisConfig {
    /// As of [`LinkConfig::url`]. Never shown.
    pub url: String,
    /// PEM of the authorities that are believed; none = those of the system.
    pub tls_ca: Option<Vec<u8>>,
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

/// Counts in Redis, or here while that is away or slow.
#[derive(Debug)]
pub struct RedisLimiter {
    link: RedisLink,
    patience: Duration,
    local: LocalLimiter,
    script: Script,
}

impl RedisLimiter {
    /// Begins to connect, and goes on for as long as it lives; whether Redis is there or not, it counts from the start.
    ///
    /// # Errors
    /// When the URL is none of a Redis. The text holds nothing of it.
    pub fn start(config: RedisConfig) -> Result<Self, String> {
        let RedisConfig { url, tls_ca, patience, retry_every, max_keys } = config;
        let link = RedisLink::start(LinkConfig { url, tls_ca, patience, retry_every, tell })?;
        let local = LocalLimiter::new(max_keys);
        Ok(Self { link, patience, local, script: Script::new(SCRIPT) })
    }

    /// What Redis says; none when it says nothing in time.
    async fn ask(&self, counted: &[Counted]) -> Option<Result<(), UsedUp>> {
        let link = self.link.connection()?;
        let mut call = self.script.prepare_invoke();
        for Counted { key, quota } in counted {
            let rate = Rate::from(*quota);
            // One hash slot for all keys of a call.
            call.key(format!("{{order-limits}}:{key:016x}")).arg(rate.every).arg(rate.ahead);
        }
        let mut connection = Connection::clone(&link);
        match self.link.heard(&link, self.patience, call.invoke_async(&mut connection)).await {
            Ok((0, _)) => Some(Ok(())),
            Ok((place, wait)) => {
                let (place, wait): (usize, u64) = (place, wait);
                Some(Err(UsedUp {
                    which: place.saturating_sub(1),
                    retry_after: Duration::from_micros(wait.max(1)),
                }))
            }
            Err(NoAnswer::Refused) => {
                self.link.leave_alone(&link, "it refuses to count");
                None
            }
            Err(NoAnswer::Late | NoAnswer::Gone) => None,
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

fn tell(news: News) {
    let is_there = match news {
        News::There => {
            tracing::info!("Redis counts the limits");
            1.0
        }
        News::Lost(why) => {
            tracing::warn!(
                why,
                "Redis does not count the limits; each node counts for itself until it does again"
            );
            0.0
        }
        News::Missing(why) => {
            tracing::warn!(why, "Redis is not there to count the limits; each node counts for itself");
            0.0
        }
    };
    metrics::gauge!("order_limits_redis_is_there").set(is_there);
}
