//! A store with a cache before it: what is believed of a cache that is away, slow, flushed, full of old data or of lies.

mod copies;

use std::sync::Arc;
use std::time::Duration;

use order_service::cache::{CachedStore, Found, NearShelf, RedisShelf, Shelf, ShelfConfig};
use order_service::domain::ids::{OrderId, content_hash};
use order_service::domain::order::Order;
use order_service::domain::status::OrderStatus;
use order_service::ports::store::{Commit, ListQuery, OrderStore, Regression, StoreError, Touched};
use order_service::store::postgres::{PostgresConfig, PostgresStore, migrate};
use tokio::time::Instant;

use crate::harness::certificates::Certificates;
use crate::harness::frames::Protocol;
use crate::harness::node::MachineClock;
use crate::harness::orders::{at, change_all, creation, id, key, order, update, user};
use crate::harness::pg_store::config_of;
use crate::harness::postgres::{query, shared_database};
use crate::harness::proxy::Proxy;
use crate::harness::redis::RedisServer;
use crate::harness::wait::eventually;

/// Longer than any test waits: what goes away sooner does so for another reason.
const MAX_STALE: Duration = Duration::from_secs(60);

/// Of how an order is written in Redis.
const FORM: [u8; 16] = [133, 233, 39, 220, 218, 117, 17, 119, 31, 48, 59, 174, 178, 59, 168, 36];

/// A node's way to the store, and the shelf before it.
struct Node {
    cached: CachedStore,
    /// Past the cache.
    store: Arc<PostgresStore>,
    shelf: Arc<dyn Shelf>,
}

/// Where the namespace stands in Redis.
const NAMESPACE: &str = "test:2:namespace";

async fn namespace(redis: &RedisServer) -> String {
    redis.text(&format!("GET {NAMESPACE}")).await
}

/// The key of an order in Redis.
async fn entry(redis: &RedisServer, n: u64) -> String {
    format!("test:2:{}:{}", namespace(redis).await, id(n))
}

async fn database() -> String {
    let url = shared_database().await;
    migrate(&config_of(&url)).await.unwrap();
    url
}

fn shelf_config(url: &str) -> ShelfConfig {
    ShelfConfig {
        url: url.to_owned(),
        tls_ca: None,
        patience: Duration::from_secs(1),
        retry_every: Duration::from_millis(20),
        keep_for: Duration::from_secs(600),
        prefix: "test".to_owned(),
        key: key(),
    }
}

impl Node {
    async fn start(database: &str, redis: &str) -> Self {
        Self::with(database, shelf_config(redis)).await
    }

    async fn with(database: &str, config: ShelfConfig) -> Self {
        Self::over(database, Arc::new(RedisShelf::start(config).unwrap())).await
    }

    async fn over(database: &str, shelf: Arc<dyn Shelf>) -> Self {
        let config = PostgresConfig { exclusive: false, ..config_of(database) };
        let store = PostgresStore::open(config).await.unwrap();
        let clock = Arc::new(MachineClock::default());
        let inner = Arc::clone(&store) as Arc<dyn OrderStore>;
        let cached = CachedStore::new(inner, Arc::clone(&shelf), clock, MAX_STALE);
        Self { cached, store, shelf }
    }

    /// The newest state, and how long that took.
    async fn load(&self, id: OrderId) -> Order {
        Order::clone(&self.cached.load(id).await.unwrap().unwrap().order)
    }

    async fn version(&self, id: OrderId) -> i64 {
        self.load(id).await.version
    }

    /// Reads an order until its copy is on the shelf.
    async fn has_copy(&self, id: OrderId, version: i64) {
        let look = async || {
            let loaded = self.load(id).await;
            match self.shelf.details(&[id]).await.pop() {
                Some(Found::Here(details)) if details.mark.version == version && details.at > 0 => {
                    Some((loaded, details))
                }
                _ => None,
            }
        };
        let (loaded, details) = eventually("a copy", look).await;
        assert_eq!(loaded, *details.order, "to the last field");
    }

