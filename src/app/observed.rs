//! What a node lets operators see: health, gauges that are read when they are asked for, and pages.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cluster::BUILD;
use super::pages;
use crate::actor::Orders;
use crate::cluster::Cluster;
use crate::config::{CacheUrl, Config, DebugFrom, RateStore, StoreUrl};
use crate::grpc::{AdminRoutes, InFlight};
use crate::ops::{Attached, Drain, Health, HealthConfig, Limits, Look, Notifier, Ops, Parts, ShownTo};
use crate::ports::store::OrderStore;
use crate::ports::usage::Backlog;
use crate::telemetry::Telemetry;
use crate::telemetry::catalog::Of;

/// What is unfinished is counted up to here.
const COUNTED: u32 = 10_000;
/// Whoever owns this slot counts what is unfinished, for all nodes.
const COUNTS: u16 = 0;

/// The listener for operators, and what watches the node for them.
pub(super) struct Watched {
    health: Arc<Health>,
    ops: Ops,
    telemetry: Telemetry,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Watched {
    /// Answers operators from here on, while the node starts. Needs the runtime of the orders.
    pub(super) fn start(
        config: &Config,
        listener: TcpListener,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Self> {
        let ops = &config.ops;
        let health = Health::new(HealthConfig {
            ping_every: ops.store_ping_every,
            stale_after: ops.store_stale_after,
            stalled_after: ops.stalled_after,
        });
        let parts_there = [
            (Of::Postgres, matches!(config.store.url, StoreUrl::Postgres(_))),
            (Of::Cluster, config.cluster.enabled),
            (Of::Redis, matches!(config.rate_limits.store, RateStore::Redis(_))),
            (Of::Copies, matches!(config.cache.url, CacheUrl::Redis(_))),
            (Of::Spans, config.tracing.is_on()),
        ];
        parts_there.into_iter().filter(|(_, is_there)| *is_there).for_each(|(part, _)| telemetry.begin(part));
        let (version, rustc) = (env!("CARGO_PKG_VERSION"), env!("ORDER_SERVICE_RUSTC"));
        metrics::gauge!("order_build_info", "version" => version, "build" => BUILD, "rustc" => rustc)
            .set(1.0);
        let (target, profile) = (env!("ORDER_SERVICE_TARGET"), env!("ORDER_SERVICE_PROFILE"));
        let parts = Parts {
            health: Arc::clone(&health),
            telemetry: telemetry.clone(),
            limits: Limits {
                connections: ops.max_connections,
                header_bytes: ops.max_header_bytes,
                request_timeout: ops.request_timeout,
                idle_timeout: ops.idle_timeout,
            },
            shown_to: match ops.debug {
                DebugFrom::Loopback => ShownTo::Loopback,
                DebugFrom::Any => ShownTo::Anybody,
                DebugFrom::None => ShownTo::Nobody,
            },
            config: pages::config(config),
            build: json!({
                "version": version, "build": BUILD, "rustc": rustc, "target": target, "profile": profile,
            }),
            notifier: notifier()?,
        };
        let ops = Ops::start(listener, parts).context("the ops listener cannot be started")?;
        let stop = CancellationToken::new();
        let watched =
            Self { health, ops, telemetry: telemetry.clone(), _stops: stop.clone().drop_guard(), stop };
        watched.spawn(watched.health.beat("main"));
        Ok(watched)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(work));
    }

    pub(super) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Says what the node does until it has started.
    pub(super) fn begins(&self, stage: &'static str) {
        self.health.begins(stage);
    }

    /// The store has been opened: it is asked now and then whether it is still there.
    pub(super) fn ask(&self, store: &Arc<dyn OrderStore>) {
        self.health.store_answered(Duration::ZERO);
        tokio::spawn(Arc::clone(&self.health).ask(Arc::clone(store), self.stop.clone()));
    }

    /// The node has started.
    pub(super) fn has_started(&self, config: &Config, sources: Sources, admin: Option<AdminRoutes>) {
        let sources = Arc::new(sources);
        let mut looks: Vec<(&'static str, Look)> = Vec::new();
        if let Some(cluster) = &sources.cluster {
            let beat = self.health.beat("cluster");
            let stop = self.stop.clone();
            cluster.spawn(async move {
                stop.run_until_cancelled(beat).await;
            });
            let cluster = Arc::clone(cluster);
            looks.push(("lease", Box::new(move || lease(&cluster))));
        }
        self.spawn(Arc::clone(&sources).count(config.ops.backlog_every, config.ops.stuck_after));
        let gauges = Gauges {
            sources: Arc::clone(&sources),
            health: self.health(),
            telemetry: self.telemetry.clone(),
            main: Handle::current(),
            limits: [
                ("order_actors_live_limit", config.actor.max_live),
                ("order_grpc_requests_in_flight_limit", config.grpc.max_concurrent_requests),
                ("order_grpc_connections_limit", config.grpc.transport.max_connections),
                ("order_watchers_limit", config.grpc.max_watchers),
            ],
        };
        self.ops.attach(Attached {
            admin,
            main: Handle::current(),
            pages: pages::all(&sources, &self.health, config),
            drain: drain(sources.cluster.clone()),
            sample: Box::new(move || gauges.sample()),
        });
        self.health.has_started(looks);
    }

    /// Answers no more, at once.
    pub(super) fn abort(&self) {
        self.ops.abort();
        self.stop.cancel();
    }

    /// Answers no more; waits until what runs has ended, for at most `patience`.
    pub(super) async fn stop(self, patience: Duration) {
        self.stop.cancel();
        self.ops.stop(patience).await;
    }
}

/// Whether the node takes part in its cluster.
fn lease(cluster: &Cluster) -> Result<String, String> {
    let standing = cluster.standing();
    match cluster.is_in() {
        // Whoever drained it may have asked another node to do so.
        true if standing.is_leaving() => Err(String::from("the node was told to leave the cluster")),
        true => Ok(format!("good for {:.1?} more, view {}", standing.lease_left, standing.view.version)),
        false => Err(String::from("the node's lease in the cluster is over")),
    }
}

fn drain(cluster: Option<Arc<Cluster>>) -> Drain {
    let (begins, is_final) = (cluster.clone(), cluster.is_some());
    Drain {
        begin: Box::new(move || begins.iter().for_each(Cluster::begin_drain)),
        left: Box::new(move || cluster.as_ref().map_or(0, |cluster| cluster.standing().left_to_hand_over())),
        is_final,
    }
}

/// Whoever started this process, if it wants to know how the node does.
fn notifier() -> anyhow::Result<Option<Notifier>> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
    let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours).map(Duration::from_micros);
    let notifier = Notifier::new(&path, watchdog);
    notifier.map(Some).map_err(|error| anyhow!("NOTIFY_SOCKET is {} ({error})", path.display()))
}

