//! The other services of a node: clients of them, or a simulator in their stead.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clients::grpc::{
    BreakerConfig, ClientConfig, InventoryClient, PaymentClient, ProductClient, ShippingClient, UserClient,
};
use crate::clients::measured;
use crate::clients::sim::{SimConfig, SimError, Simulator};
use crate::config::{CollaboratorUrl, Config, SimulatorJournal, StoreUrl};
use crate::ports::Collaborators;
use crate::ports::clock::Clock;

pub(super) fn simulator(
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
pub(super) fn journal_of_node(config: &Config) -> Option<PathBuf> {
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
pub(super) fn collaborators(
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
    Ok((measured(all), simulated.then_some(simulator)))
}
