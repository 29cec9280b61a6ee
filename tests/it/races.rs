//! What comes at the same moment, twice, too late, or in another order than it was asked for.

use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::FaultSpec;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Processing, Shipped};
use rust_decimal::Decimal;
use tonic::Code;

use crate::harness::api::{eventually, fault, no_faults, quick, read_refusal, returned, taken};
use crate::harness::edits::{lawful, quiet};
use crate::harness::node::{TestNode, sample_order};

/// A step is not waited for longer, and what comes later comes when nobody waits.
const IMPATIENT: &[(&str, &str)] =
    &[("ORDER__SAGA__STEP_TIMEOUT", "100ms"), ("ORDER__SAGA__CHARGE_SETTLE_LAG", "1s")];
const LATE: Duration = Duration::from_millis(250);

#[tokio::test]
async fn many_cancels_at_once_unwind_once() {
    let node = TestNode::start().await;
    let order = node.order_at(Processing).await;
    let answers = join_all((0..8).map(async |_| node.cancel(&order.id).await)).await;
    for answer in answers {
        assert_eq!(answer.unwrap().status(), Cancelled);
    }
    let begun = node.events(&order.id).await;
    let begun = begun.iter().filter(|event| event.r#type == "saga_started").count();
    assert_eq!(begun, 3, "create, fulfil and one cancel");
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_and_a_shipment_at_once_leave_one_of_the_two() {
    let node = TestNode::start().await;
    join_all((0..12).map(async |_| {
        let order = node.order_at(Processing).await;
        let (cancel, ship) = tokio::join!(node.cancel(&order.id), node.ask_status(&order.id, Shipped));
        let end = node.get(&order.id).await.status();
        match (cancel, ship) {
            (Ok(cancelled), Err(refused)) => {
                assert_eq!((cancelled.status(), end), (Cancelled, Cancelled));
                let refused = refused.code();
                assert!(matches!(refused, Code::FailedPrecondition | Code::Aborted), "{refused:?}");
            }
            (Err(refused), Ok(_)) => {
                read_refusal(&refused, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
                assert_eq!(end, Shipped);
            }
            both => panic!("{both:?}"),
        }
        lawful(&node, &order).await;
    }))
    .await;
    node.stop().await;
}

#[tokio::test]
async fn a_refund_that_times_out_and_happens_later_is_made_once() {
    let node = TestNode::start_with(&quick(IMPATIENT)).await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    fault(&node, "payment.Refund", FaultSpec { delay: LATE, max_count: Some(3), ..FaultSpec::default() });
    node.refund(&order.id, "7.00").await.unwrap();
    let unknown = node.events(&order.id).await;
    assert!(unknown.iter().any(|event| event.r#type == "refund_unknown"), "nothing timed out");
    lawful(&node, &order).await;
    assert_eq!(returned(&node.ledger(&order)), Decimal::from(7));
    assert_eq!(node.ledger(&order).refunds.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn answers_that_come_late_twice_and_in_another_order_count_once() {
    let node = TestNode::start_with(&quick(IMPATIENT)).await;
    // Every call is carried out twice, and now and then when its answer is not waited for any more: then what came
    // of it is heard after that of later calls.
    let disorder = FaultSpec { duplicate_rate: 1.0, delay: LATE, max_count: Some(2), ..FaultSpec::default() };
    for method in ["inventory.Reserve", "payment.Charge", "inventory.Commit", "shipping.CreateLabel"] {
        fault(&node, method, disorder.clone());
    }
    let order = node.create(sample_order()).await;
    node.until(&order.id, Confirmed).await;
    node.until_event(&order.id, "saga_settled").await;
    node.ask_status(&order.id, Processing).await.unwrap();
    lawful(&node, &order).await;
    let order = node.get(&order.id).await;
    assert_eq!(order.status(), Processing);
    assert_eq!(taken(&node.ledger(&order)), order.total_amount.parse::<Decimal>().unwrap());
    no_faults(&node);
    node.stop().await;
}

#[tokio::test]
async fn an_edit_in_doubt_stays_in_doubt_until_the_payment_service_says_so() {
    let node = quiet(&[("ORDER__SAGA__ATTENTION_AFTER_TRIES", "3")]).await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    let order = node.get(&order.id).await;
    fault(&node, "payment.*", FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() });
    let first = order.items[0].clone();
    let request = pb::UpdateOrderItemRequest {
        order_id: order.id.clone(),
        item_id: first.id.clone(),
        quantity: first.quantity + 1,
        ..Default::default()
    };
    node.client().update_order_item(request).await.unwrap();
    node.until_event(&order.id, "attention_needed").await;
    let now = node.get(&order.id).await;
    assert_eq!((now.status(), now.payment_status()), (Confirmed, pb::PaymentStatus::Unknown));
    assert_eq!(now.items, order.items, "nothing is guessed");
    no_faults(&node);
    let edited = eventually("the edit", async || {
        let now = node.get(&order.id).await;
        (now.items[0].quantity == first.quantity + 1).then_some(now)
    })
    .await;
    lawful(&node, &edited).await;
    assert_eq!(taken(&node.ledger(&order)), edited.total_amount.parse::<Decimal>().unwrap());
    node.stop().await;
}
