//! `cache`: the disposable copies of orders.

use std::path::PathBuf;
use std::time::Duration;

use super::read::{HOUR, MINUTE, Reader, SECOND, hours, ms};
use super::sections::Secret;

/// Which cache.
#[derive(Clone, Debug)]
pub enum CacheUrl {
    /// In this process.
    Memory,
    /// None at all.
    None,
    /// In Redis, for all nodes together: the URL, which may hold a password.
    Redis(Secret),
}

/// `cache`.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Which cache.
    pub url: CacheUrl,
    /// Orders kept in memory.
    pub max_orders: u64,
    /// The oldest copy that is shown to readers who may be shown one.
    pub max_stale: Duration,
    /// Orders that are loaded when their slots come to this node; 0 = none.
    pub warm_orders: usize,
    /// How long a copy is kept.
    pub ttl: Duration,
    /// Longest wait for Redis.
    pub timeout: Duration,
    /// How long a Redis that failed is left alone.
    pub retry_every: Duration,
    /// What keys in Redis begin with.
    pub prefix: String,
    /// The authorities that Redis's certificate is checked by; none = those of the system.
    pub tls_ca: Option<PathBuf>,
}

pub(super) fn read(r: &mut Reader<'_>) -> CacheConfig {
    CacheConfig {
        url: r.parsed("cache.url", cache_url, || CacheUrl::None),
        max_orders: r.number("cache.max_orders", 1..=10_000_000),
        max_stale: r.duration("cache.max_stale", Duration::ZERO..=MINUTE),
        warm_orders: r.number("cache.warm_orders", 0..=100_000),
        ttl: r.duration("cache.ttl", SECOND..=hours(24)),
        timeout: r.duration("cache.timeout", ms(1)..=SECOND),
        retry_every: r.duration("cache.retry_every", ms(10)..=HOUR),
        prefix: r.parsed("cache.prefix", prefix, String::new),
        tls_ca: r.optional("cache.tls_ca", |path| Ok(PathBuf::from(path))),
    }
}

/// How the URL of a Redis may begin.
const REDIS: [&str; 4] = ["redis://", "rediss://", "redis+cluster://", "rediss+cluster://"];

/// Whether a text is meant as the URL of a Redis.
pub(super) fn is_redis(text: &str) -> bool {
    REDIS.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

fn cache_url(text: &str) -> Result<CacheUrl, String> {
    match text {
        "memory:" => Ok(CacheUrl::Memory),
        "none:" => Ok(CacheUrl::None),
        url if is_redis(url) => Ok(CacheUrl::Redis(Secret::new(url.to_owned()))),
        _ => Err("is not the URL of a cache; use memory:, none:, redis://USER:PASSWORD@HOST:PORT/DATABASE, \
             redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT, or rediss in the place of redis for TLS"
            .to_owned()),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    match text {
        _ if !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) => Ok(text.to_owned()),
        _ => Err("is not 1 to 64 letters, digits and -_.: ; write one like order-cache".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_prefixes() {
        assert!(matches!(cache_url("memory:"), Ok(CacheUrl::Memory)));
        assert!(matches!(cache_url("none:"), Ok(CacheUrl::None)));
        for url in
            ["redis://:hush@h:1/0", "rediss://h", "redis+cluster://u:hush@h:1,i:2", "rediss+cluster://h:1"]
        {
            let read = cache_url(url);
            assert!(matches!(&read, Ok(CacheUrl::Redis(same)) if same.expose() == url), "{url}");
            assert!(!format!("{read:?}").contains("hush"));
        }
        for bad in ["", "redis:", "redis://", "memory", "memcached://h"] {
            assert!(cache_url(bad).is_err(), "{bad}");
        }
        assert!(prefix("orders:prod-1").is_ok() && prefix("").is_err() && prefix("a b").is_err());
    }
}
