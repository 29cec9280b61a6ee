//! Single calls of a saga: how long it waits between tries, when it gives a charge up, and what comes too late.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::OrderCommand;
use order_service::domain::decide::MAX_SAGAS;
use order_service::domain::error::OrderError;
use order_service::domain::react::{Change, Input, Reaction, react};
use order_service::domain::refund;
use order_service::domain::saga::{SagaMove, StepCall, StepResult};
use order_service::domain::status::PaymentStatus;

use crate::harness::laws::Store;
use crate::harness::world::{Charge, Hold, World};
use crate::harness::{Wish, ask, dawn, policy};

fn answer(store: &mut Store, world: &World, call: &StepCall, result: StepResult, now: Timestamp) -> Change {
    let input = Input::StepFinished { call: call.clone(), result };
    let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, now, &policy()).unwrap();
    let Reaction::Commit(change) = reaction else { panic!("{reaction:?}") };
    store.commit(&change, world, now).unwrap();
    *change
}

fn resume(store: &mut Store, world: &World, now: Timestamp) -> SagaMove {
    match react(store.order.as_ref(), store.saga.as_ref(), Input::Resume, now, &policy()).unwrap() {
        Reaction::Commit(change) => {
            store.commit(&change, world, now).unwrap();
            change.act
        }
        Reaction::Act(act) => act,
        other => panic!("{other:?}"),
    }
}

/// An order at its first call.
fn created(number: u64) -> (Store, World, StepCall) {
    let draft = Wish::plain().draft(number);
    let ask = ask(OrderCommand::Create(Box::new(draft)), None, None);
    let input = Input::Command { ask, calling: false };
    let Reaction::Commit(change) = react(None, None, input, dawn(), &policy()).unwrap() else { panic!() };
    let (mut store, world) = (Store::default(), World::default());
    store.commit(&change, &world, dawn()).unwrap();
    let SagaMove::Run(call) = change.act else { panic!("{:?}", change.act) };
    (store, world, call)
}

/// An order whose charge has no answer, at its query.
fn in_doubt(number: u64) -> (Store, World, StepCall, Timestamp) {
    let (mut store, world, call) = created(number);
    let reserved = StepResult::Reserved { reservation_id: "res-0".to_owned() };
    let SagaMove::Run(charge) = answer(&mut store, &world, &call, reserved, dawn()).act else { panic!() };
    let unknown = StepResult::Unknown { dependency: "payment", error: "no answer".to_owned() };
    let SagaMove::Wait(at) = answer(&mut store, &world, &charge, unknown, dawn()).act else { panic!() };
    let SagaMove::Run(query) = resume(&mut store, &world, at) else { panic!() };
    (store, world, query, at)
}

#[test]
fn waits_grow_up_to_a_cap_and_differ_between_orders() {
    let mut waits: Vec<Vec<TimeDelta>> = Vec::new();
    for number in 0..20 {
        let (mut store, world, query, mut now) = in_doubt(number);
        let mut own = Vec::new();
        for tries in 2..12u32 {
            let result = StepResult::Unavailable { dependency: "payment", error: "away".to_owned() };
            let SagaMove::Wait(at) = answer(&mut store, &world, &query, result, now).act else { panic!() };
            let full = policy().retry_initial * 2u32.pow(tries - 1);
            let full = TimeDelta::from_std(full.min(policy().retry_max)).unwrap();
            let wait = at - now;
            assert!(wait >= full / 2 && wait <= full, "try {tries}: {wait} of {full}");
            own.push(wait);
            now = at;
            assert_eq!(resume(&mut store, &world, now), SagaMove::Run(query.clone()), "another call or key");
        }
        let saga = store.saga.as_ref().unwrap();
        assert!(saga.attention.is_some());
        let flags = store.events.iter().filter(|event| event.event.kind() == "attention_needed");
        assert_eq!(flags.count(), 1);
        waits.push(own);
    }
    for tries in 0..10 {
        let distinct: BTreeSet<_> = waits.iter().map(|own| own[tries]).collect();
        assert!(distinct.len() > 10, "try {tries}: {distinct:?}");
    }
}

