//! How often callers may call, one node and several, with Redis and without; and what one user may have under way.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::catalogue;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Confirmed, Pending};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::api::{by_id, channel, down, eventually, fault, no_faults, quick, read_refusal, refused};
use crate::harness::cluster::{Cluster, Plan, SWIFT};
use crate::harness::frames::Protocol;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::postgres::{shared, shared_database};
use crate::harness::proxy::Proxy;
use crate::harness::redis::RedisServer;

const NOBODY: (&str, &str) = ("ORDER__RATE_LIMITS__EXEMPT_ROLES", "");
const NO_SUCH: &str = "00000000-0000-7000-8000-000000000000";

/// Looks at an order that there is not; false when that is refused as too often.
async fn reads(node: &TestNode) -> bool {
    let mut client = node.client();
    let asked = timeout(Duration::from_secs(5), client.get_order(by_id(NO_SUCH)));
    let error = asked.await.expect("an answer in time").unwrap_err();
    match error.code() {
        Code::NotFound => true,
        _ => {
            assert!(read_refusal(&error, Code::ResourceExhausted, "RATE_LIMITED").retry, "{error:?}");
            false
        }
    }
}

fn rate_limited(error: &Status) -> bool {
    read_refusal(error, Code::ResourceExhausted, "RATE_LIMITED").retry
}

/// An order of another user, without a coupon.
fn order_of_user(number: u32) -> pb::CreateOrderRequest {
    let user_id = catalogue::user(number).0.to_string();
    pb::CreateOrderRequest { user_id, coupon_code: String::new(), ..sample_order() }
}

#[tokio::test]
async fn calls_of_one_class_are_limited_and_others_are_not() {
    let node = TestNode::start_with(&[
        NOBODY,
        ("ORDER__RATE_LIMITS__READ_PER_SECOND", "1"),
        ("ORDER__RATE_LIMITS__READ_BURST", "5"),
    ])
    .await;
    let began = Instant::now();
    for _ in 0..5 {
        assert!(reads(&node).await);
    }
    let refused = !reads(&node).await;
    assert!(refused || began.elapsed() > Duration::from_secs(1), "the sixth within a second");
    // Changes, lists and health checks have limits of their own, or none.
    let order = node.create(sample_order()).await;
    assert_eq!(order.status(), Confirmed);
    node.client().list_orders(pb::ListOrdersRequest::default()).await.unwrap();
    let mut health = HealthClient::new(channel(&node).await);
    for _ in 0..50 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    // Whoever waits for as long as the refusal says is let in.
    eventually("the limit to be whole again", async || reads(&node).await.then_some(())).await;
    node.stop().await;
}

#[tokio::test]
async fn exempt_roles_are_not_counted() {
    let limit = [("ORDER__RATE_LIMITS__READ_PER_SECOND", "1"), ("ORDER__RATE_LIMITS__READ_BURST", "1")];
    // In dev mode everybody is an admin, whom the default exempts.
    let node = TestNode::start_with(&limit).await;
    for _ in 0..20 {
        assert!(reads(&node).await);
    }
    node.stop().await;
}

/// Settings of a node that counts in this Redis: a burst of 20 reads, and then one a second.
fn counting_in(url: &str) -> Vec<(&str, &str)> {
    quick(&[
        NOBODY,
        ("ORDER__RATE_LIMITS__STORE", url),
        ("ORDER__RATE_LIMITS__TIMEOUT", "1s"),
        ("ORDER__RATE_LIMITS__RETRY_EVERY", "20ms"),
        ("ORDER__RATE_LIMITS__READ_PER_SECOND", "1"),
        ("ORDER__RATE_LIMITS__READ_BURST", "20"),
        ("ORDER__RATE_LIMITS__LIST_PER_SECOND", "1000000"),
        ("ORDER__RATE_LIMITS__LIST_BURST", "1000000"),
    ])
}

/// Waits until this node counts in Redis, and has Redis forget it.
async fn counts_in(node: &TestNode, redis: &RedisServer) {
    eventually("the node to count in Redis", async || {
        node.client().list_orders(pb::ListOrdersRequest::default()).await.unwrap();
        (redis.keys().await > 0).then_some(())
    })
    .await;
    assert_eq!(redis.command("FLUSHALL").await, "+OK");
}

