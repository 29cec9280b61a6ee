//! The calls that several sagas make: what is read off the order, and the intent that is recorded before each.

use rust_decimal::Decimal;

use super::event::OrderEvent;
use super::ids::CallKey;
use super::item::StockLine;
use super::order::{Reservation, StockState};
use super::payment::{EntryKind, EntryState, in_doubt, stories, taken};
use super::react::Work;
use super::refund::numbered;
use super::saga::{StepCall, StepName};
use super::stock;

/// A step and the call it wants.
pub(super) type Next = (StepName, StepCall);

/// Takes `amount` under `key`, unless that is done; a charge in doubt is asked about first.
pub(super) fn charge(work: &mut Work<'_>, key: CallKey, amount: Decimal) -> Option<Next> {
    let call = match super::payment::state_of(&work.order.payments, &key) {
        Some(EntryState::Succeeded) => return None,
        Some(EntryState::Requested | EntryState::Unknown) => {
            if work.saga.as_ref().is_some_and(|saga| saga.resend) {
                StepCall::Charge { key, amount, fresh: false }
            } else {
                StepCall::QueryCharge { key }
            }
        }
        _ => {
            if !work.ahead {
                work.emit(OrderEvent::ChargeRequested { key: key.clone(), amount });
            }
            StepCall::Charge { key, amount, fresh: true }
        }
    };
    Some((StepName::Charge, call))
}

/// Asks about a charge that may have happened: any, or the one with this key.
pub(super) fn clear_up(work: &Work<'_>, only: Option<&CallKey>) -> Option<Next> {
    let doubt = match only {
        None => in_doubt(&work.order.payments, EntryKind::Charge).map(|entry| entry.key.clone()),
        Some(key) => {
            let state = super::payment::state_of(&work.order.payments, key);
            matches!(state, Some(EntryState::Requested | EntryState::Unknown)).then(|| key.clone())
        }
    };
    doubt.map(|key| (StepName::Charge, StepCall::QueryCharge { key }))
}

/// Gives back what is left of the charges: of all of them, or of the one with this key. A refusal is followed by another
/// attempt, since under its key the answer stays no.
pub(super) fn give_back(work: &mut Work<'_>, step: &str, only: Option<&CallKey>) -> Option<Next> {
    let payments = &work.order.payments;
    let refused = stories(payments)
        .iter()
        .filter(|story| story.last.kind == EntryKind::Refund && story.last.state == EntryState::Failed)
        .count();
    let charge = taken(payments)
        .into_iter()
        .find(|charge| charge.left > Decimal::ZERO && only.is_none_or(|key| charge.entry.key == *key))?;
    let attempt = u32::try_from(refused).unwrap_or(u32::MAX).saturating_add(1);
    let key = work.attempt(&numbered(step, charge.place), attempt);
    let (transaction_id, amount) = (charge.entry.transaction_id.clone(), charge.left);
    Some(refund(work, key, transaction_id, amount))
}

/// Gives `amount` back of whatever charges have it, in as few calls as they allow. None when it went back, or when a call
/// was refused and not even `again` is it to be tried.
pub(super) fn pay_out(work: &mut Work<'_>, step: &str, amount: Decimal, again: bool) -> Option<Next> {
    let mut open = amount;
    let mut part = 0usize;
    loop {
        let name = numbered(step, part);
        let (mut attempt, mut known) = (1u32, None);
        // The last attempt there was.
        loop {
            let key = work.attempt(&name, attempt);
            let Some(entry) = work.order.payments.iter().rfind(|entry| entry.key == key) else { break };
            known = Some(entry);
            if entry.state != EntryState::Failed {
                break;
            }
            attempt = attempt.saturating_add(1);
        }
        match known {
            Some(entry) if entry.state == EntryState::Succeeded => {
                open = open.saturating_sub(entry.amount);
                part = part.saturating_add(1);
                continue;
            }
            Some(entry) if entry.state == EntryState::Failed && !again => return None,
            Some(entry) if entry.state != EntryState::Failed => {
                let transaction_id = entry.parent.clone().unwrap_or_default();
                let (key, amount) = (entry.key.clone(), entry.amount);
                return Some((StepName::Charge, StepCall::Refund { key, transaction_id, amount }));
            }
            _ => {}
        }
        if open <= Decimal::ZERO {
            return None;
        }
        let charges = taken(&work.order.payments);
        let whole = charges.iter().find(|charge| charge.free >= open);
        let charge = whole.or_else(|| charges.iter().max_by_key(|charge| charge.free))?;
        let amount = charge.free.min(open);
        if amount <= Decimal::ZERO {
            return None;
        }
        let transaction_id = charge.entry.transaction_id.clone();
        let key = work.attempt(&name, attempt);
        return Some(refund(work, key, transaction_id, amount));
    }
}

