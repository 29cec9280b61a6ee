//! The status table as callers meet it: every cell, and what each move does outside.

use std::time::Duration;

use futures::future::join_all;
use order_service::clients::sim::LabelState;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{
    self, Cancelled, Cancelling, Confirmed, Delivered, Pending, Processing, Returned, Shipped,
};
use tonic::{Code, Status};

use crate::harness::api::{
    down, fault, invalid, no_faults, quick, read_refusal, returned, slow, taken, units_out,
};
use crate::harness::node::{TestNode, sample_order};

const ALL: [OrderStatus; 8] =
    [Pending, Confirmed, Processing, Shipped, Delivered, Cancelling, Cancelled, Returned];

/// What asking for each status of `ALL` comes to: `!` INVALID_ARGUMENT, `m` STATUS_MANAGED_BY_SAGA, `x`
/// ILLEGAL_TRANSITION, `=` nothing, `R` that status, `C` the end that was asked for, now or later.
fn row(from: OrderStatus) -> &'static str {
    match from {
        Pending => "!mxxx!Cx",
        Confirmed => "!=Rxx!Cx",
        Processing => "!m=Rx!Cx",
        Shipped => "!mx=R!xR",
        Delivered => "!mxx=!xR",
        Cancelling => "!mxxx!Cx",
        Cancelled => "!mxxx!=x",
        _ => "!mxxx!x=",
    }
}

/// Asks an order for a status and checks what comes of it.
async fn try_cell(node: &TestNode, order: &pb::Order, to: OrderStatus, cell: char) {
    let from = order.status();
    let what = format!("{} -> {}", from.as_str_name(), to.as_str_name());
    let history = node.events(&order.id).await.len();
    let answer = node.ask_status(&order.id, to).await;
    let refused = |code, reason| {
        let refusal = read_refusal(answer.as_ref().unwrap_err(), code, reason);
        if code == Code::FailedPrecondition {
            let named = from.as_str_name().trim_start_matches("ORDER_STATUS_");
            assert_eq!(refusal.metadata["current_status"], named, "{what}");
            assert!(refusal.metadata.contains_key("allowed_next_statuses"), "{what}");
        }
        refusal
    };
    match cell {
        '!' => assert_eq!(refused(Code::InvalidArgument, "INVALID_FIELD").fields, ["status"], "{what}"),
        'm' => drop(refused(Code::FailedPrecondition, "STATUS_MANAGED_BY_SAGA")),
        'x' => drop(refused(Code::FailedPrecondition, "ILLEGAL_TRANSITION")),
        '=' => assert_eq!(answer.unwrap().version, order.version, "{what}"),
        'R' => assert_eq!(answer.unwrap().status(), to, "{what}"),
        _ => assert!(matches!(answer.unwrap().status(), Cancelling | Cancelled | Pending), "{what}"),
    }
    if !matches!(cell, 'R' | 'C') && from != Cancelling && from != Pending {
        assert_eq!(&node.get(&order.id).await, order, "{what}");
        assert_eq!(node.events(&order.id).await.len(), history, "{what}");
    }
}

#[tokio::test]
async fn every_cell_of_the_table_from_the_statuses_that_last() {
    let node = TestNode::start().await;
    for from in [Confirmed, Processing, Shipped, Delivered, Cancelled, Returned] {
        join_all(ALL.into_iter().zip(row(from).chars()).map(async |(to, cell)| {
            let order = node.order_at(from).await;
            let allowed = order.allowed_next_statuses().any(|status| status == to);
            assert_eq!(allowed, matches!(cell, 'R' | 'C'), "{from:?} {to:?}");
            try_cell(&node, &order, to, cell).await;
        }))
        .await;
    }
    node.stop().await;
}

#[tokio::test]
async fn every_cell_of_the_table_from_the_statuses_that_pass() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "10ms")])).await;
    fault(&node, "inventory.Reserve", down());
    let mut pending = Vec::new();
    for (to, cell) in ALL.into_iter().zip(row(Pending).chars()) {
        let order = node.create(sample_order()).await;
        assert_eq!(order.status(), Pending);
        try_cell(&node, &order, to, cell).await;
        pending.push((order, cell));
    }
    no_faults(&node);
    for (order, cell) in pending {
        let end = if cell == 'C' { Cancelled } else { Confirmed };
        let order = node.until(&order.id, end).await;
        if end == Cancelled {
            assert_eq!(order.cancel_reason, "CUSTOMER_REQUEST");
            node.assert_unwound(&order);
        }
    }
    let cells = ALL.into_iter().zip(row(Cancelling).chars());
    let confirmed = join_all(cells.map(async |(to, cell)| {
        let order = node.create(sample_order()).await;
        node.until_event(&order.id, "saga_settled").await;
        (order.id, to, cell)
    }))
    .await;
    fault(&node, "payment.Refund", down());
    join_all(confirmed.iter().map(async |(id, to, cell)| {
        node.cancel(id).await.unwrap();
        let order = node.get(id).await;
        assert_eq!((order.status(), order.payment_status()), (Cancelling, pb::PaymentStatus::RefundPending));
        try_cell(&node, &order, *to, *cell).await;
        assert_eq!(node.get(id).await.status(), Cancelling);
    }))
    .await;
    no_faults(&node);
    for (id, ..) in confirmed {
        let order = node.until(&id, Cancelled).await;
        node.assert_unwound(&order);
    }
    node.stop().await;
}

