//! What a node does: `cargo bench --bench throughput -- [create|get|memory|passivate|coldstart|all]`.
//!
//! Server, simulator and load share this process and its cores. Both sides of a ratio come from one run, taken in
//! turn; medians of several rounds.
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

use std::time::{Duration, Instant};

use order_service::clients::sim::{FaultSpec, FaultTarget};
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use prost::Message;
use support::harness::node::{TestNode, sample_order};
use support::{Run, drive, median, resident};
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
    if wants("get") {
        runtime.block_on(get());
    }
    if wants("memory") {
        memory();
    }
    for (phase, live) in [("memory-live", true), ("memory-passive", false)] {
        if wanted.iter().any(|word| word == phase) {
            runtime.block_on(memory_of(live));
        }
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

/// GetOrder of a live order against a bare tonic echo of the same size, in turn.
async fn get() {
    let node = TestNode::start().await;
    let order = node.client().create_order(sample_order()).await.unwrap().into_inner();
    let size = order.encoded_len();
    let echo = support::serve_echo(vec![7; size]).await;
    let mut echoes = Vec::new();
    for _ in 0..CONNECTIONS {
        echoes.push(Channel::from_shared(format!("http://{echo}")).unwrap().connect().await.unwrap());
    }
    let clients = clients(&node).await;
    let (mut ratios, mut gets, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=7 {
        let id = order.id.clone();
        let ours = drive(&clients, IN_FLIGHT, 30_000, move |mut client, _| {
            let key = Some(pb::get_order_request::Key::Id(id.clone()));
            async move {
                client.get_order(pb::GetOrderRequest { key, allow_stale: false }).await.unwrap();
            }
        })
        .await;
        let id = order.id.clone();
        let theirs = drive(&echoes, IN_FLIGHT, 30_000, move |channel, _| {
            let id = id.clone();
            async move {
                assert_eq!(support::call_echo(channel, id).await, size);
            }
        })
        .await;
        // The first round warms both up.
        if round > 0 {
            ratios.push(ours.rate() / theirs.rate());
            gets.push(ours.rate());
            bare.push(theirs.rate());
        }
    }
    println!(
        "get: {:.0}/s, bare echo of {size} bytes: {:.0}/s, median of the rounds' ratios {:.2}",
        median(&gets),
        median(&bare),
        median(&ratios)
    );
    node.stop().await;
}

/// Memory of a live idle actor besides its order: two processes create the same orders; in one they stay live, in the
/// other they are passive, but kept in the cache.
fn memory() {
    let resident = |phase: &str| -> f64 {
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new(this).arg(phase).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line =
            text.lines().find_map(|line| line.strip_prefix("resident: ")).unwrap_or_else(|| panic!("{text}"));
        line.parse().unwrap()
    };
    let each: Vec<(f64, f64)> =
        (0..3).map(|_| (resident("memory-live"), resident("memory-passive"))).collect();
    let live = median(&each.iter().map(|(live, _)| *live).collect::<Vec<_>>());
    let passive = median(&each.iter().map(|(_, passive)| *passive).collect::<Vec<_>>());
    let kilobytes = |bytes: f64| bytes / IDLE_ORDERS as f64 / 1024.0;
    println!(
        "memory: {:.2} KB a live idle actor besides its order ({:.2} KB an order live, {:.2} KB passive in the cache; \
         the simulator's ledger in both)",
        kilobytes(live - passive),
        kilobytes(live),
        kilobytes(passive)
    );
}

const IDLE_ORDERS: usize = 30_000;

/// One side of [`memory`]: how much the orders take.
async fn memory_of(live: bool) {
    let idle = if live { "1h" } else { "20ms" };
    let settings = [
        ("ORDER__ACTOR__IDLE_AFTER", idle),
        ("ORDER__ACTOR__SWEEP_EVERY", "20ms"),
        ("ORDER__CACHE__MAX_ORDERS", "1000000"),
    ];
    let node = TestNode::start_with(&settings).await;
    create_many(&node, IN_FLIGHT, 5_000).await;
    let before = resident();
    create_many(&node, IN_FLIGHT, IDLE_ORDERS).await;
    let expected = if live { IDLE_ORDERS + 5_000 } else { 0 };
    let start = Instant::now();
    while node.node().orders().counts().live != expected {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_secs(30), "{} are live", node.node().orders().counts().live);
    }
    println!("resident: {}", resident() - before);
    node.stop().await;
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
