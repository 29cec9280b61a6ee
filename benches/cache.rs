//! What copies in Redis spare the database: `cargo bench --bench cache -- [ORDERS] [READS]`.
//!
//! One process reads orders at rest that belong to somebody else, as a node of a cluster does, from Postgres alone and with
//! Redis before it, in turn, so that both meet the same machine; medians of five rounds. Postgres, Redis and the reader share
//! its cores. Of the database it tells what its processes used, which does not depend on who waits for whom.
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

#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "compare/figures.rs"]
mod figures;
mod support;

use std::sync::Arc;
use std::time::Duration;

use figures::Meter;
use order_service::cache::{CachedStore, RedisShelf, ShelfConfig};
use order_service::domain::ids::OrderId;
use order_service::ports::store::{ListQuery, OrderStore};
use order_service::store::postgres::{PostgresConfig, PostgresStore, migrate};
use support::harness::node::MachineClock;
use support::harness::orders::{creation, id, key, order, user};
use support::harness::pg_store::config_of;
use support::harness::postgres::{PgServer, query};
use support::harness::redis::RedisServer;
use support::{drive, median};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;
const PAGE: u32 = 21;

/// What is asked again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The newest state.
    Order,
    /// Where it stands, perhaps a short while ago.
    Status,
    /// A page of 21 orders of a user.
    Page,
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (orders, reads) =
        (numbers.first().copied().unwrap_or(2_000), numbers.get(1).copied().unwrap_or(40_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("cores: {}; {orders} orders", std::thread::available_parallelism().unwrap());
    runtime.block_on(measure(u64::try_from(orders).unwrap(), reads));
}

async fn measure(orders: u64, reads: usize) {
    let (server, redis) = (PgServer::start(&[]).await, RedisServer::start().await);
    let url = server.create_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let store: Arc<dyn OrderStore> =
        PostgresStore::open(PostgresConfig { exclusive: false, ..config_of(&url) }).await.unwrap();
    let shelf = RedisShelf::start(ShelfConfig {
        url: redis.url(),
        tls_ca: None,
        patience: Duration::from_millis(500),
        retry_every: Duration::from_secs(1),
        keep_for: Duration::from_secs(3_600),
        prefix: "bench".to_owned(),
        key: key(),
    });
    let clock = Arc::new(MachineClock::default());
    let cached: Arc<dyn OrderStore> = Arc::new(CachedStore::new(
        Arc::clone(&store),
        Arc::new(shelf.unwrap()),
        clock,
        Duration::from_secs(60),
    ));
    for n in 0..orders {
        let mut commit = creation(order(n));
        let saga = commit.saga.as_mut().unwrap();
        (saga.settled, saga.token, saga.step) = (true, None, None);
        store.commit(commit).await.unwrap();
    }
    query(&url, "VACUUM ANALYZE").await.unwrap();
    let ids: Arc<Vec<OrderId>> = Arc::new((0..orders).map(id).collect());
    let read = |which: &Arc<dyn OrderStore>, asked, total| {
        let (ids, which) = (Arc::clone(&ids), Arc::clone(which));
        async move {
            drive(&[which], IN_FLIGHT, total, move |store, number| {
                // In an order that no cache foresees, and the same for both.
                let n = number.wrapping_mul(2_654_435_761) % ids.len();
                let id = ids[n];
                async move { ask(&*store, asked, id, n).await }
            })
            .await
        }
    };
    // Until all have a copy.
    for _ in 0..2 {
        read(&cached, Asked::Order, ids.len() * 3).await;
    }
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    for (asked, name, share) in [
        (Asked::Order, "GetOrder, the newest state", 1),
        (Asked::Status, "GetOrderStatus", 1),
        (Asked::Page, "a page of 21 orders", 20),
    ] {
        let total = reads / share;
        let mut figures = [[const { Vec::new() }; 4], [const { Vec::new() }; 4]];
        for round in 0..=ROUNDS {
            for (place, which) in [&store, &cached].into_iter().enumerate() {
                let before = Meter::read(&server, &database).await;
                let run = read(which, asked, total).await;
                let used = before.until(&Meter::read(&server, &database).await);
                // The first round warms up.
                if round > 0 {
                    let each = 1e6 / run.done as f64;
                    figures[place][0].push(run.rate());
                    figures[place][1].push(run.percentile(50.0).as_secs_f64() * 1e3);
                    figures[place][2].push(used.server_cpu * each);
                    figures[place][3].push(used.own_cpu * each);
                }
            }
        }
        for (place, how) in ["Postgres alone", "with Redis"].iter().enumerate() {
            let of = |what: usize| median(&figures[place][what]);
            println!(
                "{name}, {how}: {:.0}/s, p50 {:.2} ms, {:.0} us CPU of Postgres, {:.0} us of this process",
                of(0),
                of(1),
                of(2),
                of(3)
            );
        }
        let spared = 1.0 - median(&figures[1][2]) / median(&figures[0][2]);
        println!("{name}: {:.0} % less CPU of Postgres for each", spared * 100.0);
    }
}

async fn ask(store: &dyn OrderStore, asked: Asked, id: OrderId, n: usize) {
    match asked {
        Asked::Order => assert!(store.load(id).await.unwrap().is_some()),
        Asked::Status => assert!(store.glance(id).await.unwrap().is_some()),
        Asked::Page => {
            let query = ListQuery {
                user_id: Some(user(n as u128 % 7)),
                statuses: Vec::new(),
                created_after: None,
                created_before: None,
                oldest_first: false,
                after: None,
                limit: PAGE,
            };
            assert_eq!(store.list(&query).await.unwrap().len(), PAGE as usize);
        }
    }
}
