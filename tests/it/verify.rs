//! The check of what is stored: it sees each thing that is broken, and nothing where nothing is.

mod on_a_node;

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::OrderCommand;
use order_service::domain::event::{OrderEvent, RecordedEvent};
use order_service::domain::evolve::evolve;
use order_service::domain::ids::CallKey;
use order_service::domain::order::{LabelState, Order, Reservation, StockState};
use order_service::domain::payment::{LedgerEntry, PaymentToken};
use order_service::domain::react::{Input, Reaction, react};
use order_service::domain::refund;
use order_service::domain::saga::{
    Direction, SagaKind, SagaMove, SagaProgress, StepCall, StepName, StepResult,
};
use order_service::domain::status::{CancelReason, OrderStatus, PaymentStatus};
use order_service::domain::verify::{Entered, Violation, check, check_history};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::harness::{Wish, ask, dawn, policy, set_status};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is stored of one order.
#[derive(Clone)]
struct Life {
    order: Order,
    saga: Option<SagaProgress>,
    events: Vec<RecordedEvent>,
    now: Timestamp,
}

impl Life {
    /// A created order that has come to rest as CONFIRMED.
    fn confirmed() -> Self {
        let (mut life, act) = Self::created();
        life.carry_on(act, |_| false);
        assert_eq!(life.order.status, OrderStatus::Confirmed);
        life
    }

    /// A created order whose first call is under way.
    fn created() -> (Self, SagaMove) {
        let draft = Wish { coupon: Some("SUMMER10"), ..Wish::plain() }.draft(1);
        let ask = ask(OrderCommand::Create(Box::new(draft)), Some(("create", 1)), None);
        let input = Input::Command { ask, calling: false };
        let Ok(Reaction::Commit(change)) = react(None, None, input, dawn(), &policy()) else {
            panic!("not created");
        };
        let life = Self { order: change.order, saga: change.saga, events: change.events, now: dawn() };
        life.holds();
        (life, change.act)
    }

    /// A created order in the middle of the first call that `is_it`.
    fn until(is_it: impl Fn(&StepCall) -> bool) -> Self {
        let (mut life, act) = Self::created();
        life.carry_on(act, is_it);
        assert!(life.saga.as_ref().is_some_and(|saga| !saga.settled));
        life
    }

    /// An order walked through these statuses.
    fn through(statuses: &[OrderStatus]) -> Self {
        let mut life = Self::confirmed();
        for (status, n) in statuses.iter().zip(2..) {
            let request = format!("request {n}");
            let ask = ask(set_status(*status), Some((&request, n)), None);
            let act = life.input(Input::Command { ask, calling: false });
            life.carry_on(act, |_| false);
            assert_eq!(life.order.status, *status);
        }
        life
    }

    /// An order in the middle of the first call of its cancellation that `is_it`.
    fn cancelling(is_it: impl Fn(&StepCall) -> bool) -> Self {
        let mut life = Self::confirmed();
        let command = OrderCommand::Cancel { notes: String::new() };
        let act = life.input(Input::Command { ask: ask(command, None, None), calling: false });
        life.carry_on(act, is_it);
        assert_eq!(life.order.status, OrderStatus::Cancelling);
        life
    }

    fn input(&mut self, input: Input) -> SagaMove {
        self.now += TimeDelta::seconds(1);
        let reaction = react(Some(&self.order), self.saga.as_ref(), input, self.now, &policy()).unwrap();
        let Reaction::Commit(change) = reaction else { panic!("{reaction:?}") };
        self.order = change.order;
        self.saga = change.saga;
        self.events.extend(change.events);
        self.holds();
        change.act
    }

    /// Answers calls until there are none, or one that `is_it`.
    fn carry_on(&mut self, mut act: SagaMove, is_it: impl Fn(&StepCall) -> bool) {
        while let SagaMove::Run(call) = act {
            if is_it(&call) {
                return;
            }
            let result = answer(&call);
            act = self.input(Input::StepFinished { call, result });
        }
        assert_eq!(act, SagaMove::Settled);
        self.saga = None;
    }

    fn check(&self) -> Vec<Violation> {
        check(&self.order, self.saga.as_ref(), &self.events, self.now, PATIENCE)
    }

    fn holds(&self) {
        assert_eq!(self.check(), Vec::new());
    }