#[test]
fn too_early_a_question_does_not_give_a_charge_up() {
    let (mut store, world, query, now) = in_doubt(1);
    let command = OrderCommand::Cancel { notes: String::new() };
    let input = Input::Command { ask: ask(command, None, None), calling: true };
    let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, now, &policy()).unwrap();
    let Reaction::Commit(change) = reaction else { panic!() };
    store.commit(&change, &world, now).unwrap();
    // Both answers come when no charge can arrive any more; the questions were asked earlier.
    let late = now + policy().charge_settle_lag * 2;
    for _ in 0..2 {
        let act = answer(&mut store, &world, &query, StepResult::ChargeNotFound, late).act;
        assert_eq!(act, SagaMove::Run(query.clone()));
    }
    let act = answer(&mut store, &world, &query, StepResult::ChargeNotFound, late).act;
    assert!(matches!(act, SagaMove::Run(StepCall::Release { .. })), "{act:?}");
}

#[test]
fn what_is_settled_is_not_moved_by_late_answers_and_timers() {
    let (mut store, world, call) = created(1);
    let refused = StepResult::Refused {
        dependency: "inventory",
        reason: "OUT_OF_STOCK".to_owned(),
        shortages: Vec::new(),
    };
    assert_eq!(answer(&mut store, &world, &call, refused, dawn()).act, SagaMove::Settled);
    let reserved = StepResult::Reserved { reservation_id: "res-0".to_owned() };
    for input in [Input::Resume, Input::StepFinished { call, result: reserved }] {
        let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, dawn(), &policy()).unwrap();
        assert!(matches!(reaction, Reaction::Unchanged), "{reaction:?}");
    }
}

#[test]
fn one_payment_counts_for_one_call() {
    let (mut store, world, query, now) = in_doubt(1);
    let charged = || StepResult::Charged { transaction_id: "tx-1".to_owned(), gateway_response: None };
    let mut payment_side = world.clone();
    payment_side.charges.insert(query.key().clone(), Charge::Taken(Wish::plain().draft(1).totals.total));
    payment_side.holds.push(Hold::Held(None));
    let act = answer(&mut store, &payment_side, &query, charged(), now).act;
    let SagaMove::Run(commit) = act else { panic!("{act:?}") };
    answer(&mut store, &payment_side, &commit, StepResult::Committed, now);
    let refund = OrderCommand::Refund { wish: refund::Wish::Rest, reason: String::new() };
    let input = Input::Command { ask: ask(refund, None, None), calling: false };
    let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, now, &policy()).unwrap();
    let Reaction::Commit(change) = reaction else { panic!() };
    store.commit(&change, &payment_side, now).unwrap();
    let SagaMove::Run(refund) = change.act else { panic!() };
    // The provider answers with the reference of the charge: nothing went back as far as anybody can tell.
    let confused = StepResult::Refunded { refund_id: "tx-1".to_owned() };
    let change = answer(&mut store, &payment_side, &refund, confused, now);
    assert!(matches!(change.act, SagaMove::Wait(_)), "{:?}", change.act);
    assert_eq!(change.order.payment_status, PaymentStatus::RefundPending);
}

#[test]
fn an_order_is_not_refunded_without_end_and_can_always_be_cancelled() {
    let (mut store, world, query, now) = in_doubt(1);
    let mut world = world.clone();
    let total = Wish::plain().draft(1).totals.total;
    world.charges.insert(query.key().clone(), Charge::Taken(total));
    world.holds.push(Hold::Held(None));
    let charged = StepResult::Charged { transaction_id: "tx-1".to_owned(), gateway_response: None };
    let SagaMove::Run(commit) = answer(&mut store, &world, &query, charged, now).act else { panic!() };
    answer(&mut store, &world, &commit, StepResult::Committed, now);
    let asked = |command| Input::Command { ask: ask(command, None, None), calling: false };
    let cent =
        || OrderCommand::Refund { wish: refund::Wish::Amount("0.01".to_owned()), reason: String::new() };
    let mut order = store.order.clone().unwrap();
    order.saga_no = MAX_SAGAS - 1;
    let reaction = react(Some(&order), None, asked(cent()), now, &policy());
    assert!(matches!(reaction, Ok(Reaction::Commit(_))), "{reaction:?}");
    order.saga_no = MAX_SAGAS;
    let refused = react(Some(&order), None, asked(cent()), now, &policy()).unwrap_err();
    assert!(matches!(refused, OrderError::Overloaded { .. }), "{refused}");
    let cancel = OrderCommand::Cancel { notes: String::new() };
    let reaction = react(Some(&order), None, asked(cancel), now, &policy());
    assert!(matches!(reaction, Ok(Reaction::Commit(_))), "{reaction:?}");
}
