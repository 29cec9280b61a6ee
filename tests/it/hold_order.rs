//! Holds: what they stop, what they do not, and how they end.

use std::time::Duration;

use futures::future::join_all;
use order_service::domain::command::OrderCommand;
use order_service::domain::react::{Input, Policy, Reaction, react};
use order_service::domain::saga::SagaMove;
use order_service::domain::status::OrderStatus as Status;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{
    Cancelled, Cancelling, Confirmed, Delivered, Pending, Processing, Returned, Shipped,
};
use prost_types::Timestamp;
use tonic::Code;

use crate::harness::api::{
    down, eventually, fault, invalid, no_faults, quick, read_refusal, refused, slow, units_out,
};
use crate::harness::laws::Store;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::world::{Mood, World};
use crate::harness::{Wish, ask, dawn, policy};

fn kinds(events: &[pb::OrderEvent]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

/// So many seconds after the order's last change.
fn after(order: &pb::Order, seconds: i64) -> Timestamp {
    let last = order.updated_at.unwrap();
    Timestamp { seconds: last.seconds + seconds, ..last }
}

#[tokio::test]
async fn a_hold_stops_forward_moves_until_it_is_released() {
    let node = TestNode::start().await;
    let mut order = node.create(sample_order()).await;
    for next in [Processing, Shipped, Delivered] {
        let held = node.hold(&order.id, " fraud? ").await.unwrap();
        assert_eq!((held.status(), held.version), (order.status(), order.version + 1));
        let hold = held.hold.clone().unwrap();
        assert_eq!((hold.reason.as_str(), hold.by.as_str(), hold.until), ("fraud?", "dev", None));
        assert_eq!(hold.since, held.updated_at);
        let refusal = read_refusal(
            &node.ask_status(&order.id, next).await.unwrap_err(),
            Code::FailedPrecondition,
            "ORDER_ON_HOLD",
        );
        let status = order.status().as_str_name().trim_start_matches("ORDER_STATUS_");
        assert_eq!(refusal.metadata["current_status"], status);
        assert_eq!(node.get(&order.id).await, held);
        let released = node.release(&order.id).await.unwrap();
        assert_eq!((released.version, released.hold), (held.version + 1, None));
        order = node.ask_status(&order.id, next).await.unwrap();
    }
    let events = node.events(&order.id).await;
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "order_held").count(), 3);
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "order_released").count(), 3);
    node.stop().await;
}

#[tokio::test]
async fn a_hold_stops_neither_cancel_nor_return() {
    let node = TestNode::start().await;
    for (from, to) in [(Confirmed, Cancelled), (Processing, Cancelled), (Shipped, Returned)] {
        let order = node.order_at(from).await;
        node.hold(&order.id, "fraud?").await.unwrap();
        let order = node.ask_status(&order.id, to).await.unwrap();
        assert_eq!(order.status(), to);
        assert_eq!(order.payment_status(), pb::PaymentStatus::Refunded);
        assert_eq!(units_out(&node.ledger(&order)), 0);
        // It can be taken off afterwards.
        assert!(order.hold.is_some());
        let released = node.release(&order.id).await.unwrap();
        assert_eq!((released.status(), released.hold), (to, None));
    }
    node.stop().await;
}

#[tokio::test]
async fn only_what_can_still_move_forward_is_held() {
    let node = TestNode::start().await;
    for from in [Confirmed, Processing, Shipped, Delivered, Cancelled, Returned] {
        let order = node.order_at(from).await;
        let answer = node.hold(&order.id, "why not").await;
        if matches!(from, Confirmed | Processing | Shipped) {
            assert!(answer.unwrap().hold.is_some());
            continue;
        }
        let refusal = read_refusal(&answer.unwrap_err(), Code::FailedPrecondition, "ILLEGAL_TRANSITION");
        let status = from.as_str_name().trim_start_matches("ORDER_STATUS_");
        assert_eq!(refusal.metadata["current_status"], status);
        assert!(refusal.metadata.contains_key("allowed_next_statuses"));
        assert_eq!(node.get(&order.id).await, order);
        // To release what is not held is fine everywhere, and changes nothing.
        assert_eq!(node.release(&order.id).await.unwrap(), order);
    }
    fault(&node, "payment.Refund", down());
    let order = node.order_at(Confirmed).await;
    let cancel = pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() };
    let (mut client, id) = (node.client(), order.id.clone());
    let (_cancelled, ()) = tokio::join!(client.cancel_order(cancel), async {
        node.until(&id, Cancelling).await;
        let error = node.hold(&id, "wait").await.unwrap_err();
        read_refusal(&error, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
        no_faults(&node);
    });
    node.stop().await;
}

