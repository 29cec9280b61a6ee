//! What a saga does next, read off the order: the walk forward and the walk back.
//!
//! Called only when no call is under way, so an intent without an answer means doubt, and doubt is resolved by the
//! same key: a reservation is asked for again, a charge is queried before anything else.

use std::time::Duration;

use rust_decimal::Decimal;

use super::Timestamp;
use super::amend;
use super::calls::{self, Next};
use super::event::OrderEvent;
use super::ids::CallKey;
use super::order::{LabelState, Reservation, StockState};
use super::payment::{EDIT_REFUND, EntryState, is_of_edit, money_may_be_here, stories};
use super::react::Work;
use super::refund::STEP as REFUND;
use super::saga::{Direction, Failure, SagaKind, SagaMove, StepCall, StepName};
use super::status::{CancelReason, OrderStatus};
use super::stock;
use super::waiting;

/// Brings the saga to its next call, wait or end, recording intents and status changes on the way.
pub(super) fn advance(work: &mut Work<'_>) -> SagaMove {
    let Some(saga) = &mut work.saga else { return SagaMove::Settled };
    if let Some(turn) = saga.turn.take() {
        turn_round(work, turn.reason, &turn.notes, true);
    }
    let Some(saga) = &work.saga else { return SagaMove::Settled };
    if let Some(at) = saga.next_at
        && at > work.now
    {
        return waiting::until(work, at);
    }
    if let Some(act) = waiting::before_payment(work) {
        return act;
    }
    let Some(saga) = &work.saga else { return SagaMove::Settled };
    let (kind, direction) = (saga.kind, saga.direction);
    let next = match (kind, direction) {
        (SagaKind::Create, Direction::Forward) => create_forward(work),
        (SagaKind::Fulfil, Direction::Forward) => fulfil_forward(work),
        (SagaKind::Amend, Direction::Forward) => amend_forward(work),
        (_, _) => backward(work),
    };
    let Some((step, call)) = next else {
        settle(work);
        return SagaMove::Settled;
    };
    let now = work.now;
    if let Some(saga) = &mut work.saga {
        if saga.step != Some(step) {
            saga.step = Some(step);
            saga.tries = 0;
            saga.last_error = None;
            saga.attention = None;
        }
        saga.next_at = None;
        if matches!(call, StepCall::Charge { .. } | StepCall::Refund { .. }) {
            saga.sent_at = saga.sent_at.max(Some(now));
        }
        if matches!(call, StepCall::Charge { .. }) {
            saga.resend = false;
        }
    }
    SagaMove::Run(call)
}

/// Reserve, charge, confirm, commit the reservation. An edit before the charge may have left more or less to reserve.
fn create_forward(work: &mut Work<'_>) -> Option<Next> {
    match work.order.reservation.state {
        StockState::None | StockState::Requested => {
            // One that was asked for anew has a later attempt's key.
            let key = work.order.reservation.key.clone().unwrap_or_else(|| work.key("reserve"));
            let fresh = work.order.reservation.state == StockState::None;
            if fresh {
                work.emit(OrderEvent::StockRequested { key: key.clone(), lines: None });
            }
            let lines = stock::lines_of(&work.order, &work.order.reservation);
            return Some((StepName::Reserve, StepCall::Reserve { key, lines, fresh }));
        }
        _ => {}
    }
    // Also once it is paid: what an edit added may have been lost since.
    if matches!(work.order.status, OrderStatus::Pending | OrderStatus::Confirmed) {
        if let Some(next) = calls::reserve_addition(work) {
            return Some(next);
        }
        let missing = stock::missing(&work.order, &work.order.items);
        if !missing.is_empty() {
            let number = u32::try_from(work.order.additions.len()).unwrap_or(u32::MAX);
            let key = work.attempt("reserve_more", number.saturating_add(1));
            return Some(calls::add_stock(work, key, missing));
        }
    }
    let total = work.order.totals.total;
    if !total.is_zero() {
        let key = work.key("charge");
        if let Some(next) = calls::charge(work, key, total) {
            return Some(next);
        }
    }
    if work.order.status == OrderStatus::Pending {
        change_status(work, OrderStatus::Confirmed, "", None);
    }
    calls::commit_stock(work).or_else(|| calls::restock_surplus(work))
}

