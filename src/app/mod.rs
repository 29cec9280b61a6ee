//! Starts the parts in order and stops them in reverse. The only place that knows concrete types, and that reads the
//! machine's clock.

mod cluster;
mod stores;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::SubsecRound;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::actor::{ActorConfig, CrashPoint, Orders, Parts};
use crate::cache::{MemoryCache, NoCache};
use crate::clients::grpc::{
    BreakerConfig, ClientConfig, InventoryClient, PaymentClient, ProductClient, ShippingClient, UserClient,
};
use crate::clients::sim::{self, SimConfig, SimError, Simulator};
use crate::cluster::Cluster;
use crate::config::{CacheUrl, CollaboratorUrl, Config, Repairs, SimulatorJournal, StoreUrl};
use crate::domain::Timestamp;
use crate::domain::ids::IdKey;
use crate::domain::pricing::Pricing;
use crate::domain::react::Policy;
use crate::domain::risk::{Past, RiskCheck, RiskRules};
use crate::grpc::{
    self, AdminApi, GrpcConfig, InFlight, OrderApi, OrderApiConfig, PeerServices, RequestLimits, WatchLimits,
};
use crate::ops;
use crate::ports::Collaborators;
use crate::ports::cache::OrderCache;
use crate::ports::clock::Clock;
use crate::ports::placement::Alone;
use crate::ports::store::Owner;
use crate::steps::StepLimits;
use crate::telemetry::Telemetry;
use crate::verify::{self, Witness};

pub use stores::postgres_config;

/// How often samples of histograms are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long a stopping listener may take to send its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The machine's clock.
#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        chrono::Utc::now().trunc_subsecs(6)
    }
}

/// A running node.
pub struct Node {
    grpc_address: SocketAddr,
    ops_address: SocketAddr,
    orders: Arc<Orders>,
    /// The other nodes, if there may be some.
    cluster: Option<Joined>,
    draining: CancellationToken,
    stopping: CancellationToken,
    ops_stopping: CancellationToken,
    grpc: JoinHandle<Result<(), String>>,
    in_flight: InFlight,
    ops: JoinHandle<Result<(), String>>,
    upkeep: JoinHandle<()>,
    simulator: Option<Simulator>,
    grace: Duration,
}

/// What a node of a cluster has besides.
struct Joined {
    cluster: Arc<Cluster>,
    peers: JoinHandle<Result<(), String>>,
    peers_stopping: CancellationToken,
    peers_in_flight: InFlight,
    drain_timeout: Duration,
}

impl Node {
    /// Binds its listeners, opens its store and begins to serve.
    ///
    /// # Errors
    /// What stands in the way, as one sentence.
    pub async fn start(config: Config, telemetry: Telemetry) -> anyhow::Result<Self> {
        Self::start_by(config, telemetry, Arc::new(SystemClock)).await
    }