#[tokio::test]
async fn an_order_that_is_held_while_it_is_created_is_not_charged_until_it_is_released() {
    for run_ahead in ["0s", "10s"] {
        let settings = quick(&[("ORDER__CREATE__WAIT", "10ms"), ("ORDER__SAGA__RUN_AHEAD", run_ahead)]);
        let node = TestNode::start_with(&settings).await;
        for (method, held_up) in [
            ("inventory.Reserve", slow(Duration::from_millis(300))),
            ("payment.Charge", slow(Duration::from_millis(300))),
            ("inventory.Reserve", down()),
            ("payment.Charge", down()),
        ] {
            fault(&node, method, held_up.clone());
            let order = node.create(sample_order()).await;
            assert_eq!(order.status(), Pending);
            let held = node.hold(&order.id, "new customer").await.unwrap();
            assert_eq!((held.status(), held.hold.is_some()), (Pending, true));
            no_faults(&node);
            // A charge that is under way is carried through.
            if method != "payment.Charge" || held_up == down() {
                node.until_event(&order.id, "stock_reserved").await;
                let waiting = node.get(&order.id).await;
                assert_eq!((waiting.status(), waiting.hold), (Pending, held.hold.clone()));
                assert_eq!(node.ledger(&order).charges.len(), 0, "{method}");
                assert_eq!(node.release(&order.id).await.unwrap().hold, None);
                node.until(&order.id, Confirmed).await;
            } else {
                let confirmed = node.until(&order.id, Confirmed).await;
                assert_eq!(confirmed.hold, held.hold);
                node.until_event(&order.id, "saga_settled").await;
                let error = node.ask_status(&order.id, Processing).await.unwrap_err();
                read_refusal(&error, Code::FailedPrecondition, "ORDER_ON_HOLD");
            }
            assert_eq!(node.ledger(&order).charges.len(), 1);
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn whoever_waits_for_a_creation_is_answered_when_a_hold_stops_it() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "4m")])).await;
    fault(&node, "inventory.Reserve", slow(Duration::from_millis(500)));
    let hold = async {
        let stored = || async { node.orders().await.pop() };
        let order = eventually("a stored order", stored).await;
        node.hold(&order.id, "new customer").await.unwrap()
    };
    let (answered, held) = tokio::join!(node.create(sample_order()), hold);
    assert_eq!((answered.status(), answered.hold), (Pending, held.hold.clone()));
    assert_eq!(node.ledger(&held).charges.len(), 0);
    // Whoever cancels it waits for its end, not for the hold's.
    assert_eq!(node.cancel(&held.id).await.unwrap().status(), Cancelled);
    node.assert_unwound(&held);
    node.stop().await;
}

#[tokio::test]
async fn a_label_that_is_being_made_is_made() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "10ms")])).await;
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "saga_settled").await;
    fault(&node, "shipping.CreateLabel", slow(Duration::from_millis(300)));
    assert_eq!(node.ask_status(&order.id, Processing).await.unwrap().status(), Confirmed);
    assert_eq!(node.hold(&order.id, "too late").await.unwrap().status(), Confirmed);
    let order = node.until(&order.id, Processing).await;
    assert!(order.hold.is_some());
    node.stop().await;
}

#[tokio::test]
async fn a_hold_ends_by_itself_and_is_replaced() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let hold = |reason: &str, until| pb::HoldOrderRequest {
        id: order.id.clone(),
        reason: reason.into(),
        until,
        ..Default::default()
    };
    let far = after(&order, 3600);
    let held = node.client().hold_order(hold("first", Some(far))).await.unwrap().into_inner();
    assert_eq!(held.hold.as_ref().unwrap().until, Some(far));
    let near = after(&held, 2);
    let replaced = node.client().hold_order(hold("second", Some(near))).await.unwrap().into_inner();
    let shown = replaced.hold.clone().unwrap();
    assert_eq!((shown.reason.as_str(), shown.until), ("second", Some(near)));
    assert_eq!(replaced.version, held.version + 1);
    let moved =
        eventually("the end of the hold", || async { node.ask_status(&order.id, Processing).await.ok() })
            .await;
    assert_eq!(moved.status(), Processing);
    // What is over stops nothing, and soon a timer has taken it off.
    let released = node.until_event(&order.id, "order_released").await;
    assert_eq!(released.principal, "timer");
    eventually("no hold", || async { node.get(&order.id).await.hold.is_none().then_some(()) }).await;
    node.stop().await;
}