/// Reserve what is more, charge or refund the difference, commit; then the order has its new items, and what is too much
/// of the old ones goes back.
fn amend_forward(work: &mut Work<'_>) -> Option<Next> {
    let amendment = work.order.amendment.clone()?;
    if amendment.applied {
        return calls::restock_surplus(work);
    }
    if let Some(next) = calls::reserve_addition(work) {
        return Some(next);
    }
    let missing = stock::missing(&work.order, &amendment.items);
    if !missing.is_empty() {
        // The first, or one more for what was lost.
        let own =
            |addition: &&Reservation| addition.key.as_ref().and_then(CallKey::saga) == Some(amendment.saga);
        let number = u32::try_from(work.order.additions.iter().filter(own).count()).unwrap_or(u32::MAX);
        let key = work.attempt("reserve", number.saturating_add(1));
        return Some(calls::add_stock(work, key, missing));
    }
    let delta = amendment.totals.total.saturating_sub(work.order.totals.total);
    if delta > Decimal::ZERO {
        let key = work.key("charge");
        if let Some(next) = calls::charge(work, key, delta) {
            return Some(next);
        }
    }
    if let Some(next) = calls::commit_stock(work) {
        return Some(next);
    }
    if delta < Decimal::ZERO
        && let Some(next) = calls::pay_out(work, EDIT_REFUND, delta.abs(), true)
    {
        return Some(next);
    }
    let (before, totals) = (work.order.totals, amendment.totals);
    let changes = amend::changes(&work.order.items, &amendment.items);
    work.emit(OrderEvent::ItemsChanged { changes, before, totals });
    calls::restock_surplus(work)
}

/// The way back of an edit, as far as it is its own: what may have moved is made certain first, also when the whole order is
/// cancelled; then, unless it is, what was taken for the edit goes back, and the order stands as it stood.
fn amend_backward(work: &mut Work<'_>) -> Option<Next> {
    let amendment = work.order.amendment.clone()?;
    let open = |entry: &EntryState| {
        matches!(entry, EntryState::Requested | EntryState::Unknown | EntryState::Unsent)
    };
    let going = stories(&work.order.payments)
        .iter()
        .map(|story| story.last)
        .find(|last| is_of_edit(&last.key) && last.key.saga() == Some(amendment.saga) && open(&last.state))
        .map(|last| (last.key.clone(), last.parent.clone().unwrap_or_default(), last.amount));
    if let Some((key, transaction_id, amount)) = going {
        return Some((StepName::Charge, StepCall::Refund { key, transaction_id, amount }));
    }
    if work.order.status == OrderStatus::Cancelling {
        return None;
    }
    if amendment.applied {
        return calls::restock_surplus(work);
    }
    let charge = work.key("charge");
    if let Some(next) = calls::clear_up(work, Some(&charge)) {
        return Some(next);
    }
    if let Some(next) = calls::give_back(work, REFUND, Some(&charge)) {
        return Some(next);
    }
    calls::let_go(work, Some(amendment.saga))
}

/// Records what a saga that nobody drives may have called while it ran ahead of what is stored. No call is under way, so
/// whoever drove it is gone.
pub(super) fn doubt(work: &mut Work<'_>) {
    let is_free = work.order.totals.total.is_zero();
    let now = work.now;
    let Some(saga) = work.saga.as_mut().filter(|saga| saga.ahead) else { return };
    saga.ahead = false;
    if is_free {
        return;
    }
    // Whoever was ahead and does not know yet that it lost the order goes on for no longer than this.
    let longest = chrono::Duration::from_std(work.policy.run_ahead).unwrap_or_default();
    saga.sent_at = now.checked_add_signed(longest);
    let (key, amount) = (work.key("charge"), work.order.totals.total);
    intend(work, &StepCall::Charge { key, amount, fresh: false });
}

