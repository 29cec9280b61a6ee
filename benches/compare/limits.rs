//! What is measured against limits other than Postgres: a bare server, bare SQLite, and the service itself with less to hold.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use order_service::clients::sim::catalogue::load_user;
use order_service::proto::answer::Answer;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use prost::Message;
use tempfile::TempDir;
use tonic::Request;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::Amount;
use crate::figures::{Table, cpu_of, spread};
use crate::load::{Load, told};
use crate::pgbench;
use crate::sqlite::{BATCH, Bare};
use crate::support::harness::node::{TestNode, sample_order};
use crate::support::harness::postgres::PgServer;
use crate::support::harness::process::{NodeProcess, Simulate};
use crate::support::{call_echo, drive, median, resident, resident_of, serve_echo};

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;
/// Reads of one turn.
const READS: usize = 30_000;

async fn channels(url: &str) -> Vec<Channel> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap());
    }
    channels
}

/// A call whose answer is not looked into, as that of the echo: what is compared are the servers.
async fn call<M: Message + Default + 'static>(channel: Channel, path: &'static str, message: M) -> usize {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<M, Answer<pb::Order>>::default();
    let answer = grpc.unary(Request::new(message), PathAndQuery::from_static(path), codec).await.unwrap();
    answer.into_inner().encoded_len()
}