    /// Breaks one thing; what is found has to be of these invariants, each once.
    #[track_caller]
    fn broken(&self, invariants: &[&str], what: &str, spoil: impl FnOnce(&mut Self)) {
        self.holds();
        let mut life = self.clone();
        spoil(&mut life);
        let found = life.check();
        let named: Vec<&str> = found.iter().map(|violation| violation.invariant).collect();
        assert_eq!(named, invariants, "{found:?}");
        assert!(found.iter().any(|violation| violation.what.contains(what)), "{found:?}");
        for Violation { what, .. } in found {
            let personal = ["tok_secret", "Ada", "Lovelace", "Main Street"];
            assert!(personal.iter().all(|word| !what.contains(word)) && !what.contains('\n'), "{what}");
        }
    }

    fn event(&mut self, is_it: impl Fn(&OrderEvent) -> bool) -> &mut RecordedEvent {
        self.events.iter_mut().find(|event| is_it(&event.event)).unwrap()
    }
}

fn answer(call: &StepCall) -> StepResult {
    match call {
        StepCall::Reserve { .. } => StepResult::Reserved { reservation_id: String::from("res-1") },
        StepCall::Charge { .. } | StepCall::QueryCharge { .. } => {
            StepResult::Charged { transaction_id: String::from("tx-1"), gateway_response: None }
        }
        StepCall::CommitStock { .. } => StepResult::Committed,
        StepCall::Refund { .. } => StepResult::Refunded { refund_id: String::from("rf-1") },
        StepCall::Release { .. } => StepResult::Released,
        StepCall::Restock { .. } => StepResult::Restocked,
        StepCall::CreateLabel { .. } => StepResult::LabelCreated {
            carrier: String::from("UPS"),
            tracking_number: String::from("1Z"),
            label_url: String::from("https://labels.example/1Z"),
        },
        StepCall::VoidLabel { .. } => StepResult::LabelVoided,
    }
}

fn entry(order: &mut Order, place: usize) -> &mut LedgerEntry {
    &mut Arc::make_mut(&mut order.payments)[place]
}

fn cents(n: i64) -> Decimal {
    Decimal::new(n, 2)
}

#[test]
fn request_ids_are_unique_and_have_a_hash() {
    let life = Life::through(&[OrderStatus::Processing]);
    let requests = |life: &mut Life| life.order.requests.as_ref().clone();
    life.broken(&["I2"], "earlier one", |life| {
        let mut all = requests(life);
        all[1].request_id = all[0].request_id.clone();
        life.order.requests = Arc::new(all);
    });
    life.broken(&["I2"], "no hash", |life| {
        let mut all = requests(life);
        all[1].hash = [0; 16];
        life.order.requests = Arc::new(all);
    });
    life.broken(&["I2"], "never began", |life| {
        let mut all = requests(life);
        all[1].saga_no = Some(9);
        life.order.requests = Arc::new(all);
    });
    life.broken(&["I2"], "creation", |life| life.order.request_hash = [0; 16]);
}

#[test]
fn money_kept_is_money_owed() {
    let life = Life::confirmed();
    // The refund stands in ledger and history, and yet the order is not cancelled.
    life.broken(&["I3"], "keeps 0.00", |life| {
        let mut key = life.order.payments[0].key.as_str().to_owned();
        key = key.replace("charge", "refund");
        let key = CallKey::from_text(key);
        let (amount, transaction_id) = (life.order.totals.total, String::from("tx-1"));
        let mut say = |event| {
            evolve(&mut life.order, &event, life.now);
            life.order.event_seq += 1;
            let last = life.events.last().unwrap().clone();
            life.events.push(RecordedEvent { seq: life.order.event_seq, at: life.now, event, ..last });
        };
        say(OrderEvent::RefundRequested { key: key.clone(), transaction_id, amount });
        say(OrderEvent::Refunded { key, refund_id: String::from("rf-1") });
        life.order.updated_at = life.now;
    });
    // A lost row of the ledger: the charge is in doubt again.
    life.broken(&["I3", "I3", "I6", "I3"], "ledger has 1 entries", |life| {
        Arc::make_mut(&mut life.order.payments).pop();
    });
    life.broken(&["I3"], "payment status is REFUNDED", |life| {
        life.order.payment_status = PaymentStatus::Refunded;
    });

    let life = Life::cancelling(|call| matches!(call, StepCall::Restock { .. }));
    life.broken(&["I3", "I3", "I3"], "refunded and", |life| {
        let last = life.order.payments.len() - 1;
        let more = life.order.totals.total + cents(1);
        entry(&mut life.order, last).amount = more;
    });

    let returned = Life::through(&[OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Returned]);
    returned.broken(&["I3", "I3", "I3", "I3"], "keeps", |life| {
        Arc::make_mut(&mut life.order.payments).pop();
    });
}

