//! Edits that are refused half-way, of which the answer is lost, or that meet another change.

use std::time::Duration;

use order_service::clients::sim::catalogue::{self, product};
use order_service::clients::sim::{FaultSpec, OrderLedger};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Cancelling, Confirmed, Processing};
use order_service::proto::order::PaymentStatus::{Paid, Refunded};
use rust_decimal::Decimal;
use tonic::{Code, Status};

use crate::harness::api::{
    down, eventually, fault, no_faults, order_of, quick, read_refusal, returned, slow, taken, units_out,
};
use crate::harness::edits::{added, item, lawful, of_item, quantity, quiet, removed};
use crate::harness::node::TestNode;
use crate::harness::postgres::shared_database;

const MUG: u32 = 3;
const LAMP: u32 = 4;

fn money(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn refuse(code: &str) -> FaultSpec {
    FaultSpec { decline_rate: 1.0, decline_code: code.into(), ..FaultSpec::default() }
}

fn lost() -> FaultSpec {
    FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() }
}

/// What is out, and where all units of these products are.
fn goods(node: &TestNode, order: &pb::Order) -> (u64, Vec<u64>) {
    let committed = [MUG, LAMP, 7, 14].map(|number| node.stock(product(number)).committed);
    (units_out(&node.ledger(order)), committed.to_vec())
}

/// The order is as it was: all that differs is that something was tried.
async fn as_before(node: &TestNode, before: &pb::Order) {
    lawful(node, before).await;
    let now = node.get(&before.id).await;
    assert!(now.version > before.version);
    assert_eq!(
        pb::Order { version: before.version, updated_at: before.updated_at, ..now },
        *before,
        "all of it is undone"
    );
}

fn is_paid(order: &pb::Order, ledger: &OrderLedger) {
    assert_eq!((order.payment_status(), order.attention_reason.as_str()), (Paid, ""));
    assert_eq!(taken(ledger) - returned(ledger), money(&order.total_amount));
}

async fn a_declined_difference_undoes_the_edit(node: &TestNode) {
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    let before = goods(node, &order);
    fault(node, "payment.Charge", refuse("INSUFFICIENT_FUNDS"));
    let request = pb::UpdateOrderItemRequest { request_id: "edit".into(), ..of_item(&order, MUG, 5) };
    let error = node.client().update_order_item(request.clone()).await.unwrap_err();
    let refusal = read_refusal(&error, Code::FailedPrecondition, "PAYMENT_DECLINED");
    assert_eq!(refusal.metadata["decline_code"], "INSUFFICIENT_FUNDS");
    assert_eq!(refusal.metadata["order_id"], order.id);
    as_before(node, &order).await;
    assert_eq!(goods(node, &order), before);
    is_paid(&node.get(&order.id).await, &node.ledger(&order));
    // The same request has the same answer, another one is another try.
    no_faults(node);
    let again = node.client().update_order_item(request).await.unwrap_err();
    read_refusal(&again, Code::FailedPrecondition, "PAYMENT_DECLINED");
    assert_eq!(goods(node, &order), before);
    let edited = quantity(node, &order, MUG, 5).await.unwrap();
    assert_eq!(item(&edited, MUG).quantity, 5);
    is_paid(&edited, &node.ledger(&order));
    lawful(node, &order).await;
}

#[tokio::test]
async fn a_declined_difference_undoes_the_edit_whole() {
    let node = TestNode::start().await;
    a_declined_difference_undoes_the_edit(&node).await;
    node.stop().await;
}