/// Records the intent of a call that was made ahead of it. The others are always recorded before they are made.
pub(super) fn intend(work: &mut Work<'_>, call: &StepCall) {
    match call {
        StepCall::Charge { key, amount, .. } if work.order.payments.iter().all(|entry| entry.key != *key) => {
            work.emit(OrderEvent::ChargeRequested { key: key.clone(), amount: *amount });
        }
        StepCall::CommitStock { key, reservation_id } => {
            let of = stock::name_by_id(&work.order, reservation_id);
            let held = stock::by_id(&work.order, reservation_id);
            if held.is_some_and(|held| held.state == StockState::Held) {
                work.emit(OrderEvent::StockCommitRequested { key: key.clone(), of });
            }
        }
        _ => {}
    }
}

/// Make the label.
fn fulfil_forward(work: &mut Work<'_>) -> Option<Next> {
    let key = work.key("label");
    let state = work
        .order
        .shipments
        .iter()
        .find(|shipment| shipment.key.as_ref() == Some(&key))
        .map(|shipment| shipment.state);
    match state {
        None => {
            let shipment_id = work.order.id.part("shipment", work.order.shipments.len() as u64);
            work.emit(OrderEvent::LabelRequested { shipment_id, key: key.clone() });
            Some((StepName::Label, StepCall::CreateLabel { key }))
        }
        Some(LabelState::Requested) => Some((StepName::Label, StepCall::CreateLabel { key })),
        Some(LabelState::Created | LabelState::Voided) => None,
    }
}

/// Undo what was or may have been done, last things first: label, money, stock.
fn backward(work: &mut Work<'_>) -> Option<Next> {
    let kind = work.saga.as_ref().map(|saga| saga.kind);
    if kind == Some(SagaKind::Refund) {
        // What may have been given back already is made certain before anything else, also when it is cancelled.
        if let Some(next) = wished(work) {
            return Some(next);
        }
        if work.order.status != OrderStatus::Cancelling {
            return None;
        }
    }
    if kind == Some(SagaKind::Amend) {
        if let Some(next) = amend_backward(work) {
            return Some(next);
        }
        if work.order.status != OrderStatus::Cancelling {
            return None;
        }
    }
    let order = &work.order;
    if kind != Some(SagaKind::Return) {
        // Of an order that goes on, only the label that could not be made is void.
        let own = work.key("label");
        let all = kind != Some(SagaKind::Fulfil) || order.status == OrderStatus::Cancelling;
        let mut live = order.shipments.iter().filter(|shipment| {
            shipment.state != LabelState::Voided && (all || shipment.key.as_ref() == Some(&own))
        });
        if let Some(key) = live.find_map(|shipment| shipment.key.clone()) {
            return Some((StepName::Label, StepCall::VoidLabel { key }));
        }
    }
    if kind == Some(SagaKind::Fulfil) && order.status != OrderStatus::Cancelling {
        return None;
    }
    if let Some(next) = calls::clear_up(work, None) {
        return Some(next);
    }
    // That of the wish is another call of the same saga.
    let step = if kind == Some(SagaKind::Refund) { "refund_rest" } else { REFUND };
    if let Some(next) = calls::give_back(work, step, None) {
        return Some(next);
    }
    // What an edit left over may be on its way back already: that is made certain by the same call before the rest goes.
    let applied = work.order.amendment.as_ref().is_some_and(|amendment| amendment.applied);
    let surplus = (kind == Some(SagaKind::Create) || applied).then(|| calls::restock_surplus(work)).flatten();
    surplus.or_else(|| calls::let_go(work, None))
}

/// The refund that the running saga was started for, until it is certain what became of it.
fn wished(work: &mut Work<'_>) -> Option<Next> {
    let no = work.saga.as_ref()?.no;
    let amount = work.order.grants.iter().find(|grant| grant.saga == no)?.amount;
    calls::pay_out(work, REFUND, amount, false)
}