#[test]
fn a_refund_that_was_wished_for_is_granted_and_made() {
    let mut life = Life::confirmed();
    let item = life.order.items[0].clone();
    let wish = refund::Wish::Items(vec![(item.id, 1)]);
    let command = OrderCommand::Refund { wish, reason: String::new() };
    let act = life.input(Input::Command { ask: ask(command, None, None), calling: false });
    assert_eq!(life.order.payment_status, PaymentStatus::RefundPending);
    life.carry_on(act, |_| false);
    assert_eq!(life.order.payment_status, PaymentStatus::PartiallyRefunded);
    life.broken(&["I3", "I3"], "keeps", |life| life.order.grants = Arc::default());
    life.broken(&["I3", "I3", "I3"], "its parts about", |life| {
        Arc::make_mut(&mut life.order.grants)[0].items.clear();
        Arc::make_mut(&mut life.order.grants)[0].items.push(refund::RefundedItem {
            item_id: Uuid::nil(),
            quantity: 1,
            amount: Decimal::ONE,
        });
    });
    life.broken(&["I3", "I3"], "not their share", |life| {
        Arc::make_mut(&mut life.order.grants)[0].items[0].quantity = 2;
    });
    life.broken(&["I3", "I3"], "is left", |life| {
        let granted = life.event(|event| matches!(event, OrderEvent::RefundGranted { .. }));
        let OrderEvent::RefundGranted { amount, .. } = &mut granted.event else { panic!() };
        *amount = cents(1_000_000);
    });
    for to in [OrderStatus::Processing, OrderStatus::Shipped] {
        let act = life.input(Input::Command { ask: ask(set_status(to), None, None), calling: false });
        life.carry_on(act, |_| false);
    }
    assert_eq!(life.order.status, OrderStatus::Shipped);
}

#[test]
fn what_is_held_does_not_move_forward() {
    let mut life = Life::through(&[OrderStatus::Processing]);
    let hold = OrderCommand::Hold { reason: String::from("fraud?"), until: None };
    let act = life.input(Input::Command { ask: ask(hold, None, None), calling: false });
    assert_eq!(act, SagaMove::Settled);
    life.broken(&["I7"], "the hold is not", |life| life.order.hold = None);
    let release = OrderCommand::Release { notes: String::new() };
    life.input(Input::Command { ask: ask(release, None, None), calling: false });
    life.input(Input::Command { ask: ask(set_status(OrderStatus::Shipped), None, None), calling: false });
    life.broken(&["I7", "I7"], "goes to SHIPPED while the order is on hold", |life| {
        let released = life.event(|event| matches!(event, OrderEvent::OrderReleased { .. }));
        released.event =
            OrderEvent::OrderHeld { reason: String::from("fraud?"), by: String::from("x"), until: None };
    });
}

#[test]
fn an_intent_is_charged_once() {
    let life = Life::confirmed();
    // A second success under the same key, and under another attempt's.
    life.broken(&["I4", "I3"], "was SUCCEEDED and is SUCCEEDED", |life| {
        let again = life.order.payments[1].clone();
        Arc::make_mut(&mut life.order.payments).push(again);
    });
    life.broken(&["I4", "I3", "I3"], "2 charges", |life| {
        let again: Vec<_> = life.order.payments.iter().cloned().collect();
        for mut entry in again {
            let (intent, _) = entry.key.as_str().rsplit_once('/').unwrap();
            entry.key = CallKey::from_text(format!("{intent}/2"));
            if !entry.transaction_id.is_empty() {
                entry.transaction_id.push_str("-again");
            }
            Arc::make_mut(&mut life.order.payments).push(entry);
        }
    });
    life.broken(&["I4", "I3", "I3"], "are one payment", |life| {
        let again: Vec<_> = life.order.payments.iter().cloned().collect();
        for mut entry in again {
            entry.key = CallKey::from_text(entry.key.as_str().replace("/charge/", "/other/"));
            Arc::make_mut(&mut life.order.payments).push(entry);
        }
    });
    life.broken(&["I4", "I3"], "never intended", |life| {
        Arc::make_mut(&mut life.order.payments).remove(0);
    });
    life.broken(&["I4", "I3"], "without a transaction id", |life| {
        entry(&mut life.order, 1).transaction_id.clear();
    });
}

