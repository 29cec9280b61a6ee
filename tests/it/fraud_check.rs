//! The check before payment: which orders are held, by which rule, and what becomes of them.

use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Pending, Processing};

use crate::harness::api::{address_in, quick, units_out};
use crate::harness::node::{TestNode, sample_order};

async fn node_with(rule: &[(&str, &str)]) -> TestNode {
    TestNode::start_with(&quick(rule)).await
}

/// Held before the charge for this reason, by the check, and answered at once although creations are waited for.
async fn assert_held(node: &TestNode, order: &pb::Order, reason: &str) {
    assert_eq!(order.status(), Pending, "{reason}");
    let hold = order.hold.clone().unwrap();
    assert!(hold.reason.starts_with(reason), "{} is not about {reason}", hold.reason);
    assert_eq!((hold.by.as_str(), hold.until), ("fraud-check", None));
    let held = node.until_event(&order.id, "order_held").await;
    assert_eq!(held.principal, "fraud-check");
    let ledger = node.ledger(order);
    assert_eq!(ledger.charges.len(), 0);
    assert!(units_out(&ledger) > 0, "its stock is reserved");
}

#[tokio::test]
async fn nothing_is_held_unless_a_rule_says_so() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    assert_eq!((order.status(), order.hold), (Confirmed, None));
    node.stop().await;
}

#[tokio::test]
async fn an_amount_is_held_until_somebody_releases_it_and_is_not_checked_again() {
    let limit = [("ORDER__RISK__HOLD_FROM_AMOUNT", "93.17 USD"), ("ORDER__CREATE__WAIT", "4m")];
    let node = node_with(&limit).await;
    let request = sample_order();
    let order = node.create(request.clone()).await;
    assert_held(&node, &order, "amount: 93.17 USD").await;
    // A repeat meets the same order, and does not wait either.
    assert_eq!(node.create(request.clone()).await.id, order.id);
    node.release(&order.id).await.unwrap();
    let order = node.until(&order.id, Confirmed).await;
    assert_eq!(order.hold, None);
    assert_eq!(node.create(request).await.status(), Confirmed);
    assert_eq!(node.ask_status(&order.id, Processing).await.unwrap().status(), Processing);
    assert_eq!(node.ledger(&order).charges.len(), 1);
    node.stop().await;

    let node = node_with(&[("ORDER__RISK__HOLD_FROM_AMOUNT", "93.18 USD, 1 JPY")]).await;
    assert_eq!(node.create(sample_order()).await.status(), Confirmed);
    node.stop().await;
}

#[tokio::test]
async fn one_who_orders_too_often_is_held() {
    let node = node_with(&[("ORDER__RISK__MAX_ORDERS_PER_USER", "2")]).await;
    for _ in 0..2 {
        assert_eq!(node.create(sample_order()).await.status(), Confirmed);
    }
    let third = node.create(sample_order()).await;
    assert_held(&node, &third, "velocity: 2 orders").await;
    assert_eq!(node.cancel(&third.id).await.unwrap().status(), Cancelled);
    node.assert_unwound(&third);
    node.stop().await;
}

#[tokio::test]
async fn an_order_whose_countries_differ_is_held() {
    let node = node_with(&[("ORDER__RISK__HOLD_MISMATCHED_COUNTRIES", "true")]).await;
    assert_eq!(node.create(sample_order()).await.status(), Confirmed);
    let billing_address = Some(address_in("DE", "", "10115"));
    let order = node.create(pb::CreateOrderRequest { billing_address, ..sample_order() }).await;
    assert_held(&node, &order, "countries").await;
    node.stop().await;
}
