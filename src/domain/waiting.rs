//! What keeps a creation from its charge: a hold, stock that has to be held on to, and the end of its time.
//!
//! Whatever it waits for is a moment in its saga's record, so it is found by its due time after any crash. An order that
//! no saga drives has [`Order::timer`].

use std::time::Duration;

use super::Timestamp;
use super::advance::turn_round;
use super::cause::Cause;
use super::event::OrderEvent;
use super::ids::CallKey;
use super::order::{Order, Reservation, StockState};
use super::payment::{EntryKind, EntryState, in_doubt, settled, stories};
use super::react::{Policy, Reaction, Work};
use super::saga::{Direction, SagaKind, SagaMove, StepCall};
use super::status::{CancelReason, OrderStatus};
use super::stock;

/// In whose name a timer acts.
const PRINCIPAL: &str = "timer";

/// A reservation that was lost so often is given up, whatever inventory says next.
const RESERVE_ATTEMPTS: u32 = 10;

/// What inventory answers when it holds a reservation no more.
const LOST: [&str; 3] = ["RESERVATION_EXPIRED", "RESERVATION_NOT_FOUND", "RESERVATION_RELEASED"];

/// An input for an order that no saga drives.
pub(super) fn timer(order: &Order, now: Timestamp, policy: &Policy) -> Reaction {
    let mut work = Work::on(order, None, Cause::system(PRINCIPAL), now, policy);
    end_hold(&mut work);
    if work.events.is_empty() { Reaction::Unchanged } else { work.commit(None, None, SagaMove::Settled) }
}

/// Records that a hold is over, when its time is.
pub(super) fn end_hold(work: &mut Work<'_>) {
    if work.order.hold.is_some() && !work.order.is_held(work.now) {
        work.emit_as(PRINCIPAL, OrderEvent::OrderReleased { notes: "its time was over".to_owned() });
    }
}

/// The wait until `at`, as those see it who wait for the saga's end.
pub(super) fn until(work: &Work<'_>, at: Timestamp) -> SagaMove {
    if is_held(work) && !is_asking(work) { SagaMove::Held(at) } else { SagaMove::Wait(at) }
}

/// A hold was put on or taken off: what waits for it does not wait for the moment it had chosen before.
pub(super) fn look_again(work: &mut Work<'_>) {
    let waits = is_creating(work)
        && work.order.status == OrderStatus::Pending
        && work.order.reservation.state == StockState::Held
        && !is_asking(work);
    if let Some(saga) = &mut work.saga
        && waits
    {
        saga.next_at = None;
    }
}

/// What a creation has to do, or to wait for, before its next step of money; none lets it go on. An order whose time is
/// over turns round here. A charge that may have happened is made certain before anything else is decided.
pub(super) fn before_payment(work: &mut Work<'_>) -> Option<SagaMove> {
    if !is_creating(work) {
        return None;
    }
    let (now, policy) = (work.now, work.policy);
    let expires_at = expires_at(work);
    if work.order.status == OrderStatus::Pending {
        if is_paid(work) {
            // Confirmed first of all.
            return None;
        }
        let is_over = expires_at.is_some_and(|at| at <= now);
        match in_doubt(&work.order.payments, EntryKind::Charge) {
            None if is_over => {
                turn_round(work, CancelReason::Expired, "", false);
                return None;
            }
            Some(_) if !is_asking(work) && (is_over || is_held(work)) => {
                // The payment service does not know it. An answer counts that was asked for after the last moment at
                // which the charge can have arrived, and no question is under way for longer than the lag.
                let saga = work.saga.as_mut()?;
                let lag = policy.charge_settle_lag.saturating_mul(2);
                let certain_at = later(saga.sent_at.unwrap_or(saga.started_at), lag);
                if now < certain_at {
                    (saga.resend, saga.next_at) = (false, Some(certain_at));
                    return Some(SagaMove::Wait(certain_at));
                }
                if is_over {
                    // On the way back it is asked once more, and nothing is sent that could still arrive.
                    turn_round(work, CancelReason::Expired, "", false);
                    return None;
                }
            }
            _ => {}
        }
    }
    if let Some(call) = renewal(work) {
        if let Some(saga) = &mut work.saga {
            saga.next_at = None;
        }
        return Some(SagaMove::Run(call));
    }
    if work.order.reservation.state != StockState::Held || !is_held(work) || is_asking(work) {
        return None;
    }
    let ends_at = work.order.timer();
    let renewals = held_by_inventory(&work.order).filter_map(|held| renew_at(work, held)).min();
    let next = [ends_at, expires_at, renewals].into_iter().flatten().min().unwrap_or(Timestamp::MAX_UTC);
    if let Some(saga) = &mut work.saga {
        saga.next_at = Some(next);
    }
    Some(SagaMove::Held(next))
}

/// Whether a reserve call with this key renews what inventory holds as far as we know.
pub(super) fn renews(order: &Order, key: &CallKey) -> bool {
    held_by_inventory(order).any(|held| held.key.as_ref() == Some(key))
}

/// Whether a creation cannot do without the stock of this key: it is paid, or has it and only renews it.
pub(super) fn is_bound(work: &Work<'_>, key: &CallKey) -> bool {
    is_creating(work) && (is_paid(work) || renews(&work.order, key))
}

fn held_by_inventory(order: &Order) -> impl Iterator<Item = &Reservation> {
    let is_held = |held: &&Reservation| matches!(held.state, StockState::Held | StockState::Committing);
    stock::reservations(order).filter(is_held)
}

/// Whether the money of a creation is here.
fn is_paid(work: &Work<'_>) -> bool {
    settled(&work.order.payments, EntryKind::Charge) > rust_decimal::Decimal::ZERO
}