/// What there is to see of a node.
pub(super) struct Sources {
    pub(super) store: Arc<dyn OrderStore>,
    pub(super) orders: Arc<Orders>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) in_flight: InFlight,
    /// What was unfinished, and when; none where another node counts that.
    backlog: Mutex<Option<(Instant, Backlog)>>,
}

impl Sources {
    pub(super) fn new(
        (store, orders): (Arc<dyn OrderStore>, Arc<Orders>),
        cluster: Option<Arc<Cluster>>,
        in_flight: InFlight,
    ) -> Self {
        Self { store, orders, cluster, in_flight, backlog: Mutex::default() }
    }

    /// What was unfinished when that was counted last, and how long ago that is.
    pub(super) fn backlog(&self) -> Option<(Duration, Backlog)> {
        let counted = *self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        counted.map(|(at, backlog)| (at.elapsed(), backlog))
    }

    /// Counts now and then what is unfinished, for ever. Of nodes that share a store, one does.
    async fn count(self: Arc<Self>, every: Duration, stuck_after: Duration) {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stuck_after = chrono::Duration::from_std(stuck_after).unwrap_or(chrono::Duration::MAX);
        loop {
            tick.tick().await;
            let counted = match self.orders.owns_slot(COUNTS) {
                false => None,
                true => {
                    let now = self.orders.clock().now();
                    let before =
                        now.checked_sub_signed(stuck_after).unwrap_or(crate::domain::Timestamp::MIN_UTC);
                    match self.store.backlog(before, COUNTED).await {
                        Ok(backlog) => Some((Instant::now(), backlog)),
                        // What was counted last is the best that is known.
                        Err(error) => {
                            tracing::debug!(%error, "what is unfinished could not be counted");
                            continue;
                        }
                    }
                }
            };
            *self.backlog.lock().unwrap_or_else(PoisonError::into_inner) = counted;
        }
    }
}

