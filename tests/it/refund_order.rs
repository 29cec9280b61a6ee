//! Refunds while the order lives on: how much, of what, and what becomes of them.

use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::FaultSpec;
use order_service::clients::sim::catalogue;
use order_service::domain::money::is_amount;
use order_service::domain::refund::worth;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{
    Cancelled, Cancelling, Confirmed, Delivered, Pending, Processing, Returned, Shipped,
};
use order_service::proto::order::PaymentStatus::{
    Paid, PartiallyRefunded, RefundFailed, RefundPending, Refunded,
};
use rust_decimal::Decimal;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::api::{
    amount, down, fault, invalid, line, no_faults, order_of, quick, read_refusal, refused, returned, slow,
    taken, units_out,
};
use crate::harness::node::{TestNode, sample_order};
use crate::harness::{Chance, Wish};

/// A node that answers before a saga that is held up has ended.
async fn impatient() -> TestNode {
    TestNode::start_with(&quick(&[
        ("ORDER__CREATE__WAIT", "10ms"),
        ("ORDER__SAGA__ATTENTION_AFTER_TRIES", "3"),
    ]))
    .await
}

fn of_items(order: &pb::Order, items: &[(&str, i32)]) -> pb::RefundOrderRequest {
    let items =
        items.iter().map(|(id, quantity)| pb::RefundItem { item_id: (*id).to_owned(), quantity: *quantity });
    pb::RefundOrderRequest { id: order.id.clone(), items: items.collect(), ..Default::default() }
}

async fn ask(node: &TestNode, request: pb::RefundOrderRequest) -> Result<pb::Order, Status> {
    Ok(node.client().refund_order(request).await?.into_inner())
}

fn money(text: &str) -> Decimal {
    text.parse().unwrap()
}

/// What a line cost.
fn cost(item: &pb::OrderItem) -> Decimal {
    money(&item.subtotal) - money(&item.discount_amount) + money(&item.tax_amount)
}

