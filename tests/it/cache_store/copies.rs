//! How long a copy lives, what takes its place, and what is none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use order_service::cache::{Found, Kept, NearShelf, RedisShelf, Shelf};
use order_service::domain::order::Order;
use order_service::ports::seen::{Glance, Mark};
use order_service::ports::store::OrderStore;
use tokio::time::Instant;

use super::{NAMESPACE, Node, change, database, entry, holds, namespace, resting, shelf_config};
use crate::harness::orders::{id, order};
use crate::harness::redis::RedisServer;
use crate::harness::wait::eventually;

/// A copy of a version of an order that was the newest at `at`; what confirms one is without the order.
fn kept(n: u64, version: i64, at: i64, confirms: bool) -> Kept {
    let order = Order { version, ..order(n) };
    let mark = Mark { version, head: None, updated_at: order.updated_at };
    Kept { mark, at, glance: Glance::of(&order), order: (!confirms).then(|| Arc::new(order)) }
}

#[tokio::test]
async fn what_confirms_a_copy_does_not_prolong_its_life() {
    let lasting = NearShelf::new(100, Duration::from_secs(600));
    lasting.put(kept(1, 1, 1, false), false);
    lasting.put(kept(1, 1, 2, true), false);
    let found = lasting.details(&[id(1)]).await.pop();
    assert!(matches!(&found, Some(Found::Here(details)) if details.at == 2), "{found:?}");
    let near = NearShelf::new(100, Duration::from_millis(300));
    near.put(kept(1, 1, 1, false), false);
    let mut at = 1;
    let gone = async || {
        at += 1;
        near.put(kept(1, 1, at, true), false);
        matches!(near.details(&[id(1)]).await.pop(), Some(Found::Nothing)).then_some(())
    };
    eventually("the copy in this process to go", gone).await;

    let redis = RedisServer::start().await;
    let shelf = RedisShelf::start(shelf_config(&redis.url())).unwrap();
    let put = async |version: i64, at: i64, confirms: bool| {
        let noted = async || {
            shelf.put(kept(1, version, at, confirms), false);
            match shelf.details(&[id(1)]).await.pop() {
                Some(Found::Here(details)) => (details.at == at).then_some(()),
                _ => None,
            }
        };
        eventually("the copy to be noted", noted).await;
        let key = entry(&redis, 1).await;
        let left: u64 = redis.command(&format!("PTTL {key}")).await.trim_start_matches(':').parse().unwrap();
        assert_eq!(redis.command(&format!("PEXPIRE {key} 200000")).await, ":1");
        left
    };
    let long = 200_001..=600_000;
    assert!(long.contains(&put(1, 1, false).await));
    assert!(put(1, 2, true).await <= 200_000, "confirmed");
    assert!(put(1, 3, false).await <= 200_000, "read again");
    assert!(long.contains(&put(2, 4, false).await), "another state has a life of its own");
}

#[tokio::test]
async fn metadata_that_was_taken_out_of_the_store_is_shown_by_no_copy() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let near = Arc::new(NearShelf::new(100, Duration::from_secs(600)));
    let shared = [Node::start(&database, &redis.url()).await, Node::start(&database, &redis.url()).await];
    let alone = Node::over(&database, near).await;
    let mut created = resting(1);
    let metadata = [(String::from("gift-from"), String::from("Arthur Dentist"))];
    Arc::make_mut(&mut created.order).metadata = Arc::new(metadata.into());
    shared[0].cached.commit(created.clone()).await.unwrap();
    for node in shared.iter().chain([&alone]) {
        node.has_copy(id(1), 1).await;
    }
    assert!(holds(&redis.save().await, "Arthur Dentist"), "this test would find it");
    let old = shared[0].cached.load(id(1)).await.unwrap().unwrap();
    shared[0].cached.take_out(id(1)).await.unwrap();
    for node in shared.iter().chain([&alone]) {
        let newest = node.load(id(1)).await;
        assert!(newest.metadata.is_empty() && newest.version == 1, "{newest:?}");
    }
    let late = async |node: &Node| node.cached.load_stale(id(1)).await.unwrap().unwrap().what.order;
    for node in &shared {
        let without = async || late(node).await.metadata.is_empty().then_some(());
        eventually("reads that may be late to be without it", without).await;
    }
    assert!(late(&alone).await.metadata.is_empty());
    // Whoever read the order before that, and puts it on the shelf only now, by whatever clock.
    let at = i64::MAX >> 11;
    let (mark, glance) = (Mark::of(&old), Glance::of(&old.order));
    let behind = Kept { mark, at, glance, order: Some(old.order) };
    for (node, other) in shared.iter().chain([&alone]).zip(2..) {
        node.shelf.put(behind.clone(), false);
        // What is put after it is there no sooner.
        node.cached.commit(resting(other)).await.unwrap();
        node.has_copy(id(other), 1).await;
        assert!(late(node).await.metadata.is_empty());
        node.has_copy(id(1), 1).await;
    }
    assert!(!holds(&redis.save().await, "Arthur Dentist"));
}