#[tokio::test]
async fn unspecified_and_unknown_statuses_are_bad_fields() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    for status in [0, -1, 9, 99, i32::MAX] {
        let request = pb::UpdateOrderStatusRequest { id: order.id.clone(), status, ..Default::default() };
        invalid(node.client().update_order_status(request).await, "INVALID_FIELD", &["status"]);
    }
    assert_eq!(node.get(&order.id).await, order);
    node.stop().await;
}

#[tokio::test]
async fn a_life_from_label_to_delivery_is_stored_with_its_marks() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    assert!(order.shipments.is_empty() && order.completed_at.is_none());
    let notes = "packed by Ann".to_owned();
    let request = pb::UpdateOrderStatusRequest {
        id: order.id.clone(),
        status: Processing.into(),
        notes: notes.clone(),
        ..Default::default()
    };
    let order = node.client().update_order_status(request).await.unwrap().into_inner();
    let [shipment] = order.shipments.as_slice() else { panic!("{order:?}") };
    let label = node.ledger(&order).labels[0].label.clone().unwrap();
    assert_eq!(
        (shipment.carrier.as_str(), shipment.tracking_number.as_str(), shipment.label_url.as_str()),
        (label.carrier.as_str(), label.tracking_number.as_str(), label.label_url.as_str())
    );
    assert_eq!(shipment.label_status, "CREATED");
    let order = node.ask_status(&order.id, Shipped).await.unwrap();
    let order = node.ask_status(&order.id, Delivered).await.unwrap();
    assert_eq!(order.completed_at, order.updated_at);
    assert!(order.cancelled_at.is_none());
    let changes: Vec<_> = node
        .events(&order.id)
        .await
        .into_iter()
        .filter(|event| event.r#type == "status_changed")
        .map(|event| (event.status(), event.notes))
        .collect();
    let none = String::new;
    assert_eq!(changes, [(Confirmed, none()), (Processing, notes), (Shipped, none()), (Delivered, none())]);
    node.stop().await;
}

#[tokio::test]
async fn a_return_refunds_and_restocks() {
    let node = TestNode::start().await;
    for from in [Shipped, Delivered] {
        let order = node.order_at(from).await;
        let order = node.ask_status(&order.id, Returned).await.unwrap();
        assert_eq!((order.status(), order.payment_status()), (Returned, pb::PaymentStatus::Refunded));
        assert_eq!(order.completed_at.is_some(), from == Delivered);
        assert!(order.cancelled_at.is_none() && order.allowed_next_statuses.is_empty());
        let ledger = node.ledger(&order);
        assert_eq!(returned(&ledger), taken(&ledger));
        assert_eq!((ledger.restocks.len(), units_out(&ledger)), (1, 0));
        // The parcel did travel: its label stays.
        assert_eq!(ledger.labels[0].state, LabelState::Created);
    }
    node.stop().await;
}

fn ship(id: &str, carrier: &str, tracking_number: &str) -> pb::UpdateOrderStatusRequest {
    pb::UpdateOrderStatusRequest {
        id: id.to_owned(),
        status: Shipped.into(),
        tracking: Some(pb::Tracking { carrier: carrier.into(), tracking_number: tracking_number.into() }),
        ..Default::default()
    }
}

#[tokio::test]
async fn tracking_belongs_to_shipping() {
    let node = TestNode::start().await;
    let order = node.order_at(Processing).await;
    for (status, tracking_number, fields) in [
        (Delivered, "1Z", &["tracking"][..]),
        (Processing, "1Z", &["tracking"]),
        (Shipped, "", &["tracking.tracking_number"]),
        (Shipped, " \t ", &["tracking.tracking_number"]),
        (Shipped, "1Z\u{7}", &["tracking.tracking_number"]),
        (Delivered, "", &["tracking", "tracking.tracking_number"]),
    ] {
        let request =
            pb::UpdateOrderStatusRequest { status: status.into(), ..ship(&order.id, "UPS", tracking_number) };
        invalid(node.client().update_order_status(request).await, "INVALID_FIELD", fields);
    }
    let long = "9".repeat(101);
    let answer = node.client().update_order_status(ship(&order.id, &long, &"Z".repeat(101))).await;
    invalid(answer, "INVALID_FIELD", &["tracking.carrier", "tracking.tracking_number"]);
    assert_eq!(node.get(&order.id).await, order);
    let order = node.client().update_order_status(ship(&order.id, "", "1Z999")).await.unwrap().into_inner();
    let [shipment] = order.shipments.as_slice() else { panic!("{order:?}") };
    // What was given replaces the number; what was left out stays.
    assert_eq!((shipment.carrier.as_str(), shipment.tracking_number.as_str()), ("SIMULATED", "1Z999"));
    node.stop().await;
}

