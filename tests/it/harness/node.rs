//! A real node in this process, on free ports, with its own store in a folder of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{SubsecRound, TimeDelta};

use order_service::app::Node;
use order_service::clients::sim::Simulator;
use order_service::config::Config;
use order_service::domain::Timestamp;
use order_service::ports::clock::Clock;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use order_service::telemetry;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The clock of a machine that tests can set. Calls in flight and pauses of the process are in real time.
#[derive(Debug, Default)]
pub struct MachineClock(AtomicI64);

impl MachineClock {
    /// Sets it forward; backward when that is negative.
    pub fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        let set = TimeDelta::microseconds(self.0.load(Ordering::SeqCst));
        #[expect(clippy::disallowed_methods, reason = "a machine's clock is what this is about")]
        let now = chrono::Utc::now().trunc_subsecs(6);
        now + set
    }
}

/// A node and a client of it. `stop` it, so that what it leaves undone fails the test.
pub struct TestNode {
    node: Node,
    channel: Channel,
    folder: TempDir,
}

impl TestNode {
    /// A node with defaults, but for ports and store.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A node with settings such as `("ORDER__CREATE__WAIT", "200ms")`.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap(), settings).await
    }

    /// A node on the store of an earlier one.
    pub async fn start_in(folder: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::start_by(folder, settings, Arc::new(MachineClock::default())).await
    }

    /// A node on the store of an earlier one, on a machine with this clock.
    pub async fn start_by(folder: TempDir, settings: &[(&str, &str)], clock: Arc<MachineClock>) -> Self {
        let config = config(&folder.path().join("orders.db"), settings);
        let telemetry = telemetry::init(&config.log).unwrap();
        let node = Node::start_by(config, telemetry, clock).await.unwrap();
        // Lazily: some nodes speak TLS only.
        let channel =
            Endpoint::from_shared(format!("http://{}", node.grpc_address())).unwrap().connect_lazy();
        Self { node, channel, folder }
    }

    /// A client; all of them share one connection.
    pub fn client(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::new(self.channel())
    }

    /// The connection of all clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The simulated collaborators.
    pub fn simulator(&self) -> &Simulator {
        self.node.simulator().unwrap()
    }

    /// The store's file.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("orders.db")
    }

    /// Stops it and gives its folder back, for another one.
    pub async fn stop(self) -> TempDir {
        let Self { node, channel, folder } = self;
        drop(channel);
        node.stop().await.unwrap();
        folder
    }
}

/// The configuration of a node on free ports with its store at `database`.
pub fn config(database: &std::path::Path, settings: &[(&str, &str)]) -> Config {
    let store = format!("sqlite:{}", database.display());
    let own = [
        ("ORDER__GRPC__LISTEN", "127.0.0.1:0"),
        ("ORDER__OPS__LISTEN", "127.0.0.1:0"),
        ("ORDER__STORE__URL", store.as_str()),
        ("ORDER__LOG__LEVEL", "off"),
    ];
    let all = own.iter().chain(settings).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    // Later settings win.
    let all: std::collections::BTreeMap<String, String> = all.collect();
    Config::load(&[], all.into_iter()).unwrap()
}

/// The order of the design's section 7.1, with a request id of its own.
pub fn sample_order() -> pb::CreateOrderRequest {
    let address = pb::OrderAddress {
        first_name: "John".into(),
        last_name: "Doe".into(),
        address_line1: "123 Main St".into(),
        address_line2: "Apt 4B".into(),
        city: "New York".into(),
        state: "NY".into(),
        postal_code: "10001".into(),
        country: "USA".into(),
        phone: "555-123-4567".into(),
        email: "john.doe@example.com".into(),
        ..pb::OrderAddress::default()
    };
    pb::CreateOrderRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        user_id: "123e4567-e89b-12d3-a456-426614174000".into(),
        items: vec![pb::NewOrderItem {
            product_id: "123e4567-e89b-12d3-a456-426614174001".into(),
            variant_id: "123e4567-e89b-12d3-a456-426614174002".into(),
            quantity: 2,
        }],
        shipping_address: Some(address.clone()),
        billing_address: Some(address),
        payment_method: "CREDIT_CARD".into(),
        shipping_method: "STANDARD".into(),
        notes: "Please leave package at the door".into(),
        coupon_code: "SUMMER10".into(),
        ..pb::CreateOrderRequest::default()
    }
}
