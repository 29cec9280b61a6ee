//! What several nodes cost: `cargo bench --bench cluster -- [ring|spread|forward|idle|all]`.
//!
//! Real nodes in processes of their own, with one private Postgres and one simulator. Both sides of a ratio come from one
//! run, taken in turn; medians of several rounds, with the least and the most.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::large_futures
)]

mod support;

use std::fs;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use order_service::clients::sim::catalogue::load_user;
use order_service::cluster::Ring;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use support::harness::cluster::{Cluster, Plan};
use support::harness::node::sample_order;
use support::harness::postgres::query;
use support::median;
use tokio::task::JoinSet;
use tonic::transport::Channel;

const ROUNDS: usize = 5;
/// Orders a second that arrive in all.
const RATE: usize = 300;
/// How long load is measured in a round, and how long it goes on before.
const MEASURED: Duration = Duration::from_secs(6);
const WARM: Duration = Duration::from_secs(2);
/// How long idle nodes are watched.
const IDLE: Duration = Duration::from_secs(20);

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name || word == "all");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("cores: {}", std::thread::available_parallelism().unwrap());
    if wants("ring") {
        ring();
    }
    if wants("spread") {
        runtime.block_on(spread());
    }
    if wants("forward") {
        runtime.block_on(forward());
    }
    if wants("idle") {
        runtime.block_on(idle());
    }
}

/// Median, least and most.
fn told(figures: &[f64], unit: &str) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.2} {unit} ({least:.2} to {most:.2})", median(figures))
}

/// How long it takes to place all slots.
fn ring() {
    for count in [3usize, 64, 500] {
        let names: Vec<String> = (0..count).map(|number| format!("node-{number}")).collect();
        let build = || {
            let started = Instant::now();
            let ring = Ring::new(names.iter().enumerate().map(|(index, name)| (name.as_str(), 1, index)));
            assert!(ring.place(0).is_some());
            started.elapsed().as_secs_f64() * 1e3
        };
        let times: Vec<f64> = (0..9).map(|_| build()).collect();
        println!("ring of {count} nodes: {}", told(&times, "ms"));
    }
}

/// CPU time of a process so far, its threads included; user and system.
fn cpu_of(process: u32) -> Duration {
    ticks(process, 11..=12).unwrap()
}

/// The sum of some fields of what the kernel tells of a process; none when it has ended.
fn ticks(process: u32, fields: RangeInclusive<usize>) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may hold blanks; what follows it does not.
    let told: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    let ticks: u64 = told[fields].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Some(Duration::from_millis(ticks * 10))
}

/// CPU time of a process and all that it started.
fn cpu_with_children(process: u32) -> Duration {
    let parent_of = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat[stat.rfind(')')? + 2..].split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let running: Duration = all
        .filter(|child| parent_of(*child) == Some(process))
        .filter_map(|child| ticks(child, 11..=12))
        .sum();
    // And its own with that of those that have ended.
    running + ticks(process, 11..=14).unwrap()
}

/// What a round of load cost.
struct Cost {
    nodes: f64,
    database: f64,
    rate: f64,
}

/// How calls come.
#[derive(Clone, Copy)]
enum Load {
    /// So many a second, whatever becomes of those before.
    Open(usize),
    /// So many under way all the time.
    Closed(usize),
}

