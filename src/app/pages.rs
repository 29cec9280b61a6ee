//! The pages of `/debug` and `/config`: what an operator needs at night, as JSON. Ids of orders stand there, and nothing
//! personal.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::observed::Sources;
use crate::actor::LiveOrder;
use crate::cluster::{Cluster, Standing};
use crate::config::{Config, Setting};
use crate::domain::membership::Member;
use crate::ops::{Health, Page};
use crate::ports::usage::{Backlog, PoolUsage};

/// Orders in each list of a page.
const LISTED: usize = 20;
/// Nodes in a page; the newest.
const NODES: usize = 200;

/// The settings in force and where they come from.
pub(super) fn config(config: &Config) -> Value {
    let setting = |setting: &Setting| {
        // Texts are shown in quotes.
        let value = serde_json::from_str(&setting.value).unwrap_or_else(|_| json!(setting.value));
        (setting.key.clone(), json!({ "value": value, "from": setting.origin.to_string() }))
    };
    Value::Object(config.shown.iter().map(setting).collect::<Map<_, _>>())
}

/// All pages of `/debug`.
pub(super) fn all(sources: &Arc<Sources>, health: &Arc<Health>, config: &Config) -> Vec<Page> {
    let page = |name, says, make: Box<dyn Fn() -> Value + Send + Sync>| Page { name, says, make };
    let max_live = config.actor.max_live;
    let limits = Limits::of(config);
    let mut pages = Vec::new();
    let from = Arc::clone(sources);
    pages.push(page("actors", "live orders: how many, the busiest, the longest unasked", {
        Box::new(move || actors(&from, max_live))
    }));
    let (from, watched) = (Arc::clone(sources), Arc::clone(health));
    pages.push(page("store", "the store: connections, queue, last answer, what is unfinished", {
        Box::new(move || store(&from, &watched))
    }));
    let from = Arc::clone(sources);
    pages.push(page("limits", "what is used of each limit", Box::new(move || limits.look(&from))));
    let (watched, main) = (Arc::clone(health), tokio::runtime::Handle::current());
    pages.push(page("runtime", "threads and tasks, and whether they move", {
        Box::new(move || runtime(&watched, &main))
    }));
    if let Some(cluster) = sources.cluster.clone() {
        pages.push(page("cluster", "the cluster as this node knows it", Box::new(move || members(&cluster))));
    }
    pages
}

fn actors(sources: &Sources, max_live: usize) -> Value {
    let crowd = sources.orders.crowd(LISTED);
    json!({
        "live": crowd.live, "live_limit": max_live, "busy": crowd.busy, "storing": crowd.storing,
        "settled": crowd.settled, "commands_in_flight": crowd.commands, "watched_orders": sources.orders.watched(),
        "busiest": crowd.busiest.iter().map(live_order).collect::<Vec<_>>(),
        "longest_unasked": crowd.oldest.iter().map(live_order).collect::<Vec<_>>(),
    })
}

fn live_order(order: &LiveOrder) -> Value {
    let calling = order.calling.map(|(step, direction)| format!("{step} {direction}"));
    json!({
        "order_id": order.id.to_string(), "status": order.status.map(|status| status.as_str()),
        "calling": calling, "commands_in_flight": order.commands, "asked_seconds_ago": order.asked_ago.as_secs_f64(),
    })
}

fn store(sources: &Sources, health: &Health) -> Value {
    let usage = sources.store.usage();
    let answered = health
        .store_age()
        .map(|(age, took)| json!({ "seconds_ago": age.as_secs_f64(), "took_seconds": took.as_secs_f64() }));
    let unfinished = sources.backlog().map(|(age, backlog)| {
        let Backlog { unfinished, stuck, attention, quarantined } = backlog;
        json!({
            "sagas": unfinished, "stuck_sagas": stuck, "orders_calling_for_a_person": attention,
            "quarantined_orders": quarantined, "counted_seconds_ago": age.as_secs_f64(),
        })
    });
    json!({
        "last_answer": answered,
        "queue": {
            "waiting": usage.waiting, "limit": usage.waiting_limit,
            "oldest_seconds": sources.store.oldest_wait().as_secs_f64(),
        },
        "connections": usage.pools.iter().map(pool).collect::<Map<_, _>>(),
        "unfinished": unfinished,
    })
}

fn pool(pool: &PoolUsage) -> (String, Value) {
    let PoolUsage { name, idle, used, limit, waiting } = *pool;
    (name.to_owned(), json!({ "idle": idle, "used": used, "limit": limit, "waiting": waiting }))
}

fn runtime(health: &Health, main: &tokio::runtime::Handle) -> Value {
    let metrics = main.metrics();
    let stalled = health.ages().map(|(name, age)| (name.to_owned(), json!(age.as_secs_f64())));
    json!({
        "workers": metrics.num_workers(), "tasks": metrics.num_alive_tasks(),
        "queue_depth": metrics.global_queue_depth(),
        "not_moved_for_seconds": stalled.collect::<Map<_, _>>(), "up_seconds": health.age().as_secs_f64(),
    })
}

/// The limits of a node.
#[derive(Clone, Copy)]
struct Limits {
    live: usize,
    requests: usize,
    watchers: usize,
}

impl Limits {
    fn of(config: &Config) -> Self {
        let grpc = &config.grpc;
        let (requests, watchers) = (grpc.max_concurrent_requests, grpc.max_watchers);
        Self { live: config.actor.max_live, requests, watchers }
    }

    fn look(self, sources: &Sources) -> Value {
        let (requests, watchers) = sources.in_flight.counts();
        let usage = sources.store.usage();
        let used = |used: usize, limit: usize| json!({ "used": used, "limit": limit });
        json!({
            "actor.max_live": used(sources.orders.counts().live, self.live),
            "grpc.max_concurrent_requests": used(requests, self.requests),
            "grpc.max_watchers": used(watchers, self.watchers),
            "store.queue_max": used(usage.waiting, usage.waiting_limit),
        })
    }
}

fn members(cluster: &Cluster) -> Value {
    let standing = cluster.standing();
    let Standing { me, lease_left, view } = &standing;
    let member = |member: &Member| {
        json!({
            "name": member.name, "address": member.address, "incarnation": member.incarnation.to_string(),
            "state": member.state.as_str(), "slots": view.slots_of(member.incarnation), "weight": member.weight,
            "version": member.version, "build": member.build, "live_orders": member.live_orders,
            "started_at": member.started_at.to_rfc3339(), "is_me": member.incarnation == *me,
        })
    };
    json!({
        "view": view.version, "me": me.to_string(), "is_in": cluster.is_in(),
        "lease_left_seconds": lease_left.as_secs_f64(),
        "slots": { "mine": view.slots_of(*me), "unowned": standing.unowned(), "all": view.slots.len() },
        "left_to_hand_over": standing.left_to_hand_over(),
        "members": view.members.values().rev().take(NODES).map(member).collect::<Vec<_>>(),
    })
}