#[tokio::test]
async fn bad_fields_are_told_at_once() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let request = pb::HoldOrderRequest {
        id: "1".into(),
        reason: "x".repeat(201),
        until: Some(Timestamp { seconds: 0, nanos: -1 }),
        expected_version: -1,
        request_id: "x".repeat(65),
    };
    let fields = &["expected_version", "id", "reason", "request_id", "until"];
    invalid(node.client().hold_order(request).await, "INVALID_FIELD", fields);
    for reason in ["", " \t", "a\u{7}b"] {
        let request =
            pb::HoldOrderRequest { id: order.id.clone(), reason: reason.into(), ..Default::default() };
        invalid(node.client().hold_order(request).await, "INVALID_FIELD", &["reason"]);
    }
    let card = pb::HoldOrderRequest {
        id: order.id.clone(),
        reason: "card 4111 1111 1111 1111".into(),
        ..Default::default()
    };
    invalid(node.client().hold_order(card).await, "CARD_NUMBER_REFUSED", &["reason"]);
    let past = pb::HoldOrderRequest {
        id: order.id.clone(),
        reason: "x".repeat(200),
        until: Some(Timestamp { seconds: 1_714_737_600, nanos: 0 }),
        ..Default::default()
    };
    invalid(node.client().hold_order(past).await, "INVALID_FIELD", &["until"]);
    let release = pb::ReleaseOrderRequest { id: String::new(), notes: "\u{0}".into(), ..Default::default() };
    invalid(node.client().release_order(release).await, "INVALID_FIELD", &["id", "notes"]);
    let nowhere = "018f3e1c-0000-7000-8000-000000000000";
    let hold = pb::HoldOrderRequest { id: nowhere.into(), reason: "x".into(), ..Default::default() };
    refused(node.client().hold_order(hold).await, Code::NotFound, "ORDER_NOT_FOUND");
    let release = pb::ReleaseOrderRequest { id: nowhere.into(), ..Default::default() };
    refused(node.client().release_order(release).await, Code::NotFound, "ORDER_NOT_FOUND");
    assert_eq!(node.get(&order.id).await, order);
    node.stop().await;
}

