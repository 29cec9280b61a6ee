//! Creations that are repeated, and creations that are not waited for.

use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::{FaultSpec, FaultTarget, catalogue};
use order_service::proto::order as pb;
use tonic::{Code, Request};

use crate::harness::api::{
    amount, down, eventually, fault, invalid, no_faults, order_of, quick, read_refusal, refused, slow, taken,
    units_out,
};
use crate::harness::node::{TestNode, sample_order};

/// Request ids of every kind.
fn request_ids() -> [String; 4] {
    let v7 = uuid::Uuid::now_v7();
    [v7.to_string(), v7.as_simple().to_string(), "Bestellung Nr. 7/ä".to_owned(), "x".repeat(64)]
}

#[tokio::test]
async fn the_same_request_is_the_same_order_also_after_a_restart() {
    let mut node = TestNode::start().await;
    let requests = request_ids().map(|request_id| pb::CreateOrderRequest { request_id, ..sample_order() });
    let mut orders = Vec::new();
    for request in &requests {
        let order = node.create(request.clone()).await;
        assert_eq!(node.create(request.clone()).await, order);
        orders.push(order);
    }
    // A repeat is answered with the order as it stands.
    orders[3] = node.cancel(&orders[3].id).await.unwrap();
    assert_eq!(node.create(requests[3].clone()).await, orders[3]);
    let folder = node.stop().await;
    node = TestNode::start_in(folder, &[]).await;
    for (request, order) in requests.iter().zip(&orders) {
        assert_eq!(&node.create(request.clone()).await, order);
    }
    assert_eq!(node.orders().await.len(), requests.len());
    // Nothing is asked of anybody for a repeat: no call is in the ledger twice.
    let ledger = node.simulator().ledger_page(0, 1_000).orders;
    assert_eq!(ledger.len(), requests.len());
    assert!(ledger.iter().flat_map(|order| &order.keys).all(|key| key.received == 1));
    node.stop().await;
}

#[tokio::test]
async fn sixteen_at_once_are_one_order() {
    let node = TestNode::start_with(&quick(&[])).await;
    fault(&node, "payment.Charge", slow(Duration::from_millis(100)));
    for request_id in request_ids() {
        let request = pb::CreateOrderRequest { request_id, ..sample_order() };
        let orders = join_all((0..16).map(|_| node.create(request.clone()))).await;
        assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
        assert_eq!(orders[0].status(), pb::OrderStatus::Confirmed);
        let ledger = node.ledger(&orders[0]);
        assert_eq!((ledger.charges.len(), ledger.reservations.len()), (1, 1));
        assert_eq!(taken(&ledger), ledger.charges[0].amount);
    }
    assert_eq!(node.orders().await.len(), request_ids().len());
    node.stop().await;
}

#[tokio::test]
async fn other_content_under_a_used_request_id_is_refused() {
    let node = TestNode::start().await;
    for request_id in request_ids() {
        let request = pb::CreateOrderRequest { request_id, ..sample_order() };
        let order = node.create(request.clone()).await;
        let mut quantity = request.clone();
        quantity.items[0].quantity = 3;
        for other in [
            quantity,
            pb::CreateOrderRequest { notes: "other".into(), ..request.clone() },
            pb::CreateOrderRequest { payment_token: "tok_declined".into(), ..request.clone() },
            pb::CreateOrderRequest { metadata: [("k".into(), "v".into())].into(), ..request.clone() },
            pb::CreateOrderRequest { billing_address: None, ..request.clone() },
        ] {
            invalid(node.client().create_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);
        }
        assert_eq!(node.get(&order.id).await, order);
        // It is another user's own affair what their ids are.
        let user_id = "20000000-0000-4000-8000-000000000001".to_owned();
        let theirs = node.create(pb::CreateOrderRequest { user_id, ..request }).await;
        assert_ne!(theirs.id, order.id);
    }
    assert_eq!(node.orders().await.len(), 2 * request_ids().len());
    node.stop().await;
}