#[tokio::test]
async fn a_declined_difference_undoes_the_edit_whole_on_postgres() {
    let url = shared_database().await;
    let settings = [("ORDER__STORE__URL", url.as_str()), ("ORDER__SIMULATOR__JOURNAL", "")];
    let node = TestNode::start_with(&settings).await;
    a_declined_difference_undoes_the_edit(&node).await;
    node.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_sold() {
    let node = TestNode::start().await;
    let rare = catalogue::RARE_PRODUCT;
    let order = node.create(order_of(&[(rare, 2), (MUG, 1)])).await;
    // Found before anything begins: nothing happened at all.
    let error = quantity(&node, &order, rare, 4).await.unwrap_err();
    let refusal = read_refusal(&error, Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
    assert_eq!(refusal.shortages.len(), 1);
    let short = &refusal.shortages[0];
    assert_eq!((short.requested_quantity, short.available_quantity), (2, 1), "only what is more counts");
    assert_eq!(node.get(&order.id).await, order);
    let error = added(&node, &order, catalogue::SOLD_OUT_PRODUCT, 1).await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
    assert_eq!(node.get(&order.id).await, order);
    // Found by the reservation.
    let before = goods(&node, &order);
    fault(&node, "inventory.Reserve", FaultSpec { out_of_stock_rate: 1.0, ..FaultSpec::default() });
    let error = quantity(&node, &order, MUG, 3).await.unwrap_err();
    let refusal = read_refusal(&error, Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
    assert_eq!(refusal.shortages[0].requested_quantity, 2);
    as_before(&node, &order).await;
    assert_eq!(goods(&node, &order), before);
    assert_eq!(node.ledger(&order).charges.len(), 1, "nobody is charged for it");
    no_faults(&node);
    // The last one can be had.
    let edited = quantity(&node, &order, rare, 3).await.unwrap();
    assert_eq!(node.stock(product(rare)).available, 0);
    is_paid(&edited, &node.ledger(&order));
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_refused_refund_of_the_difference_undoes_the_edit_whole() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 5), (LAMP, 1)])).await;
    let before = goods(&node, &order);
    fault(&node, "payment.Refund", refuse("ACCOUNT_CLOSED"));
    for error in
        [quantity(&node, &order, MUG, 2).await.unwrap_err(), removed(&node, &order, LAMP).await.unwrap_err()]
    {
        let refusal = read_refusal(&error, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
        assert_eq!(refusal.metadata["dependency"], "payment");
        as_before(&node, &order).await;
        assert_eq!(goods(&node, &order), before);
        is_paid(&node.get(&order.id).await, &node.ledger(&order));
    }
    no_faults(&node);
    let edited = quantity(&node, &order, MUG, 2).await.unwrap();
    is_paid(&edited, &node.ledger(&order));
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn more_goods_for_less_money_go_back_too_when_the_refund_is_refused() {
    let node = TestNode::start().await;
    // 99.99: one cent more and it ships for nothing.
    let order = node.create(order_of(&[(7, 1), (MUG, 5), (14, 24)])).await;
    assert_eq!((order.subtotal.as_str(), order.shipping_amount.as_str()), ("99.99", "5.00"));
    let before = goods(&node, &order);
    fault(&node, "payment.Refund", refuse("ACCOUNT_CLOSED"));
    let error = added(&node, &order, 14, 1).await.unwrap_err();
    read_refusal(&error, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    as_before(&node, &order).await;
    assert_eq!(goods(&node, &order), before, "the screw that was sold already came back");
    is_paid(&node.get(&order.id).await, &node.ledger(&order));
    no_faults(&node);
    let edited = added(&node, &order, 14, 1).await.unwrap();
    assert_eq!((edited.shipping_amount.as_str(), item(&edited, 14).quantity), ("0.00", 25));
    assert_eq!(returned(&node.ledger(&order)), money(&order.total_amount) - money(&edited.total_amount));
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn an_edit_whose_answers_are_lost_ends_well_and_is_paid_once() {
    for (method, count) in [
        ("payment.Charge", 5),
        ("payment.*", 5),
        ("inventory.Reserve", 5),
        ("inventory.Commit", 5),
        ("payment.Refund", 1),
        ("inventory.Restock", 1),
    ] {
        let node = quiet(&[]).await;
        let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
        node.until_event(&order.id, "saga_settled").await;
        let order = node.get(&order.id).await;
        fault(&node, method, lost());
        let request = pb::UpdateOrderItemRequest { request_id: "edit".into(), ..of_item(&order, MUG, count) };
        let first = node.client().update_order_item(request.clone()).await.unwrap().into_inner();
        assert_eq!((first.status(), first.id.as_str()), (Confirmed, order.id.as_str()));
        // How a charge ended is asked for by its key; everything else is asked for again.
        let asked = async || {
            let keys = node.ledger(&order).keys;
            let service = if method == "payment.Charge" { "payment." } else { method.trim_end_matches('*') };
            let calls = keys.iter().filter(|key| key.method.as_str().starts_with(service));
            (calls.map(|key| key.received).sum::<u32>() > 2).then_some(())
        };
        eventually(method, asked).await;
        no_faults(&node);
        lawful(&node, &order).await;
        let edited = node.client().update_order_item(request).await.unwrap().into_inner();
        assert_eq!(item(&edited, MUG).quantity, count, "{method}");
        let ledger = node.ledger(&order);
        assert_eq!(ledger.charges.len() + ledger.refunds.len(), 2, "{method}: {ledger:?}");
        is_paid(&edited, &ledger);
        lawful(&node, &order).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn one_change_at_a_time() {
    let node = quiet(&[]).await;
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    node.until_event(&order.id, "saga_settled").await;
    let order = node.get(&order.id).await;
    fault(&node, "payment.Charge", down());
    let under_way = quantity(&node, &order, MUG, 5).await.unwrap();
    assert_eq!((under_way.status(), &under_way.items), (Confirmed, &order.items), "not before it is paid");
    assert_eq!(under_way.total_amount, order.total_amount);
    let preview = pb::UpdateOrderItemRequest { validate_only: true, ..of_item(&order, MUG, 3) };
    let busy: Vec<Status> = vec![
        quantity(&node, &order, MUG, 3).await.unwrap_err(),
        added(&node, &order, LAMP, 1).await.unwrap_err(),
        removed(&node, &order, LAMP).await.unwrap_err(),
        node.client().update_order_item(preview).await.unwrap_err(),
        node.ask_status(&order.id, Processing).await.unwrap_err(),
        node.refund(&order.id, "1.00").await.unwrap_err(),
    ];
    for error in busy {
        assert!(read_refusal(&error, Code::Aborted, "ORDER_BUSY").retry);
    }
    no_faults(&node);
    node.until_event(&order.id, "items_changed").await;
    lawful(&node, &order).await;
    let edited = node.get(&order.id).await;
    assert_eq!((item(&edited, MUG).quantity, edited.items.len()), (5, 2));
    is_paid(&edited, &node.ledger(&order));
    added(&node, &edited, LAMP, 1).await.unwrap();
    lawful(&node, &order).await;
    node.ask_status(&order.id, Processing).await.unwrap();
    node.until(&order.id, Processing).await;
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn many_edits_at_once_are_made_one_after_the_other_or_told_to_come_back() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 1)])).await;
    let all = futures::future::join_all((0..8).map(|_| added(&node, &order, LAMP, 1))).await;
    let made = all.iter().filter(|answer| answer.is_ok()).count();
    for error in all.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(read_refusal(error, Code::Aborted, "ORDER_BUSY").retry);
    }
    assert!(made >= 1);
    let edited = node.get(&order.id).await;
    assert_eq!(item(&edited, LAMP).quantity as usize, made, "each that was answered, and no other");
    is_paid(&edited, &node.ledger(&order));
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_while_an_edit_runs_wins_and_everything_goes_back() {
    let soon = slow(Duration::from_millis(200));
    for (method, spec, count) in [
        ("inventory.Reserve", down(), 5),
        ("inventory.Reserve", lost(), 5),
        ("payment.Charge", down(), 5),
        ("payment.Charge", soon, 5),
        ("payment.*", lost(), 5),
        ("inventory.Commit", down(), 5),
        ("payment.Refund", down(), 1),
        ("payment.Refund", lost(), 1),
    ] {
        let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "20s")])).await;
        let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
        fault(&node, method, spec);
        let cancel = async {
            node.until_event(&order.id, "amendment_begun").await;
            let asked = async || {
                let all = node.events(&order.id).await;
                let begun = all.iter().position(|event| event.r#type == "amendment_begun").unwrap();
                (all.len() > begun + 1).then_some(())
            };
            eventually("the edit's first call", asked).await;
            // A caller who does not wait for the end: what stands in the way goes away only afterwards.
            let mut request =
                tonic::Request::new(pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() });
            request.set_timeout(Duration::from_millis(300));
            let cancelled = node.client().cancel_order(request).await.unwrap().into_inner();
            assert!(
                matches!(cancelled.status(), Cancelling | Cancelled | Confirmed),
                "{method}: {:?}",
                cancelled.status()
            );
            no_faults(&node);
        };
        let (edited, ()) = tokio::join!(quantity(&node, &order, MUG, count), cancel);
        let error = edited.unwrap_err();
        let refusal = read_refusal(&error, Code::FailedPrecondition, "ORDER_NOT_EDITABLE");
        assert!(refusal.metadata["current_status"].starts_with("CANCELL"), "{method}: {refusal:?}");
        let ended = node.until(&order.id, Cancelled).await;
        lawful(&node, &order).await;
        let ended = pb::Order { version: ended.version, ..node.get(&ended.id).await };
        assert_eq!((ended.payment_status(), ended.cancel_reason.as_str()), (Refunded, "CUSTOMER_REQUEST"));
        assert_eq!((&ended.items, &ended.total_amount), (&order.items, &order.total_amount), "{method}");
        node.assert_unwound(&ended);
        node.stop().await;
    }
}