#[test]
fn stock_fits_the_status() {
    let life = Life::confirmed();
    life.broken(&["I6", "I5"], "CONFIRMED with stock RETURNED", |life| {
        life.order.reservation.state = StockState::Returned;
    });
    life.broken(&["I5", "I5"], "without a reservation id", |life| life.order.reservation.id = None);

    let life = Life::through(&[OrderStatus::Processing]);
    let mut cancelled = life.clone();
    let command = OrderCommand::Cancel { notes: String::new() };
    let act = cancelled.input(Input::Command { ask: ask(command, None, None), calling: false });
    cancelled.carry_on(act, |_| false);
    assert_eq!(cancelled.order.status, OrderStatus::Cancelled);
    cancelled.broken(&["I5", "I5"], "CANCELLED with stock HELD", |life| {
        life.order.reservation.state = StockState::Held;
    });
    cancelled.broken(&["I7", "I7"], "not void", |life| {
        Arc::make_mut(&mut life.order.shipments)[0].state = LabelState::Created;
    });
    life.broken(&["I7", "I7"], "without a label", |life| life.order.shipments = Arc::default());

    let shipped = Life::through(&[OrderStatus::Processing, OrderStatus::Shipped]);
    shipped.broken(&["I7", "I7"], "without a tracking number", |life| {
        Arc::make_mut(&mut life.order.shipments)[0].tracking_number.clear();
    });

    let pending = Life::until(|call| matches!(call, StepCall::Charge { .. }));
    pending.broken(&["I5", "I5"], "PENDING with stock COMMITTED", |life| {
        life.order.reservation.state = StockState::Committed;
    });
}

#[test]
fn nothing_is_confirmed_without_stock_and_money() {
    // History says so, whatever stands in the order: the events of the reservation are exchanged for harmless ones.
    Life::confirmed().broken(&["I6", "I6"], "with stock NONE", |life| {
        let unsent = |key: &CallKey| OrderEvent::StockUnsent { key: key.clone() };
        let key = life.order.reservation.key.clone().unwrap();
        for event in &mut life.events {
            if event.event.kind().starts_with("stock_") {
                event.event = unsent(&key);
            }
        }
        life.order.reservation = Reservation::none();
    });
}

#[test]
fn history_is_a_legal_walk_without_gaps() {
    let life = Life::through(&[OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered]);
    life.broken(&["I7"], "should", |life| {
        life.events.remove(3);
    });
    life.broken(&["I7"], "does not begin", |life| {
        life.events[0].event = life.events[1].event.clone();
    });
    life.broken(&["I12"], "history ends at", |life| {
        life.events.pop();
    });
    life.broken(&["I12"], "the order is at event", |life| life.order.event_seq += 1);
    life.broken(&["I7"], "time goes back", |life| {
        // Of a saga's beginning no other row keeps the time.
        let started = life.events.iter().rposition(|event| event.event.kind() == "saga_started").unwrap();
        life.events[started].at = dawn();
    });
    life.broken(&["I12"], "version goes back", |life| life.events[4].version = 1);
    life.broken(&["I12"], "for an order at", |life| life.order.version = 1);
    life.broken(&["I7"], "the times of the order", |life| life.order.updated_at = dawn());
}

#[test]
fn the_order_is_where_its_history_leads() {
    let life = Life::through(&[OrderStatus::Processing, OrderStatus::Shipped]);
    life.broken(&["I7"], "history leads to SHIPPED", |life| life.order.status = OrderStatus::Delivered);
    life.broken(&["I7"], "from CONFIRMED to SHIPPED", |life| {
        let event =
            life.event(|event| matches!(event, OrderEvent::StatusChanged { to: OrderStatus::Shipped, .. }));
        let OrderEvent::StatusChanged { from, .. } = &mut event.event else { panic!() };
        *from = OrderStatus::Confirmed;
    });
    life.broken(&["I7"], "what the order was created with", |life| {
        let OrderEvent::OrderCreated { currency, .. } = &mut life.events[0].event else { panic!() };
        *currency = String::from("EUR");
    });
    life.broken(&["I8"], "why or when", |life| life.order.completed_at = Some(dawn()));

    let rows: Vec<Entered> = [OrderStatus::Pending, OrderStatus::Confirmed]
        .into_iter()
        .zip(life.events.iter().filter(|event| {
            matches!(event.event, OrderEvent::OrderCreated { .. } | OrderEvent::StatusChanged { .. })
        }))
        .map(|(status, event)| Entered { seq: event.seq, status, at: event.at })
        .collect();
    let found = check_history(&life.events, &rows);
    assert_eq!(found[0].invariant, "I7");
    assert!(found[0].what.contains("2 rows and the events tell of 4; the first 2 agree"), "{found:?}");
}

