//! A node: its parts put together in order, and stopped in reverse.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::collaborators::collaborators;
use super::observed::{Sources, Watched};
use super::settings::{actor_config, api_config, cache, policy, risk};
use super::{SystemClock, bind, callers, cluster, limits, privacy, stores};
use crate::actor::{CrashPoint, Orders, Parts, SkippedUndo};
use crate::clients::sim::Simulator;
use crate::cluster::Cluster;
use crate::config::{Config, Repairs};
use crate::domain::ids::IdKey;
use crate::domain::pricing::Pricing;
use crate::grpc::{self, AdminApi, GrpcConfig, InFlight, OrderApi, PeerServices, Tokens};
use crate::ports::clock::Clock;
use crate::ports::placement::Alone;
use crate::ports::store::Owner;
use crate::steps::StepLimits;
use crate::telemetry::{Exporter, Program, Telemetry};

/// How often samples of histograms are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long a stopping listener may take to send its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running node.
pub struct Node {
    grpc_address: SocketAddr,
    ops_address: SocketAddr,
    orders: Arc<Orders>,
    /// The other nodes, if there may be some.
    cluster: Option<Joined>,
    draining: CancellationToken,
    stopping: CancellationToken,
    grpc: JoinHandle<Result<(), String>>,
    in_flight: InFlight,
    watched: Watched,
    upkeep: JoinHandle<()>,
    simulator: Option<Simulator>,
    grace: Duration,
    spans: Option<Exporter>,
}