    /// As [`Self::start`], on a machine with this clock.
    ///
    /// # Errors
    /// As of [`Self::start`].
    pub async fn start_by(
        config: Config,
        telemetry: Telemetry,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let crash_at = match &config.testing.crash_at {
            None => None,
            Some(name) => Some(CrashPoint::parse(name).ok_or_else(|| {
                anyhow!("testing.crash_at is {name}, which is no crash point; write one like create.charge.forward.after_effect")
            })?),
        };
        let pricing: Arc<dyn Pricing> = Arc::new(crate::config::price_book(&config.pricing)?);
        // Ports first: a port in use must not leave a half-opened store behind.
        let grpc_listener = bind(config.grpc.listen, "grpc.listen").await?;
        let ops_listener = bind(config.ops.listen, "ops.listen").await?;
        let (grpc_address, ops_address) = (grpc_listener.local_addr()?, ops_listener.local_addr()?);
        let peer_listener = match config.cluster.enabled {
            true => Some(bind(config.peer.listen, "peer.listen").await?),
            false => None,
        };
        // The store first: whoever has it is named, and a file that is not ours keeps its folder clean.
        let opened = stores::open(&config).await?;
        let store = Arc::clone(&opened.store);
        let (collaborators, simulator) = collaborators(&config, &clock)?;
        let cluster = match &peer_listener {
            Some(listener) => Some(cluster::join(&config, &opened, listener.local_addr()?).await?),
            None => None,
        };
        let placement = match &cluster {
            Some(cluster) => cluster.placement(),
            // Its clock does not stand still between two lives.
            None => {
                Arc::new(Alone(Owner { epoch: opened.epoch, incarnation: clock.now().timestamp_micros() }))
            }
        };
        let key = IdKey(config.ids.key.expose().as_bytes().to_vec());
        let orders = Orders::start(Parts {
            store: Arc::clone(&store),
            cache: cache(&config),
            collaborators: collaborators.clone(),
            clock: Arc::clone(&clock),
            key: key.clone(),
            policy: policy(&config),
            limits: StepLimits {
                timeout: config.saga.step_timeout,
                reservation_ttl: config.saga.reservation_ttl,
            },
            config: actor_config(&config),
            placement,
            crash_at,
        })
        .await
        .map_err(|error| anyhow!("the order actors cannot be started: {error}"))?;
        if let Some(cluster) = &cluster {
            cluster.start(Arc::clone(&orders));
        }
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let only_here = config.ops.repairs == Repairs::Loopback;
        let (admin_orders, limits) = (Arc::clone(&orders), api_config(&config));
        let admin_api =
            AdminApi::new(admin_orders, orders.clock(), key.clone(), limits, cluster.clone(), only_here);
        let admin = (config.ops.repairs != Repairs::None)
            .then(|| admin_api.clone().into_routes(config.grpc.max_message_bytes));
        let api = OrderApi::new(
            Arc::clone(&orders),
            collaborators,
            pricing,
            risk(&config),
            key,
            api_config(&config),
            cluster.clone(),
            stopping.clone(),
        );
        let listener_config = GrpcConfig {
            max_message_bytes: config.grpc.max_message_bytes,
            max_streams_per_connection: config.grpc.max_streams_per_connection,
            max_deadline: config.grpc.max_deadline,
            keepalive: config.grpc.keepalive,
            reflection: config.grpc.reflection,
        };
        let in_flight = api.in_flight();
        let mut joined = None;
        if let (Some(cluster), Some(listener)) = (&cluster, peer_listener) {
            let (cluster, api) = (Arc::clone(cluster), api.for_peers());
            let (peers_stopping, peers_in_flight) = (CancellationToken::new(), api.in_flight());
            let tls = cluster::tls(&config)?;
            let services =
                PeerServices { orders: api, admin: admin_api.for_peers(), cluster: cluster.clone() };
            let (limits, stopped) = (listener_config.clone(), peers_stopping.clone());
            let peers = tokio::spawn(async move {
                grpc::serve_peers(listener, services, &limits, tls, stopped.cancelled_owned()).await
            });
            let drain_timeout = config.cluster.drain_timeout;
            joined = Some(Joined { cluster, peers, peers_stopping, peers_in_flight, drain_timeout });
        }
        let (grpc_draining, grpc_stopping) = (draining.clone(), stopping.clone());
        let grpc = tokio::spawn(async move {
            let (draining, stopping) = (grpc_draining.cancelled_owned(), grpc_stopping.cancelled_owned());
            grpc::serve(grpc_listener, api, &listener_config, draining, stopping).await
        });
        let ops_stopping = CancellationToken::new();
        let ops = tokio::spawn(ops::serve(
            ops_listener,
            store,
            admin,
            telemetry.clone(),
            readiness(&draining, cluster),
            ops_stopping.clone().cancelled_owned(),
        ));
        let upkeep = tokio::spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tick.tick().await;
                telemetry.upkeep();
            }
        });
        tracing::info!(grpc = %grpc_address, ops = %ops_address, "serving");
        let grace = config.grpc.shutdown_grace;
        Ok(Self {
            grpc_address,
            ops_address,
            orders,
            cluster: joined,
            draining,
            stopping,
            ops_stopping,
            grpc,
            in_flight,
            ops,
            upkeep,
            simulator,
            grace,
        })
    }

    /// Where it answers gRPC.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where it answers operators.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops_address
    }

    /// Its orders.
    pub fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// The simulator in this process, if a collaborator is simulated.
    pub fn simulator(&self) -> Option<&Simulator> {
        self.simulator.as_ref()
    }

    /// Ends at once, without finishing anything.
    fn abandon(&self) {
        if let Some(joined) = &self.cluster {
            joined.cluster.abandon();
            joined.peers.abort();
        }
        self.draining.cancel();
        self.grpc.abort();
        self.ops.abort();
        self.upkeep.abort();
        if let Some(simulator) = &self.simulator {
            simulator.close();
        }
    }

    /// Hands over what other nodes can take within `cluster.drain_timeout`; then takes no new work, finishes what runs
    /// within `grpc.shutdown_grace`, and closes the store.
    ///
    /// # Errors
    /// When a listener had failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.draining.cancel();
        if let Some(joined) = &self.cluster
            && !joined.cluster.leave(joined.drain_timeout).await
        {
            tracing::warn!(
                "stopping before everything was handed over; other nodes take it when this one is gone"
            );
        }
        let started = tokio::time::Instant::now();
        self.orders.quiesce();
        self.stopping.cancel();
        // Requests in flight are answered while sagas come to rest; what does not is stored with its intent.
        // A stream that a client keeps open (health, reflection) is not waited for once the last request is answered.
        let in_flight = self.in_flight.clone();
        let quiet = async {
            in_flight.none().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let served = tokio::select! {
            served = &mut self.grpc => Ok(served),
            _quiet_or_late = tokio::time::timeout(self.grace, quiet) => Err(()),
        };
        self.orders.stop(self.grace.saturating_sub(started.elapsed())).await;
        if let Some(Joined { cluster, peers, peers_stopping, peers_in_flight, .. }) = &mut self.cluster {
            cluster.end().await;
            // Whoever still forwards calls here is told to ask elsewhere.
            let _quiet = tokio::time::timeout(LAST_WORDS, peers_in_flight.none()).await;
            peers_stopping.cancel();
            let _served = tokio::time::timeout(LAST_WORDS, &mut *peers).await;
            peers.abort();
        }
        self.ops_stopping.cancel();
        let ops = tokio::time::timeout(LAST_WORDS, &mut self.ops).await.map_err(drop);
        self.grpc.abort();
        self.ops.abort();
        self.upkeep.abort();
        if let Some(simulator) = &self.simulator {
            // Delayed calls may keep it alive; the next node shall have its journal at once.
            simulator.close();
        }
        for ended in [served, ops].into_iter().flatten() {
            ended.context("a listener's task failed")?.map_err(|error| anyhow!(error))?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Whether the node should be sent calls, or why not.
fn readiness(draining: &CancellationToken, cluster: Option<Arc<Cluster>>) -> ops::Readiness {
    let draining = draining.clone();
    Arc::new(move || match &cluster {
        _ if draining.is_cancelled() => Err("stopping\n"),
        Some(cluster) if !cluster.is_in() => Err("the node's lease in the cluster is over\n"),
        _ => Ok(()),
    })
}

/// Runs a node until `shutdown` is ready.
///
/// # Errors
/// When it cannot start, or a listener fails.
pub async fn serve(
    config: Config,
    telemetry: Telemetry,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut node = Node::start(config, telemetry).await?;
    tokio::pin!(shutdown);
    let cluster = node.cluster.as_ref().map(|joined| Arc::clone(&joined.cluster));
    let died = async {
        match &cluster {
            Some(cluster) => cluster.died().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = &mut shutdown => node.stop().await,
        why = died => {
            // Whatever it would finish now, another node has taken over.
            node.abandon();
            Err(anyhow!("this node ends: {why}; start it again once it is reached"))
        }
        failed = &mut node.grpc => {
            node.orders.stop(node.grace).await;
            failed.context("the gRPC listener's task failed")?.map_err(|error| anyhow!(error))?;
            Err(anyhow!("the gRPC listener ended by itself"))
        }
    }
}

/// Runs the simulated collaborators as one server until `shutdown` is ready.
///
/// # Errors
/// When it cannot start.
pub async fn simulate(
    config: Config,
    _telemetry: Telemetry,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let listener = bind(config.simulator.listen, "simulator.listen").await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let journal = match &config.simulator.journal {
        SimulatorJournal::File(path) => Some(path.clone()),
        SimulatorJournal::Auto | SimulatorJournal::None => None,
    };
    let simulator = simulator(&config, &clock, journal)?;
    tracing::info!(grpc = %listener.local_addr()?, "simulating inventory, product, user, payment and shipping");
    sim::server::serve(Arc::new(simulator), listener, shutdown)
        .await
        .context("the simulator's listener failed")?;
    Ok(())
}

/// Applies migrations to the configured store and tells which.
///
/// # Errors
/// When the store cannot be opened or a migration fails.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let applied = stores::migrate(&config).await?;
    if applied.is_empty() {
        tracing::info!("the store is up to date");
    }
    stores::report(&applied);
    Ok(())
}

/// Checks the invariants on the configured store, reading only, until its last order or until `stop` is ready.
///
/// # Errors
/// When there is no such store or it cannot be read.
pub async fn verify(
    config: &Config,
    options: &verify::Options,
    witness: &mut impl Witness,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<verify::Report> {
    let store = stores::open_reader(config).await?;
    let ended = verify::run(&*store, &SystemClock, options, witness, stop).await;
    store.close().await;
    Ok(ended?)
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow!("cannot listen on {address} ({error}); free the port or set another {key}"))
}

fn simulator(
    config: &Config,
    clock: &Arc<dyn Clock>,
    journal: Option<PathBuf>,
) -> Result<Simulator, SimError> {
    let clock = Arc::clone(clock);
    let limits = SimConfig { max_records: config.simulator.max_ledger, ..SimConfig::default() };
    Simulator::open(limits, Arc::new(move || clock.now()), journal)
}

/// Where the simulator within a node keeps what it did beside a store that has no file.
const JOURNAL_WITHOUT_FILE: &str = "./data/order-service.simulator.jsonl";

/// Where the simulator within a node keeps what it did.
fn journal_of_node(config: &Config) -> Option<PathBuf> {
    match &config.simulator.journal {
        SimulatorJournal::None => None,
        SimulatorJournal::File(path) => Some(path.clone()),
        SimulatorJournal::Auto => match &config.store.url {
            StoreUrl::Sqlite(store) => {
                let mut path = store.clone().into_os_string();
                path.push(".simulator.jsonl");
                Some(PathBuf::from(path))
            }
            // A second node in the same folder is refused: each would have stock and money of its own.
            StoreUrl::Postgres(_) => Some(PathBuf::from(JOURNAL_WITHOUT_FILE)),
        },
    }
}

/// The five collaborators, and the simulator that stands behind those that are simulated.
fn collaborators(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Collaborators, Option<Simulator>)> {
    let urls = &config.collaborators;
    let client = |url: &str| ClientConfig {
        connect_timeout: urls.connect_timeout,
        timeout: urls.timeout,
        breaker: BreakerConfig { failures_to_open: urls.breaker_failures, open_for: urls.breaker_open_for },
        max_message_bytes: urls.max_message_bytes,
        read_retries: urls.read_retries,
        ..ClientConfig::new(url)
    };
    let all = [&urls.inventory, &urls.product, &urls.user, &urls.payment, &urls.shipping];
    let simulated = all.contains(&&CollaboratorUrl::Simulated);
    let journal = if simulated { journal_of_node(config) } else { None };
    if simulated && journal.is_none() {
        tracing::warn!(
            "some collaborators are simulated in this process: their stock and money are forgotten when it ends"
        );
    }
    let simulator = simulator(config, clock, journal)?;
    let mut all = simulator.collaborators();
    macro_rules! connect {
        ($url:ident, $part:ident, $client:ident) => {
            match &urls.$url {
                CollaboratorUrl::Simulated => {}
                CollaboratorUrl::Grpc(url) => all.$part = Arc::new($client::new(&client(url))?),
            }
        };
    }
    connect!(inventory, inventory, InventoryClient);
    connect!(product, products, ProductClient);
    connect!(user, users, UserClient);
    connect!(payment, payments, PaymentClient);
    connect!(shipping, shipping, ShippingClient);
    Ok((all, simulated.then_some(simulator)))
}

fn cache(config: &Config) -> Arc<dyn OrderCache> {
    match config.cache.url {
        CacheUrl::Memory => Arc::new(MemoryCache::new(config.cache.max_orders)),
        CacheUrl::None => Arc::new(NoCache),
    }
}

fn policy(config: &Config) -> Policy {
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

fn risk(config: &Config) -> Arc<dyn RiskCheck> {
    let risk = &config.risk;
    let (window, at_most) = (risk.window, risk.max_orders_per_user);
    Arc::new(RiskRules {
        amounts: risk.hold_from_amount.clone(),
        orders: (at_most > 0).then_some(Past { window, at_most }),
        countries: risk.hold_mismatched_countries,
    })
}

fn actor_config(config: &Config) -> ActorConfig {
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
        watch_buffer: config.watch.buffer,
    }
}

fn api_config(config: &Config) -> OrderApiConfig {
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