#[test]
fn an_end_is_an_end() {
    let life = Life::through(&[OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Returned]);
    life.broken(&["I8", "I7"], "goes from RETURNED to PROCESSING", |life| {
        let last = life.events.last().unwrap().clone();
        life.order.event_seq += 1;
        let (from, to) = (OrderStatus::Returned, OrderStatus::Processing);
        let event = OrderEvent::StatusChanged { from, to, notes: String::new(), reason: None };
        life.events.push(RecordedEvent { seq: life.order.event_seq, event, ..last });
    });
    let cancelling = Life::cancelling(|call| matches!(call, StepCall::Refund { .. }));
    cancelling.broken(&["I8", "I8"], "CANCELLING for no reason", |life| life.order.cancel_reason = None);
    Life::confirmed().broken(&["I8"], "why or when", |life| {
        life.order.cancel_reason = Some(CancelReason::Expired);
    });
}

#[test]
fn whatever_is_unfinished_moves_or_calls() {
    let life = Life::until(|call| matches!(call, StepCall::Charge { .. }));
    life.broken(&["I9"], "calls for nobody", |life| life.now += TimeDelta::seconds(61));
    let mut waiting = life.clone();
    waiting.saga.as_mut().unwrap().next_at = Some(life.now + TimeDelta::seconds(100));
    waiting.now += TimeDelta::seconds(160);
    waiting.broken(&["I9"], "calls for nobody", |life| life.now += TimeDelta::seconds(1));
    let mut flagged = waiting.clone();
    let (saga, step) = (flagged.saga.as_mut().unwrap(), StepName::Charge);
    saga.attention = Some(String::from("nobody answers"));
    let reason = String::from("nobody answers");
    let last = flagged.events.last().unwrap().clone();
    flagged.order.event_seq += 1;
    let event = OrderEvent::AttentionNeeded { saga: 1, step, reason };
    flagged.events.push(RecordedEvent { seq: last.seq + 1, event, ..last });
    flagged.now += TimeDelta::days(3);
    flagged.broken(&["I9"], "history does not say so", |life| {
        life.events.pop();
        life.order.event_seq -= 1;
    });

    life.broken(&["I9", "I9"], "PENDING and no saga", |life| life.saga = None);
    life.broken(&["I9", "I9", "I9"], "is not saga 1", |life| {
        let saga = life.saga.as_mut().unwrap();
        (saga.no, saga.kind) = (2, SagaKind::Return);
    });
    life.broken(&["I3"], "being unwound", |life| {
        let saga = life.saga.as_mut().unwrap();
        (saga.direction, saga.token) = (Direction::Backward, None);
    });
    let confirmed = Life::confirmed();
    confirmed.broken(&["I9"], "no saga by history", |life| {
        let mut old = Life::until(|call| matches!(call, StepCall::CommitStock { .. })).saga;
        old.as_mut().unwrap().token = None;
        life.saga = old;
    });
}

#[test]
fn sums_agree_in_whole_units_of_the_currency() {
    let life = Life::confirmed();
    life.broken(&["I10", "I3", "I10", "I6"], "do not make total", |life| life.order.totals.total += cents(1));
    life.broken(&["I10"], "the lines do not", |life| {
        Arc::make_mut(&mut life.order.items)[0].tax_amount += cents(1);
    });
    life.broken(&["I10", "I10"], "no amount of USD", |life| {
        // A fraction of a cent that cancels out.
        let part = Decimal::new(1, 4);
        let order = &mut life.order;
        Arc::make_mut(&mut order.items)[0].tax_amount += part;
        (order.totals.tax, order.totals.shipping) = (order.totals.tax + part, order.totals.shipping - part);
    });
}

#[test]
fn a_token_is_dropped_when_the_charge_is_settled() {
    Life::until(|call| matches!(call, StepCall::CommitStock { .. })).broken(&["I13"], "token", |life| {
        life.saga.as_mut().unwrap().token = Some(PaymentToken::new("tok_secret"));
    });
}