#[tokio::test]
async fn an_expected_version_guards_every_change() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let (id, current) = (order.id.clone(), order.version);
    let guarded = |status: OrderStatus, expected_version| pb::UpdateOrderStatusRequest {
        id: id.clone(),
        status: status.into(),
        expected_version,
        ..Default::default()
    };
    let mismatch = |error: Status, current: i64| {
        let refusal = read_refusal(&error, Code::Aborted, "VERSION_MISMATCH");
        assert_eq!(refusal.metadata["current_version"], current.to_string());
        assert!(refusal.retry);
    };
    for wrong in [current - 1, current + 1, i64::MAX] {
        mismatch(node.client().update_order_status(guarded(Processing, wrong)).await.unwrap_err(), current);
        let cancel = pb::CancelOrderRequest { id: id.clone(), expected_version: wrong, ..Default::default() };
        mismatch(node.client().cancel_order(cancel).await.unwrap_err(), current);
    }
    assert_eq!(node.get(&id).await, order);
    let negative = node.client().update_order_status(guarded(Processing, -1)).await;
    invalid(negative, "INVALID_FIELD", &["expected_version"]);
    let order = node.client().update_order_status(guarded(Processing, current)).await.unwrap().into_inner();
    assert_eq!(order.status(), Processing);
    let cancel = pb::CancelOrderRequest { id, expected_version: order.version, ..Default::default() };
    assert_eq!(node.client().cancel_order(cancel).await.unwrap().into_inner().status(), Cancelled);
    node.stop().await;
}

#[tokio::test]
async fn a_repeated_change_is_answered_also_when_the_order_has_moved_on() {
    let mut node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let walk = [Processing, Shipped, Delivered, Returned];
    let request = |status: OrderStatus| pb::UpdateOrderStatusRequest {
        id: order.id.clone(),
        status: status.into(),
        request_id: format!("to {}", status.as_str_name()),
        ..Default::default()
    };
    let mut version = order.version;
    for status in walk {
        // Guarded by the version it was first sent with: a repeat is still the same request.
        let guarded = pb::UpdateOrderStatusRequest { expected_version: version, ..request(status) };
        let order = node.client().update_order_status(guarded.clone()).await.unwrap().into_inner();
        assert_eq!(order.status(), status);
        assert_eq!(node.client().update_order_status(guarded).await.unwrap().into_inner(), order);
        version = order.version;
        let other = pb::UpdateOrderStatusRequest { notes: "other".into(), ..request(status) };
        invalid(node.client().update_order_status(other).await, "REQUEST_ID_REUSED", &["request_id"]);
        // Another method under the same id is other content, too.
        let cancel = pb::CancelOrderRequest {
            id: order.id.clone(),
            request_id: request(status).request_id,
            ..Default::default()
        };
        invalid(node.client().cancel_order(cancel).await, "REQUEST_ID_REUSED", &["request_id"]);
    }
    let last = node.get(&order.id).await;
    node = TestNode::start_in(node.stop().await, &[]).await;
    let first = pb::UpdateOrderStatusRequest { expected_version: order.version, ..request(Processing) };
    assert_eq!(node.client().update_order_status(first).await.unwrap().into_inner(), last);
    node.stop().await;
}

#[tokio::test]
async fn while_a_label_is_made_the_order_is_busy_and_readable() {
    let node = TestNode::start_with(&quick(&[])).await;
    let order = node.create(sample_order()).await;
    fault(&node, "shipping.CreateLabel", slow(Duration::from_millis(1500)));
    let processing = pb::UpdateOrderStatusRequest {
        id: order.id.clone(),
        status: Processing.into(),
        request_id: "pack it".into(),
        ..Default::default()
    };
    let (mut one, mut other) = (node.client(), node.client());
    let first = tokio::spawn({
        let processing = processing.clone();
        async move { one.update_order_status(processing).await }
    });
    node.until_event(&order.id, "label_requested").await;
    assert_eq!(node.get(&order.id).await.status(), Confirmed);
    let busy = node.ask_status(&order.id, Processing).await.unwrap_err();
    assert!(read_refusal(&busy, Code::Aborted, "ORDER_BUSY").retry);
    // The same request joins the first.
    let again = other.update_order_status(processing).await.unwrap().into_inner();
    assert_eq!(again.status(), Processing);
    assert_eq!(first.await.unwrap().unwrap().into_inner(), again);
    assert_eq!(node.ledger(&order).labels.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn without_a_label_the_order_stays_confirmed() {
    let node = TestNode::start_with(&quick(&[("ORDER__SAGA__FORWARD_TRIES", "2")])).await;
    let order = node.create(sample_order()).await;
    fault(&node, "shipping.CreateLabel", down());
    let error = node.ask_status(&order.id, Processing).await.unwrap_err();
    let refusal = read_refusal(&error, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    assert_eq!(refusal.metadata["dependency"], "shipping");
    assert!(refusal.retry);
    assert_eq!(node.get(&order.id).await.status(), Confirmed);
    no_faults(&node);
    assert_eq!(node.ask_status(&order.id, Processing).await.unwrap().status(), Processing);
    node.stop().await;
}
