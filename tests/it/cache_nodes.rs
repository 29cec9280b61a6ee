//! Nodes with a Redis: what callers see while it fails, and what of orders is in it.

use std::time::Duration;

use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Response;

use crate::harness::api::by_id;
use crate::harness::cluster::{Cluster, Plan, SWIFT};
use crate::harness::cluster_audit::audit;
use crate::harness::frames::Protocol;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::proxy::Proxy;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{Mode, Rate, Traffic};
use crate::harness::wait::eventually;

const KEK: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// How old an answer says it is.
fn age<T>(answer: &Response<T>) -> Option<Duration> {
    let millis = answer.metadata().get("x-order-age-ms")?.to_str().unwrap().parse().unwrap();
    Some(Duration::from_millis(millis))
}

fn stale(id: &str) -> pb::GetOrderRequest {
    pb::GetOrderRequest { allow_stale: true, ..by_id(id) }
}

fn status(id: &str) -> pb::GetOrderStatusRequest {
    let key = Some(pb::get_order_status_request::Key::Id(id.to_owned()));
    pb::GetOrderStatusRequest { key }
}

/// A cluster of two that keeps copies in this Redis.
async fn cluster(url: &str) -> Cluster {
    let own = [
        ("ORDER__CACHE__URL", url),
        ("ORDER__CACHE__RETRY_EVERY", "50ms"),
        ("ORDER__CACHE__TIMEOUT", "100ms"),
    ];
    let settings = [SWIFT, &own].concat();
    Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await
}