#[tokio::test]
async fn metadata_has_no_order() {
    let node = TestNode::start().await;
    // Maps are written in any order: of sixteen copies some differ on the wire.
    let metadata = || (0..20).map(|n| (format!("key {n}"), format!("value {n}"))).collect();
    let request = pb::CreateOrderRequest { metadata: metadata(), ..sample_order() };
    let order = node.create(request.clone()).await;
    for _ in 0..16 {
        let again = pb::CreateOrderRequest { metadata: metadata(), ..request.clone() };
        assert_eq!(node.create(again).await, order);
    }
    node.stop().await;
}

#[tokio::test]
async fn without_a_request_id_every_request_is_an_order() {
    let node = TestNode::start().await;
    let request = pb::CreateOrderRequest { request_id: String::new(), ..sample_order() };
    let (one, other) = (node.create(request.clone()).await, node.create(request).await);
    assert_ne!((one.id, one.order_number), (other.id, other.order_number));
    node.stop().await;
}

#[tokio::test]
async fn a_slow_payment_is_answered_as_pending_and_confirmed_later() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "100ms")])).await;
    let request = pb::CreateOrderRequest { payment_token: "tok_slow".into(), ..sample_order() };
    let order = node.create(request.clone()).await;
    assert_eq!(
        (order.status(), order.payment_status()),
        (pb::OrderStatus::Pending, pb::PaymentStatus::Pending)
    );
    assert_eq!(node.create(request.clone()).await.id, order.id);
    let settled = node.until(&order.id, pb::OrderStatus::Confirmed).await;
    assert_eq!(settled.payment_status(), pb::PaymentStatus::Paid);
    assert_eq!(node.ledger(&order).charges.len(), 1);
    assert_eq!(node.create(request).await.status(), pb::OrderStatus::Confirmed);
    node.stop().await;
}

#[tokio::test]
async fn a_wait_of_nothing_answers_as_soon_as_the_order_is_stored() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "0ms")])).await;
    fault(&node, "inventory.Reserve", down());
    let order = node.create(sample_order()).await;
    assert_eq!(order.status(), pb::OrderStatus::Pending);
    no_faults(&node);
    node.until(&order.id, pb::OrderStatus::Confirmed).await;
    node.stop().await;
}

