//! What a node does: `cargo bench --bench throughput -- [create|security|passivate|coldstart|all]`.
//!
//! Server, simulator and load share this process and its cores; medians of several rounds. `compare` puts the figures
//! next to what else the machine can do.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use order_service::clients::sim::{FaultSpec, FaultTarget};
use order_service::domain::access::Role;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use support::harness::api::by_id;
use support::harness::node::{TestNode, sample_order};
use support::harness::tokens::{Issuer, KnownClient, known};
use support::{Run, drive, median};
use tonic::transport::Channel;

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name || word == "all");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("cores: {}", std::thread::available_parallelism().unwrap());
    if wants("create") {
        runtime.block_on(create());
    }
    if wants("security") {
        runtime.block_on(security());
    }
    if wants("passivate") {
        runtime.block_on(passivate());
    }
    if wants("coldstart") {
        runtime.block_on(cold_start());
    }
}

async fn clients(node: &TestNode) -> Vec<OrderServiceClient<Channel>> {
    let url = format!("http://{}", node.node().grpc_address());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(OrderServiceClient::connect(url.clone()).await.unwrap());
    }
    clients
}

async fn create_many(node: &TestNode, in_flight: usize, total: usize) -> Run {
    drive(&clients(node).await, in_flight, total, |mut client, _| async move {
        let order = client.create_order(sample_order()).await.unwrap().into_inner();
        assert_eq!(order.status(), pb::OrderStatus::Confirmed);
    })
    .await
}

/// Settled CreateOrder through gRPC, SQLite, simulator in the process.
async fn create() {
    let node = TestNode::start().await;
    create_many(&node, IN_FLIGHT, 2_000).await;
    let (mut rates, mut tails) = (Vec::new(), Vec::new());
    for round in 1..=5 {
        let run = create_many(&node, IN_FLIGHT, 10_000).await;
        let (p50, p99) = (run.percentile(50.0), run.percentile(99.0));
        println!("create round {round}: {:.0} orders/s, p50 {p50:.1?}, p99 {p99:.1?}", run.rate());
        rates.push(run.rate());
        tails.push(p99.as_secs_f64() * 1e3);
    }
    let one = create_many(&node, 1, 300).await;
    println!(
        "create, {IN_FLIGHT} in flight: median {:.0} settled orders/s, median p99 {:.1} ms; 1 in flight: p50 {:.1?}",
        median(&rates),
        median(&tails),
        one.percentile(50.0)
    );
    println!("store: {}", batches(&node).await);
    node.stop().await;
}

/// What security costs: creates and gets on a node that wants tokens and encrypts personal data, and on one that does neither,
/// in turn, so that both meet the same machine. All orders are of one user, whose data key is at hand after the first.
async fn security() {
    const CREATES: usize = 4_000;
    const GETS: usize = 60_000;
    const CALLERS: usize = 500;
    let issuer = Issuer::new();
    let tokens: Vec<String> =
        (0..CALLERS).map(|caller| issuer.token(&format!("caller-{caller}"), &[Role::Admin], None)).collect();
    let kek = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let secure = [("ORDER__PRIVACY__MODE", "encrypt"), ("ORDER__PRIVACY__KEK", kek)];
    let nodes = [TestNode::start().await, issuer.node(&secure).await];
    let mut rates: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..6 {
        for (which, node) in nodes.iter().enumerate() {
            let url = format!("http://{}", node.node().grpc_address());
            let mut clients: Vec<Arc<Vec<KnownClient>>> = Vec::new();
            for _ in 0..CONNECTIONS {
                let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
                clients.push(Arc::new(tokens.iter().map(|token| known(channel.clone(), token)).collect()));
            }
            let order = clients[0][0].clone().create_order(sample_order()).await.unwrap().into_inner();
            let creates = drive(&clients, IN_FLIGHT, CREATES, |clients, number| async move {
                let mut client = clients[number % CALLERS].clone();
                client.create_order(sample_order()).await.unwrap();
            });
            let creates = creates.await.rate();
            let gets = drive(&clients, IN_FLIGHT, GETS, move |clients, number| {
                let request = by_id(&order.id);
                async move {
                    clients[number % CALLERS].clone().get_order(request).await.unwrap();
                }
            });
            let gets = gets.await.rate();
            // The first round warms up.
            if round > 0 {
                rates[which][0].push(creates);
                rates[which][1].push(gets);
            }
        }
    }
    for (what, name) in ["create", "get"].iter().enumerate() {
        let (open, proven) = (median(&rates[0][what]), median(&rates[1][what]));
        println!(
            "security, {name}: median {open:.0}/s as it comes, {proven:.0}/s with tokens of {CALLERS} callers and encryption: {:+.1} %",
            (proven / open - 1.0) * 100.0
        );
    }
    for node in nodes {
        node.stop().await;
    }
}

/// What the store says of its batches: how many changes one held, and how long it took.
async fn batches(node: &TestNode) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(node.node().ops_address()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let figure = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let count = figure("order_store_batch_size_count");
    let changes = figure("order_store_batch_size_sum") / count;
    let millis = figure("order_store_batch_seconds_sum") / count * 1e3;
    format!("{count} batches of {changes:.1} changes, {millis:.2} ms each")
}

/// Settled orders leave nothing behind.
async fn passivate() {
    const ORDERS: usize = 100_000;
    let settings = [("ORDER__ACTOR__IDLE_AFTER", "500ms"), ("ORDER__ACTOR__SWEEP_EVERY", "200ms")];
    let node = TestNode::start_with(&settings).await;
    let run = create_many(&node, IN_FLIGHT, ORDERS).await;
    let (done, start) = (run.done, Instant::now());
    while node.node().orders().counts().live > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_secs(30), "actors are left behind");
    }
    println!("passivate: {done} orders settled, no actor left {:.1?} after the last one", start.elapsed());
    node.stop().await;
}

/// A start with unfinished sagas.
async fn cold_start() {
    const ORDERS: usize = 10_000;
    // Created while inventory is away, and told to wait: they stop at their first step.
    let settings = [
        ("ORDER__CREATE__WAIT", "1ms"),
        ("ORDER__SAGA__FORWARD_TRIES", "1000"),
        ("ORDER__SAGA__RETRY_INITIAL", "1s"),
        ("ORDER__GRPC__SHUTDOWN_GRACE", "1ms"),
    ];
    let node = TestNode::start_with(&settings).await;
    let away = FaultSpec { unavailable: true, ..FaultSpec::default() };
    let reserve = FaultTarget::parse("inventory.Reserve").unwrap();
    node.simulator().set_faults(false, vec![(reserve, away)]).unwrap();
    let pending = drive(&clients(&node).await, IN_FLIGHT, ORDERS, |mut client, _| async move {
        client.create_order(sample_order()).await.unwrap();
    })
    .await;
    let folder = node.stop().await;
    let start = Instant::now();
    let node = TestNode::start_in(folder, &[]).await;
    let up = start.elapsed();
    let list = |token: String| pb::ListOrdersRequest {
        statuses: vec![pb::OrderStatus::Pending.into()],
        page_size: 1,
        page_token: token,
        ..pb::ListOrdersRequest::default()
    };
    loop {
        let page = node.client().list_orders(list(String::new())).await.unwrap().into_inner();
        if page.orders.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_secs(120), "sagas are left unfinished");
    }
    println!(
        "cold start: {} unfinished sagas, serving after {up:.1?}, all settled after {:.1?}",
        pending.done,
        start.elapsed()
    );
    node.stop().await;
}