/// What a node of a cluster has besides.
struct Joined {
    cluster: Arc<Cluster>,
    peers: JoinHandle<Result<(), String>>,
    /// The listener for other nodes has ended.
    served: CancellationToken,
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
        // Boxed: it holds every part of a node while it puts them together.
        Box::pin(Self::assemble(config, telemetry, clock)).await
    }

    async fn assemble(config: Config, telemetry: Telemetry, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let crash_at = match &config.testing.crash_at {
            None => None,
            Some(name) => Some(CrashPoint::parse(name).ok_or_else(|| {
                anyhow!("testing.crash_at is {name}, which is no crash point; write one like create.charge.forward.after_effect")
            })?),
        };
        let skip_undo = match &config.testing.skip_undo {
            None => None,
            Some(name) => {
                let skipped = SkippedUndo::parse(name).ok_or_else(|| {
                    anyhow!(
                        "testing.skip_undo is {name}, which no saga undoes; write one like create.reserve"
                    )
                })?;
                tracing::warn!(
                    station = name,
                    "testing.skip_undo is set: THIS NODE IS BROKEN ON PURPOSE and leaves money or stock behind"
                );
                Some(skipped)
            }
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
        let name = cluster::name(&config, peer_listener.as_ref(), grpc_address);
        let program = Program { service: "order-service", node: name };
        let spans = Exporter::start(&config.tracing, program, Arc::clone(&clock)).await?;
        let watched = Watched::start(&config, ops_listener, &telemetry)?;
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let verifier = callers::verifier(&config, &stopping).await?;
        let secured = callers::secured(&config, &stopping).await?;
        // The store first: whoever has it is named, and a file that is not ours keeps its folder clean.
        watched.begins("opening the store");
        let mut opened = stores::open(&config).await?;
        super::cache::put_before(&config, &mut opened, &clock)?;
        let custodian = privacy::protect(&config, &mut opened, &clock).await;
        let store = Arc::clone(&opened.store);
        watched.ask(&store);
        watched.begins("joining the cluster");
        let (collaborators, simulator) = collaborators(&config, &clock)?;
        let cluster = match &peer_listener {
            Some(listener) => Some(cluster::join(&config, &opened, listener.local_addr()?).await?),
            None => None,
        };
        watched.begins("starting the orders");
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
            skip_undo,
        })
        .await
        .map_err(|error| anyhow!("the order actors cannot be started: {error}"))?;
        if let Some(cluster) = &cluster {
            cluster.start(Arc::clone(&orders));
        }
        let only_here = config.ops.repairs == Repairs::Loopback;
        let (admin_orders, limits) = (Arc::clone(&orders), api_config(&config));
        let admin_api =
            AdminApi::new(admin_orders, orders.clock(), key.clone(), limits, cluster.clone(), only_here)
                .with_custodian(custodian);
        let tokens =
            verifier.map(|verifier| Tokens { verifier, clock: orders.clock(), mtls: config.auth.mtls });
        let admin_api = match &tokens {
            Some(tokens) => admin_api.with_tokens(tokens.clone()),
            None => admin_api,
        };
        let admin = (config.ops.repairs != Repairs::None)
            .then(|| admin_api.clone().into_routes(config.grpc.max_message_bytes));
        let api = OrderApi::new(
            Arc::clone(&orders),
            collaborators,
            pricing,
            risk(&config),
            key,
            api_config(&config),
            stopping.clone(),
        );
        let api = api.with_gate(limits::gate(&config)?, config.grpc.transport.shed_after);
        let api = match &cluster {
            Some(cluster) => api.with_cluster(Arc::clone(cluster)),
            None => api,
        };
        let api = match tokens {
            Some(tokens) => api.with_tokens(tokens),
            None => api,
        };
        let listener_config = GrpcConfig {
            max_message_bytes: config.grpc.max_message_bytes,
            max_streams_per_connection: config.grpc.max_streams_per_connection,
            max_deadline: config.grpc.max_deadline,
            keepalive: config.grpc.keepalive,
            reflection: config.grpc.reflection,
            transport: limits::transport(&config),
        };
        let in_flight = api.in_flight();
        let mut joined = None;
        if let (Some(cluster), Some(listener)) = (&cluster, peer_listener) {
            let (cluster, api) = (Arc::clone(cluster), api.for_peers());
            let (peers_stopping, peers_in_flight) = (CancellationToken::new(), api.in_flight());
            let tls = cluster::tls(&config)?;
            let admin = (config.ops.repairs != Repairs::None).then(|| admin_api.for_peers());
            let services = PeerServices { orders: api, admin, cluster: cluster.clone() };
            let (limits, stopped) = (listener_config.clone(), peers_stopping.clone());
            let served = CancellationToken::new();
            let ended = served.clone().drop_guard();
            let peers = tokio::spawn(async move {
                let _ended = ended;
                let stopped = stopped.cancelled_owned();
                let served = grpc::serve_peers(listener, services, &limits, tls, stopped).await;
                served.inspect_err(|error| tracing::error!(error, "the listener for other nodes ended"))
            });
            let drain_timeout = config.cluster.drain_timeout;
            joined = Some(Joined { cluster, peers, served, peers_stopping, peers_in_flight, drain_timeout });
        }
        let (grpc_draining, grpc_stopping) = (draining.clone(), stopping.clone());
        let store_and_orders = (store, Arc::clone(&orders));
        watched.has_started(&config, Sources::new(store_and_orders, cluster, in_flight.clone()), admin);
        let health = watched.health();
        let serves = move || health.is_ready();
        let grpc = tokio::spawn(async move {
            let (draining, stopping) = (grpc_draining.cancelled_owned(), grpc_stopping.cancelled_owned());
            grpc::serve(grpc_listener, api, &listener_config, secured, serves, draining, stopping).await
        });
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
            grpc,
            in_flight,
            watched,
            upkeep,
            simulator,
            grace,
            spans,
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

    /// Serves until `shutdown` is ready.
    ///
    /// # Errors
    /// When a listener fails, or other nodes have taken over.
    pub(super) async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut node = self;
        tokio::pin!(shutdown);
        let cluster = node.cluster.as_ref().map(|joined| Arc::clone(&joined.cluster));
        let died = async {
            match &cluster {
                Some(cluster) => cluster.died().await,
                None => std::future::pending().await,
            }
        };
        let served = node.cluster.as_ref().map(|joined| joined.served.clone());
        let unserved = async {
            match &served {
                Some(served) => served.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut shutdown => node.stop().await,
            // The others will not reach it any more; its slots are better off with them.
            () = unserved => {
                node.stop().await?;
                Err(anyhow!("the listener for other nodes ended by itself"))
            }
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

    /// Ends at once, without finishing anything.
    fn abandon(&self) {
        if let Some(joined) = &self.cluster {
            joined.cluster.abandon();
            joined.peers.abort();
        }
        self.draining.cancel();
        self.grpc.abort();
        self.watched.abort();
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
        self.watched.health().stops();
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
        self.watched.stop(LAST_WORDS).await;
        self.grpc.abort();
        self.upkeep.abort();
        if let Some(simulator) = &self.simulator {
            // Delayed calls may keep it alive; the next node shall have its journal at once.
            simulator.close();
        }
        if let Some(spans) = self.spans.take() {
            spans.end().await;
        }
        if let Ok(ended) = served {
            ended.context("a listener's task failed")?.map_err(|error| anyhow!(error))?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}