fn refund(work: &mut Work<'_>, key: CallKey, transaction_id: String, amount: Decimal) -> Next {
    if !work.order.payments.iter().any(|entry| entry.key == key) {
        let (key, transaction_id) = (key.clone(), transaction_id.clone());
        work.emit(OrderEvent::RefundRequested { key, transaction_id, amount });
    }
    (StepName::Charge, StepCall::Refund { key, transaction_id, amount })
}

/// Asks for the stock of one of the additions that has no answer yet.
pub(super) fn reserve_addition(work: &mut Work<'_>) -> Option<Next> {
    let open = |addition: &&Reservation| matches!(addition.state, StockState::None | StockState::Requested);
    let addition = work.order.additions.iter().find(open)?;
    let fresh = addition.state == StockState::None;
    let (key, lines) = (addition.key.clone()?, addition.lines.clone().unwrap_or_default());
    if fresh {
        work.emit(OrderEvent::StockRequested { key: key.clone(), lines: Some(lines.clone()) });
    }
    Some((StepName::Reserve, StepCall::Reserve { key, lines, fresh }))
}

/// Asks for more stock.
pub(super) fn add_stock(work: &mut Work<'_>, key: CallKey, lines: Vec<StockLine>) -> Next {
    work.emit(OrderEvent::StockRequested { key: key.clone(), lines: Some(lines.clone()) });
    (StepName::Reserve, StepCall::Reserve { key, lines, fresh: true })
}

/// Takes held stock for good, the first reservation first.
pub(super) fn commit_stock(work: &mut Work<'_>) -> Option<Next> {
    let reservations = stock::reservations(&work.order).enumerate();
    let held = |(_, reservation): &(usize, &Reservation)| {
        matches!(reservation.state, StockState::Held | StockState::Committing)
    };
    let (place, reservation) = reservations.into_iter().find(held)?;
    let (state, reservation_id) = (reservation.state, reservation.id.clone()?);
    let of = reservation.key.clone().filter(|_| place > 0);
    // The first one may have been asked for anew.
    let attempt = reservation.key.as_ref().filter(|_| place == 0).map_or(1, CallKey::attempt);
    let key = work.attempt(&numbered("commit_stock", place), attempt);
    if state == StockState::Held && !work.ahead {
        work.emit(OrderEvent::StockCommitRequested { key: key.clone(), of });
    }
    Some((StepName::CommitStock, StepCall::CommitStock { key, reservation_id }))
}

/// Puts back what the order's items do not need.
pub(super) fn restock_surplus(work: &Work<'_>) -> Option<Next> {
    let (place, reservation, lines) = stock::surplus(&work.order, &work.order.items)?;
    let reservation_id = reservation.id.clone()?;
    let key = work.key(&numbered("restock_surplus", place));
    Some((StepName::Reserve, StepCall::Restock { key, reservation_id, lines }))
}

/// Gives back whatever is held: by all reservations, or by those that this saga asked for.
pub(super) fn let_go(work: &Work<'_>, only: Option<u32>) -> Option<Next> {
    let order = &work.order;
    let all = stock::reservations(order).enumerate();
    let mut live = all.filter(|(_, reservation)| {
        reservation.is_live()
            && only.is_none_or(|saga| reservation.key.as_ref().and_then(CallKey::saga) == Some(saga))
    });
    live.find_map(|(place, reservation)| {
        let call = match (reservation.state, &reservation.id, &reservation.key) {
            (StockState::Committed, Some(id), _) => StepCall::Restock {
                key: work.key(&numbered("restock", place)),
                reservation_id: id.clone(),
                lines: stock::lines_of(order, reservation),
            },
            (StockState::Requested | StockState::Held | StockState::Committing, id, Some(reserve_key)) => {
                StepCall::Release {
                    key: work.key(&numbered("release", place)),
                    reservation_id: id.clone(),
                    reserve_key: reserve_key.clone(),
                }
            }
            _ => return None,
        };
        Some((StepName::Reserve, call))
    })
}