    async fn list(&self, query: &ListQuery) -> Vec<(OrderId, i64)> {
        self.cached.list(query).await.unwrap().iter().map(|order| (order.id, order.version)).collect()
    }
}

/// The creation of an order that comes to rest at once.
fn resting(n: u64) -> Commit {
    let mut commit = creation(order(n));
    let saga = commit.saga.as_mut().unwrap();
    (saga.settled, saga.token, saga.step) = (true, None, None);
    commit
}

/// Stores a next version of an order.
async fn change(node: &Node, before: &Order) -> Order {
    let commit = update(before, |order| order.notes = format!("version {}", order.version));
    let after = Order::clone(&commit.order);
    node.cached.commit(commit).await.unwrap();
    after
}

/// Changes a note behind everybody's back, which no mark tells of: whoever still sees the old one was shown a copy.
async fn falsify(database: &str) {
    query(database, "UPDATE orders SET notes = 'false'").await.unwrap();
}

#[tokio::test]
async fn a_copy_spares_the_store_and_is_believed_only_while_it_is_the_newest() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let nodes = [Node::start(&database, &redis.url()).await, Node::start(&database, &redis.url()).await];
    let created = resting(1);
    nodes[0].cached.commit(created.clone()).await.unwrap();
    nodes[0].has_copy(id(1), 1).await;
    eventually("the other node to see it", async || {
        matches!(nodes[1].shelf.details(&[id(1)]).await.pop(), Some(Found::Here(_))).then_some(())
    })
    .await;
    falsify(&database).await;
    for node in &nodes {
        assert_eq!(node.load(id(1)).await, *created.order, "to the last field, and from a copy");
    }
    // Nobody waits for Redis to be told of a change.
    let mut last = Order::clone(&created.order);
    for round in 0..20 {
        last = change(&nodes[round % 2], &last).await;
        for node in &nodes {
            assert_eq!(node.load(id(1)).await, last);
        }
    }
    // Nor does it matter whether it is told at all.
    nodes[0].has_copy(id(1), last.version).await;
    let untold = update(&last, |order| order.notes = "nobody was told".to_owned());
    nodes[0].store.commit(untold.clone()).await.unwrap();
    for node in &nodes {
        assert_eq!(node.load(id(1)).await, *untold.order);
    }
    assert!(nodes[0].cached.load(id(2)).await.unwrap().is_none());
}

#[tokio::test]
async fn every_field_of_an_order_is_in_its_copy() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let node = Node::start(&database, &redis.url()).await;
    let created = resting(1);
    node.cached.commit(created.clone()).await.unwrap();
    let mut changed = update(&created.order, change_all);
    changed.touched =
        Touched { items: true, addresses: true, shipments: true, payments_from: 0, timer: true };
    let stored = Arc::clone(&changed.order);
    node.cached.commit(changed).await.unwrap();
    assert_eq!(node.load(id(1)).await, *stored, "from the store");
    node.has_copy(id(1), 2).await;
    falsify(&database).await;
    assert_eq!(node.load(id(1)).await, *stored, "from a copy");
    // Whoever changes this form raises `cache::entry::FORM`, so that programs that write different ones do not meet.
    let form = serde_json::to_string(&*stored).unwrap();
    assert_eq!(content_hash("form of a copy", &[form.as_bytes()]), FORM, "{form}");
}

#[tokio::test]
async fn what_is_near_is_believed_only_while_it_is_the_newest() {
    let database = database().await;
    let near = || Arc::new(NearShelf::new(100, Duration::from_secs(600)));
    let nodes = [Node::over(&database, near()).await, Node::over(&database, near()).await];
    let created = resting(1);
    nodes[0].cached.commit(created.clone()).await.unwrap();
    for node in &nodes {
        node.has_copy(id(1), 1).await;
    }
    falsify(&database).await;
    for node in &nodes {
        assert_eq!(node.load(id(1)).await, *created.order);
    }
    let last = change(&nodes[0], &created.order).await;
    for node in &nodes {
        assert_eq!(node.load(id(1)).await, last);
        // Nobody tells the other node, so it looks.
        let seen = node.cached.glance(id(1)).await.unwrap().unwrap();
        assert_eq!((seen.what.version, seen.age), (2, Some(Duration::ZERO)));
    }
}

