//! What the service does next to the limits of its machine, and to doing the same another way:
//! `cargo bench --bench compare -- [PHASE...] [--orders N] [--rounds N] [--many N] [--live N] [--quick]`.
//!
//! | phase | compares |
//! |---|---|
//! | `reads` | GetOrder and GetOrderStatus of a live order with a bare tonic echo of the same size |
//! | `create` | settled CreateOrder on Postgres with pgbench: stateless (a transaction for each step, single rows, `SELECT ... FOR UPDATE`), and batched (the same rows, 64 orders a transaction) |
//! | `sqlite` | settled CreateOrder on SQLite with SQLite alone, two commits for 64 orders |
//! | `cpu` | CPU of a node for a settled order |
//! | `live` | the rate with many live orders and with few |
//! | `memory` | memory of a live idle order |
//! | `list` | the first page of many orders and of few |
//! | `one`, `get` | an order alone; reads of orders that are not in memory, with the same statement by pgbench |
//! | `million`, `restart` | only when named: creates with a million orders stored; a restart of the database under load |
//! | `memory-apart --live N` | only when named: what a node takes that has N live orders; its simulator is another process |
//! | `memory-live --live N` | only when named: what N live orders take in one process with it |
//!
//! Server, simulator, load and baselines share the machine's cores. Both sides of a ratio come from one run,
//! taken in turn; of several rounds the medians, with the least and the greatest. Ends with a table.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::disallowed_methods
)]

mod figures;
mod limits;
mod load;
mod pgbench;
mod phases;
mod sqlite;
#[path = "../support/mod.rs"]
mod support;

use figures::{Table, load_average};
use support::harness::postgres::PgServer;

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As a server of this size would have; all else as it comes, `fsync` on.
const SETTINGS: &[(&str, &str)] =
    &[("shared_buffers", "512MB"), ("max_wal_size", "4GB"), ("max_connections", "150")];

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Orders in one turn of the service.
    pub orders: usize,
    /// Turns of each side.
    pub rounds: usize,
    /// Seconds of one turn of `pgbench`.
    pub seconds: f64,
    /// Orders in the tables that are large.
    pub many: usize,
    /// Orders that are live where many are.
    pub live: usize,
    /// Orders whose memory is measured.
    pub idle: usize,
}

/// Phases that run when none is named.
const USUAL: &[&str] = &["reads", "create", "sqlite", "cpu", "live", "memory", "list", "one", "get"];
/// Phases that run only when they are named.
const OTHERS: &[&str] = &["million", "restart", "load", "memory-apart", "memory-live", "memory-passive"];

fn main() {
    let mut words = Vec::new();
    let mut amount =
        Amount { orders: 20_000, rounds: 5, seconds: 5.0, many: 1_000_000, live: 100_000, idle: 30_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number behind it");
        match argument.as_str() {
            "--orders" => amount.orders = number(),
            "--rounds" => amount.rounds = number(),
            "--many" => amount.many = number(),
            "--live" => {
                amount.live = number();
                amount.idle = amount.live;
            }
            "--quick" => {
                amount = Amount {
                    orders: 4_000,
                    rounds: 3,
                    seconds: 2.0,
                    many: 100_000,
                    live: 20_000,
                    idle: 10_000,
                };
            }
            // Cargo's own.
            "--bench" => {}
            "all" => words.extend(USUAL.iter().map(|phase| (*phase).to_owned())),
            word if USUAL.contains(&word) || OTHERS.contains(&word) => words.push(word.to_owned()),
            word => {
                println!("{word}: no such phase; there are {} and {}", USUAL.join(", "), OTHERS.join(", "));
                return;
            }
        }
    }
    let wants = |name: &str| match words.is_empty() {
        true => USUAL.contains(&name),
        false => words.iter().any(|word| word == name),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (phase, live) in [("memory-live", true), ("memory-passive", false)] {
        if wants(phase) {
            return runtime.block_on(limits::memory_of(amount.idle, live));
        }
    }
    if wants("memory-apart") {
        return runtime.block_on(limits::memory_apart(amount.live));
    }
    let cores = std::thread::available_parallelism().unwrap();
    println!("cores: {cores}, load average at the start: {}", load_average());
    let mut table = Table::default();
    runtime.block_on(async {
        if wants("reads") {
            limits::reads(amount, &mut table).await;
        }
        if wants("sqlite") {
            limits::sqlite(amount, &mut table).await;
        }
        let server = PgServer::start_on_disk(SETTINGS).await;
        if wants("create") {
            phases::create(&server, amount, &mut table).await;
        }
        if wants("cpu") {
            limits::cpu(&server, amount, &mut table).await;
        }
        if wants("live") {
            limits::live(&server, amount, &mut table).await;
        }
        if wants("one") {
            phases::one(&server, amount, &mut table).await;
        }
        if wants("get") {
            phases::get(&server, amount, &mut table).await;
        }
        if wants("list") {
            limits::list(&server, amount, &mut table).await;
        }
        if wants("million") {
            phases::million(&server, amount, &mut table).await;
        }
        if wants("restart") {
            phases::restart(&server, amount, &mut table).await;
        }
        if wants("load") {
            phases::load(&server, amount).await;
        }
    });
    if wants("memory") {
        limits::memory(amount, &mut table);
    }
    table.print();
}