#[tokio::test]
async fn a_deadline_shortens_the_wait_and_stops_nothing() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "60s")])).await;
    fault(&node, "payment.Charge", down());
    let mut request = Request::new(sample_order());
    request.set_timeout(Duration::from_millis(1500));
    let order = node.client().create_order(request).await.unwrap().into_inner();
    assert_eq!(order.status(), pb::OrderStatus::Pending);
    no_faults(&node);
    node.until(&order.id, pb::OrderStatus::Confirmed).await;
    node.stop().await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_stops_nothing() {
    let node = TestNode::start_with(&quick(&[])).await;
    fault(&node, "payment.Charge", down());
    let mut client = node.client();
    let request = sample_order();
    let asking = tokio::spawn(async move { client.create_order(request).await });
    let look = || async { node.orders().await.pop() };
    let order = eventually("the stored order", look).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    no_faults(&node);
    let order = node.until(&order.id, pb::OrderStatus::Confirmed).await;
    assert_eq!(node.ledger(&order).charges.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_refusal_before_anything_was_stored_leaves_the_request_id_free() {
    let node = TestNode::start().await;
    let request = order_of(&[(10, 4)]);
    refused(
        node.client().create_order(request.clone()).await,
        Code::FailedPrecondition,
        "INVENTORY_UNAVAILABLE",
    );
    let fewer = pb::CreateOrderRequest { request_id: request.request_id, ..order_of(&[(10, 3)]) };
    assert_eq!(node.create(fewer).await.status(), pb::OrderStatus::Confirmed);
    node.stop().await;
}

#[tokio::test]
async fn the_last_units_and_the_last_coupon_are_sold_once() {
    let node = TestNode::start_with(&quick(&[])).await;
    let rare = join_all((0..8).map(|_| node.try_create(order_of(&[(10, 1)])))).await;
    let (sold, short): (Vec<_>, Vec<_>) = rare.into_iter().partition(Result::is_ok);
    assert_eq!((sold.len(), short.len()), (3, 5));
    for error in short {
        let refusal = read_refusal(&error.unwrap_err(), Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
        assert_eq!(refusal.shortages.len(), 1);
    }
    let totals = node.stock(catalogue::product(10));
    assert_eq!((totals.available, totals.reserved, totals.committed), (0, 0, 3));
    let limited = || pb::CreateOrderRequest { coupon_code: "LIMITED3".into(), ..order_of(&[(4, 1)]) };
    let used = join_all((0..8).map(|_| node.try_create(limited()))).await;
    assert_eq!(used.iter().filter(|answer| answer.is_ok()).count(), 3);
    for error in used.into_iter().filter_map(Result::err) {
        assert_eq!(read_refusal(&error, Code::InvalidArgument, "COUPON_INVALID").fields, ["coupon_code"]);
    }
    node.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_and_nothing_is_charged_twice() {
    let node = TestNode::start_with(&quick(&[])).await;
    let request = pb::CreateOrderRequest { payment_token: "tok_lost_reply".into(), ..sample_order() };
    let order = node.create(request).await;
    assert_eq!((order.status(), node.ledger(&order).charges.len()), (pb::OrderStatus::Confirmed, 1));
    // Most answers are lost, and every call arrives twice.
    let spec = FaultSpec { lose_reply_rate: 0.6, duplicate_rate: 1.0, seed: 7, ..FaultSpec::default() };
    let methods = ["inventory.Reserve", "inventory.Commit", "payment.Charge", "shipping.CreateLabel"];
    let faults = methods.map(|method| (FaultTarget::parse(method).unwrap(), spec.clone()));
    node.simulator().set_faults(true, faults.into()).unwrap();
    for order in join_all((0..10).map(|_| node.create(sample_order()))).await {
        assert_eq!(order.status(), pb::OrderStatus::Confirmed);
        let order = node.ask_status(&order.id, pb::OrderStatus::Processing).await.unwrap();
        let ledger = node.ledger(&order);
        assert_eq!((ledger.charges.len(), ledger.reservations.len(), ledger.labels.len()), (1, 1, 1));
        assert_eq!(taken(&ledger), amount(&order.total_amount, 2));
        assert_eq!(units_out(&ledger), 2);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_secret_token_is_never_shown() {
    let node = TestNode::start().await;
    let secret = "tok_swordfish";
    let order = node.create(pb::CreateOrderRequest { payment_token: secret.into(), ..sample_order() }).await;
    let shown = format!("{order:?} {:?}", node.events(&order.id).await);
    assert!(!shown.contains(secret));
    // Nor is it kept once the charge is settled.
    let folder = node.stop().await;
    let files = std::fs::read_dir(folder.path()).unwrap();
    let stored: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("123 Main St") && !holds(secret));
}

#[tokio::test]
async fn a_repeat_that_nobody_remembers_is_answered_from_the_store() {
    let forgetful = [
        ("ORDER__CACHE__URL", "none:"),
        ("ORDER__ACTOR__IDLE_AFTER", "10ms"),
        ("ORDER__ACTOR__SWEEP_EVERY", "10ms"),
    ];
    let node = TestNode::start_with(&quick(&forgetful)).await;
    let forgotten = async || {
        let none_live = async || (node.node().orders().counts().live == 0).then_some(());
        eventually("no order in memory", none_live).await;
    };
    let request = sample_order();
    let order = node.create(request.clone()).await;
    // More often than an order may fail before it is set aside: a repeat is no failure of its order.
    for _ in 0..8 {
        forgotten().await;
        assert_eq!(node.create(request.clone()).await, order);
    }
    forgotten().await;
    let other = pb::CreateOrderRequest { notes: "other".into(), ..request.clone() };
    invalid(node.client().create_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);

    // Whoever was refused is refused again, and the order that says so is there once.
    let declined = pb::CreateOrderRequest { payment_token: "tok_declined".into(), ..sample_order() };
    for _ in 0..3 {
        forgotten().await;
        let refusal = node.try_create(declined.clone()).await.unwrap_err();
        read_refusal(&refusal, Code::FailedPrecondition, "PAYMENT_DECLINED");
    }
    assert_eq!(node.orders().await.len(), 2);

    // What could not be asked for anew is answered all the same.
    fault(&node, "product.*", down());
    forgotten().await;
    assert_eq!(node.create(request.clone()).await, order);
    forgotten().await;
    let other = pb::CreateOrderRequest { notes: "other".into(), ..request };
    invalid(node.client().create_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    node.stop().await;
}
