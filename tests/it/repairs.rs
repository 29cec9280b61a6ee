//! Repairs by operators, as tables on the pure core: what an order waits for is told, what may be done is done, and what
//! would break a law is refused.

mod life;

use chrono::TimeDelta;
use order_service::domain::command::OrderCommand;
use order_service::domain::error::OrderError;
use order_service::domain::event::OrderEvent;
use order_service::domain::ids::CallKey;
use order_service::domain::refund;
use order_service::domain::repair::{
    Explanation, Outcome, Repair, RepairKind, RepairOrder, Seen, Waits, method,
};
use order_service::domain::saga::{Direction, SagaMove, StepCall, StepName};
use order_service::domain::status::{OrderStatus, PaymentStatus};

use self::life::Life;
use crate::harness::set_status;

fn cancel() -> OrderCommand {
    OrderCommand::Cancel { notes: String::new() }
}

fn give_back(amount: &str) -> OrderCommand {
    OrderCommand::Refund { wish: refund::Wish::Amount(amount.to_owned()), reason: String::new() }
}

fn retry() -> Repair {
    Repair::Retry(Seen::default())
}

fn skip() -> Repair {
    Repair::Skip(Seen::default())
}

fn allowed(why: &Explanation, what: &str) -> bool {
    let choice = why.choices.iter().find(|choice| choice.what == what).unwrap();
    choice.refused.is_none()
}

/// Every call that an order's lives come by, each with how to get there.
fn stations() -> Vec<(&'static str, Life)> {
    let mut all = Vec::new();
    for name in ["inventory.Reserve", "payment.Charge", "inventory.Commit"] {
        let mut life = Life::new();
        life.until(name);
        all.push((name, life));
    }
    // Cancelled while the charge is under way, which is lost: it has to be asked for.
    let mut life = Life::new();
    life.until("payment.Charge");
    life.ask(cancel(), true).unwrap();
    life.lost(true);
    life.wait();
    all.push(("payment.GetTransaction", life));
    // Declined: the stock is let go.
    let mut life = Life::new();
    life.until("payment.Charge");
    life.refuse("payment", "CARD_DECLINED");
    all.push(("inventory.Release", life));
    let mut life = Life::at(OrderStatus::Confirmed);
    life.ask(set_status(OrderStatus::Processing), false).unwrap();
    all.push(("shipping.CreateLabel", life));
    for name in ["shipping.VoidLabel", "payment.Refund", "inventory.Restock"] {
        let mut life = Life::at(OrderStatus::Processing);
        life.ask(cancel(), false).unwrap();
        life.until(name);
        all.push((name, life));
    }
    let mut life = Life::at(OrderStatus::Delivered);
    life.ask(give_back("1.00"), false).unwrap();
    all.push(("payment.Refund", life));
    for (name, life) in &all {
        assert_eq!(method(&life.call()), *name);
    }
    all
}

#[test]
fn what_an_order_waits_for_is_told_at_every_station() {
    for (name, mut life) in stations() {
        let (call, began) = (life.call(), life.now);
        let why = life.explain();
        assert_eq!((why.waits, why.next_at), (Waits::Answer, None), "{name}");
        assert_eq!(why.call.as_ref().map(StepCall::key), Some(call.key()), "{name}");
        assert!(why.summary.contains(name), "{}", why.summary);
        assert!(why.since <= began, "{name}");
        for what in ["retry-step", "skip-step", "resolve-payment charged", "resolve-payment refunded"] {
            assert!(!allowed(&why, what), "{name}: {what} while a call is under way");
        }
        let since = why.since;

        // The node that made the call is gone.
        let why = life.explain_if(None);
        assert_eq!(why.waits, Waits::Node, "{name}");
        assert!(allowed(&why, "retry-step"), "{name}");

        life.unavailable();
        let why = life.explain();
        assert_eq!(why.waits, Waits::Retry, "{name}");
        let SagaMove::Wait(next) = life.act else { panic!("{name} does not wait") };
        assert_eq!(why.next_at, Some(next), "{name}");
        assert!(why.summary.contains(name) && why.summary.contains("no way"), "{}", why.summary);
        assert_eq!(why.since, since, "a failure is no progress: {name}");
        let last = why.attempts.last().unwrap();
        assert_eq!((last.what, last.error.as_str(), last.next_at), ("step_delayed", "no way", Some(next)));
        assert_eq!(last.key.as_ref(), Some(call.key()), "{name}");
        assert_eq!(last.step, call.station().0, "{name}");
        assert!(allowed(&why, "retry-step"), "{name}");
        // Its moment has passed and nobody made the call.
        life.now = next + TimeDelta::seconds(1);
        assert_eq!(life.explain_if(None).waits, Waits::Node, "{name}");
        life.finish();
    }
}

