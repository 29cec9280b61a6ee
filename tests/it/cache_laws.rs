//! Writers and readers on two nodes with a Redis that fails all the time: what readers are told is never less than what anybody
//! was told before, and what may be late says by how much.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use order_service::cache::{CachedStore, RedisShelf, ShelfConfig};
use order_service::ports::store::OrderStore;
use order_service::store::postgres::{PostgresConfig, PostgresStore, migrate};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::Chance;
use crate::harness::frames::Protocol;
use crate::harness::node::MachineClock;
use crate::harness::orders::{creation, id, key, order, update};
use crate::harness::pg_store::config_of;
use crate::harness::postgres::shared_database;
use crate::harness::proxy::Proxy;
use crate::harness::redis::RedisServer;
use crate::harness::wait::eventually;

const ORDERS: u64 = 3;
const FAULTS: u32 = 14;
const MAX_STALE: Duration = Duration::from_secs(2);

/// What is known of one order outside.
struct Known {
    /// When each version was acknowledged; the first one has place 0.
    acknowledged: Mutex<Vec<Instant>>,
    /// The highest version that somebody who wanted the newest state was shown.
    shown: AtomicI64,
}

struct World {
    nodes: Vec<CachedStore>,
    known: Vec<Known>,
    is_over: AtomicBool,
    changes: AtomicU64,
    /// Answers of reads that may be late: from a copy, and from an old one.
    copies: AtomicU64,
    late: AtomicU64,
}

impl World {
    fn known(&self, n: u64) -> &Known {
        &self.known[usize::try_from(n).unwrap() - 1]
    }

    async fn write(&self, n: u64, mut chance: Chance) {
        let mut commit = creation(order(n));
        let saga = commit.saga.as_mut().unwrap();
        (saga.settled, saga.token, saga.step) = (true, None, None);
        loop {
            let last = Arc::clone(&commit.order);
            let node = &self.nodes[usize::from(chance.percent(50))];
            node.commit(commit).await.unwrap();
            self.known(n).acknowledged.lock().unwrap().push(Instant::now());
            self.changes.fetch_add(1, Ordering::Relaxed);
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            commit = update(&last, |order| order.notes = format!("version {}", order.version));
        }
    }

    async fn read(&self, mut chance: Chance) {
        while !self.is_over.load(Ordering::Relaxed) {
            let n = 1 + u64::try_from(chance.below(i64::try_from(ORDERS).unwrap())).unwrap();
            let (node, known) = (&self.nodes[usize::from(chance.percent(50))], self.known(n));
            let began = Instant::now();
            let acknowledged = known.acknowledged.lock().unwrap().clone();
            let least = known.shown.load(Ordering::SeqCst).max(i64::try_from(acknowledged.len()).unwrap());
            if chance.percent(50) {
                let found = node.load(id(n)).await.unwrap();
                let version = found.as_ref().map_or(0, |stored| stored.order.version);
                assert!(version >= least, "version {version} was shown where {least} had been told of");
                if version > 1 {
                    assert_eq!(found.unwrap().order.notes, format!("version {version}"));
                }
                known.shown.fetch_max(version, Ordering::SeqCst);
                continue;
            }
            let (version, age) = if chance.percent(50) {
                let seen = node.glance(id(n)).await.unwrap();
                seen.map_or((0, Duration::ZERO), |seen| (seen.what.version, seen.age.unwrap()))
            } else {
                let seen = node.load_stale(id(n)).await.unwrap();
                seen.map_or((0, Duration::ZERO), |seen| (seen.what.order.version, seen.age.unwrap()))
            };
            assert!(age <= MAX_STALE, "{age:?}");
            self.copies.fetch_add(u64::from(!age.is_zero()), Ordering::Relaxed);
            // It was replaced when the version after it was acknowledged, at the latest.
            if let Some(replaced) = acknowledged.get(usize::try_from(version).unwrap()) {
                let late = began.duration_since(*replaced);
                assert!(
                    age >= late,
                    "version {version} was out of date for {late:?} and said to be {age:?} old"
                );
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until this many more were counted.
async fn more(what: &str, counter: &AtomicU64, count: u64) {
    let goal = counter.load(Ordering::Relaxed) + count;
    eventually(what, async || (counter.load(Ordering::Relaxed) >= goal).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_shown_less_than_was_told_and_ages_are_true_while_redis_fails() {
    let database = shared_database().await;
    migrate(&config_of(&database)).await.unwrap();
    let redis = RedisServer::start().await;
    let mut proxies = Vec::new();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let proxy = Proxy::start_for(Protocol::Any, redis.address()).await;
        let config = ShelfConfig {
            url: proxy.url_of(&redis.url()),
            tls_ca: None,
            patience: Duration::from_millis(20),
            retry_every: Duration::from_millis(20),
            keep_for: Duration::from_secs(600),
            prefix: "laws".to_owned(),
            key: key(),
        };
        let shelf = Arc::new(RedisShelf::start(config).unwrap());
        let store =
            PostgresStore::open(PostgresConfig { exclusive: false, ..config_of(&database) }).await.unwrap();
        nodes.push(CachedStore::new(store, shelf, Arc::new(MachineClock::default()), MAX_STALE));
        proxies.push(proxy);
    }
    let known = || Known { acknowledged: Mutex::default(), shown: AtomicI64::new(0) };
    let world = Arc::new(World {
        nodes,
        known: (0..ORDERS).map(|_| known()).collect(),
        is_over: AtomicBool::new(false),
        changes: AtomicU64::new(0),
        copies: AtomicU64::new(0),
        late: AtomicU64::new(0),
    });
    let mut tasks = JoinSet::new();
    for n in 1..=ORDERS {
        let world = Arc::clone(&world);
        tasks.spawn(async move { world.write(n, Chance::new(n)).await });
    }
    for n in 0..4 {
        let world = Arc::clone(&world);
        tasks.spawn(async move { world.read(Chance::new(100 + n)).await });
    }
    let mut chance = Chance::new(7);
    for fault in 0..FAULTS {
        let proxy = &proxies[usize::from(chance.percent(50))];
        match fault % 7 {
            0 => proxy.hang(true),
            1 => proxy.delay(Duration::from_millis(15)),
            2 => proxy.delay(Duration::from_millis(60)),
            3 => proxy.cut_all(),
            4 => drop(redis.command("FLUSHALL").await),
            5 => drop(redis.save().await),
            _ => {
                redis.kill9();
                redis.start_again().await;
            }
        }
        more("changes", &world.changes, 10).await;
        for proxy in &proxies {
            proxy.hang(false);
            proxy.delay(Duration::ZERO);
        }
        more("answers from copies", &world.copies, 10).await;
    }
    world.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let (copies, late) = (world.copies.load(Ordering::Relaxed), world.late.load(Ordering::Relaxed));
    let changes = world.changes.load(Ordering::Relaxed);
    println!("{FAULTS} faults, {changes} changes; {copies} answers from copies, {late} of them out of date");
    assert!(late > 0, "a copy that is out of date was shown, and said so");
}