/// Whether a refusal says that inventory holds the reservation no more.
pub(super) fn is_lost(reason: &str) -> bool {
    LOST.contains(&reason)
}

/// Books that inventory holds the reservation no more, if that is what `reason` says, and intends to ask for the stock
/// under a new key, unless the saga is about to turn anyway. False when the reason is another one or it happened too often.
pub(super) fn reserve_anew(work: &mut Work<'_>, call: &StepCall, reason: &str) -> bool {
    let reservation = &work.order.reservation;
    let is_first = match call {
        StepCall::Reserve { key, .. } => reservation.key.as_ref() == Some(key),
        StepCall::CommitStock { reservation_id, .. } => reservation.id.as_ref() == Some(reservation_id),
        _ => false,
    };
    if !is_first {
        return lose_addition(work, call, reason);
    }
    let attempt = work.order.reservation.key.as_ref().map_or(1, CallKey::attempt).saturating_add(1);
    let Some(saga) = &mut work.saga else { return false };
    if !is_lost(reason) || attempt > RESERVE_ATTEMPTS {
        return false;
    }
    (saga.tries, saga.last_error) = (0, None);
    let goes_on = saga.turn.is_none() && saga.direction == Direction::Forward;
    let reservation_id = work.order.reservation.id.clone();
    work.emit(OrderEvent::StockLapsed { reservation_id, of: None });
    if goes_on {
        let key = work.attempt("reserve", attempt);
        work.emit(OrderEvent::StockRequested { key, lines: None });
    }
    true
}

/// The same for what an edit added: then it is missing, and what is missing is asked for anyway.
fn lose_addition(work: &mut Work<'_>, call: &StepCall, reason: &str) -> bool {
    let of = match call {
        StepCall::Reserve { key, .. } => stock::name_of(&work.order, key),
        StepCall::CommitStock { reservation_id, .. } => stock::name_by_id(&work.order, reservation_id),
        _ => None,
    };
    let Some(key) = of.filter(|_| is_lost(reason)) else { return false };
    let own = |other: &&Reservation| other.key.as_ref().and_then(CallKey::saga) == key.saga();
    let attempts = u32::try_from(work.order.additions.iter().filter(own).count()).unwrap_or(u32::MAX);
    if attempts >= RESERVE_ATTEMPTS {
        return false;
    }
    let Some(saga) = &mut work.saga else { return false };
    (saga.tries, saga.last_error) = (0, None);
    let is_it = |held: &&Reservation| held.key.as_ref() == Some(&key);
    let reservation_id = work.order.additions.iter().find(is_it).and_then(|held| held.id.clone());
    work.emit(OrderEvent::StockLapsed { reservation_id, of: Some(key) });
    true
}

/// Whether it has been unknown for too long what became of a payment.
pub(super) fn is_unknown_for_long(work: &Work<'_>) -> bool {
    let is_open = |state| matches!(state, EntryState::Requested | EntryState::Unknown);
    let patience = work.policy.unknown_attention_after;
    stories(&work.order.payments)
        .iter()
        .any(|story| is_open(story.last.state) && later(story.first.created_at, patience) <= work.now)
}

/// The call that makes inventory hold on, when that is due. Where a charge is in doubt or taken, its tries and those of
/// what is more urgent take turns, so that neither waits for the other.
fn renewal(work: &Work<'_>) -> Option<StepCall> {
    let is_due = |held: &&Reservation| renew_at(work, held).is_none_or(|at| at <= work.now);
    let due = held_by_inventory(&work.order).find(is_due)?;
    let is_urgent = is_asking(work) || is_paid(work);
    let is_turn = !is_urgent || work.saga.as_ref().is_some_and(|saga| saga.tries.is_multiple_of(2));
    let key = due.key.clone().filter(|_| is_turn)?;
    let lines = stock::lines_of(&work.order, due);
    Some(StepCall::Reserve { key, lines, fresh: false })
}

/// Whether a creation is on its way forward.
fn is_creating(work: &Work<'_>) -> bool {
    let forward = |saga: &super::saga::SagaProgress| {
        saga.kind == SagaKind::Create && saga.direction == Direction::Forward && saga.turn.is_none()
    };
    work.saga.as_ref().is_some_and(forward)
}

/// Whether a hold keeps a creation that is not paid.
fn is_held(work: &Work<'_>) -> bool {
    let is_pending = work.order.status == OrderStatus::Pending;
    is_creating(work) && is_pending && !is_paid(work) && work.order.is_held(work.now)
}

/// Whether a charge may have happened and the payment service has still to say so.
fn is_asking(work: &Work<'_>) -> bool {
    let resend = work.saga.as_ref().is_some_and(|saga| saga.resend);
    !resend && in_doubt(&work.order.payments, EntryKind::Charge).is_some()
}

/// When the time of an order that is not paid is over.
fn expires_at(work: &Work<'_>) -> Option<Timestamp> {
    let after = work.policy.expire_after;
    (!after.is_zero()).then(|| later(work.order.created_at, after))
}

/// When inventory is asked to hold on; none when it is not known since when it holds.
fn renew_at(work: &Work<'_>, held: &Reservation) -> Option<Timestamp> {
    let half = work.policy.reservation_ttl.checked_div(2).unwrap_or_default();
    held.renewed_at.map(|at| later(at, half))
}

fn later(at: Timestamp, wait: Duration) -> Timestamp {
    let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    at.checked_add_signed(chrono::Duration::microseconds(micros)).unwrap_or(Timestamp::MAX_UTC)
}