#[tokio::test]
async fn two_nodes_count_together() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let nodes =
        [TestNode::start_with(&counting_in(&url)).await, TestNode::start_with(&counting_in(&url)).await];
    for node in &nodes {
        counts_in(node, &redis).await;
    }
    let began = Instant::now();
    let mut taken = 0;
    for call in 0..80 {
        taken += u64::from(reads(&nodes[call % 2]).await);
    }
    // One more for each second, by a clock that began a little earlier.
    let most = 21 + began.elapsed().as_secs();
    assert!((20..=most).contains(&taken), "{taken} of {most}");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn when_redis_dies_no_call_fails_and_the_node_counts_itself_until_it_is_back() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let node = TestNode::start_with(&counting_in(&url)).await;
    counts_in(&node, &redis).await;
    let list = async || {
        let mut client = node.client();
        let listing = client.list_orders(pb::ListOrdersRequest::default());
        timeout(Duration::from_secs(5), listing).await.expect("an answer in time").unwrap();
    };
    for call in 0..300 {
        if call == 100 {
            redis.kill9();
        }
        list().await;
    }
    let mut taken = 0;
    for _ in 0..60 {
        taken += u64::from(reads(&node).await);
    }
    assert!((20..60).contains(&taken), "the same limit holds: {taken}");
    redis.start_again().await;
    counts_in(&node, &redis).await;
    // It has forgotten everything, so there is a new burst.
    assert!(reads(&node).await);
    assert!(redis.keys().await > 0);
    node.stop().await;
}

#[tokio::test]
async fn a_node_starts_without_redis() {
    let node = TestNode::start_with(&counting_in("redis://127.0.0.1:1/0")).await;
    let mut taken = 0;
    for _ in 0..60 {
        taken += u64::from(reads(&node).await);
    }
    assert!((20..60).contains(&taken), "{taken}");
    node.stop().await;
}