#[test]
fn what_has_come_to_rest_waits_for_nothing_or_a_person() {
    let mut life = Life::at(OrderStatus::Delivered);
    let why = life.explain();
    assert_eq!((why.waits, why.call.is_none(), why.next_at), (Waits::Nothing, true, None));
    assert!(why.summary.contains("DELIVERED"), "{}", why.summary);
    assert!(allowed(&why, "refund") && !allowed(&why, "cancel") && !allowed(&why, "retry-step"));

    life.ask(give_back("2.00"), false).unwrap();
    life.refuse("payment", "MERCHANT_ACCOUNT_EMPTY");
    assert_eq!(life.order().payment_status, PaymentStatus::RefundFailed);
    let why = life.explain();
    assert_eq!(why.waits, Waits::Person);
    assert!(why.summary.contains("MERCHANT_ACCOUNT_EMPTY"), "{}", why.summary);
    assert!(life.refused(retry()).contains("asked for again as a refund"));
    assert!(allowed(&why, "refund"), "it is retried by asking again");

    let hold = OrderCommand::Hold { reason: "fraud?".to_owned(), until: None };
    let mut life = Life::at(OrderStatus::Confirmed);
    life.ask(hold, false).unwrap();
    assert!(life.explain().summary.contains("on hold: fraud?"));
}

#[test]
fn certainty_that_nothing_arrives_late_is_waited_for() {
    let mut life = Life::new();
    life.until("payment.Charge");
    life.ask(cancel(), true).unwrap();
    life.lost(false);
    life.wait();
    // The payment service does not know the charge; it may still come.
    life.answer_well();
    let why = life.explain();
    assert_eq!(why.waits, Waits::Certainty);
    assert_eq!(why.doubts.len(), 1);
    assert!(!allowed(&why, "resolve-payment not-charged") && allowed(&why, "resolve-payment charged"));
    // A retry asks at once, and waits again: it proves nothing too early.
    life.repair(retry()).unwrap();
    life.answer_well();
    assert_eq!((life.explain().waits, life.explain().next_at), (Waits::Certainty, why.next_at));
    life.finish();
    assert_eq!(life.order().status, OrderStatus::Cancelled);
    assert_eq!(life.world.takings().len(), 0);
}

#[test]
fn a_retry_makes_what_waits_long_run_now() {
    for (name, mut life) in stations() {
        // Not so often that a step that may be given up is.
        for _ in 0..3 {
            life.unavailable();
            life.wait();
        }
        life.unavailable();
        let SagaMove::Wait(_) = life.act else { continue };
        let before = life.store.saga.clone().unwrap();
        let (version, call) = (life.order().version, life.explain().call.unwrap());
        life.repair(retry()).unwrap();
        assert_eq!(life.call(), call, "{name}: it is the call that was waited for");
        let saga = life.store.saga.clone().unwrap();
        assert_eq!((saga.tries, saga.next_at, saga.direction), (0, None, before.direction), "{name}");
        assert_eq!(life.order().version, version + 1);
        let told = life.store.events.iter().rfind(|event| event.event.kind() == "repaired").unwrap();
        assert_eq!(told.principal, "tester");
        let OrderEvent::Repaired { repair, saga: no, step, direction, key, reason, by, outcome } =
            &told.event
        else {
            panic!("{told:?}")
        };
        assert_eq!((*repair, *no, *outcome), (RepairKind::RetryStep, Some(before.no), None));
        assert_eq!((*step, *direction), (before.step, Some(before.direction)));
        assert_eq!((key.as_ref(), reason.as_str(), by.as_str()), (Some(call.key()), "ticket 4711", "ada"));
        // Its pauses begin anew.
        life.unavailable();
        let SagaMove::Wait(next) = life.act else { panic!("{name} does not wait") };
        assert!(next - life.now <= TimeDelta::from_std(life.policy.retry_initial).unwrap(), "{name}");
        life.finish();
    }
}

#[test]
fn a_retry_is_refused_where_nothing_waits_or_the_saga_is_elsewhere() {
    let at = |step, direction| Repair::Retry(Seen { step, direction });
    for (name, mut life) in stations() {
        let (step, direction) = {
            let saga = life.store.saga.as_ref().unwrap();
            (saga.step.unwrap(), saga.direction)
        };
        // While its call is under way.
        let order = RepairOrder { repair: retry(), reason: String::new(), by: String::new() };
        let busy = life.ask(OrderCommand::Repair(order), true);
        assert!(matches!(&busy, Err(OrderError::RepairRefused { what, .. }) if what.contains("under way")));
        life.unavailable();
        let other = if step == StepName::Label { StepName::Charge } else { StepName::Label };
        assert!(life.refused(at(Some(other), None)).contains(step.as_str()), "{name}");
        match direction {
            // Nobody turns what undoes forward again.
            Direction::Backward => {
                let what = life.refused(at(None, Some(Direction::Forward)));
                assert!(what.contains("no repair turns it forward"), "{name}: {what}");
                let skip = Repair::Skip(Seen { step: None, direction: Some(Direction::Forward) });
                assert!(life.refused(skip).contains("no repair turns it forward"));
            }
            Direction::Forward => {
                assert!(life.refused(at(None, Some(Direction::Backward))).contains("FORWARD"), "{name}");
            }
        }
        life.repair(at(Some(step), Some(direction))).unwrap();
        life.finish();
        assert!(life.refused(retry()).contains("no saga runs"), "{name}");
        assert!(life.refused(skip()).contains("no saga runs"), "{name}");
    }
}