#[tokio::test]
async fn whatever_becomes_of_redis_the_newest_state_is_shown_and_soon() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let proxy = Proxy::start_for(Protocol::Any, redis.address()).await;
    let config = |url: &str| ShelfConfig { patience: Duration::from_millis(50), ..shelf_config(url) };
    let through = proxy.url_of(&redis.url());
    let nodes =
        [Node::with(&database, config(&through)).await, Node::with(&database, config(&through)).await];
    nodes[0].cached.commit(resting(1)).await.unwrap();
    nodes[0].has_copy(id(1), 1).await;
    let mut last = nodes[0].load(id(1)).await;
    for fault in ["slow", "stuck", "refused", "cut", "flushed", "killed"] {
        match fault {
            "slow" => proxy.delay(Duration::from_millis(150)),
            "stuck" => proxy.hang(true),
            "refused" => {
                proxy.refuse(true);
                proxy.cut_all();
            }
            "cut" => proxy.cut_all(),
            "flushed" => assert_eq!(redis.command("FLUSHALL").await, "+OK"),
            _ => redis.kill9(),
        }
        let began = Instant::now();
        for round in 0..10 {
            last = change(&nodes[round % 2], &last).await;
            for node in &nodes {
                assert_eq!(node.version(id(1)).await, last.version, "Redis is {fault}");
            }
        }
        println!("Redis is {fault}: 10 changes and 20 reads in {:?}", began.elapsed());
        proxy.delay(Duration::ZERO);
        proxy.hang(false);
        proxy.refuse(false);
        if fault == "killed" {
            redis.start_again().await;
        }
        for node in &nodes {
            node.has_copy(id(1), last.version).await;
        }
    }
}

#[tokio::test]
async fn a_redis_with_old_data_shows_no_old_state() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let node = Node::start(&database, &redis.url()).await;
    node.cached.commit(resting(1)).await.unwrap();
    node.has_copy(id(1), 1).await;
    redis.save().await;
    let first = node.load(id(1)).await;
    let last = change(&node, &first).await;
    node.has_copy(id(1), 2).await;
    let replaced = Instant::now();
    redis.kill9();
    redis.start_again().await;
    let old = async || match node.shelf.details(&[id(1)]).await.pop() {
        Some(Found::Here(details)) => Some(details.mark.version),
        _ => None,
    };
    assert_eq!(eventually("the old data", old).await, 1);
    assert_eq!(node.load(id(1)).await, last, "the newest, whatever Redis says");
    let seen = node.cached.load_stale(id(1)).await.unwrap().unwrap();
    let age = seen.age.unwrap();
    // The copy of the old state may be shown to whoever may be shown one, but not as a young one.
    assert!(seen.what.order.version == 2 || age >= replaced.elapsed(), "{age:?}");
}

#[tokio::test]
async fn a_database_that_lost_changes_is_not_healed_by_copies_of_them() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let node = Node::start(&database, &redis.url()).await;
    node.cached.commit(resting(1)).await.unwrap();
    let first = node.load(id(1)).await;
    let lost = change(&node, &first).await;
    node.has_copy(id(1), 2).await;
    // As if the second version had never been, and another one had taken its number.
    let back = "UPDATE orders SET (version, event_seq, event_hash, notes) = (1, 2, \
                (SELECT hash FROM order_events WHERE seq = 2), 'ring twice')";
    query(&database, back).await.unwrap();
    assert_eq!(node.load(id(1)).await.notes, "ring twice", "the store counts");
    let other =
        "UPDATE orders SET (version, event_seq, event_hash, notes) = (2, 3, sha256('another'), 'another')";
    query(&database, other).await.unwrap();
    let seen = node.load(id(1)).await;
    assert_eq!(
        (seen.version, seen.notes.as_str()),
        (lost.version, "another"),
        "the same version is not the same state"
    );
    // An order that is set aside is shown by nobody.
    let regression = Regression { id: id(1), known: 9, stored: 2 };
    node.cached.quarantine(&[regression], at(0)).await.unwrap();
    assert!(matches!(node.cached.load(id(1)).await, Err(StoreError::Corrupt { .. })));
    let gone = async || matches!(node.shelf.glance(id(1)).await, Found::Nothing).then_some(());
    eventually("its copy to go", gone).await;
}

