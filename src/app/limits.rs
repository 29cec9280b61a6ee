//! What a node lets in: limits of callers, and of their connections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use crate::config::{Config, RateConfig, RateStore};
use crate::grpc::{Class, Gate, Quotas, TransportLimits};
use crate::limits::{LocalLimiter, RedisConfig, RedisLimiter};
use crate::ports::limiter::{Limiter, Quota};

const HOUR: Duration = Duration::from_secs(3_600);

/// The limits of callers. Needs a runtime.
pub(super) fn gate(config: &Config) -> anyhow::Result<Gate> {
    let rates = &config.rate_limits;
    let limiter: Arc<dyn Limiter> = match &rates.store {
        RateStore::Local => Arc::new(LocalLimiter::new(rates.max_keys)),
        RateStore::Redis(url) => {
            let redis = RedisConfig {
                url: url.expose().to_owned(),
                tls_ca: authorities(rates.tls_ca.as_deref(), "rate_limits.tls_ca")?,
                patience: rates.timeout,
                retry_every: rates.retry_every,
                max_keys: rates.max_keys,
            };
            Arc::new(RedisLimiter::start(redis).map_err(|problem| anyhow!("rate_limits.store {problem}"))?)
        }
    };
    let classes = [
        (Class::Read, rates.read),
        (Class::List, rates.list),
        (Class::Write, rates.write),
        (Class::Create, rates.create),
        (Class::Watch, rates.watch),
    ];
    let calls = classes.into_iter().filter_map(|(class, rate)| Some((class, per_second(rate)?)));
    let quotas = Quotas {
        calls: calls.collect(),
        creations: per_hour(rates.creations_per_user_hour),
        coupons: per_hour(rates.coupons_per_user_hour),
        open_orders: (rates.open_orders_per_user > 0).then_some(rates.open_orders_per_user),
        exempt: rates.exempt_roles.clone(),
    };
    Ok(Gate::new(limiter, quotas))
}

/// The authorities that a Redis is checked by.
pub(super) fn authorities(path: Option<&Path>, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| anyhow!("cannot read {} ({error}); check {key}", path.display()))
    };
    path.map(read).transpose()
}

fn per_second(rate: RateConfig) -> Option<Quota> {
    let every = Duration::from_secs(1).checked_div(rate.often)?;
    Some(Quota { every, burst: rate.burst })
}

fn per_hour(often: u32) -> Option<Quota> {
    Some(Quota { every: HOUR.checked_div(often)?, burst: often })
}

/// The limits of connections to the public API.
pub(super) fn transport(config: &Config) -> TransportLimits {
    let transport = &config.grpc.transport;
    let some = |time: Duration| (!time.is_zero()).then_some(time);
    TransportLimits {
        max_header_bytes: transport.max_header_bytes,
        max_connections: transport.max_connections,
        max_connections_per_address: transport.max_connections_per_address,
        handshake_timeout: transport.handshake_timeout,
        write_timeout: transport.write_timeout,
        max_other_streams: transport.max_other_streams,
        max_other_streams_per_connection: transport.max_other_streams_per_connection,
        idle_timeout: some(transport.idle_timeout),
        max_age: some(transport.max_connection_age),
        age_grace: transport.max_connection_age_grace,
        max_pending_resets: transport.max_pending_resets,
        max_local_resets: transport.max_local_resets,
        max_resets_per_second: transport.max_resets_per_second,
        max_control_frames_per_second: transport.max_control_frames_per_second,
    }
}
