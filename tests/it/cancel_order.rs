//! Cancelling at every moment of an order's life: money and stock always come back, once.

use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::{ChargeState, FaultSpec, LabelState};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Cancelling, Confirmed, Pending, Shipped};
use rust_decimal::Decimal;
use tonic::Code;

use crate::harness::api::{
    down, eventually, fault, invalid, no_faults, quick, read_refusal, returned, slow, taken, units_out,
};
use crate::harness::node::{TestNode, sample_order};

/// A node that answers before a saga that is held up has ended.
async fn impatient() -> TestNode {
    TestNode::start_with(&quick(&[
        ("ORDER__CREATE__WAIT", "10ms"),
        ("ORDER__SAGA__ATTENTION_AFTER_TRIES", "3"),
    ]))
    .await
}

/// Waits for the end and checks that nothing is left of the order outside.
async fn assert_ends(node: &TestNode, id: &str) -> pb::Order {
    let order = node.until(id, Cancelled).await;
    assert_eq!(order.cancel_reason, "CUSTOMER_REQUEST");
    assert!(order.cancelled_at.is_some());
    node.assert_unwound(&order);
    order
}

#[tokio::test]
async fn pending_before_the_stock_answered() {
    let node = impatient().await;
    fault(&node, "inventory.Reserve", slow(Duration::from_millis(800)));
    let order = node.create(sample_order()).await;
    assert_eq!(order.status(), Pending);
    let order = node.cancel(&order.id).await.unwrap();
    assert_eq!(order.status(), Pending, "the answer of the call under way is awaited");
    assert_eq!(order.cancel_reason, "CUSTOMER_REQUEST");
    let order = assert_ends(&node, &order.id).await;
    assert!(node.ledger(&order).charges.is_empty(), "never asked for money");
    assert_eq!(order.payment_status(), pb::PaymentStatus::Pending);
    node.stop().await;
}

#[tokio::test]
async fn pending_before_anything_was_sent() {
    let node = impatient().await;
    fault(&node, "inventory.Reserve", down());
    let order = node.create(sample_order()).await;
    node.cancel(&order.id).await.unwrap();
    let order = assert_ends(&node, &order.id).await;
    assert!(node.ledger(&order).charges.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn pending_while_the_charge_is_under_way() {
    let node = impatient().await;
    fault(&node, "payment.Charge", slow(Duration::from_millis(1000)));
    let order = node.create(sample_order()).await;
    eventually("the charge", || async {
        node.ledger(&order).charges.iter().any(|charge| charge.state == ChargeState::Pending).then_some(())
    })
    .await;
    let order = node.cancel(&order.id).await.unwrap();
    assert_eq!(order.status(), Cancelling, "money may have moved");
    let order = assert_ends(&node, &order.id).await;
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), ledger.refunds.len()), (1, 1));
    assert_eq!(order.payment_status(), pb::PaymentStatus::Refunded);
    assert_eq!(order.attention_reason, "");
    node.stop().await;
}

#[tokio::test]
async fn pending_while_the_charge_is_unknown() {
    // The money was taken, but nobody told; or it was not, and nobody told.
    for charged in [true, false] {
        let node = impatient().await;
        let lost = if charged {
            FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() }
        } else {
            FaultSpec { error_rate: 1.0, ..FaultSpec::default() }
        };
        let target = |name| order_service::clients::sim::FaultTarget::parse(name).unwrap();
        let faults = vec![(target("payment.Charge"), lost), (target("payment.GetTransaction"), down())];
        node.simulator().set_faults(true, faults).unwrap();
        let order = node.create(sample_order()).await;
        node.until_event(&order.id, "charge_unknown").await;
        assert_eq!(node.get(&order.id).await.payment_status(), pb::PaymentStatus::Unknown);
        let order = node.cancel(&order.id).await.unwrap();
        assert_eq!((order.status(), order.payment_status()), (Cancelling, pb::PaymentStatus::Unknown));
        // However often it is asked: unknown it stays until the payment service says what happened.
        node.until_event(&order.id, "attention_needed").await;
        assert_eq!(node.get(&order.id).await.payment_status(), pb::PaymentStatus::Unknown);
        no_faults(&node);
        let order = assert_ends(&node, &order.id).await;
        let (ends, refunds) =
            if charged { (pb::PaymentStatus::Refunded, 1) } else { (pb::PaymentStatus::Failed, 0) };
        assert_eq!(order.payment_status(), ends);
        assert_eq!(node.ledger(&order).refunds.len(), refunds);
        node.stop().await;
    }
}