/// Has calls come; what each cost, in microseconds of CPU.
async fn cost<F, Fut>(cluster: &Cluster, nodes: &[usize], load: Load, call: F) -> Cost
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let done = Arc::new(AtomicUsize::new(0));
    let cpu = || {
        let nodes: Duration = nodes.iter().map(|node| cpu_of(cluster.process_id(*node))).sum();
        (nodes, cpu_with_children(cluster.server().process_id().unwrap()))
    };
    let mut under_way = JoinSet::new();
    let mut tick = tokio::time::interval(match load {
        Load::Open(rate) => Duration::from_secs(1) / rate as u32,
        Load::Closed(_) => Duration::from_millis(1),
    });
    let started = Instant::now();
    let mut before = None;
    let enough = Arc::new(AtomicBool::new(false));
    if let Load::Closed(in_flight) = load {
        for worker in 0..in_flight {
            let (call, done, enough) = (call.clone(), Arc::clone(&done), Arc::clone(&enough));
            under_way.spawn(async move {
                for round in 0.. {
                    if enough.load(Ordering::Relaxed) {
                        return;
                    }
                    call(worker + round * in_flight).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    for number in 0.. {
        tick.tick().await;
        if before.is_none() && started.elapsed() >= WARM {
            before = Some((cpu(), done.load(Ordering::Relaxed), Instant::now()));
        }
        if started.elapsed() >= WARM + MEASURED {
            break;
        }
        if matches!(load, Load::Closed(_)) {
            continue;
        }
        let (call, done) = (call.clone(), Arc::clone(&done));
        under_way.spawn(async move {
            call(number).await;
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    let ((nodes_before, database_before), done_before, since) = before.unwrap();
    let (after, calls) = (cpu(), done.load(Ordering::Relaxed) - done_before);
    let wall = since.elapsed();
    enough.store(true, Ordering::Relaxed);
    while under_way.join_next().await.transpose().unwrap().is_some() {}
    let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / calls as f64;
    Cost {
        nodes: each(nodes_before, after.0),
        database: each(database_before, after.1),
        rate: calls as f64 / wall.as_secs_f64(),
    }
}

/// A new order of a user of its own for every number.
fn order(number: usize) -> pb::CreateOrderRequest {
    pb::CreateOrderRequest {
        user_id: load_user(number as u64).0.to_string(),
        coupon_code: String::new(),
        payment_token: String::from("tok_ok"),
        ..sample_order()
    }
}

async fn create(mut client: OrderServiceClient<Channel>, request: pb::CreateOrderRequest) -> pb::Order {
    let order = client.create_order(request).await.unwrap().into_inner();
    assert_eq!(order.status(), pb::OrderStatus::Confirmed);
    order
}

/// CPU for a settled order, with one node and with three, for the same load.
async fn spread() {
    let mut ratios = Vec::new();
    let mut figures: [(Vec<f64>, Vec<f64>); 2] = Default::default();
    for _ in 0..ROUNDS {
        let mut of_round = [0.0; 2];
        for (index, count) in [1usize, 3].into_iter().enumerate() {
            let cluster = Cluster::start(Plan::of(count)).await;
            let clients: Vec<_> = (0..count).map(|node| cluster.client(node)).collect();
            let all: Vec<usize> = (0..count).collect();
            let cost = cost(&cluster, &all, Load::Open(RATE), move |number| {
                let client = clients[number % clients.len()].clone();
                async move { drop(create(client, order(number)).await) }
            })
            .await;
            println!(
                "{count} nodes, {:.0} orders/s: {:.0} us of the nodes' CPU an order, {:.0} us of Postgres'",
                cost.rate, cost.nodes, cost.database
            );
            of_round[index] = cost.nodes;
            figures[index].0.push(cost.nodes);
            figures[index].1.push(cost.database);
        }
        ratios.push(of_round[1] / of_round[0]);
    }
    for (count, (nodes, database)) in [1, 3].into_iter().zip(&figures) {
        println!("{count} nodes: {} an order, Postgres {}", told(nodes, "us"), told(database, "us"));
    }
    println!("CPU of three nodes to one: {}", told(&ratios, "x"));
}

/// CPU for a call that arrives at the owner, and for one that is forwarded: two nodes, all calls for orders of one.
async fn forward() {
    let cluster = Cluster::start(Plan::of(2)).await;
    // Users whose orders the first node owns.
    let owned: Vec<usize> = {
        let slots = "SELECT o.slot FROM slot_owner AS o JOIN cluster_nodes AS n ON n.incarnation = o.owner \
                     WHERE n.name = 'node-1'";
        let slots: Vec<u16> =
            query(cluster.url(), slots).await.unwrap().iter().map(|row| row[0].parse().unwrap()).collect();
        let mut users = Vec::new();
        for number in 0..200 {
            let order = create(cluster.client(0), order(number)).await;
            let slot = order.id.parse::<order_service::domain::ids::OrderId>().unwrap().slot();
            if slots.contains(&slot) {
                users.push(number);
            }
        }
        users
    };
    let owned = Arc::new(owned);
    let canceled = {
        let mut requests = Vec::new();
        for number in owned.iter().take(50) {
            let order = create(cluster.client(0), order(*number)).await;
            let request_id = uuid::Uuid::now_v7().to_string();
            let request = pb::CancelOrderRequest { id: order.id, request_id, ..Default::default() };
            cluster.client(0).cancel_order(request.clone()).await.unwrap();
            requests.push(request);
        }
        Arc::new(requests)
    };
    let (mut creates, mut repeats) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut of_round = [[0.0; 2]; 2];
        for entry in [0, 1] {
            let (client, owned) = (cluster.client(entry), Arc::clone(&owned));
            let settled = cost(&cluster, &[0, 1], Load::Open(RATE), move |number| {
                let (client, user) = (client.clone(), owned[number % owned.len()]);
                async move { drop(create(client, order(user)).await) }
            })
            .await;
            // A cancel that was done before: nothing is stored, so nothing hides what the hop costs.
            let (client, canceled) = (cluster.client(entry), Arc::clone(&canceled));
            let known = cost(&cluster, &[0, 1], Load::Closed(64), move |number| {
                let (mut client, request) = (client.clone(), canceled[number % canceled.len()].clone());
                async move { drop(client.cancel_order(request).await.unwrap()) }
            })
            .await;
            let how = if entry == 0 { "local" } else { "forwarded" };
            println!(
                "{how}: create {:.0} us, repeated cancel {:.0} us of the nodes' CPU ({:.0} and {:.0}/s)",
                settled.nodes, known.nodes, settled.rate, known.rate
            );
            (of_round[0][entry], of_round[1][entry]) = (settled.nodes, known.nodes);
        }
        creates.push(of_round[0][1] / of_round[0][0]);
        repeats.push(of_round[1][1] / of_round[1][0]);
    }
    println!("forwarded to local: create {}, repeated cancel {}", told(&creates, "x"), told(&repeats, "x"));
}

/// What five nodes ask the database while nobody asks them.
async fn idle() {
    let cluster = Cluster::start(Plan::of(5)).await;
    for setting in ["log_statement = 'all'", "log_min_duration_statement = -1"] {
        query(cluster.url(), &format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    query(cluster.url(), "SELECT pg_reload_conf()").await.unwrap();
    let count = || {
        let log = cluster.server().log();
        log.lines().filter(|line| line.contains("LOG:  execute") || line.contains("LOG:  statement")).count()
    };
    tokio::time::sleep(WARM).await;
    let before = (count(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let rate = (count() - before.0) as f64 / before.1.elapsed().as_secs_f64();
    println!("5 idle nodes: {rate:.1} statements/s in all");
}