/// Reads of a live order against a bare tonic echo of the same size.
pub async fn reads(amount: Amount, table: &mut Table) {
    let node = TestNode::start().await;
    let order = node.client().create_order(sample_order()).await.unwrap().into_inner();
    let key = Some(pb::get_order_status_request::Key::Id(order.id.clone()));
    let status =
        node.client().get_order_status(pb::GetOrderStatusRequest { key }).await.unwrap().into_inner();
    let ours = channels(&format!("http://{}", node.node().grpc_address())).await;
    for (name, size, target) in
        [("GetOrder", order.encoded_len(), 0.80), ("GetOrderStatus", status.encoded_len(), 0.85)]
    {
        let echo = serve_echo(vec![7; size]).await;
        let echoes = channels(&format!("http://{echo}")).await;
        let (mut rates, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=amount.rounds {
            let (id, is_status) = (order.id.clone(), name == "GetOrderStatus");
            let run = drive(&ours, IN_FLIGHT, READS, move |channel, _| {
                let id = id.clone();
                async move {
                    if is_status {
                        let key = Some(pb::get_order_status_request::Key::Id(id));
                        let request = pb::GetOrderStatusRequest { key };
                        assert_eq!(
                            call(channel, "/order.v1.OrderService/GetOrderStatus", request).await,
                            size
                        );
                    } else {
                        let key = Some(pb::get_order_request::Key::Id(id));
                        let request = pb::GetOrderRequest { key, allow_stale: false };
                        assert_eq!(call(channel, "/order.v1.OrderService/GetOrder", request).await, size);
                    }
                }
            })
            .await;
            let id = order.id.clone();
            let echoed = drive(&echoes, IN_FLIGHT, READS, move |channel, _| {
                let id = id.clone();
                async move { assert_eq!(call_echo(channel, id).await, size) }
            })
            .await;
            // The first round warms both up.
            if round > 0 {
                rates.push(run.rate());
                bare.push(echoed.rate());
                ratios.push(run.rate() / echoed.rate());
            }
        }
        table.tell(&format!("reads: {name} of a live order, 1/s"), spread(&rates, 0));
        table.tell(&format!("reads: bare echo of {size} bytes, 1/s"), spread(&bare, 0));
        table.at_least(&format!("reads: {name} of bare echo"), median(&ratios), spread(&ratios, 2), target);
    }
    node.stop().await;
}

/// Settled CreateOrder on SQLite against SQLite alone.
pub async fn sqlite(amount: Amount, table: &mut Table) {
    // A file with the tables, made by a node.
    let folder = TestNode::start().await.stop().await;
    let mut bare = Bare::open(&folder.path().join("orders.db")).await;
    let node = TestNode::start().await;
    let mut clients = Vec::new();
    for channel in channels(&format!("http://{}", node.node().grpc_address())).await {
        clients.push(OrderServiceClient::new(channel));
    }
    let (mut rates, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let each = |since: f64, orders: usize| (cpu_of(std::process::id()) - since) / orders as f64 * 1e6;
    for round in 0..=amount.rounds {
        let orders = if round == 0 { 2_000 } else { amount.orders };
        let before = cpu_of(std::process::id());
        let run = drive(&clients, IN_FLIGHT, orders, |mut client, _| async move {
            let order = client.create_order(sample_order()).await.unwrap().into_inner();
            assert_eq!(order.status(), pb::OrderStatus::Confirmed);
        })
        .await;
        let (used, before) = (each(before, orders), cpu_of(std::process::id()));
        let limit = bare.run(orders).await;
        if round > 0 {
            ours.push(used);
            theirs.push(each(before, orders));
            rates.push(run.rate());
            limits.push(limit);
            ratios.push(run.rate() / limit);
        }
    }
    table.tell(&format!("sqlite: service, {IN_FLIGHT} in flight, orders/s"), spread(&rates, 0));
    table.tell(&format!("sqlite: alone, two commits for {BATCH} orders, orders/s"), spread(&limits, 0));
    table.tell("sqlite: CPU of an order, service and clients, us", spread(&ours, 0));
    table.tell("sqlite: CPU of an order, alone, us", spread(&theirs, 0));
    table.at_least("sqlite: of SQLite alone", median(&ratios), spread(&ratios, 2), 0.6);
    node.stop().await;
}

/// CPU of a node in a process of its own for each settled order, its simulator included.
pub async fn cpu(server: &PgServer, amount: Amount, table: &mut Table) {
    let simulate = Simulate::start().await;
    let folder = TempDir::new().unwrap();
    let journal = folder.path().join("simulator.jsonl").display().to_string();
    let own = ["INVENTORY", "PRODUCT", "USER", "PAYMENT", "SHIPPING"];
    let own = own.map(|name| (format!("ORDER__COLLABORATORS__{name}"), "sim:"));
    let mut settings: Vec<(&str, &str)> = own.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    settings.push(("ORDER__SIMULATOR__JOURNAL", &journal));
    settings.push(("ORDER__LOG__LEVEL", "warn,order_service::app=info"));
    let told = told();
    settings.extend(told.iter().map(|(name, value)| (&**name, &**value)));
    let url = server.create_database().await;
    let mut node = NodeProcess::start_on(Some(url), &simulate, &settings, &[]).await;
    let id = node.process().id();
    let mut clients = Vec::new();
    for channel in channels(node.url()).await {
        clients.push(OrderServiceClient::new(channel));
    }
    let mut each = Vec::new();
    for round in 0..=amount.rounds {
        let before = cpu_of(id);
        let run = drive(&clients, IN_FLIGHT, amount.orders, |mut client, number| async move {
            let user_id = load_user(number as u64).0.to_string();
            let order = client.create_order(pb::CreateOrderRequest { user_id, ..sample_order() }).await;
            assert_eq!(order.unwrap().get_ref().status(), pb::OrderStatus::Confirmed);
        })
        .await;
        if round > 0 {
            each.push((cpu_of(id) - before) / run.done as f64 * 1e6);
        }
    }
    let name = format!("cpu: of the service for a settled order, Postgres, {IN_FLIGHT} in flight, us");
    table.at_most(&name, median(&each), spread(&each, 0), 250.0);
}

/// Creates among many live orders, against creates among few.
pub async fn live(server: &PgServer, amount: Amount, table: &mut Table) {
    const WARM: usize = 3_000;
    const AT_ONCE: usize = 256;
    let settings = [("ORDER__ACTOR__IDLE_AFTER", "1h")];
    let many = amount.live;
    let start = Instant::now();
    let full = Load::start(&server.create_database().await, &settings).await;
    full.create(AT_ONCE, many).await;
    println!("live: {many} orders are live after {:.0?}", start.elapsed());
    let (mut with_few, mut with_many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=amount.rounds {
        // A new one each time, because what it creates stays live as well. It warms up first, and goes first or second in turn.
        let empty = Load::start(&server.create_database().await, &settings).await;
        empty.create(AT_ONCE, WARM).await;
        let orders = amount.orders / 2;
        let (few, more) = if round % 2 == 0 {
            let few = empty.create(AT_ONCE, orders).await;
            (few, full.create(AT_ONCE, orders).await)
        } else {
            let more = full.create(AT_ONCE, orders).await;
            (empty.create(AT_ONCE, orders).await, more)
        };
        if round > 0 {
            with_few.push(few.rate());
            with_many.push(more.rate());
            ratios.push(more.rate() / few.rate());
        }
        empty.stop().await;
    }
    table.tell(&format!("live: with {WARM} live, {AT_ONCE} in flight, orders/s"), spread(&with_few, 0));
    table.tell(&format!("live: with {many} live, {AT_ONCE} in flight, orders/s"), spread(&with_many, 0));
    table.at_least("live: of the rate with few", median(&ratios), spread(&ratios, 2), 0.9);
    full.stop().await;
}

/// The first page of all orders, of many and of few.
pub async fn list(server: &PgServer, amount: Amount, table: &mut Table) {
    const FEW: usize = 1_000;
    let mut sides = Vec::new();
    for orders in [FEW, amount.many] {
        let url = pgbench::database(server).await;
        let start = Instant::now();
        pgbench::fill(&url, orders).await;
        println!("list: {orders} orders filled in after {:.0?}", start.elapsed());
        sides.push((url.clone(), Load::start(&url, &[]).await, Vec::new()));
    }
    let mut ratios = Vec::new();
    for round in 0..=amount.rounds {
        for (_, load, rates) in &mut sides {
            let rate = load.list(16, 2_000).await.rate();
            if round > 0 {
                rates.push(rate);
            }
        }
        if let (Some(few), Some(many)) = (sides[0].2.last(), sides[1].2.last()) {
            ratios.push(many / few);
        }
    }
    table.tell(&format!("list: first page of {FEW} orders, 1/s"), spread(&sides[0].2, 0));
    table.tell(&format!("list: first page of {} orders, 1/s", amount.many), spread(&sides[1].2, 0));
    table.at_least("list: of the rate with few", median(&ratios), spread(&ratios, 2), 0.9);
    for (url, load, _) in sides {
        load.stop().await;
        server.admin(&format!("DROP DATABASE {}", pgbench::database_name(&url))).await;
    }
}

/// Memory of a live idle actor besides its order: two processes create the same orders; in one they stay live, in the
/// other they are passive, but kept in the cache.
pub fn memory(amount: Amount, table: &mut Table) {
    let resident = |phase: &str| -> f64 {
        let this = std::env::current_exe().unwrap();
        let output = Command::new(this).args([phase, "--live", &amount.idle.to_string()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line =
            text.lines().find_map(|line| line.strip_prefix("resident: ")).unwrap_or_else(|| panic!("{text}"));
        line.parse().unwrap()
    };
    let (mut actors, mut orders) = (Vec::new(), Vec::new());
    for _ in 0..amount.rounds.min(3) {
        let (live, passive) = (resident("memory-live"), resident("memory-passive"));
        actors.push((live - passive) / amount.idle as f64 / 1024.0);
        orders.push(live / amount.idle as f64 / 1024.0);
    }
    table.tell("memory: KB of a live order in all, the simulator's books included", spread(&orders, 2));
    table.at_most("memory: KB of an idle actor besides its order", median(&actors), spread(&actors, 2), 8.0);
}

/// One side of [`memory`]: how much the orders take.
pub async fn memory_of(orders: usize, live: bool) {
    let idle = if live { "24h" } else { "20ms" };
    let settings = [
        ("ORDER__ACTOR__IDLE_AFTER", idle),
        ("ORDER__ACTOR__SWEEP_EVERY", "20ms"),
        ("ORDER__CACHE__MAX_ORDERS", "10000000"),
    ];
    let node = TestNode::start_with(&settings).await;
    let clients: Vec<_> = channels(&format!("http://{}", node.node().grpc_address()))
        .await
        .into_iter()
        .map(OrderServiceClient::new)
        .collect();
    let clients = Arc::new(clients);
    let create = async |orders: usize| {
        drive(&clients, 256, orders, |mut client, number| async move {
            let user_id = load_user(number as u64).0.to_string();
            client.create_order(pb::CreateOrderRequest { user_id, ..sample_order() }).await.unwrap();
        })
        .await
    };
    const FIRST: usize = 5_000;
    create(FIRST).await;
    let before = resident();
    let run = create(orders).await;
    let expected = if live { orders + FIRST } else { 0 };
    let start = Instant::now();
    while node.node().orders().counts().live != expected {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_secs(60), "{} are live", node.node().orders().counts().live);
    }
    println!(
        "live: {}, {:.0} orders/s, {:.2} GiB resident",
        expected,
        run.rate(),
        resident() as f64 / 1e9 / 1.0737
    );
    println!("resident: {}", resident() - before);
    node.stop().await;
}

/// Tells what a node takes while so many orders are live. Its simulator is another process.
pub async fn memory_apart(orders: usize) {
    let simulate = Simulate::start().await;
    let many = (orders + 1).to_string();
    let settings = [
        ("ORDER__ACTOR__IDLE_AFTER", "24h"),
        ("ORDER__ACTOR__MAX_LIVE", many.as_str()),
        // It is not timed, and beside other work it may be slow.
        ("ORDER__COLLABORATORS__TIMEOUT", "1m"),
        ("ORDER__LOG__LEVEL", "warn,order_service::app=info"),
    ];
    let mut node = NodeProcess::start(&simulate, &settings).await;
    let id = node.process().id();
    let mut clients = Vec::new();
    for channel in channels(node.url()).await {
        clients.push(OrderServiceClient::new(channel));
    }
    const TURNS: usize = 10;
    for turn in 1..=TURNS {
        let run = drive(&clients, 256, orders / TURNS, |mut client, number| async move {
            let user_id = load_user(number as u64).0.to_string();
            client.create_order(pb::CreateOrderRequest { user_id, ..sample_order() }).await.unwrap();
        })
        .await;
        println!(
            "{} orders are live: the node takes {:.2} GiB, its simulator {:.2} GiB; {:.0} orders/s",
            orders / TURNS * turn,
            resident_of(id) as f64 / 1e9 / 1.0737,
            resident_of(simulate.process_id()) as f64 / 1e9 / 1.0737,
            run.rate()
        );
    }
}