/// An order of each node.
async fn orders_of(cluster: &Cluster) -> [String; 2] {
    let mut found = [None, None];
    for user in 0.. {
        let user_id = order_service::clients::sim::catalogue::load_user(user).0.to_string();
        let request = pb::CreateOrderRequest {
            user_id,
            coupon_code: String::new(),
            payment_token: "tok_ok".into(),
            ..sample_order()
        };
        let order = cluster.client(0).create_order(request).await.unwrap().into_inner();
        let owner = cluster.owners(std::slice::from_ref(&order.id)).await.pop().unwrap().unwrap();
        found[owner].get_or_insert(order.id);
        if let [Some(first), Some(second)] = &found {
            return [first.clone(), second.clone()];
        }
    }
    unreachable!("users do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_back_on_no_node_whatever_becomes_of_redis() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::start_for(Protocol::Any, redis.address()).await;
    let cluster = cluster(&proxy.url_of(&redis.url())).await;
    let orders = orders_of(&cluster).await;
    let traffic = Traffic::start(cluster.fleet(), Rate::new(Mode::Tolerant), 10_000);
    for fault in ["none", "slow", "stuck", "flushed", "killed", "old data"] {
        match fault {
            "slow" => proxy.delay(Duration::from_millis(200)),
            "stuck" => proxy.hang(true),
            "flushed" => assert_eq!(redis.command("FLUSHALL").await, "+OK"),
            "killed" => redis.kill9(),
            "old data" => {
                redis.kill9();
                redis.start_again().await;
            }
            _ => {}
        }
        for round in 0..6 {
            for order in &orders {
                let mut writer = cluster.client(round % 2);
                let request =
                    pb::HoldOrderRequest { id: order.clone(), reason: "look".into(), ..Default::default() };
                let held = writer.hold_order(request).await.unwrap().into_inner();
                let request = pb::ReleaseOrderRequest { id: order.clone(), ..Default::default() };
                let written = writer.release_order(request).await.unwrap().into_inner();
                assert!(written.version > held.version);
                let written_at = Instant::now();
                for node in 0..2 {
                    let mut reader = cluster.client(node);
                    let seen = reader.get_order(by_id(order)).await.unwrap();
                    assert_eq!(
                        (seen.get_ref().version, age(&seen)),
                        (written.version, None),
                        "Redis is {fault}"
                    );
                    let request =
                        pb::ListOrdersRequest { user_id: written.user_id.clone(), ..Default::default() };
                    let page = reader.list_orders(request).await.unwrap().into_inner().orders;
                    let listed = page.iter().find(|listed| listed.id == *order).unwrap();
                    assert_eq!(listed.version, written.version, "Redis is {fault}");
                    // What may be late says by how much, at least.
                    let seen = reader.get_order_status(status(order)).await.unwrap();
                    let is_new = seen.get_ref().version == written.version;
                    assert!(is_new || age(&seen).unwrap() >= written_at.elapsed(), "{seen:?}");
                    assert!(age(&seen).unwrap() <= Duration::from_secs(5));
                }
            }
        }
        if fault == "none" {
            redis.save().await;
        }
        proxy.delay(Duration::ZERO);
        proxy.hang(false);
        if fault == "killed" {
            redis.start_again().await;
        }
        traffic.more(20).await;
    }
    let report = traffic.stop().await;
    println!("{report}");
    report.assert_clean();
    audit(&cluster, 0, &report.acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ages_are_told_changes_are_heard_of_and_hot_orders_are_loaded_by_the_next_owner() {
    let redis = RedisServer::start().await;
    let mut cluster = cluster(&redis.url()).await;
    let [_, order] = orders_of(&cluster).await;
    let mut reader = cluster.client(0);
    let old = async || {
        let seen = cluster.client(0).get_order_status(status(&order)).await.unwrap();
        (!age(&seen)?.is_zero()).then_some(seen.into_inner())
    };
    assert_eq!(eventually("a status from a copy", old).await.status(), Confirmed);
    let old = async || {
        cluster.client(0).get_order(by_id(&order)).await.unwrap();
        let seen = cluster.client(0).get_order(stale(&order)).await.unwrap();
        (!age(&seen)?.is_zero()).then_some(())
    };
    eventually("an order from a copy", old).await;
    // The owner knows, and its caller is told that it is the newest.
    let seen = cluster.client(1).get_order_status(status(&order)).await.unwrap();
    assert_eq!(age(&seen), Some(Duration::ZERO));
    let request = pb::CancelOrderRequest { id: order.clone(), ..Default::default() };
    cluster.client(1).cancel_order(request).await.unwrap();
    let heard = async || {
        let seen = reader.get_order_status(status(&order)).await.unwrap();
        (seen.get_ref().status() == Cancelled).then_some(())
    };
    eventually("the change to be heard of", heard).await;
    cluster.stop(1).await;
    let loaded = async || {
        cluster.logs().any(|log| log.contains("orders are being loaded that were read lately")).then_some(())
    };
    eventually("the order to be loaded by its next owner", loaded).await;
    let from_memory = async || {
        let seen = cluster.client(0).get_order_status(status(&order)).await.unwrap();
        assert_eq!(seen.get_ref().status(), Cancelled);
        age(&seen).unwrap().is_zero().then_some(())
    };
    eventually("the next owner to know that it is the newest", from_memory).await;
}

/// What a Redis has in it after a node has read its order from the store.
async fn kept(further: &[(&str, &str)]) -> Vec<u8> {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let settings = [&[("ORDER__CACHE__URL", url.as_str())], further].concat();
    let node = TestNode::start_with(&settings).await;
    let mut request = sample_order();
    request.shipping_address.as_mut().unwrap().first_name = "Zaphodina".into();
    request.shipping_address.as_mut().unwrap().address_line1 = "77 Hyperspace Bypass".into();
    request.notes = "Beware of the Krikkit dog".into();
    let order = node.create(request).await;
    let folder: TempDir = node.stop().await;
    let node = TestNode::start_in(folder, &settings).await;
    let in_it = async || {
        // From the store, since a node that has begun has nothing in memory; again where Redis was not there yet.
        let cached = node.node().orders().view_stale(order.id.parse().unwrap()).await.unwrap();
        assert!(cached.is_some());
        let saved = redis.save().await;
        holds(&saved, "unit_price").then_some(saved)
    };
    let saved = eventually("the order to be in Redis", in_it).await;
    assert_eq!(node.get(&order.id).await.notes, "Beware of the Krikkit dog");
    node.stop().await;
    saved
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn what_is_encrypted_in_the_store_is_encrypted_in_redis() {
    let personal = ["Zaphodina", "77 Hyperspace Bypass", "Krikkit"];
    let plain = kept(&[]).await;
    assert!(personal.iter().all(|text| holds(&plain, text)), "this test would find them");
    let encrypted = kept(&[("ORDER__PRIVACY__MODE", "encrypt"), ("ORDER__PRIVACY__KEK", KEK)]).await;
    for text in personal {
        assert!(!holds(&encrypted, text), "{text} is in Redis");
    }
}