#[tokio::test]
async fn repeats_are_answered_and_versions_are_checked() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let request = pb::HoldOrderRequest {
        id: order.id.clone(),
        reason: "fraud?".into(),
        until: Some(after(&order, 2)),
        expected_version: order.version,
        request_id: "hold 1".into(),
    };
    let both = join_all((0..2).map(|_| {
        let (mut client, request) = (node.client(), request.clone());
        async move { client.hold_order(request).await.unwrap().into_inner() }
    }))
    .await;
    assert_eq!(both[0], both[1]);
    let other = pb::HoldOrderRequest { reason: "another".into(), ..request.clone() };
    invalid(node.client().hold_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    let stale = pb::HoldOrderRequest { request_id: String::new(), ..request.clone() };
    let refusal = refused(node.client().hold_order(stale).await, Code::Aborted, "VERSION_MISMATCH");
    assert_eq!(refusal.metadata["current_version"], both[0].version.to_string());
    eventually("the end of the hold", || async { node.ask_status(&order.id, Processing).await.ok() }).await;
    // A repeat is a repeat, also when the time it names has passed.
    let repeated = node.client().hold_order(request).await.unwrap().into_inner();
    assert_eq!(repeated.status(), Processing);

    node.until_event(&order.id, "order_released").await;
    let held = node.hold(&order.id, "again").await.unwrap();
    let release = pb::ReleaseOrderRequest {
        id: order.id.clone(),
        notes: "  looked at it ".into(),
        expected_version: held.version,
        request_id: "release 1".into(),
    };
    let released = node.client().release_order(release.clone()).await.unwrap().into_inner();
    assert_eq!(node.client().release_order(release.clone()).await.unwrap().into_inner(), released);
    let other = pb::ReleaseOrderRequest { notes: "another".into(), ..release };
    invalid(node.client().release_order(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    let events = node.events(&order.id).await;
    let noted: Vec<_> = events.iter().filter(|event| event.r#type == "order_released").collect();
    assert_eq!(noted.len(), 2);
    assert_eq!(noted[0].principal, "timer");
    assert!(noted[1].payload_json.contains("\"looked at it\""), "{}", noted[1].payload_json);
    assert_eq!(noted[1].principal, "dev");
    node.stop().await;
}

#[tokio::test]
async fn a_hold_outlives_a_restart() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let held = node.hold(&order.id, "fraud?").await.unwrap();
    let node = TestNode::start_in(node.stop().await, &[]).await;
    assert_eq!(node.get(&order.id).await, held);
    let error = node.ask_status(&order.id, Processing).await.unwrap_err();
    read_refusal(&error, Code::FailedPrecondition, "ORDER_ON_HOLD");
    node.stop().await;
}

/// Held at the `place`-th call of a creation, while the call is under way or after its answer got lost.
fn held_at(place: usize, calling: bool, run_ahead: Duration) -> Option<Status> {
    let policy = Policy { run_ahead, ..policy() };
    let draft = Wish::plain().draft(1);
    let lines: Vec<_> = draft.items.iter().map(order_service::domain::stock::stock_line).collect();
    let mut world = World::new(&lines, true, 0);
    let mut store = Store::default();
    let mut now = dawn();
    let take = |store: &mut Store, world: &World, input, now| match react(
        store.order.as_ref(),
        store.saga.as_ref(),
        input,
        now,
        &policy,
    )
    .unwrap()
    {
        Reaction::Commit(change) => {
            store.commit(&change, world, now).unwrap();
            change.act
        }
        Reaction::Act(act) => act,
        other => panic!("{other:?}"),
    };
    let create = ask(OrderCommand::Create(Box::new(draft)), None, None);
    let mut act = take(&mut store, &world, Input::Command { ask: create, calling: false }, now);
    let mut calls = 0;
    let (mut held, mut stopped) = (false, false);
    loop {
        let hold = OrderCommand::Hold { reason: "fraud?".to_owned(), until: None };
        let hold = Input::Command { ask: ask(hold, None, None), calling };
        act = match act {
            SagaMove::Run(call) => {
                calls += 1;
                let here = calls == place + 1;
                held |= here;
                if here && calling {
                    assert_eq!(take(&mut store, &world, hold, now), SagaMove::Keep);
                    let result = world.execute(&call, Mood::default(), now);
                    take(&mut store, &world, Input::StepFinished { call, result }, now)
                } else if here {
                    // The process died with the call on its way; the hold comes before the saga is resumed.
                    world.execute(&call, Mood::default(), now);
                    take(&mut store, &world, hold, now)
                } else {
                    let result = world.execute(&call, Mood::default(), now);
                    take(&mut store, &world, Input::StepFinished { call, result }, now)
                }
            }
            SagaMove::Wait(at) => {
                now = now.max(at);
                take(&mut store, &world, Input::Resume, now)
            }
            SagaMove::Held(_) => {
                stopped = true;
                assert!(world.charges.is_empty());
                let release = OrderCommand::Release { notes: String::new() };
                let ask = ask(release, None, None);
                take(&mut store, &world, Input::Command { ask, calling: false }, now)
            }
            SagaMove::Keep => panic!("nothing is under way"),
            SagaMove::Settled => break,
        };
    }
    let order = store.order.clone().unwrap();
    store.at_rest(&world, false).unwrap();
    held.then(|| {
        assert_eq!(stopped, order.hold.is_none());
        // Before the charge, and never once it may have been made.
        assert_eq!(stopped, place == 0);
        order.status
    })
}

#[test]
fn a_creation_that_is_held_anywhere_stops_before_its_charge_and_ends_as_it_should() {
    for calling in [true, false] {
        let ends: Vec<_> = (0..9).map_while(|place| held_at(place, calling, Duration::ZERO)).collect();
        assert!(ends.len() >= 3 && ends.iter().all(|end| *end == Status::Confirmed), "{ends:?}");
    }
    // Ahead of the store only the first call is stored as one that may be followed by others.
    for calling in [true, false] {
        assert_eq!(held_at(0, calling, Duration::from_secs(10)), Some(Status::Confirmed));
    }
}