/// A refusal of these fields that says how much is possible.
#[track_caller]
fn too_much(answer: Result<pb::Order, Status>, field: &str, most: &str) {
    let status = answer.unwrap_err();
    let refusal = read_refusal(&status, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(refusal.fields, [field]);
    let told = &status.get_details_bad_request().unwrap().field_violations[0].description;
    assert!(told.contains(most), "{told}");
}

#[tokio::test]
async fn money_goes_back_in_every_status_and_nothing_else_changes() {
    let node = TestNode::start().await;
    for from in [Confirmed, Processing, Shipped, Delivered] {
        let order = node.order_at(from).await;
        assert_eq!(order.payment_status(), Paid);
        let before = node.ledger(&order);
        let part = node.refund(&order.id, "1.5").await.unwrap();
        assert_eq!((part.status(), part.payment_status()), (from, PartiallyRefunded));
        assert_eq!((part.total_amount.as_str(), &part.items), (order.total_amount.as_str(), &order.items));
        let ledger = node.ledger(&order);
        assert_eq!((ledger.refunds.len(), returned(&ledger)), (1, money("1.50")));
        assert_eq!((units_out(&ledger), &ledger.labels), (units_out(&before), &before.labels));
        let rest = node.refund(&order.id, "").await.unwrap();
        assert_eq!((rest.status(), rest.payment_status()), (from, Refunded));
        let ledger = node.ledger(&order);
        assert_eq!((ledger.refunds.len(), returned(&ledger)), (2, taken(&ledger)));
        too_much(node.refund(&order.id, "").await, "amount", "nothing is left");
        too_much(node.refund(&order.id, "0.01").await, "amount", "nothing is left");
        assert_eq!(node.get(&order.id).await, rest);
        let request = pb::ListPaymentTransactionsRequest { order_id: order.id.clone() };
        let shown = node.client().list_payment_transactions(request).await.unwrap().into_inner();
        let kinds: Vec<_> =
            shown.transactions.iter().map(|one| (one.kind.as_str(), one.status.as_str())).collect();
        assert_eq!(kinds, [("CHARGE", "SUCCEEDED"), ("REFUND", "SUCCEEDED"), ("REFUND", "SUCCEEDED")]);
    }
    node.stop().await;
}

#[tokio::test]
async fn only_orders_that_were_paid_are_refunded() {
    let node = impatient().await;
    let status =
        |order: &pb::Order| order.status().as_str_name().trim_start_matches("ORDER_STATUS_").to_owned();
    fault(&node, "payment.Charge", down());
    let pending = node.create(sample_order()).await;
    assert_eq!(pending.status(), Pending);
    let error = node.refund(&pending.id, "1.00").await.unwrap_err();
    let refusal = read_refusal(&error, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
    assert_eq!(refusal.metadata["current_status"], "PENDING");
    no_faults(&node);
    node.until(&pending.id, Confirmed).await;
    node.until_event(&pending.id, "saga_settled").await;
    fault(&node, "payment.Refund", down());
    let cancelling = node.cancel(&pending.id).await.unwrap();
    assert_eq!(cancelling.status(), Cancelling);
    let error = node.refund(&pending.id, "1.00").await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
    no_faults(&node);
    let cancelled = node.until(&pending.id, Cancelled).await;
    let error = node.refund(&pending.id, "1.00").await.unwrap_err();
    let refusal = read_refusal(&error, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
    assert_eq!(refusal.metadata["current_status"], status(&cancelled));
    node.stop().await;

    let node = TestNode::start().await;
    let returned = node.order_at(Returned).await;
    too_much(node.refund(&returned.id, "1.00").await, "amount", "nothing is left");
    // Free orders have nothing to give.
    let free = pb::CreateOrderRequest {
        coupon_code: "FREEALL".into(),
        shipping_method: "PICKUP".into(),
        ..sample_order()
    };
    let free = node.create(free).await;
    assert_eq!((free.status(), free.total_amount.as_str()), (Confirmed, "0.00"));
    too_much(node.refund(&free.id, "").await, "amount", "nothing is left");
    let nowhere = "018f3e1c-0000-7000-8000-000000000000";
    let request = pb::RefundOrderRequest { id: nowhere.into(), ..Default::default() };
    refused(node.client().refund_order(request).await, Code::NotFound, "ORDER_NOT_FOUND");
    node.stop().await;
}

#[tokio::test]
async fn more_than_is_left_is_refused_and_the_most_is_told() {
    let node = TestNode::start().await;
    let order = node.order_at(Delivered).await;
    let total = money(&order.total_amount);
    for wrong in ["0", "0.00", "1.005", "0.0001", &(total + money("0.01")).to_string(), "99999999"] {
        too_much(node.refund(&order.id, wrong).await, "amount", &order.total_amount);
    }
    for wrong in ["-1.00", "1,50", "one", "1e2", ".5", "1.", "NaN", "1.00000", "9999999999999999"] {
        let request =
            pb::RefundOrderRequest { id: order.id.clone(), amount: wrong.into(), ..Default::default() };
        invalid(node.client().refund_order(request).await, "INVALID_FIELD", &["amount"]);
    }
    assert_eq!(node.get(&order.id).await, order);
    // Two that fit alone and not together.
    let more_than_half = (total / Decimal::TWO).round_dp(2) + money("0.01");
    let first = node.refund(&order.id, &more_than_half.to_string()).await.unwrap();
    assert_eq!(first.payment_status(), PartiallyRefunded);
    let left = (total - more_than_half).to_string();
    too_much(node.refund(&order.id, &more_than_half.to_string()).await, "amount", &left);
    assert_eq!(returned(&node.ledger(&order)), more_than_half);
    assert_eq!(node.refund(&order.id, &left).await.unwrap().payment_status(), Refunded);
    node.stop().await;
}

#[tokio::test]
async fn digits_are_those_of_the_currency() {
    let node = TestNode::start().await;
    // In yen, in dinars of three digits, in euros.
    let currencies: [(u32, &str, &str); 3] =
        [(30, "1", "0.5"), (36, "0.125", "0.0005"), (17, "0.5", "0.005")];
    for (product, good, bad) in currencies {
        let items = vec![line(catalogue::product(product), 2)];
        let request = pb::CreateOrderRequest { items, coupon_code: String::new(), ..sample_order() };
        let Ok(order) = node.try_create(request).await else { panic!("product {product} is not sold") };
        let digits = order.total_amount.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        too_much(node.refund(&order.id, bad).await, "amount", &order.total_amount);
        let part = node.refund(&order.id, good).await.unwrap();
        assert_eq!(part.payment_status(), PartiallyRefunded);
        let request = pb::ListPaymentTransactionsRequest { order_id: order.id.clone() };
        let shown = node.client().list_payment_transactions(request).await.unwrap().into_inner();
        assert_eq!(amount(&shown.transactions[1].amount, digits), money(good));
    }
    node.stop().await;
}

#[tokio::test]
async fn parts_of_a_line_make_what_the_line_cost() {
    let node = TestNode::start().await;
    for quantity in [1, 2, 3, 7] {
        let items = vec![line(catalogue::product(1), quantity), line(catalogue::product(4), 1)];
        let order = node.create(pb::CreateOrderRequest { items, ..sample_order() }).await;
        let order = node.ask_status(&order.id, Processing).await.unwrap();
        let item = order.items[0].clone();
        let mut before = Decimal::ZERO;
        for count in 1..=quantity {
            let answer = ask(&node, of_items(&order, &[(&item.id, 1)])).await.unwrap();
            assert_eq!((answer.status(), answer.payment_status()), (Processing, PartiallyRefunded));
            let paid = returned(&node.ledger(&order));
            let exact = cost(&item) * Decimal::from(count) / Decimal::from(quantity);
            assert!((paid - exact).abs() <= money("0.005"), "{paid} for {count} of {quantity}: {exact}");
            assert!(paid >= before);
            before = paid;
        }
        assert_eq!(before, cost(&item), "{quantity} parts");
        too_much(ask(&node, of_items(&order, &[(&item.id, 1)])).await, "items[0].quantity", "at most 0");
        let events = node.events(&order.id).await;
        let granted: Vec<_> = events.iter().filter(|event| event.r#type == "refund_granted").collect();
        assert_eq!(granted.len(), usize::try_from(quantity).unwrap());
        assert!(granted[0].payload_json.contains(&item.id), "{}", granted[0].payload_json);
        // The other line is untouched, and all of the rest is what is left.
        let rest = node.refund(&order.id, "").await.unwrap();
        assert_eq!(rest.payment_status(), Refunded);
    }
    node.stop().await;
}

#[tokio::test]
async fn several_lines_go_back_together_and_bad_ones_are_all_told() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(1, 3), (4, 2)])).await;
    let (one, two) = (order.items[0].clone(), order.items[1].clone());
    too_much(ask(&node, of_items(&order, &[(&one.id, 4)])).await, "items[0].quantity", "at most 3");
    let both = of_items(&order, &[(&one.id, 4), (&two.id, 3)]);
    invalid(
        node.client().refund_order(both).await,
        "INVALID_FIELD",
        &["items[0].quantity", "items[1].quantity"],
    );
    let unknown = "123e4567-e89b-12d3-a456-42661417ffff";
    let request = of_items(&order, &[(&one.id, 1), (unknown, 1)]);
    let refusal = refused(node.client().refund_order(request).await, Code::NotFound, "ITEM_NOT_FOUND");
    assert_eq!(refusal.resource, Some(("order.v1.OrderItem".to_owned(), unknown.to_owned())));
    let bad = pb::RefundOrderRequest {
        amount: "1.00".into(),
        reason: "\u{0}".into(),
        expected_version: -1,
        request_id: "x".repeat(65),
        id: "1".into(),
        ..of_items(&order, &[(&one.id, 0), ("x", 1), (&two.id, 1), (&two.id, 1), (&one.id, 10_000)])
    };
    invalid(
        node.client().refund_order(bad).await,
        "INVALID_FIELD",
        &[
            "amount",
            "expected_version",
            "id",
            "items[0].quantity",
            "items[1].item_id",
            "items[3].item_id",
            "items[4].quantity",
            "reason",
            "request_id",
        ],
    );
    let many: Vec<_> = (0..201).map(|_| (one.id.as_str(), 1)).collect();
    invalid(node.client().refund_order(of_items(&order, &many)).await, "INVALID_FIELD", &["items"]);
    assert_eq!(node.get(&order.id).await, order);
    let answer = ask(&node, of_items(&order, &[(&one.id, 3), (&two.id, 2)])).await.unwrap();
    let all = if money(&order.shipping_amount).is_zero() { Refunded } else { PartiallyRefunded };
    assert_eq!(answer.payment_status(), all);
    assert_eq!(returned(&node.ledger(&order)), cost(&one) + cost(&two));
    // What the lines cost is more than what is left after an amount went back.
    let order = node.create(order_of(&[(1, 1)])).await;
    let all_but_a_cent = money(&order.total_amount) - money("0.01");
    node.refund(&order.id, &all_but_a_cent.to_string()).await.unwrap();
    too_much(ask(&node, of_items(&order, &[(&order.items[0].id, 1)])).await, "items", "0.01");
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_or_a_return_gives_back_only_the_rest() {
    let node = TestNode::start().await;
    for (from, to) in [(Confirmed, Cancelled), (Processing, Cancelled), (Delivered, Returned)] {
        let order = node.order_at(from).await;
        let request = of_items(&order, &[(&order.items[0].id, 1)]);
        ask(&node, request).await.unwrap();
        let ended = node.ask_status(&order.id, to).await.unwrap();
        assert_eq!((ended.status(), ended.payment_status()), (to, Refunded));
        let ledger = node.ledger(&order);
        assert_eq!((returned(&ledger), units_out(&ledger)), (taken(&ledger), 0));
        assert_eq!(ledger.refunds.len(), 2);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_part_that_went_back_stops_no_forward_move_and_all_of_it_does() {
    let node = TestNode::start().await;
    let order = node.order_at(Confirmed).await;
    node.refund(&order.id, "1.00").await.unwrap();
    let order = node.ask_status(&order.id, Processing).await.unwrap();
    node.refund(&order.id, "1.00").await.unwrap();
    assert_eq!(node.ask_status(&order.id, Shipped).await.unwrap().status(), Shipped);
    let order = node.order_at(Confirmed).await;
    node.refund(&order.id, "").await.unwrap();
    let error = node.ask_status(&order.id, Processing).await.unwrap_err();
    let refusal = read_refusal(&error, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
    assert_eq!(refusal.metadata["missing"], "the order is not paid");
    let order = node.order_at(Confirmed).await;
    node.hold(&order.id, "look at it").await.unwrap();
    assert_eq!(node.refund(&order.id, "").await.unwrap().payment_status(), Refunded, "a hold stops none");
    node.stop().await;
}

#[tokio::test]
async fn a_refund_whose_answer_was_lost_is_made_once() {
    let node = impatient().await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    let lost = FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() };
    fault(&node, "payment.Refund", lost);
    let pending = node.refund(&order.id, "2.00").await.unwrap();
    assert_eq!((pending.status(), pending.payment_status()), (Confirmed, RefundPending));
    // However long it takes, it stays in doubt, under the same key; meanwhile nothing else is begun.
    node.until_event(&order.id, "attention_needed").await;
    let stuck = node.get(&order.id).await;
    assert_eq!(stuck.payment_status(), RefundPending);
    assert!(!stuck.attention_reason.is_empty());
    for busy in [
        node.refund(&order.id, "1.00").await.unwrap_err(),
        node.ask_status(&order.id, Processing).await.unwrap_err(),
    ] {
        assert!(read_refusal(&busy, Code::Aborted, "ORDER_BUSY").retry);
    }
    no_faults(&node);
    let settled = crate::harness::api::eventually("the end", || async {
        Some(node.get(&order.id).await).filter(|order| order.payment_status() == PartiallyRefunded)
    })
    .await;
    assert_eq!(settled.attention_reason, "");
    let ledger = node.ledger(&order);
    assert_eq!((ledger.refunds.len(), returned(&ledger)), (1, money("2.00")));
    fault(&node, "*", FaultSpec { duplicate_rate: 1.0, ..FaultSpec::default() });
    node.refund(&order.id, "3.00").await.unwrap();
    crate::harness::api::eventually("the second", || async {
        (returned(&node.ledger(&order)) == money("5.00")).then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn a_refused_refund_is_seen_and_may_be_asked_for_again() {
    let node = TestNode::start_with(&quick(&[])).await;
    let order = node.create(sample_order()).await;
    let refuse =
        FaultSpec { decline_rate: 1.0, decline_code: "ACCOUNT_CLOSED".into(), ..FaultSpec::default() };
    fault(&node, "payment.Refund", refuse);
    let request = pb::RefundOrderRequest {
        request_id: "refund 1".into(),
        ..of_items(&order, &[(&order.items[0].id, 1)])
    };
    let failed = ask(&node, request.clone()).await.unwrap();
    assert_eq!((failed.status(), failed.payment_status()), (Confirmed, RefundFailed));
    assert!(failed.attention_reason.contains("ACCOUNT_CLOSED"), "{}", failed.attention_reason);
    let kinds: Vec<_> = node.events(&order.id).await.into_iter().map(|event| event.r#type).collect();
    assert!(kinds.ends_with(&["refund_failed", "attention_needed", "saga_settled"].map(String::from)));
    // A repeat is the same request, not another try.
    no_faults(&node);
    assert_eq!(ask(&node, request).await.unwrap(), failed);
    assert!(node.ledger(&order).refunds.is_empty());
    // The order goes on, and stays flagged, also after a restart.
    let moved = node.ask_status(&order.id, Processing).await.unwrap();
    assert_eq!(moved.attention_reason, failed.attention_reason);
    let node = TestNode::start_in(node.stop().await, &quick(&[])).await;
    assert_eq!(node.get(&order.id).await, moved);
    // All of the line is left, since nothing of it went back.
    let again = ask(&node, of_items(&order, &[(&order.items[0].id, 2)])).await.unwrap();
    assert_eq!((again.status(), again.payment_status()), (Processing, PartiallyRefunded));
    assert_eq!(again.attention_reason, "");
    assert_eq!(returned(&node.ledger(&order)), cost(&order.items[0]));
    let cancelled = node.cancel(&order.id).await.unwrap();
    assert_eq!((cancelled.status(), cancelled.payment_status()), (Cancelled, Refunded));
    node.assert_unwound(&cancelled);
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_while_money_goes_back_gives_back_the_rest() {
    for (lost, from) in [(false, Confirmed), (true, Confirmed), (false, Processing), (true, Processing)] {
        let node = impatient().await;
        let order = node.create(sample_order()).await;
        node.until_event(&order.id, "saga_settled").await;
        if from == Processing {
            node.ask_status(&order.id, Processing).await.unwrap();
            node.until(&order.id, Processing).await;
        }
        let held_up = if lost {
            FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() }
        } else {
            slow(Duration::from_millis(300))
        };
        fault(&node, "payment.Refund", held_up);
        assert_eq!(node.refund(&order.id, "2.00").await.unwrap().payment_status(), RefundPending);
        let cancelled = node.cancel(&order.id).await.unwrap();
        assert_eq!((cancelled.status(), cancelled.cancel_reason.as_str()), (Cancelling, "CUSTOMER_REQUEST"));
        no_faults(&node);
        let order = node.until(&order.id, Cancelled).await;
        assert_eq!(order.payment_status(), Refunded);
        node.assert_unwound(&order);
        let amounts: Vec<_> = node.ledger(&order).refunds.iter().map(|refund| refund.amount).collect();
        assert_eq!(amounts, [money("2.00"), money(&order.total_amount) - money("2.00")]);
        node.stop().await;
    }
}

#[tokio::test]
async fn a_shipped_order_is_not_cancelled_by_a_refund() {
    let node = impatient().await;
    let mut order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    for next in [Processing, Shipped] {
        node.ask_status(&order.id, next).await.unwrap();
        order = node.until(&order.id, next).await;
    }
    fault(&node, "payment.Refund", slow(Duration::from_millis(300)));
    node.refund(&order.id, "2.00").await.unwrap();
    let error = node.cancel(&order.id).await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
    node.stop().await;
}

#[tokio::test]
async fn repeats_are_answered_and_versions_are_checked() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let request = pb::RefundOrderRequest {
        id: order.id.clone(),
        amount: "1.00".into(),
        reason: "  late ".into(),
        expected_version: order.version,
        request_id: "refund 1".into(),
        ..Default::default()
    };
    let all = join_all((0..3).map(|_| ask(&node, request.clone()))).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|answer| answer.as_ref().unwrap() == first));
    assert_eq!(node.ledger(&order).refunds.len(), 1);
    let other = pb::RefundOrderRequest { amount: "2.00".into(), ..request.clone() };
    invalid(node.client().refund_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    let stale = pb::RefundOrderRequest { request_id: String::new(), ..request.clone() };
    refused(node.client().refund_order(stale).await, Code::Aborted, "VERSION_MISMATCH");
    let granted = node.until_event(&order.id, "refund_granted").await;
    assert!(granted.payload_json.contains("\"late\""), "{}", granted.payload_json);
    // Of many at once, one after the other is made, or told to come back.
    let all = join_all((0..8).map(|_| node.refund(&order.id, "1.00"))).await;
    let made = all.iter().filter(|answer| answer.is_ok()).count();
    for error in all.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(read_refusal(error, Code::Aborted, "ORDER_BUSY").retry);
    }
    assert!(made >= 1);
    assert_eq!(node.ledger(&order).refunds.len(), made + 1);
    let node = TestNode::start_in(node.stop().await, &[]).await;
    let again = ask(&node, request).await.unwrap();
    assert_eq!(again.payment_status(), PartiallyRefunded);
    assert_eq!(again.status(), Confirmed);
    node.stop().await;
}

#[test]
fn shares_of_a_line_make_its_cost_in_every_currency() {
    let mut chance = Chance::new(1);
    for number in 0..2_000 {
        let draft = Wish::any(&mut chance).draft(number);
        for item in &draft.items {
            let of = |count| worth(item, count, draft.currency).unwrap();
            let shares: Vec<_> = (1..=item.quantity).map(|count| of(count) - of(count - 1)).collect();
            assert!(shares.iter().all(|share| is_amount(*share, draft.currency)), "{shares:?}");
            let cost = item.subtotal - item.discount_amount + item.tax_amount;
            assert_eq!((shares.iter().sum(), of(0)), (cost, Decimal::ZERO), "{item:?}");
        }
    }
    let draft = Wish { lines: vec![("9999999999.99", 9_999)], ..Wish::plain() }.draft(1);
    let item = &draft.items[0];
    assert_eq!(worth(item, 9_999, draft.currency), Some(item.subtotal + item.tax_amount));
}
