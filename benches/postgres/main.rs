//! What the order store costs on Postgres, next to what Postgres can do:
//! `cargo bench --bench postgres -- [create|get|one|million|restart|all] [--orders N] [--rounds N] [--quick]`.
//!
//! Server, simulator, load and baselines share the machine's cores. Both sides of a ratio come from one run on one
//! private server, taken in turn; of several rounds the medians, with the least and the greatest.
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
mod load;
mod pgbench;
mod phases;
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
}

fn main() {
    let mut words = Vec::new();
    let mut amount = Amount { orders: 20_000, rounds: 5, seconds: 5.0, many: 1_000_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number behind it");
        match argument.as_str() {
            "--orders" => amount.orders = number(),
            "--rounds" => amount.rounds = number(),
            "--many" => amount.many = number(),
            "--quick" => amount = Amount { orders: 4_000, rounds: 3, seconds: 2.0, many: 100_000 },
            // Cargo's own.
            "--bench" => {}
            word => words.push(word.to_owned()),
        }
    }
    let is_all = words.is_empty() || words.iter().any(|word| word == "all");
    let asks = |name: &str| words.iter().any(|word| word == name);
    let wants = |name: &str| is_all || asks(name);
    let cores = std::thread::available_parallelism().unwrap();
    println!("cores: {cores}, load average at the start: {}", load_average());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let table = runtime.block_on(async {
        let server = PgServer::start_on_disk(SETTINGS).await;
        let mut table = Table::default();
        if wants("create") {
            phases::create(&server, amount, &mut table).await;
        }
        if wants("one") {
            phases::one(&server, amount, &mut table).await;
        }
        if wants("get") {
            phases::get(&server, amount, &mut table).await;
        }
        if wants("million") {
            phases::million(&server, amount, &mut table).await;
        }
        if wants("restart") {
            phases::restart(&server, amount, &mut table).await;
        }
        if asks("load") {
            phases::load(&server, amount).await;
        }
        table
    });
    table.print();
}