#[test]
fn money_and_stock_are_never_skipped() {
    for (name, mut life) in stations() {
        life.unavailable();
        let (skippable, what) = match name {
            "shipping.VoidLabel" => (true, ""),
            "inventory.Restock" => (false, "there twice"),
            "inventory.Release" => (false, "leak"),
            "payment.Charge" | "payment.GetTransaction" | "payment.Refund" => (false, "money"),
            _ => (false, "what follows needs"),
        };
        assert_eq!(allowed(&life.explain(), "skip-step"), skippable, "{name}");
        if !skippable {
            let told = life.refused(skip());
            assert!(told.contains(what), "{name}: {told}");
        }
        life.finish();
    }
}

#[test]
fn a_label_that_was_voided_by_hand_is_skipped() {
    let mut life = Life::at(OrderStatus::Processing);
    life.ask(cancel(), false).unwrap();
    let call = life.call();
    // Not before it has failed.
    life.act = SagaMove::Settled;
    assert!(life.refused(skip()).contains("has not failed"));
    life.act = SagaMove::Run(call.clone());
    for _ in 0..7 {
        life.refuse("shipping", "ALREADY_SCANNED");
        life.wait();
    }
    life.refuse("shipping", "ALREADY_SCANNED");
    assert!(life.order().attention.is_some());
    life.world.by_hand(&call);
    life.repair(skip()).unwrap();
    // It goes on with the money at once.
    assert_eq!(method(&life.call()), "payment.Refund");
    assert_eq!(life.order().attention, None);
    life.finish();
    assert_eq!(life.order().status, OrderStatus::Cancelled);
    let kinds = life.kinds();
    let place = kinds.iter().position(|kind| *kind == "repaired").unwrap();
    assert_eq!(kinds[place + 1], "label_voided");
}

#[test]
fn stock_that_was_put_back_by_hand_is_skipped_once_inventory_has_refused() {
    let mut life = Life::at(OrderStatus::Confirmed);
    life.ask(cancel(), false).unwrap();
    life.until("inventory.Restock");
    let call = life.call();
    life.lost(false);
    assert!(life.refused(skip()).contains("there twice"), "it may have happened");
    life.wait();
    life.refuse("inventory", "WAREHOUSE_CLOSED");
    life.world.by_hand(&call);
    life.repair(skip()).unwrap();
    life.finish();
    assert_eq!(life.order().status, OrderStatus::Cancelled);
}

/// An order whose charge is in doubt, and waits to ask for it.
fn in_doubt(charged: bool, cancelled: bool) -> Life {
    let mut life = Life::new();
    life.until("payment.Charge");
    if cancelled {
        life.ask(cancel(), true).unwrap();
    }
    life.lost(charged);
    if cancelled {
        life.wait();
        life.unavailable();
    }
    let SagaMove::Wait(_) = life.act else { panic!("it does not wait") };
    life
}

#[test]
fn a_charge_in_doubt_is_settled_by_evidence() {
    for cancelled in [false, true] {
        let mut life = in_doubt(true, cancelled);
        let reference = format!("tx-{}", life.explain().doubts[0].key);
        life.settle(Outcome::Charged, Some(&reference)).unwrap();
        life.finish();
        let order = life.order();
        let ends = if cancelled { OrderStatus::Cancelled } else { OrderStatus::Confirmed };
        assert_eq!((order.status, life.world.takings().len()), (ends, 1));
        assert!(order.payments.iter().any(|entry| entry.transaction_id == reference));
        let evidence = life.store.events.iter().find_map(|event| match &event.event {
            OrderEvent::Repaired { outcome, reason, key, .. } => {
                Some((*outcome, reason.clone(), key.clone()))
            }
            _ => None,
        });
        let (outcome, reason, key) = evidence.unwrap();
        assert_eq!((outcome, reason.as_str()), (Some(Outcome::Charged), "ticket 4711"));
        assert_eq!(format!("tx-{}", key.unwrap()), reference);
        assert!(
            life.refused(Repair::Settle { outcome: Outcome::Charged, reference: Some(reference), key: None })
                .contains("no such charge is in doubt")
        );
    }
}

