//! Starts the parts in order and stops them in reverse. The only place that knows concrete types, and that reads the
//! machine's clock.

mod audit;
mod cache;
mod callers;
mod cluster;
mod collaborators;
mod development;
mod limits;
mod node;
mod observed;
mod pages;
mod privacy;
mod settings;
mod stores;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use chrono::SubsecRound;
use tokio::net::TcpListener;

use crate::clients::sim;
use crate::config::{Config, SimulatorJournal};
use crate::domain::Timestamp;
use crate::ports::clock::Clock;
use crate::telemetry::{Exporter, Program, Telemetry};
use crate::verify::{self, Witness};

pub use audit::{audit, event_heads};
pub use development::{DevelopmentToken, TokenWish, development_token};
pub use node::Node;
pub use privacy::export;
pub use stores::postgres_config;

use self::collaborators::simulator;

/// The machine's clock.
#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        chrono::Utc::now().trunc_subsecs(6)
    }
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
    Node::start(config, telemetry).await?.run(shutdown).await
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
    let program = Program { service: "simulator", node: listener.local_addr()?.to_string() };
    let spans = Exporter::start(&config.tracing, program, Arc::clone(&clock)).await?;
    tracing::info!(grpc = %listener.local_addr()?, "simulating inventory, product, user, payment and shipping");
    sim::server::serve(Arc::new(simulator), listener, shutdown)
        .await
        .context("the simulator's listener failed")?;
    if let Some(spans) = spans {
        spans.end().await;
    }
    Ok(())
}

/// Applies migrations to the configured store and tells which; then gives the role `grant_to` what a node needs.
///
/// # Errors
/// When the store cannot be opened, a migration fails, or the role cannot be given its rights.
pub async fn migrate(config: Config, grant_to: Option<&str>) -> anyhow::Result<()> {
    let applied = stores::migrate(&config).await?;
    if applied.is_empty() {
        tracing::info!("the store is up to date");
    }
    stores::report(&applied);
    if let Some(role) = grant_to {
        stores::grant(&config, role).await?;
        tracing::info!(role, "the role may do what a node needs, and cannot change events");
    }
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
