//! Too much at once is refused fast, and whoever is done makes room.

use std::time::Duration;

use futures::future::join_all;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Cancelling, Confirmed, Pending};
use tonic::Code;

use crate::harness::api::{by_id, down, eventually, fault, no_faults, quick, read_refusal, refused, slow};
use crate::harness::node::{TestNode, sample_order};

#[tokio::test]
async fn sixty_four_commands_wait_for_one_order_and_no_more() {
    let node = TestNode::start_with(&quick(&[])).await;
    let order = node.create(sample_order()).await;
    fault(&node, "payment.Refund", down());
    let waiting = join_all((0..70).map(async |_| {
        let answer = node.cancel(&order.id).await;
        match answer {
            Ok(order) => Some(order.status()),
            Err(error) => {
                // Those that are refused do not wait for anything, nor do reads.
                assert_ne!(node.get(&order.id).await.status(), Cancelled);
                assert!(read_refusal(&error, Code::ResourceExhausted, "OVERLOADED").retry);
                // Other orders do not notice.
                assert_eq!(node.create(sample_order()).await.status(), Confirmed);
                None
            }
        }
    }));
    let release = async {
        let look = || async { (node.orders().await.len() == 7).then_some(()) };
        eventually("the six refused ones to have ordered elsewhere", look).await;
        no_faults(&node);
    };
    let (answers, ()) = tokio::join!(waiting, release);
    let taken = answers.iter().flatten().count();
    assert_eq!((taken, answers.len() - taken), (64, 6));
    assert!(answers.into_iter().flatten().all(|status| status == Cancelled));
    assert_eq!(node.ledger(&order).refunds.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn callers_that_were_answered_take_no_room() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "1ms")])).await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    fault(&node, "payment.Refund", down());
    for _ in 0..200 {
        assert_eq!(node.cancel(&order.id).await.unwrap().status(), Cancelling);
    }
    // Nor do they hold up a node that wants to stop.
    let stopping = tokio::time::timeout(Duration::from_secs(5), node.stop());
    let folder = stopping.await.unwrap();
    let node = TestNode::start_in(folder, QUICK_START).await;
    node.until(&order.id, Cancelled).await;
    node.stop().await;
}

const QUICK_START: &[(&str, &str)] = &[("ORDER__SAGA__STEP_TIMEOUT", "1s")];

#[tokio::test]
async fn a_full_node_takes_no_more_orders_until_some_leave() {
    let node = TestNode::start_with(&quick(&[
        ("ORDER__ACTOR__MAX_LIVE", "2"),
        ("ORDER__ACTOR__IDLE_AFTER", "10ms"),
        ("ORDER__ACTOR__SWEEP_EVERY", "10ms"),
        ("ORDER__CREATE__WAIT", "10ms"),
    ]))
    .await;
    fault(&node, "payment.Charge", down());
    let held = [node.create(sample_order()).await, node.create(sample_order()).await];
    let third = sample_order();
    let refusal =
        refused(node.client().create_order(third.clone()).await, Code::ResourceExhausted, "OVERLOADED");
    assert!(refusal.retry);
    // What is live still answers, and so do reads.
    assert_eq!(node.get(&held[0].id).await.status(), Pending);
    assert_eq!(node.orders().await.len(), 2);
    node.cancel(&held[0].id).await.unwrap();
    no_faults(&node);
    for order in &held {
        eventually("rest", || async {
            matches!(node.get(&order.id).await.status(), Confirmed | Cancelled).then_some(())
        })
        .await;
    }
    let order = eventually("room", || async { node.client().create_order(third.clone()).await.ok() }).await;
    assert_eq!(node.until(&order.into_inner().id, Confirmed).await.status(), Confirmed);
    let gone = || async { (node.node().orders().counts().live == 0).then_some(()) };
    eventually("all to leave", gone).await;
    // Without an actor an order is what it was with one.
    assert_eq!(node.get(&held[0].id).await.status(), Cancelled);
    assert_eq!(node.node().orders().counts().live, 0, "reads start none");
    node.stop().await;
}

#[tokio::test]
async fn a_busy_node_refuses_further_requests_at_once() {
    let node = TestNode::start_with(&quick(&[("ORDER__GRPC__MAX_CONCURRENT_REQUESTS", "3")])).await;
    fault(&node, "payment.Charge", slow(Duration::from_millis(1500)));
    let (requests, read) = (
        join_all((0..3).map(|_| node.create(sample_order()))),
        by_id("00000000-0000-7000-8000-000000000000"),
    );
    let refused_meanwhile = async {
        let look = || async {
            node.client().get_order(read.clone()).await.err().filter(|e| e.code() != Code::NotFound)
        };
        let refusal = eventually("a full node", look).await;
        assert!(read_refusal(&refusal, Code::ResourceExhausted, "OVERLOADED").retry);
    };
    let (orders, ()) = tokio::join!(requests, refused_meanwhile);
    assert!(orders.iter().all(|order| order.status() == Confirmed));
    refused(node.client().get_order(read.clone()).await, Code::NotFound, "ORDER_NOT_FOUND");
    node.stop().await;
}

#[tokio::test]
async fn watchers_are_counted_and_make_room_when_they_leave() {
    let node = TestNode::start_with(&[("ORDER__GRPC__MAX_WATCHERS", "2")]).await;
    let order = node.create(sample_order()).await;
    let request = pb::WatchOrderRequest { order_id: order.id.clone(), after_sequence: 0 };
    let first = node.client().watch_order(request.clone()).await.unwrap();
    let second = node.client().watch_order(request.clone()).await.unwrap();
    let refusal = node.client().watch_order(request.clone()).await.unwrap_err();
    assert!(read_refusal(&refusal, Code::ResourceExhausted, "OVERLOADED").retry);
    drop(first);
    let third = eventually("room", || async { node.client().watch_order(request.clone()).await.ok() }).await;
    drop((second, third));
    node.stop().await;
}