/// Turns the running saga round: from now on it undoes. The event stands already where a caller asked for it.
pub(super) fn turn_round(work: &mut Work<'_>, reason: CancelReason, notes: &str, recorded: bool) {
    let Some(saga) = &mut work.saga else { return };
    if !notes.is_empty() {
        notes.clone_into(&mut saga.notes);
    }
    if saga.direction == Direction::Backward {
        return;
    }
    let no = saga.no;
    saga.direction = Direction::Backward;
    (saga.step, saga.tries, saga.next_at, saga.resend) = (None, 0, None, false);
    // Nothing is charged on the way back.
    saga.token = None;
    let applied = work.order.amendment.as_ref().is_some_and(|amendment| amendment.applied);
    if saga.kind == SagaKind::Amend && saga.failure.is_none() && !applied {
        saga.failure = Some(Failure::Cancelled);
    }
    let ends_order = saga.kind == SagaKind::Create || work.order.status == OrderStatus::Cancelling;
    if !ends_order {
        return;
    }
    if !recorded {
        work.emit(OrderEvent::SagaTurned { saga: no, reason });
    }
    let reason = work.order.cancel_reason;
    match work.order.status {
        OrderStatus::Pending if !money_may_be_here(&work.order.payments) => {}
        OrderStatus::Pending | OrderStatus::Confirmed => {
            change_status(work, OrderStatus::Cancelling, notes, reason);
        }
        _ => {}
    }
}

/// Books the end of the saga and the status it leads to.
fn settle(work: &mut Work<'_>) {
    let Some(saga) = &work.saga else { return };
    let (no, kind, direction, notes) = (saga.no, saga.kind, saga.direction, saga.notes.clone());
    let failure = saga.failure.clone();
    match (kind, direction) {
        (SagaKind::Fulfil, Direction::Forward) => {
            change_status(work, OrderStatus::Processing, &notes, None);
        }
        (SagaKind::Create | SagaKind::Cancel, Direction::Backward) => end(work, &notes),
        (SagaKind::Fulfil | SagaKind::Refund | SagaKind::Amend, Direction::Backward)
            if work.order.status == OrderStatus::Cancelling =>
        {
            end(work, &notes);
        }
        _ => {}
    }
    work.emit(OrderEvent::SagaSettled { saga: no, failure });
    if let Some(saga) = &mut work.saga {
        saga.settled = true;
        (saga.step, saga.next_at, saga.attention, saga.token) = (None, None, None, None);
    }
}

fn end(work: &mut Work<'_>, notes: &str) {
    let reason = work.order.cancel_reason;
    change_status(work, OrderStatus::Cancelled, notes, reason);
}

/// Records a change of status, unless it is the same.
pub(super) fn change_status(work: &mut Work<'_>, to: OrderStatus, notes: &str, reason: Option<CancelReason>) {
    let from = work.order.status;
    if from != to {
        work.emit(OrderEvent::StatusChanged { from, to, notes: notes.to_owned(), reason });
    }
}

/// The moment of the next try: exponential and capped.
pub(super) fn retry_at(work: &Work<'_>, key: &CallKey, tries: u32) -> Timestamp {
    let policy = work.policy;
    let doubled = 2u32.saturating_pow(tries.saturating_sub(1).min(20));
    spread(work.now, policy.retry_initial.saturating_mul(doubled).min(policy.retry_max), key, tries)
}

/// Between half and all of `full` from now, by a hash of key and count: orders that failed together do not come back
/// together. In whole microseconds, as every stored moment.
pub(super) fn spread(now: Timestamp, full: Duration, key: &CallKey, tries: u32) -> Timestamp {
    use sha2::{Digest, Sha256};
    let hash = Sha256::new().chain_update(key.as_str()).chain_update(tries.to_be_bytes()).finalize();
    let part = hash.first().copied().map_or(128, u32::from).saturating_add(1);
    let micros = full.as_micros().saturating_mul(u128::from(part).saturating_add(256)).checked_div(512);
    let wait = micros.and_then(|micros| i64::try_from(micros).ok()).map(chrono::Duration::microseconds);
    wait.and_then(|wait| now.checked_add_signed(wait)).unwrap_or(Timestamp::MAX_UTC)
}
