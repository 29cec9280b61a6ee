//! Items change after the order was placed: what it costs, what moves, and what is refused.

use futures::future::join_all;
use order_service::clients::sim::catalogue::{self, product};
use order_service::clients::sim::{OrderLedger, StockTotals};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{
    Cancelled, Confirmed, Delivered, Processing, Returned, Shipped,
};
use order_service::proto::order::PaymentStatus::{Paid, Refunded};
use rust_decimal::Decimal;
use tonic::Code;

use crate::harness::api::{
    amount, assert_adds_up, eventually, invalid, line, order_of, read_refusal, refused, returned, taken,
    units_out,
};
use crate::harness::edits::{added, item, lawful, of_item, payments, quantity, quiet, removed};
use crate::harness::node::{TestNode, sample_order};
use crate::harness::postgres::shared_database;

const MUG: u32 = 3;
const LAMP: u32 = 4;

fn money(text: &str) -> Decimal {
    text.parse().unwrap()
}

#[track_caller]
fn committed(node: &TestNode, number: u32) -> u64 {
    let StockTotals { committed, reserved, .. } = node.stock(product(number));
    assert_eq!(reserved, 0, "nothing is only held");
    committed
}

/// Quantity of each reservation that was made.
fn reserved(ledger: &OrderLedger) -> Vec<Vec<u64>> {
    let quantities =
        |lines: &[order_service::clients::sim::Units]| lines.iter().map(|one| one.quantity).collect();
    ledger.reservations.iter().map(|one| quantities(&one.lines)).collect()
}

async fn a_dearer_edit_charges_the_difference(node: &TestNode) {
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    let before = (committed(node, MUG), committed(node, LAMP));
    let edited = quantity(node, &order, MUG, 5).await.unwrap();
    assert_eq!((edited.status(), edited.payment_status()), (Confirmed, Paid));
    assert_eq!((item(&edited, MUG).quantity, item(&edited, LAMP)), (5, item(&order, LAMP)));
    assert_eq!((edited.balance.as_str(), edited.attention_reason.as_str()), ("0.00", ""));
    assert_adds_up(&edited, 2);
    let difference = money(&edited.total_amount) - money(&order.total_amount);
    assert_eq!(difference, (money("29.85") * money("1.08875")).round_dp(2), "three mugs and their tax");
    let shown = payments(node, &order).await;
    let rows: Vec<_> =
        shown.iter().map(|one| (one.kind.as_str(), one.status.as_str(), money(&one.amount))).collect();
    assert_eq!(
        rows,
        [("CHARGE", "SUCCEEDED", money(&order.total_amount)), ("CHARGE", "SUCCEEDED", difference)]
    );
    assert_ne!(shown[0].key, shown[1].key);
    let ledger = node.ledger(&order);
    assert_eq!((taken(&ledger), returned(&ledger)), (money(&edited.total_amount), Decimal::ZERO));
    assert_eq!(reserved(&ledger), [vec![2, 1], vec![3]], "only what is more");
    assert_eq!((committed(node, MUG), committed(node, LAMP)), (before.0 + 3, before.1));
    lawful(node, &order).await;
}

#[tokio::test]
async fn a_dearer_edit_charges_the_difference_and_takes_only_what_is_more() {
    let node = TestNode::start().await;
    a_dearer_edit_charges_the_difference(&node).await;
    node.stop().await;
}

async fn a_cheaper_edit_refunds_the_difference(node: &TestNode) {
    let order = node.create(order_of(&[(MUG, 5), (LAMP, 1)])).await;
    let before = (committed(node, MUG), committed(node, LAMP));
    let edited = quantity(node, &order, MUG, 2).await.unwrap();
    assert_eq!((edited.status(), edited.payment_status()), (Confirmed, Paid));
    assert_eq!((item(&edited, MUG).quantity, edited.balance.as_str()), (2, "0.00"));
    assert_adds_up(&edited, 2);
    let difference = money(&order.total_amount) - money(&edited.total_amount);
    let shown = payments(node, &order).await;
    assert_eq!(shown.len(), 2);
    assert_eq!((shown[1].kind.as_str(), money(&shown[1].amount)), ("REFUND", difference));
    assert_eq!(shown[1].parent_transaction_id, shown[0].transaction_id);
    assert!(!shown[0].transaction_id.is_empty() && shown[0].parent_transaction_id.is_empty());
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), returned(&ledger)), (1, difference));
    let back: Vec<_> = ledger.restocks.iter().flat_map(|one| &one.lines).collect();
    assert_eq!(back.len(), 1);
    assert_eq!((back[0].product, back[0].quantity), (product(MUG), 3));
    assert_eq!((committed(node, MUG), committed(node, LAMP)), (before.0 - 3, before.1));
    lawful(node, &order).await;
    let edited = removed(node, &edited, LAMP).await.unwrap();
    assert_eq!(edited.items, [item(&edited, MUG)]);
    assert_eq!((committed(node, MUG), committed(node, LAMP)), (before.0 - 3, before.1 - 1));
    assert_eq!(returned(&node.ledger(&order)), money(&order.total_amount) - money(&edited.total_amount));
    lawful(node, &order).await;
}