#[tokio::test]
async fn one_copy_that_cannot_be_written_spoils_no_others_and_many_are_one_loss() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let node = Node::start(&database, &redis.url()).await;
    for n in 1..=3 {
        node.cached.commit(resting(n)).await.unwrap();
        node.has_copy(id(n), 1).await;
    }
    let before = namespace(&redis).await;
    let spoil = async || {
        let one = entry(&redis, 1).await;
        redis.command(&format!("DEL {one}")).await;
        assert_eq!(redis.command(&format!("SET {one} nonsense")).await, "+OK");
    };
    spoil().await;
    // Together, since nobody waits between them: a copy that is not missed, and one of a change.
    node.shelf.put(kept(1, 1, 1, false), false);
    node.shelf.put(kept(2, 2, 1, false), true);
    for n in [2, 3] {
        node.shelf.put(kept(n, 3, 1, false), true);
        let written = async || match node.shelf.details(&[id(n)]).await.pop() {
            Some(Found::Here(details)) => (details.mark.version == 3).then_some(()),
            _ => None,
        };
        eventually("what is written behind them", written).await;
    }
    assert_eq!((namespace(&redis).await, node.shelf.is_whole()), (before.clone(), true));

    let (began, mut seen, mut last) = (Instant::now(), BTreeSet::new(), order(1));
    for _ in 0..12 {
        spoil().await;
        // What Redis is not told of this is owed.
        last = change(&node, &last).await;
        node.cached.commit(resting(last.version as u64 + 10)).await.unwrap();
        node.has_copy(id(last.version as u64 + 10), 1).await;
        assert_eq!(node.load(id(1)).await, last);
        if !node.shelf.is_whole() {
            let glance = node.cached.glance(id(1)).await.unwrap().unwrap();
            assert_eq!((glance.what.version, glance.age), (last.version, Some(Duration::ZERO)));
        }
        seen.insert(namespace(&redis).await);
    }
    let most = 2 + began.elapsed().as_secs() / 5;
    assert!((seen.len() as u64) <= most, "{} namespaces in {:?}", seen.len(), began.elapsed());
    eventually("the node to be trusted again", async || node.shelf.is_whole().then_some(())).await;
    assert_ne!(namespace(&redis).await, before);
}

#[tokio::test]
async fn copies_that_were_altered_or_moved_are_not_believed() {
    let (database, redis) = (database().await, RedisServer::start().await);
    let node = Node::start(&database, &redis.url()).await;
    for n in [1, 2] {
        node.cached.commit(resting(n)).await.unwrap();
        node.has_copy(id(n), 1).await;
    }
    let (one, two) = (entry(&redis, 1).await, entry(&redis, 2).await);
    assert_eq!(redis.command(&format!("COPY {one} {two} REPLACE")).await, ":1");
    assert!(
        matches!(node.shelf.details(&[id(2)]).await.pop(), Some(Found::Nothing)),
        "it is another order's"
    );
    assert!(matches!(node.shelf.glance(id(2)).await, Found::Nothing));
    assert_eq!(node.load(id(2)).await, order(2));
    node.has_copy(id(1), 1).await;
    assert_eq!(redis.command(&format!("HSET {one} d 0123456789abcdef{{}}")).await, ":0");
    assert!(matches!(node.shelf.details(&[id(1)]).await.pop(), Some(Found::Nothing)), "no node wrote that");
    assert_eq!(node.load(id(1)).await, order(1));
    // Nor is a copy younger than a node has noted, or of another version.
    for (field, value) in [("t", "9000000000000000"), ("m", "9-none-0")] {
        node.has_copy(id(1), 1).await;
        assert_eq!(redis.command(&format!("HSET {one} {field} {value}")).await, ":0");
        assert!(matches!(node.shelf.details(&[id(1)]).await.pop(), Some(Found::Nothing)), "{field}");
        assert!(matches!(node.shelf.glance(id(1)).await, Found::Nothing), "{field}");
        assert_eq!(node.load(id(1)).await, order(1));
        if field == "m" {
            assert_eq!(redis.command(&format!("DEL {one}")).await, ":1");
        }
    }
    // What is no hash at all is in the way of its own order only.
    redis.command(&format!("DEL {one}")).await;
    assert_eq!(redis.command(&format!("SET {one} nonsense")).await, "+OK");
    assert_eq!(node.load(id(1)).await, order(1));
    // Nor does nonsense in the place of the namespace keep it from being used again.
    assert_eq!(redis.command(&format!("SET {NAMESPACE} nonsense")).await, "+OK");
    node.has_copy(id(1), 1).await;
    node.has_copy(id(2), 1).await;
}