/// Gauges that nobody needs between two looks.
struct Gauges {
    sources: Arc<Sources>,
    health: Arc<Health>,
    telemetry: Telemetry,
    main: Handle,
    limits: [(&'static str, usize); 4],
}

fn set(name: &'static str, value: usize) {
    metrics::gauge!(name).set(value as f64);
}

fn flag(name: &'static str, is_so: bool) {
    metrics::gauge!(name).set(if is_so { 1.0 } else { 0.0 });
}

fn time(name: &'static str, time: Duration) {
    metrics::gauge!(name).set(time.as_secs_f64());
}

impl Gauges {
    fn sample(&self) {
        for (name, limit) in self.limits {
            set(name, limit);
        }
        set("order_actors_live", self.sources.orders.counts().live);
        let (requests, watchers) = self.sources.in_flight.counts();
        set("order_grpc_requests_in_flight", requests);
        set("order_watchers", watchers);
        self.health();
        self.store();
        self.runtime();
        if let Some(cluster) = &self.sources.cluster {
            let standing = cluster.standing();
            flag("order_cluster_is_in", cluster.is_in());
            time("order_cluster_lease_left_seconds", standing.lease_left);
            metrics::gauge!("order_cluster_view_version").set(standing.view.version as f64);
            set("order_cluster_nodes", standing.view.all_live().count());
            set("order_cluster_slots", standing.view.slots_of(standing.me));
            set("order_cluster_slots_unowned", standing.unowned());
        }
    }

    fn health(&self) {
        let (health, ready) = (&self.health, self.health.ready());
        flag("order_node_ready", ready.why_not().is_none());
        flag("order_node_live", health.live().why_not().is_none());
        flag("order_node_draining", health.is_draining());
        for (runtime, age) in health.ages() {
            metrics::gauge!("order_runtime_beat_age_seconds", "runtime" => runtime).set(age.as_secs_f64());
        }
        let is_up = ready.0.iter().any(|(name, found)| *name == "store" && found.is_ok());
        flag("order_store_up", is_up);
        if let Some((age, took)) = health.store_age() {
            time("order_store_reached_age_seconds", age);
            time("order_store_ping_seconds", took);
        }
    }

    fn store(&self) {
        let usage = self.sources.store.usage();
        set("order_store_queue_depth", usage.waiting);
        set("order_store_queue_limit", usage.waiting_limit);
        time("order_store_queue_oldest_seconds", self.sources.store.oldest_wait());
        for pool in usage.pools {
            let name = pool.name;
            metrics::gauge!("order_store_connections", "pool" => name, "state" => "idle")
                .set(pool.idle as f64);
            metrics::gauge!("order_store_connections", "pool" => name, "state" => "used")
                .set(pool.used as f64);
            metrics::gauge!("order_store_connections_limit", "pool" => name).set(pool.limit as f64);
            if let Some(waiting) = pool.waiting {
                metrics::gauge!("order_store_connections_waiting", "pool" => name).set(waiting as f64);
            }
        }
        let backlog = self.sources.backlog().map(|(_, backlog)| backlog).unwrap_or_default();
        for (name, count) in [
            ("order_sagas_unfinished", backlog.unfinished),
            ("order_sagas_stuck", backlog.stuck),
            ("orders_awaiting_attention", backlog.attention),
            ("orders_quarantined", backlog.quarantined),
        ] {
            metrics::gauge!(name).set(count as f64);
        }
    }

    fn runtime(&self) {
        let runtime = self.main.metrics();
        set("order_runtime_workers", runtime.num_workers());
        set("order_runtime_tasks", runtime.num_alive_tasks());
        set("order_runtime_queue_depth", runtime.global_queue_depth());
        let busy = (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
        self.telemetry.count_time("order_runtime_busy_seconds_total", busy);
    }
}
