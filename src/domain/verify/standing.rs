//! Whether stock, labels and saga fit the status.

use std::time::Duration;

use super::Findings;
use crate::domain::Timestamp;
use crate::domain::order::{LabelState, Order, Reservation, StockState};
use crate::domain::payment::{EntryKind, settled};
use crate::domain::saga::{Direction, SagaKind, SagaProgress};
use crate::domain::status::OrderStatus;
use crate::domain::stock;

/// Whether a saga undoes, or is about to.
pub(super) fn is_unwinding(saga: &SagaProgress) -> bool {
    saga.direction == Direction::Backward || saga.turn.is_some()
}

/// I5, I6: what has ended holds nothing, what is confirmed holds everything.
pub(super) fn stock(findings: &mut Findings, order: &Order, saga: Option<&SagaProgress>) {
    let (status, held) = (order.status, order.reservation.state);
    for addition in order.additions.iter() {
        let state = addition.state;
        let known = addition.id.is_some()
            || matches!(state, StockState::None | StockState::Requested | StockState::Returned);
        let named = addition.key.is_some()
            && addition
                .lines
                .as_ref()
                .is_some_and(|lines| !lines.is_empty() || state == StockState::Returned);
        findings.expect(known && named, "I5", || format!("more stock is {state} without id, key or lines"));
    }
    findings.expect(
        order.amendment.is_none() || saga.is_some_and(|saga| saga.kind == SagaKind::Amend),
        "I9",
        || String::from("an edit is under way and no saga makes it"),
    );
    let has_id = order.reservation.id.as_ref().is_some_and(|id| !id.is_empty());
    let needs_id = matches!(held, StockState::Held | StockState::Committing | StockState::Committed);
    findings.expect(has_id || !needs_id, "I5", || format!("stock is {held} without a reservation id"));
    findings.expect(order.reservation.key.is_some() || held == StockState::None, "I5", || {
        format!("stock is {held} and nothing was asked for")
    });
    // What an edit has no use for any more may have gone back as a whole.
    let kind = saga.map(|saga| saga.kind);
    let all = |fits: fn(StockState) -> bool| {
        stock::reservations(order).filter(|held| held.is_live()).all(|held| fits(held.state))
    };
    let sold = all(|state| state == StockState::Committed);
    match status {
        OrderStatus::Pending => {
            let early = matches!(held, StockState::None | StockState::Requested | StockState::Held);
            findings.expect(early || saga.is_some_and(is_unwinding), "I5", || {
                format!("{status} with stock {held}")
            });
        }
        OrderStatus::Confirmed if kind == Some(SagaKind::Create) => {
            // What inventory lost is asked for anew: the first one by the key of a later attempt, what an edit added by
            // another addition.
            let lost = order.additions.iter().any(|addition| addition.state == StockState::Returned);
            let promised = stock::reservations(order).enumerate().all(|(place, held)| match held.state {
                StockState::Requested if place > 0 => lost,
                StockState::Requested => held.key.as_ref().is_some_and(|key| key.attempt() > 1),
                _ => true,
            });
            findings.expect(promised && stock::covers(order), "I6", || format!("{status} with stock {held}"));
        }
        OrderStatus::Confirmed if kind == Some(SagaKind::Amend) => {
            // What the edit itself asks for is the newest.
            let own = saga.map(|saga| saga.no);
            let others = stock::reservations(order)
                .filter(|held| held.is_live() && held.key.as_ref().and_then(|key| key.saga()) != own);
            let sold = others.into_iter().all(|held| held.state == StockState::Committed);
            findings.expect(sold && stock::covers(order), "I6", || {
                format!("{status} and being edited with stock {held}")
            });
        }
        OrderStatus::Confirmed | OrderStatus::Processing | OrderStatus::Shipped | OrderStatus::Delivered => {
            findings.expect(sold && stock::fits(order), "I6", || {
                format!("{status} with stock {held}, or for other items than it has")
            });
        }
        OrderStatus::Cancelled | OrderStatus::Returned => {
            let back = !stock::reservations(order).any(Reservation::is_live);
            findings.expect(back || saga.is_some(), "I5", || format!("{status} with stock {held}"));
        }
        OrderStatus::Cancelling => {}
    }
}