#[tokio::test]
async fn when_redis_could_not_be_told_of_a_change_nobody_finds_what_it_replaced() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let proxy = Proxy::start_for(Protocol::Any, redis.address()).await;
    // One node is cut from Redis, the other one is not.
    let cut = Node::start(&database, &proxy.url_of(&redis.url())).await;
    let other = Node::start(&database, &redis.url()).await;
    cut.cached.commit(resting(1)).await.unwrap();
    cut.has_copy(id(1), 1).await;
    let before = namespace(&redis).await;
    assert_eq!(before.len(), 16, "{before}");
    let glance = async || other.cached.glance(id(1)).await.unwrap().unwrap();
    eventually("a glance at a copy", async || (!glance().await.age?.is_zero()).then_some(())).await;
    proxy.refuse(true);
    proxy.cut_all();
    let first = cut.load(id(1)).await;
    let last = change(&cut, &first).await;
    let replaced = Instant::now();
    eventually("the loss to be noticed", async || (!cut.shelf.is_whole()).then_some(())).await;
    let mine = cut.cached.glance(id(1)).await.unwrap().unwrap();
    assert_eq!((mine.what.version, mine.age), (2, Some(Duration::ZERO)), "it asks the store");
    assert_eq!(other.load(id(1)).await, last);
    // The other node cannot know, and says so.
    let seen = glance().await;
    assert!(seen.what.version == 2 || seen.age.unwrap() >= replaced.elapsed(), "{seen:?}");
    proxy.refuse(false);
    let changed = async || (namespace(&redis).await != before).then_some(());
    eventually("another namespace", changed).await;
    eventually("the old copy to be out of sight", async || (glance().await.what.version == 2).then_some(()))
        .await;
    eventually("the node to be trusted again", async || cut.shelf.is_whole().then_some(())).await;
}

#[tokio::test]
async fn a_status_is_shown_from_a_copy_with_its_age_and_a_change_replaces_it() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let nodes = [Node::start(&database, &redis.url()).await, Node::start(&database, &redis.url()).await];
    // In motion: where it stands is kept, the order is not, and never the token that pays.
    nodes[0].cached.commit(creation(order(1))).await.unwrap();
    let seen = async || {
        let seen = nodes[1].cached.glance(id(1)).await.unwrap().unwrap();
        (!seen.age?.is_zero()).then_some(seen)
    };
    let first = eventually("a copy's age", seen).await;
    assert_eq!((first.what.status, first.what.version), (OrderStatus::Pending, 1));
    assert!(matches!(nodes[1].shelf.details(&[id(1)]).await.pop(), Some(Found::Nothing)));
    let saved = redis.save().await;
    assert!(!holds(&saved, "tok_secret") && holds(&saved, "PENDING"));
    let confirm = update(&order(1), |order| order.status = OrderStatus::Confirmed);
    nodes[0].cached.commit(confirm).await.unwrap();
    let confirmed =
        async || (nodes[1].cached.glance(id(1)).await.unwrap().unwrap().what.version == 2).then_some(());
    eventually("the other node to hear of it", confirmed).await;
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn pages_are_put_together_from_copies_and_are_of_one_moment() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let nodes = [Node::start(&database, &redis.url()).await, Node::start(&database, &redis.url()).await];
    let mut orders = Vec::new();
    for n in (0..8).map(|n| 7 * n + 1) {
        let commit = resting(n);
        orders.push(Order::clone(&commit.order));
        nodes[0].cached.commit(commit).await.unwrap();
    }
    let query_of = |statuses: Vec<OrderStatus>| ListQuery {
        user_id: Some(user(1)),
        statuses,
        created_after: None,
        created_before: None,
        oldest_first: true,
        after: None,
        limit: 20,
    };
    let all = query_of(Vec::new());
    let expected =
        |orders: &[Order]| orders.iter().map(|order| (order.id, order.version)).collect::<Vec<_>>();
    assert_eq!(nodes[0].list(&all).await, expected(&orders));
    for order in &orders {
        nodes[1].has_copy(order.id, 1).await;
    }
    falsify(&database).await;
    for node in &nodes {
        let page = node.cached.list(&all).await.unwrap();
        assert_eq!(page.iter().map(|order| Order::clone(order)).collect::<Vec<_>>(), orders, "from copies");
    }
    // Changed, made and gone from the filter: whoever asks next sees it.
    for round in 0..3 {
        orders[round] = change(&nodes[round % 2], &orders[round]).await;
        for node in &nodes {
            assert_eq!(node.list(&all).await, expected(&orders));
        }
    }
    let cancel = update(&orders[5], |order| order.status = OrderStatus::Cancelled);
    orders[5] = Order::clone(&cancel.order);
    nodes[0].cached.commit(cancel).await.unwrap();
    let pending: Vec<Order> =
        orders.iter().filter(|order| order.status == OrderStatus::Pending).cloned().collect();
    for node in &nodes {
        assert_eq!(node.list(&all).await, expected(&orders));
        assert_eq!(node.list(&query_of(vec![OrderStatus::Pending])).await, expected(&pending));
    }
    // Changes that the cache was not told of, so that it has copies of what they replaced.
    for order in &mut orders {
        nodes[0].has_copy(order.id, order.version).await;
        let untold = update(order, |order| order.notes = "nobody was told".to_owned());
        *order = Order::clone(&untold.order);
        nodes[0].store.commit(untold).await.unwrap();
        for node in &nodes {
            let page = node.list(&all).await;
            assert!(page.contains(&(order.id, order.version)), "{page:?}");
        }
    }
    for node in &nodes {
        assert_eq!(node.list(&all).await, expected(&orders));
    }
    redis.kill9();
    for node in &nodes {
        assert_eq!(node.list(&all).await, expected(&orders));
    }
}