#[tokio::test]
async fn a_redis_that_is_slow_or_stuck_is_not_waited_for() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::start_for(Protocol::Any, redis.address()).await;
    let url = proxy.url_of(&redis.url());
    let patience = ("ORDER__RATE_LIMITS__TIMEOUT", "50ms");
    let settings = [counting_in(&url), vec![patience]].concat();
    let node = TestNode::start_with(&settings).await;
    counts_in(&node, &redis).await;
    for is_stuck in [false, true] {
        if is_stuck {
            proxy.hang(true);
        } else {
            proxy.delay(Duration::from_millis(200));
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let began = Instant::now();
            let mut client = node.client();
            let listing = client.list_orders(pb::ListOrdersRequest::default());
            timeout(Duration::from_secs(5), listing).await.expect("an answer in time").unwrap();
            slowest = slowest.max(began.elapsed());
        }
        println!("a Redis that is {}: slowest call {slowest:?}", if is_stuck { "stuck" } else { "slow" });
        proxy.hang(false);
        proxy.delay(Duration::ZERO);
        counts_in(&node, &redis).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn one_user_makes_so_many_orders_an_hour_and_repeats_are_none() {
    let settings = [NOBODY, ("ORDER__RATE_LIMITS__CREATIONS_PER_USER_HOUR", "3")];
    let node = TestNode::start_with(&settings).await;
    let requests: Vec<_> = (0..3).map(|_| sample_order()).collect();
    let mut ids = BTreeSet::new();
    for request in &requests {
        ids.insert(node.create(request.clone()).await.id);
    }
    let error = node.try_create(sample_order()).await.unwrap_err();
    assert!(rate_limited(&error) && error.message().contains("this user"), "{error:?}");
    assert_eq!(node.orders().await.len(), 3, "nothing was stored");
    for request in &requests {
        assert!(ids.contains(&node.create(request.clone()).await.id), "a repeat has its answer");
    }
    // Nor does anything that stores nothing count, or another user.
    let only = pb::CreateOrderRequest { validate_only: true, ..sample_order() };
    node.create(only).await;
    node.create(order_of_user(1)).await;
    node.stop().await;
}

#[tokio::test]
async fn repeats_have_their_answer_also_after_a_restart() {
    let settings =
        [NOBODY, ("ORDER__RATE_LIMITS__OPEN_ORDERS_PER_USER", "1"), ("ORDER__CREATE__WAIT", "10ms")];
    let node = TestNode::start_with(&quick(&settings)).await;
    fault(&node, "payment.Charge", down());
    let request = sample_order();
    let order = node.create(request.clone()).await;
    assert_eq!(order.status(), Pending);
    let node = TestNode::start_in(node.stop().await, &quick(&settings)).await;
    assert_eq!(node.create(request).await.id, order.id, "it is not in memory, and it is no order more");
    node.stop().await;
}

#[tokio::test]
async fn coupons_cannot_be_guessed() {
    let settings = [NOBODY, ("ORDER__RATE_LIMITS__COUPONS_PER_USER_HOUR", "4")];
    let node = TestNode::start_with(&settings).await;
    let guess = |code: &str, validate_only| pb::CreateOrderRequest {
        coupon_code: code.to_owned(),
        validate_only,
        ..sample_order()
    };
    for code in ["WINTER11", "WINTER12", "WINTER13", "WINTER14"] {
        refused(node.client().create_order(guess(code, true)).await, Code::InvalidArgument, "COUPON_INVALID");
    }
    for only in [true, false] {
        assert!(rate_limited(&node.try_create(guess("SUMMER10", only)).await.unwrap_err()));
    }
    assert_eq!(node.create(guess("", false)).await.status(), Confirmed);
    node.stop().await;
}

#[tokio::test]
async fn one_user_holds_stock_for_so_many_orders_at_once() {
    let settings =
        [NOBODY, ("ORDER__RATE_LIMITS__OPEN_ORDERS_PER_USER", "2"), ("ORDER__CREATE__WAIT", "10ms")];
    let node = TestNode::start_with(&quick(&settings)).await;
    fault(&node, "payment.Charge", down());
    let answers = join_all((0..12).map(|_| node.try_create(sample_order()))).await;
    let taken: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(taken.len(), 2);
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(rate_limited));
    assert!(rate_limited(&node.try_create(sample_order()).await.unwrap_err()));
    assert_eq!(node.orders().await.len(), 2, "nothing was stored");
    assert_eq!(node.create(order_of_user(2)).await.status(), Pending);
    // What is paid makes room.
    no_faults(&node);
    for order in node.orders().await {
        node.until(&order.id, Confirmed).await;
    }
    for _ in 0..5 {
        let order = eventually("room", async || node.try_create(sample_order()).await.ok()).await;
        node.until(&order.id, Confirmed).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_orders_of_a_user_are_counted_over_all_nodes() {
    let settings =
        [NOBODY, ("ORDER__RATE_LIMITS__OPEN_ORDERS_PER_USER", "3"), ("ORDER__CREATE__WAIT", "10ms")];
    let settings = [SWIFT, &settings].concat();
    let cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await;
    let unpaid = order_service::proto::simulator::Faults {
        method: "payment.Charge".to_owned(),
        unavailable: true,
        ..Default::default()
    };
    cluster.simulate().set_faults(vec![unpaid]).await;
    let clients = [cluster.client(0), cluster.client(1)];
    let create = async |number: usize| clients[number % 2].clone().create_order(sample_order()).await;
    for round in 0..5 {
        let answers = join_all((0..8).map(|number| create(number + round))).await;
        assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(rate_limited));
    }
    for number in 0..8 {
        // One after the other, so that those that are refused do not stand in each other's way.
        let _answer = create(number).await;
    }
    let sql = "SELECT count(*) FROM orders";
    let stored = crate::harness::postgres::query(cluster.url(), sql).await.unwrap();
    assert_eq!(stored, [["3"]]);
}

#[tokio::test]
async fn changes_are_refused_early_while_those_before_them_wait_and_reads_go_on() {
    let url = shared_database().await;
    let proxy = Proxy::start(shared().await.address()).await;
    let through = proxy.url_of(&url);
    let node = TestNode::start_with(&quick(&[
        ("ORDER__STORE__URL", &through),
        ("ORDER__STORE__LANES", "1"),
        ("ORDER__STORE__COMMIT_TIMEOUT", "60s"),
        ("ORDER__STORE__OUTAGE_PATIENCE", "60s"),
        ("ORDER__GRPC__SHED_AFTER", "500ms"),
        ("ORDER__SIMULATOR__JOURNAL", ""),
    ]))
    .await;
    let order = node.create(sample_order()).await;
    proxy.hang(true);
    // One is being written, one waits; what comes then need not.
    let waiting = [node.client(), node.client()].map(|mut client| {
        let request = order_of_user(3);
        tokio::spawn(async move { client.create_order(request).await })
    });
    let refusal = eventually("a refusal", async || {
        let mut client = node.client();
        let asked = client.create_order(order_of_user(4));
        // Those that come before wait with the others.
        let answer = timeout(Duration::from_millis(100), asked).await.ok()?;
        answer.err().filter(|error| error.message().contains("wait too long"))
    })
    .await;
    assert!(read_refusal(&refusal, Code::ResourceExhausted, "OVERLOADED").retry);
    assert_eq!(node.get(&order.id).await.status(), Confirmed);
    let mut health = HealthClient::new(channel(&node).await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    proxy.hang(false);
    let fine = async || node.try_create(order_of_user(5)).await.ok();
    eventually("changes to be taken again", fine).await;
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    node.stop().await;
}
