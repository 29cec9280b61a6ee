//! Edits of orders that are not paid yet: in place, and what they leave for the rest of the creation.

use std::sync::Arc;

use order_service::clients::sim::{FaultSpec, ReservationState};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Pending, Processing};
use order_service::proto::order::PaymentStatus::Paid;
use rust_decimal::Decimal;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::api::{eventually, fault, no_faults, order_of, quick, read_refusal, taken, units_out};
use crate::harness::edits::{added, item, lawful, of_item, quantity, removed};
use crate::harness::node::{MachineClock, TestNode};

const MUG: u32 = 3;
const LAMP: u32 = 4;
const FREE: u32 = 11;
const MINUTES: i64 = 60_000;

/// Every order in dollars is held before it is paid.
const HELD: (&str, &str) = ("ORDER__RISK__HOLD_FROM_AMOUNT", "0.01 USD");
const NEVER: (&str, &str) = ("ORDER__SAGA__EXPIRE_AFTER", "0s");
const OFTEN: (&str, &str) = ("ORDER__SAGA__RESUME_EVERY", "10ms");

async fn held(node: &TestNode, items: &[(u32, i32)]) -> pb::Order {
    let order = node.create(order_of(items)).await;
    assert_eq!((order.status(), order.hold.is_some()), (Pending, true));
    order
}

#[tokio::test]
async fn an_order_that_waits_is_edited_at_once_and_charged_for_what_it_has_then() {
    let node = TestNode::start_with(&[HELD]).await;
    let order = held(&node, &[(MUG, 3)]).await;
    let order = quantity(&node, &order, MUG, 1).await.unwrap();
    let order = added(&node, &order, LAMP, 2).await.unwrap();
    assert_eq!((order.status(), order.items.len()), (Pending, 2));
    let owed: Decimal = order.total_amount.parse().unwrap();
    assert_eq!(order.balance.parse::<Decimal>().unwrap(), -owed);
    assert_eq!(node.ledger(&order).charges.len(), 0, "nothing is charged while it waits");
    node.release(&order.id).await.unwrap();
    let order = node.until(&order.id, Confirmed).await;
    lawful(&node, &order).await;
    let order = node.get(&order.id).await;
    assert_eq!((order.payment_status(), taken(&node.ledger(&order))), (Paid, owed));
    assert_eq!((item(&order, MUG).quantity, item(&order, LAMP).quantity), (1, 2));
    assert_eq!(units_out(&node.ledger(&order)), 3, "what is too much went back");
    node.stop().await;
}

#[tokio::test]
async fn what_is_too_much_goes_back_once_also_when_the_order_is_cancelled_meanwhile() {
    let node = TestNode::start_with(&quick(&[HELD, ("ORDER__CREATE__WAIT", "10ms")])).await;
    let order = held(&node, &[(MUG, 3)]).await;
    quantity(&node, &order, MUG, 1).await.unwrap();
    // It goes back, and nobody hears of it.
    fault(&node, "inventory.Restock", FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() });
    node.release(&order.id).await.unwrap();
    eventually("the surplus", async || {
        let ledger = node.ledger(&order);
        ledger.reservations.iter().any(|one| !one.restocked.is_empty()).then_some(())
    })
    .await;
    node.cancel(&order.id).await.unwrap();
    no_faults(&node);
    let order = node.until(&order.id, Cancelled).await;
    lawful(&node, &order).await;
    assert_eq!(units_out(&node.ledger(&order)), 0);
    node.stop().await;
}

#[tokio::test]
async fn stock_that_an_edit_added_is_held_on_to_and_asked_for_anew_when_it_is_lost() {
    let clock = Arc::new(MachineClock::default());
    let settings = quick(&[HELD, NEVER, OFTEN, ("ORDER__CREATE__WAIT", "10ms")]);
    let node = TestNode::start_by(TempDir::new().unwrap(), &settings, Arc::clone(&clock)).await;
    let order = held(&node, &[(MUG, 1)]).await;
    let order = quantity(&node, &order, MUG, 3).await.unwrap();
    fault(&node, "inventory.Commit", FaultSpec { unavailable: true, ..FaultSpec::default() });
    node.release(&order.id).await.unwrap();
    node.until(&order.id, Confirmed).await;
    assert_eq!(units_out(&node.ledger(&order)), 3);
    // Long enough for both reservations to run out at once.
    clock.pass(40 * MINUTES);
    eventually("the loss", async || {
        let ledger = node.ledger(&order);
        let expired =
            |one: &&order_service::clients::sim::Reservation| one.state == ReservationState::Expired;
        (ledger.reservations.iter().filter(expired).count() == 2).then_some(())
    })
    .await;
    no_faults(&node);
    node.until_event(&order.id, "saga_settled").await;
    lawful(&node, &order).await;
    let order = node.get(&order.id).await;
    assert_eq!((order.status(), order.payment_status()), (Confirmed, Paid));
    let ledger = node.ledger(&order);
    assert_eq!((units_out(&ledger), ledger.refunds.len()), (3, 0));
    node.stop().await;
}

#[tokio::test]
async fn a_free_order_whose_edit_was_declined_is_as_good_as_before() {
    let node = TestNode::start().await;
    let request = pb::CreateOrderRequest { shipping_method: "PICKUP".into(), ..order_of(&[(FREE, 1)]) };
    let order = node.create(request).await;
    assert_eq!((order.total_amount.as_str(), order.payment_status()), ("0.00", Paid));
    let decline = FaultSpec { decline_rate: 1.0, ..FaultSpec::default() };
    fault(&node, "payment.Charge", decline);
    let refused = added(&node, &order, MUG, 1).await.unwrap_err();
    read_refusal(&refused, Code::FailedPrecondition, "PAYMENT_DECLINED");
    no_faults(&node);
    let now = node.get(&order.id).await;
    assert_eq!((now.payment_status(), &now.items), (Paid, &order.items));
    let packed = node.ask_status(&order.id, Processing).await.unwrap();
    assert_eq!(packed.status(), Processing);
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_repeat_of_what_changed_nothing_changes_nothing_later() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    let same = pb::UpdateOrderItemRequest { request_id: "same".into(), ..of_item(&order, MUG, 2) };
    let first = node.client().update_order_item(same.clone()).await.unwrap().into_inner();
    assert_eq!(first.items, order.items);
    let edited = quantity(&node, &order, MUG, 4).await.unwrap();
    let again = node.client().update_order_item(same).await.unwrap().into_inner();
    assert_eq!(again, edited);
    let release =
        pb::ReleaseOrderRequest { id: order.id.clone(), request_id: "release".into(), ..Default::default() };
    node.client().release_order(release.clone()).await.unwrap();
    let hold = node.hold(&order.id, "look at it").await.unwrap();
    let again = node.client().release_order(release).await.unwrap().into_inner();
    assert_eq!((again.hold.is_some(), &again), (true, &hold));
    // The hold stops edits.
    let refused = removed(&node, &order, LAMP).await.unwrap_err();
    read_refusal(&refused, Code::FailedPrecondition, "ORDER_ON_HOLD");
    node.stop().await;
}