#[tokio::test]
async fn redis_is_believed_over_tls_by_the_right_authority_only() {
    let (database, certificates) = (database().await, Certificates::new().await);
    let redis = RedisServer::start_with_tls(&certificates).await;
    let over = |authority: &str| ShelfConfig {
        tls_ca: Some(std::fs::read(certificates.path(authority)).unwrap()),
        ..shelf_config(&redis.tls_url())
    };
    let right = Node::with(&database, over("right.crt")).await;
    right.cached.commit(resting(1)).await.unwrap();
    right.has_copy(id(1), 1).await;
    let connections = async || redis.text("INFO stats").await.contains("total_connections_received");
    assert!(connections().await);
    let wrong = Node::with(&database, over("wrong.crt")).await;
    for _ in 0..20 {
        assert_eq!(wrong.version(id(1)).await, 1);
        assert!(matches!(wrong.shelf.details(&[id(1)]).await.pop(), Some(Found::Unasked)));
    }
}

#[tokio::test]
async fn a_redis_cluster_keeps_copies_and_one_server_less_is_only_slower() {
    let (database, servers) = (database().await, RedisServer::start_cluster().await);
    let hosts: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    let url = format!("redis+cluster://{}", hosts[..2].join(","));
    let hasty = Node::start(&database, &url).await;
    // On a busy machine an answer may take a while, and no read may go by the copies.
    let patient = ShelfConfig { patience: Duration::from_secs(10), ..shelf_config(&url) };
    let node = Node::with(&database, patient).await;
    for n in 1..=12 {
        node.cached.commit(resting(n)).await.unwrap();
        node.has_copy(id(n), 1).await;
    }
    for server in &servers {
        assert!(server.keys().await > 0, "copies are spread");
    }
    falsify(&database).await;
    for n in 1..=12 {
        assert_eq!(node.load(id(n)).await, order(n), "from a copy");
    }
    servers[2].kill9();
    for n in 1..=12 {
        let before = hasty.load(id(n)).await;
        let last = change(&hasty, &before).await;
        assert_eq!(hasty.load(id(n)).await, last);
    }
}
