//! `rate_limits`: how often callers may call, and how much one user may have under way.

use std::path::PathBuf;
use std::time::Duration;

use super::cache::is_redis;
use super::read::{HOUR, Reader, SECOND, ms};
use super::sections::Secret;
use crate::domain::access::Role;

/// Where calls are counted.
#[derive(Clone, Debug)]
pub enum RateStore {
    /// On each node for itself.
    Local,
    /// In Redis, for all nodes together: the URL, which may hold a password.
    Redis(Secret),
}

/// How often, and how often at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateConfig {
    /// Calls; 0 = however many.
    pub often: u32,
    /// Calls at once, 1...
    pub burst: u32,
}

/// `rate_limits`.
#[derive(Clone, Debug)]
pub struct RateLimitsConfig {
    /// Where calls are counted.
    pub store: RateStore,
    /// The authorities that Redis's certificate is checked by; none = those of the system.
    pub tls_ca: Option<PathBuf>,
    /// Longest wait for Redis.
    pub timeout: Duration,
    /// How long a Redis that failed is left alone.
    pub retry_every: Duration,
    /// Callers and users that a node remembers.
    pub max_keys: usize,
    /// Roles that are not counted.
    pub exempt_roles: Vec<Role>,
    /// Calls a second of one principal that look at one order.
    pub read: RateConfig,
    /// Calls a second of one principal that list.
    pub list: RateConfig,
    /// Calls a second of one principal that change an order.
    pub write: RateConfig,
    /// Calls a second of one principal that make an order.
    pub create: RateConfig,
    /// Calls a second of one principal that open a stream.
    pub watch: RateConfig,
    /// New orders of one user an hour; 0 = however many.
    pub creations_per_user_hour: u32,
    /// Tries of one user to use a coupon an hour; 0 = however many.
    pub coupons_per_user_hour: u32,
    /// Orders of one user that hold stock and are not paid; 0 = however many.
    pub open_orders_per_user: u32,
}

const MOST: u32 = 1_000_000;

pub(super) fn read(r: &mut Reader<'_>) -> RateLimitsConfig {
    let mut rate = |per_second, burst| RateConfig {
        often: r.number(per_second, 0..=MOST),
        burst: r.number(burst, 1..=MOST),
    };
    let (read, list) = (
        rate("rate_limits.read_per_second", "rate_limits.read_burst"),
        rate("rate_limits.list_per_second", "rate_limits.list_burst"),
    );
    let (write, create, watch) = (
        rate("rate_limits.write_per_second", "rate_limits.write_burst"),
        rate("rate_limits.create_per_second", "rate_limits.create_burst"),
        rate("rate_limits.watch_per_second", "rate_limits.watch_burst"),
    );
    RateLimitsConfig {
        store: r.parsed("rate_limits.store", rate_store, || RateStore::Local),
        tls_ca: r.optional("rate_limits.tls_ca", |path| Ok(PathBuf::from(path))),
        timeout: r.duration("rate_limits.timeout", ms(1)..=SECOND),
        retry_every: r.duration("rate_limits.retry_every", ms(10)..=HOUR),
        max_keys: r.number("rate_limits.max_keys", 1..=10_000_000),
        exempt_roles: r.parsed("rate_limits.exempt_roles", roles, Vec::new),
        read,
        list,
        write,
        create,
        watch,
        creations_per_user_hour: r.number("rate_limits.creations_per_user_hour", 0..=MOST),
        coupons_per_user_hour: r.number("rate_limits.coupons_per_user_hour", 0..=MOST),
        open_orders_per_user: r.number("rate_limits.open_orders_per_user", 0..=1_000),
    }
}

fn rate_store(text: &str) -> Result<RateStore, String> {
    match text {
        "local" => Ok(RateStore::Local),
        url if is_redis(url) => Ok(RateStore::Redis(Secret::new(url.to_owned()))),
        _ => Err("is neither local nor redis://USER:PASSWORD@HOST:PORT/DATABASE (rediss:// with TLS, \
             redis+cluster://HOST:PORT,HOST:PORT for a cluster); write one"
            .to_owned()),
    }
}

fn roles(text: &str) -> Result<Vec<Role>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|name| Role::parse(name.trim())).collect::<Option<_>>().ok_or_else(|| {
        let names = Role::ALL.map(Role::name).join(", ");
        format!("is not a list of roles; use {names} with commas between, or \"\" for none")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_is_counted_and_who_is_not() {
        assert!(matches!(rate_store("local"), Ok(RateStore::Local)));
        let store = rate_store("redis://:hush@redis:6379/1");
        assert!(matches!(&store, Ok(RateStore::Redis(url)) if url.expose() == "redis://:hush@redis:6379/1"));
        assert!(!format!("{store:?}").contains("hush"));
        for bad in ["", "redis:", "redis://", "memory:", "Local"] {
            assert!(rate_store(bad).is_err(), "{bad}");
        }
        assert_eq!(roles(" "), Ok(Vec::new()));
        assert_eq!(roles("admin, service"), Ok(vec![Role::Admin, Role::Service]));
        assert!(roles("admin,").is_err() && roles("root").is_err());
    }
}