#[tokio::test]
async fn a_cheaper_edit_refunds_the_difference_and_puts_only_that_back() {
    let node = TestNode::start().await;
    a_cheaper_edit_refunds_the_difference(&node).await;
    node.stop().await;
}

#[tokio::test]
async fn edits_on_postgres() {
    let url = shared_database().await;
    let node =
        TestNode::start_with(&[("ORDER__STORE__URL", url.as_str()), ("ORDER__SIMULATOR__JOURNAL", "")]).await;
    a_dearer_edit_charges_the_difference(&node).await;
    a_cheaper_edit_refunds_the_difference(&node).await;
    let order = added(&node, &node.create(sample_order()).await, LAMP, 2).await.unwrap();
    assert_eq!(node.cancel(&order.id).await.unwrap().status(), Cancelled);
    node.assert_unwound(&order);
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_new_line_is_priced_now_and_a_known_product_joins_its_line() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 1)])).await;
    let edited = added(&node, &order, LAMP, 2).await.unwrap();
    assert_eq!(edited.items.len(), 2);
    assert_eq!(item(&edited, MUG), item(&order, MUG), "what was there stays as it was");
    let lamp = item(&edited, LAMP);
    assert_eq!((lamp.unit_price.as_str(), lamp.quantity, lamp.sku.as_str()), ("34.00", 2, "LAMP-004"));
    let again = added(&node, &edited, LAMP, 1).await.unwrap();
    assert_eq!((again.items.len(), item(&again, LAMP).quantity), (2, 3));
    assert_eq!(item(&again, LAMP).id, lamp.id);
    // A line that was removed and comes again is a new one.
    let without = removed(&node, &again, LAMP).await.unwrap();
    let anew = added(&node, &without, LAMP, 1).await.unwrap();
    assert_ne!(item(&anew, LAMP).id, lamp.id);
    assert_adds_up(&anew, 2);
    lawful(&node, &order).await;
    let folder = node.stop().await;
    let node = TestNode::start_in(folder, &[]).await;
    assert_eq!(node.get(&order.id).await, anew, "all of it is stored");
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn the_coupon_is_spread_anew_over_the_lines() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    for edit in 0..3 {
        let edited = match edit {
            0 => added(&node, &order, 15, 7).await.unwrap(),
            1 => quantity(&node, &node.get(&order.id).await, 15, 2).await.unwrap(),
            _ => added(&node, &node.get(&order.id).await, MUG, 1).await.unwrap(),
        };
        assert_eq!(edited.coupon_code, "SUMMER10");
        let discounts: Decimal = edited.items.iter().map(|item| amount(&item.discount_amount, 2)).sum();
        assert_eq!(discounts, money(&edited.discount_amount));
        assert_eq!(
            discounts,
            (money(&edited.subtotal) / money("10"))
                .round_dp_with_strategy(2, rust_decimal::RoundingStrategy::MidpointAwayFromZero,)
        );
        assert!(edited.items.iter().all(|item| money(&item.discount_amount) > Decimal::ZERO));
        assert_adds_up(&edited, 2);
        lawful(&node, &order).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_coupon_whose_minimum_is_not_met_any_more_stops_the_edit() {
    let node = TestNode::start().await;
    let request = pb::CreateOrderRequest { coupon_code: "WELCOME5".into(), ..order_of(&[(MUG, 3)]) };
    let order = node.create(request).await;
    assert_eq!(order.discount_amount, "5.00");
    let ledger = node.ledger(&order);
    let error = quantity(&node, &order, MUG, 2).await.unwrap_err();
    read_refusal(&error, Code::InvalidArgument, "COUPON_INVALID");
    assert_eq!((node.get(&order.id).await, node.ledger(&order)), (order.clone(), ledger));
    let edited = quantity(&node, &order, MUG, 4).await.unwrap();
    assert_eq!(edited.discount_amount, "5.00");
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn validate_only_shows_what_it_would_cost_and_moves_nothing() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    let before = (node.ledger(&order), node.events(&order.id).await);
    for count in [5, 1] {
        let request = pb::UpdateOrderItemRequest { validate_only: true, ..of_item(&order, MUG, count) };
        let preview = node.client().update_order_item(request.clone()).await.unwrap().into_inner();
        assert_eq!((preview.version, item(&preview, MUG).quantity), (order.version, count));
        assert_adds_up(&preview, 2);
        let balance = money(&order.total_amount) - money(&preview.total_amount);
        assert_eq!((money(&preview.balance), balance.is_sign_negative()), (balance, count > 2));
        // With the id of a request that is to follow, it does not use that up.
        let request = pb::UpdateOrderItemRequest { request_id: "later".into(), ..request };
        assert_eq!(node.client().update_order_item(request).await.unwrap().into_inner(), preview);
    }
    let add = pb::AddOrderItemRequest {
        order_id: order.id.clone(),
        item: Some(line(product(5), 1)),
        validate_only: true,
        ..Default::default()
    };
    let preview = node.client().add_order_item(add).await.unwrap().into_inner();
    assert_eq!((preview.items.len(), preview.version), (3, order.version));
    let remove = pb::RemoveOrderItemRequest {
        order_id: order.id.clone(),
        item_id: item(&order, LAMP).id,
        validate_only: true,
        ..Default::default()
    };
    let preview = node.client().remove_order_item(remove).await.unwrap().into_inner();
    assert_eq!((preview.items.len(), preview.version), (1, order.version));
    assert!(money(&preview.balance) > Decimal::ZERO);
    assert_eq!(node.get(&order.id).await, order);
    assert_eq!((node.ledger(&order), node.events(&order.id).await), before);
    // What was shown is what it costs.
    let request = pb::UpdateOrderItemRequest { request_id: "later".into(), ..of_item(&order, MUG, 5) };
    let shown = pb::UpdateOrderItemRequest { validate_only: true, ..request.clone() };
    let shown = node.client().update_order_item(shown).await.unwrap().into_inner();
    let edited = node.client().update_order_item(request).await.unwrap().into_inner();
    assert_eq!(
        (&edited.total_amount, &item(&edited, MUG).tax_amount),
        (&shown.total_amount, &item(&shown, MUG).tax_amount)
    );
    assert_eq!(taken(&node.ledger(&order)), money(&shown.total_amount));
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn an_order_on_its_way_or_at_its_end_is_not_edited() {
    let node = TestNode::start().await;
    for status in [Processing, Shipped, Delivered, Cancelled, Returned] {
        let order = node.order_at(status).await;
        let sample = order.items[0].id.clone();
        let set = pb::UpdateOrderItemRequest {
            order_id: order.id.clone(),
            item_id: sample.clone(),
            quantity: 3,
            ..Default::default()
        };
        let remove =
            pb::RemoveOrderItemRequest { order_id: order.id.clone(), item_id: sample, ..Default::default() };
        for error in [
            added(&node, &order, MUG, 1).await.unwrap_err(),
            node.client().update_order_item(set.clone()).await.unwrap_err(),
            node.client()
                .update_order_item(pb::UpdateOrderItemRequest { validate_only: true, ..set })
                .await
                .unwrap_err(),
            node.client().remove_order_item(remove).await.unwrap_err(),
        ] {
            let refusal = read_refusal(&error, Code::FailedPrecondition, "ORDER_NOT_EDITABLE");
            let name = status.as_str_name().trim_start_matches("ORDER_STATUS_");
            assert_eq!(refusal.metadata["current_status"], name);
        }
        assert_eq!(node.get(&order.id).await, order);
        lawful(&node, &order).await;
    }
    // Nor one of which money was given back.
    let order = node.create(order_of(&[(MUG, 2)])).await;
    let order = node.refund(&order.id, "1.00").await.unwrap();
    let error = quantity(&node, &order, MUG, 3).await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "ORDER_NOT_EDITABLE");
    lawful(&node, &order).await;
    // One on hold waits.
    let order = node.create(order_of(&[(MUG, 2)])).await;
    let held = node.hold(&order.id, "fraud?").await.unwrap();
    let error = quantity(&node, &order, MUG, 3).await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "ORDER_ON_HOLD");
    assert_eq!(node.get(&order.id).await, held);
    node.release(&order.id).await.unwrap();
    assert_eq!(item(&quantity(&node, &order, MUG, 3).await.unwrap(), MUG).quantity, 3);
    // The last line stays.
    let order = node.get(&order.id).await;
    let error = removed(&node, &order, MUG).await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "ORDER_NOT_EDITABLE");
    assert!(error.message().contains("cancel the order"), "{}", error.message());
    assert_eq!(node.get(&order.id).await, order);
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn what_is_unknown_or_out_of_range_is_named() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    let nowhere = "123e4567-e89b-12d3-a456-42661417ffff".to_owned();
    let known = of_item(&order, MUG, 3);
    let unknown = pb::UpdateOrderItemRequest { item_id: nowhere.clone(), ..known.clone() };
    let remove = pb::RemoveOrderItemRequest {
        order_id: order.id.clone(),
        item_id: nowhere.clone(),
        ..Default::default()
    };
    for refusal in [
        refused(node.client().update_order_item(unknown).await, Code::NotFound, "ITEM_NOT_FOUND"),
        refused(node.client().remove_order_item(remove).await, Code::NotFound, "ITEM_NOT_FOUND"),
    ] {
        assert_eq!(refusal.resource, Some(("order.v1.OrderItem".to_owned(), nowhere.clone())));
    }
    let add = |item| pb::AddOrderItemRequest { order_id: order.id.clone(), item, ..Default::default() };
    let wish = pb::NewOrderItem { product_id: nowhere.clone(), quantity: 1, ..Default::default() };
    let refusal =
        refused(node.client().add_order_item(add(Some(wish))).await, Code::NotFound, "PRODUCT_NOT_FOUND");
    assert_eq!(refusal.resource, Some(("product.v1.Product".to_owned(), nowhere.clone())));
    let euros = add(Some(line(product(17), 1)));
    invalid(node.client().add_order_item(euros).await, "CURRENCY_UNSUPPORTED", &["item.product_id"]);
    let inactive = add(Some(line(product(catalogue::INACTIVE_PRODUCT), 1)));
    invalid(node.client().add_order_item(inactive).await, "INVALID_FIELD", &["item.product_id"]);
    invalid(node.client().add_order_item(add(None)).await, "INVALID_FIELD", &["item"]);
    for count in [0, -1, 10_000] {
        let set = pb::UpdateOrderItemRequest { quantity: count, ..known.clone() };
        invalid(node.client().update_order_item(set).await, "INVALID_FIELD", &["quantity"]);
        let more = add(Some(line(product(MUG), count)));
        invalid(node.client().add_order_item(more).await, "INVALID_FIELD", &["item.quantity"]);
    }
    let more = add(Some(line(product(MUG), 9_998)));
    invalid(node.client().add_order_item(more).await, "INVALID_FIELD", &["item.quantity"]);
    let bad = pb::UpdateOrderItemRequest {
        order_id: "1".into(),
        item_id: "x".into(),
        quantity: 0,
        expected_version: -1,
        request_id: "x".repeat(65),
        validate_only: false,
    };
    let fields = ["expected_version", "item_id", "order_id", "quantity", "request_id"];
    invalid(node.client().update_order_item(bad).await, "INVALID_FIELD", &fields);
    let gone =
        pb::UpdateOrderItemRequest { order_id: "018f3e1c-0000-7000-8000-000000000000".into(), ..known };
    refused(node.client().update_order_item(gone).await, Code::NotFound, "ORDER_NOT_FOUND");
    assert_eq!(node.get(&order.id).await, order);
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn repeats_are_answered_the_same_and_versions_are_checked() {
    let node = TestNode::start().await;
    let order = node.create(order_of(&[(MUG, 2)])).await;
    let request = pb::AddOrderItemRequest {
        order_id: order.id.clone(),
        item: Some(line(product(LAMP), 1)),
        expected_version: order.version,
        request_id: "edit 1".into(),
        validate_only: false,
    };
    let all = join_all((0..4).map(|_| async { node.client().add_order_item(request.clone()).await })).await;
    let all: Vec<_> = all.into_iter().map(|answer| answer.unwrap().into_inner()).collect();
    assert!(all.iter().all(|answer| *answer == all[0]), "{all:#?}");
    assert_eq!((all[0].items.len(), node.ledger(&order).charges.len()), (2, 2));
    let events = node.events(&order.id).await;
    assert_eq!(node.client().add_order_item(request.clone()).await.unwrap().into_inner(), all[0]);
    let other = pb::AddOrderItemRequest { item: Some(line(product(LAMP), 2)), ..request.clone() };
    invalid(node.client().add_order_item(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    let other = pb::UpdateOrderItemRequest { request_id: "edit 1".into(), ..of_item(&order, MUG, 9) };
    invalid(node.client().update_order_item(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    let stale = pb::AddOrderItemRequest { request_id: String::new(), ..request.clone() };
    let refusal =
        refused(node.client().add_order_item(stale.clone()).await, Code::Aborted, "VERSION_MISMATCH");
    assert_eq!(refusal.metadata["current_version"], all[0].version.to_string());
    let stale = pb::AddOrderItemRequest { validate_only: true, ..stale };
    refused(node.client().add_order_item(stale).await, Code::Aborted, "VERSION_MISMATCH");
    // What is as it should be already changes nothing.
    let same = quantity(&node, &all[0], MUG, 2).await.unwrap();
    assert_eq!(same, all[0]);
    assert_eq!(node.events(&order.id).await, events);
    let node = TestNode::start_in(node.stop().await, &[]).await;
    assert_eq!(node.client().add_order_item(request).await.unwrap().into_inner(), all[0]);
    assert_eq!(node.ledger(&order).charges.len(), 2);
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn after_edits_everything_that_was_taken_goes_back() {
    let node = TestNode::start().await;
    for end in [None, Some((Confirmed, Cancelled)), Some((Processing, Cancelled)), Some((Shipped, Returned))]
    {
        let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
        let order = quantity(&node, &order, MUG, 5).await.unwrap();
        let order = added(&node, &order, 5, 3).await.unwrap();
        let order = removed(&node, &order, LAMP).await.unwrap();
        let ledger = node.ledger(&order);
        assert_eq!((ledger.charges.len(), ledger.refunds.len()), (3, 1));
        assert_eq!(taken(&ledger) - returned(&ledger), money(&order.total_amount));
        let Some((from, to)) = end else {
            let order = node.refund(&order.id, "").await.unwrap();
            assert_eq!((order.status(), order.payment_status()), (Confirmed, Refunded));
            let ledger = node.ledger(&order);
            assert_eq!(taken(&ledger), returned(&ledger));
            assert!(ledger.charges.iter().all(|charge| charge.refunded == charge.amount), "each of its own");
            assert_eq!(units_out(&ledger), 8, "a refund moves no goods");
            lawful(&node, &order).await;
            continue;
        };
        for next in [Processing, Shipped] {
            if from == next || (from == Shipped && next == Processing) {
                node.ask_status(&order.id, next).await.unwrap();
            }
        }
        let label = node.ledger(&order).labels.first().map(|label| label.lines.len());
        assert_eq!(label, (from != Confirmed).then_some(2), "the parcel has what the order has now");
        let ended = node.ask_status(&order.id, to).await.unwrap();
        assert_eq!((ended.status(), ended.payment_status()), (to, Refunded));
        let ledger = node.ledger(&order);
        assert_eq!((returned(&ledger), units_out(&ledger)), (taken(&ledger), 0));
        lawful(&node, &order).await;
    }
    for number in [MUG, LAMP, 5] {
        let totals = node.stock(product(number));
        assert_eq!(totals.reserved, 0);
    }
    node.stop().await;
}

#[tokio::test]
async fn before_it_is_paid_an_order_is_edited_in_place() {
    let node = quiet(&[
        ("ORDER__SAGA__RUN_AHEAD", "0s"),
        ("ORDER__SAGA__RETRY_INITIAL", "200ms"),
        ("ORDER__SAGA__RETRY_MAX", "200ms"),
    ])
    .await;
    crate::harness::api::fault(&node, "inventory.Reserve", crate::harness::api::down());
    let order = node.create(order_of(&[(MUG, 2), (LAMP, 1)])).await;
    assert_eq!(order.status(), pb::OrderStatus::Pending);
    // While a call is under way it is busy, for a moment.
    let edited = eventually("the edit", async || match quantity(&node, &order, MUG, 5).await {
        Ok(edited) => Some(edited),
        Err(error) => {
            read_refusal(&error, Code::Aborted, "ORDER_BUSY");
            None
        }
    })
    .await;
    assert_eq!((edited.status(), item(&edited, MUG).quantity), (pb::OrderStatus::Pending, 5));
    let edited = eventually("the other edit", async || removed(&node, &edited, LAMP).await.ok()).await;
    assert!(node.ledger(&order).charges.is_empty());
    crate::harness::api::no_faults(&node);
    let confirmed = node.until(&order.id, Confirmed).await;
    assert_eq!(confirmed.items, edited.items);
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), taken(&ledger)), (1, money(&edited.total_amount)));
    lawful(&node, &order).await;
    node.stop().await;
}