#[test]
fn that_a_charge_was_not_made_is_believed_only_when_none_can_arrive() {
    for cancelled in [false, true] {
        let mut life = in_doubt(false, cancelled);
        let nothing = Repair::Settle { outcome: Outcome::NotCharged, reference: None, key: None };
        let what = life.refused(nothing.clone());
        assert!(what.contains("may still arrive until"), "{what}");
        assert!(!allowed(&life.explain(), "resolve-payment not-charged"));
        let sent_at = life.store.saga.as_ref().unwrap().sent_at.unwrap();
        let sure_at = sent_at + life.policy.charge_settle_lag;
        life.now = sure_at - TimeDelta::milliseconds(11);
        life.refused(nothing.clone());
        life.now = sure_at;
        assert!(allowed(&life.explain_if(None), "resolve-payment not-charged"));
        life.repair(nothing).unwrap();
        life.finish();
        let order = life.order();
        assert_eq!((order.status, order.payment_status), (OrderStatus::Cancelled, PaymentStatus::Failed));
        assert_eq!(life.world.takings().len(), 0);
    }
}

#[test]
fn a_refund_in_doubt_is_settled_by_evidence() {
    // One that the order owes, and one that somebody wished for.
    for wished in [false, true] {
        for happened in [true, false] {
            let mut life = Life::at(OrderStatus::Confirmed);
            life.ask(if wished { give_back("3.00") } else { cancel() }, false).unwrap();
            let StepCall::Refund { key, .. } = life.call() else { panic!("no refund") };
            life.lost(happened);
            let why = life.explain();
            assert_eq!(why.doubts.iter().map(|doubt| &doubt.key).collect::<Vec<_>>(), [&key]);
            if happened {
                life.settle(Outcome::Refunded, Some(&format!("re-{key}"))).unwrap();
            } else {
                let early = Repair::Settle { outcome: Outcome::NotRefunded, reference: None, key: None };
                assert!(life.refused(early.clone()).contains("may still arrive"));
                life.now += life.policy.charge_settle_lag + std::time::Duration::from_secs(3);
                life.repair(early).unwrap();
                if !wished {
                    // It is owed, so it is asked for again, under a key of its own and at once.
                    let StepCall::Refund { key: next, .. } = life.call() else { panic!("no refund") };
                    assert_ne!(next, key);
                }
            }
            life.finish();
            let expected = match (wished, happened) {
                (false, _) => PaymentStatus::Refunded,
                (true, true) => PaymentStatus::PartiallyRefunded,
                (true, false) => PaymentStatus::RefundFailed,
            };
            assert_eq!(life.order().payment_status, expected, "wished {wished}, happened {happened}");
        }
    }
}

#[test]
fn evidence_has_to_fit_what_is_in_doubt() {
    let mut life = in_doubt(true, false);
    let key = life.explain().doubts[0].key.clone();
    let settle = |outcome, reference: &str, key| Repair::Settle {
        outcome,
        reference: (!reference.is_empty()).then(|| reference.to_owned()),
        key,
    };
    assert!(life.refused(settle(Outcome::Refunded, "re", None)).contains("no such refund"));
    let other = CallKey::from_text("another");
    assert!(life.refused(settle(Outcome::Charged, "tx", Some(other))).contains("no such charge"));
    for wrong in [settle(Outcome::Charged, "", None), settle(Outcome::NotCharged, "tx", None)] {
        assert!(
            matches!(life.repair(wrong), Err(OrderError::Invalid(fields)) if fields[0].field == "reference")
        );
    }
    // While the payment service is being asked, its answer counts.
    life.wait();
    let wanted = settle(Outcome::Charged, "tx", Some(key));
    let order = RepairOrder { repair: wanted, reason: "r".to_owned(), by: String::new() };
    assert!(matches!(life.ask(OrderCommand::Repair(order), true), Err(OrderError::Busy { .. })));
    life.finish();
    // A payment that is certain is not settled otherwise.
    assert!(life.refused(settle(Outcome::NotCharged, "", None)).contains("nothing to settle"));
    assert_eq!(life.order().status, OrderStatus::Confirmed);
}

#[test]
fn money_is_not_settled_before_the_stock_that_comes_first() {
    // It ran ahead and died: both calls may have been made, and the stock is asked for again first.
    let mut life = Life::ahead();
    life.died();
    life.lost(false);
    let key = CallKey::new(life.order().id, 1, "charge", 1);
    assert_eq!(life.explain().doubts[0].key, key);
    let early = Repair::Settle { outcome: Outcome::Charged, reference: Some(format!("tx-{key}")), key: None };
    assert!(life.refused(early).contains("inventory.Reserve comes before it"));
    life.finish();
    assert_eq!(life.order().status, OrderStatus::Confirmed);
}
