//! What the parts of a node are told of its configuration.

use std::sync::Arc;

use crate::actor::ActorConfig;
use crate::cache::{MemoryCache, NoCache};
use crate::config::{CacheUrl, Config};
use crate::domain::react::Policy;
use crate::domain::risk::{Past, RiskCheck, RiskRules};
use crate::grpc::{OrderApiConfig, RequestLimits, WatchLimits};
use crate::ports::cache::OrderCache;

pub(super) fn cache(config: &Config) -> Arc<dyn OrderCache> {
    match config.cache.url {
        CacheUrl::Memory | CacheUrl::Redis(_) => Arc::new(MemoryCache::new(config.cache.max_orders)),
        CacheUrl::None => Arc::new(NoCache),
    }
}

pub(super) fn policy(config: &Config) -> Policy {
    let saga = &config.saga;
    Policy {
        retry_initial: saga.retry_initial,
        retry_max: saga.retry_max,
        forward_tries: saga.forward_tries,
        attention_after_tries: saga.attention_after_tries,
        charge_settle_lag: saga.charge_settle_lag,
        run_ahead: saga.run_ahead,
        reservation_ttl: saga.reservation_ttl,
        expire_after: saga.expire_after,
        unknown_attention_after: saga.unknown_attention_after,
    }
}

pub(super) fn risk(config: &Config) -> Arc<dyn RiskCheck> {
    let risk = &config.risk;
    let (window, at_most) = (risk.window, risk.max_orders_per_user);
    Arc::new(RiskRules {
        amounts: risk.hold_from_amount.clone(),
        orders: (at_most > 0).then_some(Past { window, at_most }),
        countries: risk.hold_mismatched_countries,
    })
}

pub(super) fn actor_config(config: &Config) -> ActorConfig {
    let (actor, saga) = (&config.actor, &config.saga);
    ActorConfig {
        max_live: actor.max_live,
        max_commands_per_order: u32::try_from(actor.max_commands_per_order).unwrap_or(u32::MAX >> 1),
        idle_after: actor.idle_after,
        sweep_every: actor.sweep_every,
        max_failures: actor.max_failures,
        failure_backoff: actor.failure_backoff,
        failure_backoff_max: actor.failure_backoff_max,
        quarantine_for: actor.quarantine_for,
        resume_every: saga.resume_every,
        resume_batch: u32::try_from(saga.resume_batch).unwrap_or(u32::MAX),
        resume_concurrency: saga.resume_concurrency,
        timers_batch: u32::try_from(saga.timers_batch).unwrap_or(u32::MAX),
        max_wait: config.grpc.max_deadline,
        warm_orders: match config.cache.url {
            CacheUrl::None => 0,
            CacheUrl::Memory | CacheUrl::Redis(_) => config.cache.warm_orders,
        },
        watch_buffer: config.watch.buffer,
    }
}

pub(super) fn api_config(config: &Config) -> OrderApiConfig {
    let (grpc, limits) = (&config.grpc, &config.limits);
    OrderApiConfig {
        create_wait: config.create.wait,
        default_deadline: grpc.default_deadline,
        max_deadline: grpc.max_deadline,
        call_timeout: config.collaborators.timeout,
        max_concurrent_requests: grpc.max_concurrent_requests,
        max_watchers: grpc.max_watchers,
        watch: WatchLimits { buffer: config.watch.buffer, slow_after: config.watch.slow_after },
        limits: RequestLimits {
            items_per_order: limits.items_per_order,
            max_quantity: limits.max_quantity,
            notes_chars: limits.notes_chars,
            metadata_keys: limits.metadata_keys,
            metadata_bytes: limits.metadata_bytes,
            page_size_default: limits.page_size_default,
            page_size_max: limits.page_size_max,
        },
    }
}