/// I7: the statuses that a label or a tracking number leads to, have one; what was not sent has none.
pub(super) fn labels(findings: &mut Findings, order: &Order, saga: Option<&SagaProgress>) {
    let status = order.status;
    let made = || order.shipments.iter().filter(|shipment| shipment.state == LabelState::Created);
    match status {
        OrderStatus::Processing => {
            findings.expect(made().count() > 0, "I7", || format!("{status} without a label"));
        }
        OrderStatus::Shipped | OrderStatus::Delivered | OrderStatus::Returned => {
            let tracked = made().any(|shipment| !shipment.tracking_number.is_empty());
            findings.expect(tracked, "I7", || format!("{status} without a tracking number"));
        }
        OrderStatus::Pending | OrderStatus::Confirmed | OrderStatus::Cancelled => {
            let void = order.shipments.iter().all(|shipment| shipment.state == LabelState::Voided);
            findings
                .expect(void || saga.is_some(), "I7", || format!("{status} with a label that is not void"));
        }
        OrderStatus::Cancelling => {}
    }
    let ends = matches!(status, OrderStatus::Cancelling | OrderStatus::Cancelled);
    findings.expect(!ends || order.cancel_reason.is_some(), "I8", || format!("{status} for no reason"));
}

/// I9: whatever is unfinished has a saga that fits, and it either moves or calls for a person.
pub(super) fn saga(
    findings: &mut Findings,
    order: &Order,
    saga: Option<&SagaProgress>,
    now: Timestamp,
    patience: Duration,
) {
    let status = order.status;
    let Some(saga) = saga else {
        let unfinished = matches!(status, OrderStatus::Pending | OrderStatus::Cancelling);
        findings.expect(!unfinished, "I9", || format!("{status} and no saga drives it"));
        return;
    };
    let (no, kind) = (saga.no, saga.kind);
    findings.expect(no == order.saga_no && saga.order_id == order.id, "I9", || {
        format!("saga {no} is not saga {} of this order", order.saga_no)
    });
    let unwinding = is_unwinding(saga);
    let fits = match (kind, status) {
        (SagaKind::Create, OrderStatus::Pending) => true,
        (SagaKind::Create | SagaKind::Fulfil | SagaKind::Amend, OrderStatus::Cancelling) => unwinding,
        (SagaKind::Create, OrderStatus::Confirmed) => !unwinding,
        (SagaKind::Fulfil | SagaKind::Amend, OrderStatus::Confirmed)
        | (SagaKind::Fulfil, OrderStatus::Processing) => saga.turn.is_none(),
        (SagaKind::Refund, OrderStatus::Cancelling) => unwinding,
        (SagaKind::Refund, status) => {
            saga.direction == Direction::Backward && saga.turn.is_none() && status.can_refund()
        }
        (SagaKind::Cancel, OrderStatus::Cancelling) | (SagaKind::Return, OrderStatus::Returned) => {
            saga.direction == Direction::Backward
        }
        _ => false,
    };
    let untouched = kind == SagaKind::Create && status == OrderStatus::Pending && !unwinding;
    findings.expect(!saga.ahead || untouched, "I9", || {
        format!("{status} while saga {no} ({kind} {}) may run ahead", saga.direction)
    });
    findings.expect(fits, "I9", || format!("{status} while saga {no} ({kind} {}) runs", saga.direction));
    // Every commit of a saga moves the order's time, and every wait is stored before it begins.
    let due = saga.next_at.map_or(order.updated_at, |at| at.max(order.updated_at));
    let late = now.signed_duration_since(due).to_std().unwrap_or_default();
    findings.expect(saga.attention.is_some() || late <= patience, "I9", || {
        let step = saga.step.map_or("no step", |step| step.as_str());
        format!("saga {no} ({kind}) stands at {step} since {due} and calls for nobody; is a node running?")
    });
    let paid = settled(&order.payments, EntryKind::Charge) > rust_decimal::Decimal::ZERO;
    let needs_token = saga.direction == Direction::Forward && !paid;
    findings.expect(saga.token.is_none() || needs_token, "I13", || {
        format!("saga {no} keeps a payment token that it no longer needs")
    });
}