#[tokio::test]
async fn confirmed_and_processing_give_everything_back() {
    let node = TestNode::start().await;
    for from in [Confirmed, pb::OrderStatus::Processing] {
        let order = node.order_at(from).await;
        assert!(units_out(&node.ledger(&order)) > 0 && taken(&node.ledger(&order)) > Decimal::ZERO);
        let cancelled = node.cancel(&order.id).await.unwrap();
        assert_eq!(
            (cancelled.status(), cancelled.payment_status()),
            (Cancelled, pb::PaymentStatus::Refunded)
        );
        assert_ends(&node, &order.id).await;
        assert_eq!(cancelled.cancelled_at, cancelled.updated_at);
        assert_eq!(cancelled.total_amount, order.total_amount);
        let labels: Vec<_> = node.ledger(&order).labels.iter().map(|label| label.state).collect();
        let shown: Vec<_> =
            cancelled.shipments.iter().map(|shipment| shipment.label_status.as_str()).collect();
        if from == Confirmed {
            assert!(labels.is_empty() && shown.is_empty());
        } else {
            assert_eq!((labels.as_slice(), shown.as_slice()), (&[LabelState::Voided][..], &["VOIDED"][..]));
        }
        // Again: nothing more happens.
        assert_eq!(node.cancel(&order.id).await.unwrap(), cancelled);
        assert_eq!(node.ledger(&order).refunds.len(), 1);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_shipped_order_is_not_cancelled() {
    let node = TestNode::start().await;
    let order = node.order_at(Shipped).await;
    let refusal = read_refusal(
        &node.cancel(&order.id).await.unwrap_err(),
        Code::FailedPrecondition,
        "ILLEGAL_TRANSITION",
    );
    assert_eq!(refusal.metadata["current_status"], "SHIPPED");
    assert_eq!(refusal.metadata["allowed_next_statuses"], "DELIVERED,RETURNED");
    assert_eq!(node.get(&order.id).await, order);
    node.stop().await;
}

#[tokio::test]
async fn the_reason_is_kept_in_the_history_and_repeats_change_nothing() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let request = pb::CancelOrderRequest {
        id: order.id.clone(),
        reason: "  found it cheaper ".into(),
        expected_version: order.version,
        request_id: "cancel 1".into(),
    };
    let both = join_all((0..2).map(|_| {
        let (mut client, request) = (node.client(), request.clone());
        async move { client.cancel_order(request).await.unwrap().into_inner() }
    }))
    .await;
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].status(), Cancelled);
    let events = node.events(&order.id).await;
    let noted: Vec<_> =
        events.iter().filter(|event| event.status() == Cancelling).map(|event| &event.notes).collect();
    assert_eq!(noted, ["found it cheaper"]);
    let other = pb::CancelOrderRequest { reason: "another".into(), ..request.clone() };
    invalid(node.client().cancel_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    assert_eq!(node.client().cancel_order(request).await.unwrap().into_inner(), both[0]);
    assert_eq!(node.events(&order.id).await.len(), events.len());
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_races_the_creation() {
    // What a creation that nobody disturbs has when it is settled, where each step is stored and where two are enough.
    a_cancel_races(&[("ORDER__SAGA__RUN_AHEAD", "0s")], 4).await;
    a_cancel_races(&[("ORDER__SAGA__RUN_AHEAD", "10s")], 2).await;
}

async fn a_cancel_races(settings: &[(&str, &str)], versions: u32) {
    let node = TestNode::start_with(&quick(settings)).await;
    join_all((0..12u32).map(async |round| {
        let request = sample_order();
        let preview = node.create(pb::CreateOrderRequest { validate_only: true, ..request.clone() }).await;
        let cancel = async {
            // Each round at another moment of the saga.
            let look = async || node.client().get_order(crate::harness::api::by_id(&preview.id)).await.ok();
            eventually("the order", || async {
                let order = look().await?.into_inner();
                (order.version >= i64::from(round % (versions + 1))).then_some(())
            })
            .await;
            node.cancel(&preview.id).await.unwrap()
        };
        let (created, cancelled) = tokio::join!(node.create(request), cancel);
        assert_eq!(created.id, cancelled.id);
        assert!(matches!(created.status(), Cancelled | Cancelling | Confirmed), "{created:?}");
        assert_ends(&node, &preview.id).await;
        assert!(node.ledger(&created).charges.len() <= 1);
    }))
    .await;
    node.stop().await;
}

#[tokio::test]
async fn a_refund_whose_answer_was_lost_is_made_once() {
    let node = TestNode::start_with(&quick(&[])).await;
    let order = node.create(sample_order()).await;
    fault(
        &node,
        "payment.Refund",
        FaultSpec { lose_reply_rate: 1.0, max_count: Some(3), ..FaultSpec::default() },
    );
    assert_eq!(node.cancel(&order.id).await.unwrap().status(), Cancelled);
    let ledger = node.ledger(&order);
    assert_eq!((ledger.refunds.len(), returned(&ledger)), (1, taken(&ledger)));
    // Duplicated on the way, too.
    let order = node.create(sample_order()).await;
    fault(&node, "*", FaultSpec { duplicate_rate: 1.0, ..FaultSpec::default() });
    let order = node.cancel(&order.id).await.unwrap();
    assert_eq!((order.status(), node.ledger(&order).refunds.len()), (Cancelled, 1));
    node.assert_unwound(&order);
    node.stop().await;
}

#[tokio::test]
async fn a_refused_refund_is_seen_and_tried_again() {
    let node = impatient().await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    let refuse =
        FaultSpec { decline_rate: 1.0, decline_code: "ACCOUNT_CLOSED".into(), ..FaultSpec::default() };
    fault(&node, "payment.Refund", refuse);
    node.cancel(&order.id).await.unwrap();
    let event = node.until_event(&order.id, "attention_needed").await;
    assert!(event.payload_json.contains("ACCOUNT_CLOSED"), "{}", event.payload_json);
    let stuck = node.get(&order.id).await;
    assert_eq!((stuck.status(), stuck.payment_status()), (Cancelling, pb::PaymentStatus::RefundFailed));
    assert!(stuck.cancelled_at.is_none());
    assert!(stuck.attention_reason.contains("ACCOUNT_CLOSED"), "{}", stuck.attention_reason);
    let request = pb::ListPaymentTransactionsRequest { order_id: order.id.clone() };
    let shown = node.client().list_payment_transactions(request).await.unwrap().into_inner().transactions;
    let refund = shown.iter().find(|one| one.kind == "REFUND").unwrap();
    assert_eq!((refund.status.as_str(), refund.decline_code.as_str()), ("FAILED", "ACCOUNT_CLOSED"));
    assert_eq!(node.cancel(&order.id).await.unwrap().status(), Cancelling, "it is under way");
    no_faults(&node);
    let order = assert_ends(&node, &order.id).await;
    assert_eq!(order.payment_status(), pb::PaymentStatus::Refunded);
    node.stop().await;
}

#[tokio::test]
async fn confirmed_before_the_stock_is_committed() {
    let node = impatient().await;
    fault(&node, "inventory.Commit", down());
    let order = node.create(sample_order()).await;
    node.until(&order.id, Confirmed).await;
    let busy = node.ask_status(&order.id, pb::OrderStatus::Processing).await.unwrap_err();
    assert!(read_refusal(&busy, Code::Aborted, "ORDER_BUSY").retry);
    node.cancel(&order.id).await.unwrap();
    let order = assert_ends(&node, &order.id).await;
    assert_eq!(order.payment_status(), pb::PaymentStatus::Refunded);
    node.stop().await;
}

#[tokio::test]
async fn confirmed_while_the_label_is_made() {
    let node = impatient().await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    fault(&node, "shipping.CreateLabel", slow(Duration::from_millis(700)));
    assert_eq!(node.ask_status(&order.id, pb::OrderStatus::Processing).await.unwrap().status(), Confirmed);
    assert_eq!(node.cancel(&order.id).await.unwrap().status(), Cancelling);
    let order = assert_ends(&node, &order.id).await;
    assert!(node.ledger(&order).labels.iter().all(|label| label.state != LabelState::Created));
    assert!(order.shipments.iter().all(|shipment| shipment.label_status == "VOIDED"), "{order:?}");
    node.stop().await;
}

#[tokio::test]
async fn lost_answers_and_late_repeats_unwind_once() {
    let node = TestNode::start_with(&quick(&[])).await;
    let orders = join_all((0..8).map(|_| node.order_at(pb::OrderStatus::Processing))).await;
    fault(
        &node,
        "*",
        FaultSpec { lose_reply_rate: 0.5, duplicate_rate: 0.5, seed: 3, ..FaultSpec::default() },
    );
    join_all(orders.iter().map(async |order| {
        let cancelled = node.cancel(&order.id).await.unwrap();
        assert_eq!(cancelled.status(), Cancelled);
        node.assert_unwound(&cancelled);
        let ledger = node.ledger(order);
        assert_eq!((ledger.refunds.len(), ledger.restocks.len()), (1, 1));
    }))
    .await;
    node.stop().await;
}
