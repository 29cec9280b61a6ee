//! What the answer of a call means for the order and its saga.

use super::advance::{intend, retry_at, spread, turn_round};
use super::event::OrderEvent;
use super::item::Shortage;
use super::order::LabelState;
use super::payment::{
    EntryKind, EntryState, in_doubt, is_of_another, is_of_edit, money_may_be_here, stories,
};
use super::react::Work;
use super::refund;
use super::saga::{Direction, Failure, StepCall, StepResult, refusal};
use super::status::{CancelReason, OrderStatus};
use super::stock;
use super::waiting;

/// Longest pause after a refusal of what has to happen, in longest waits between retries.
const LONGEST_PAUSE: u32 = 60;

/// A call that did not bring the saga on.
struct Setback {
    dependency: &'static str,
    error: String,
    /// The call surely had no effect.
    unsent: bool,
}

/// Books the answer of `call`. Answers that do not belong to the call count as doubt.
pub(super) fn book(work: &mut Work<'_>, call: &StepCall, result: StepResult) {
    let at_once = matches!(
        (call, &result),
        (StepCall::Charge { .. }, StepResult::Charged { .. })
            | (StepCall::CommitStock { .. }, StepResult::Committed)
    );
    if !at_once {
        intend(work, call);
    }
    let setback = match result {
        StepResult::Unknown { dependency, error } => Setback { dependency, error, unsent: false },
        StepResult::Unavailable { dependency, error } => Setback { dependency, error, unsent: true },
        StepResult::Refused { dependency, reason, shortages } => {
            return refused(work, call, dependency, reason, shortages);
        }
        done => match success(work, call, done) {
            None => return,
            Some(setback) => setback,
        },
    };
    set_back(work, call, setback);
}

/// Books an answer that brings the saga on; gives back what turns out to be a setback.
fn success(work: &mut Work<'_>, call: &StepCall, result: StepResult) -> Option<Setback> {
    match (call, result) {
        (
            StepCall::Charge { key, .. } | StepCall::QueryCharge { key } | StepCall::Refund { key, .. },
            StepResult::Charged { transaction_id: reference, .. }
            | StepResult::Refunded { refund_id: reference },
        ) if is_of_another(&work.order.payments, key, &reference) => {
            let error = "the answer has the reference of another payment".to_owned();
            return Some(Setback { dependency: "payment", error, unsent: false });
        }
        (StepCall::Reserve { key, .. }, StepResult::Reserved { reservation_id }) => {
            if waiting::renews(&work.order, key) {
                let of = stock::name_of(&work.order, key);
                work.emit(OrderEvent::StockRenewed { reservation_id, of });
                if money_may_be_here(&work.order.payments) {
                    // The tries are those of what is more urgent.
                    return None;
                }
            } else {
                let of = stock::name_of(&work.order, key);
                work.emit(OrderEvent::StockReserved { reservation_id, of });
            }
        }
        (
            StepCall::Charge { key, .. } | StepCall::QueryCharge { key },
            StepResult::Charged { transaction_id, gateway_response },
        ) => {
            forget_token(work);
            let requested = work.order.payments.iter().any(|entry| entry.key == *key);
            let asked = match call {
                StepCall::Charge { amount, .. } => *amount,
                _ => work.order.totals.total,
            };
            let amount = (!requested).then_some(asked);
            work.emit(OrderEvent::Charged { key: key.clone(), transaction_id, amount, gateway_response });
        }
        (StepCall::QueryCharge { key }, StepResult::ChargeNotFound) => return not_found(work, key),
        (StepCall::QueryCharge { .. }, StepResult::ChargePending) => {
            let error = "the charge is still being worked on".to_owned();
            return Some(Setback { dependency: "payment", error, unsent: false });
        }
        (StepCall::CommitStock { reservation_id, .. }, StepResult::Committed) => {
            let of = stock::name_by_id(&work.order, reservation_id);
            work.emit(OrderEvent::StockCommitted { reservation_id: reservation_id.clone(), of });
        }
        (StepCall::Refund { key, .. }, StepResult::Refunded { refund_id }) => {
            work.emit(OrderEvent::Refunded { key: key.clone(), refund_id });
        }
        (StepCall::Release { key, reserve_key, .. }, StepResult::Released) => {
            let of = stock::name_of(&work.order, reserve_key);
            work.emit(OrderEvent::StockReturned { key: key.clone(), of, lines: None });
        }
        (StepCall::Restock { key, reservation_id, lines }, StepResult::Restocked) => {
            let of = stock::name_by_id(&work.order, reservation_id);
            let whole = stock::by_id(&work.order, reservation_id)
                .is_none_or(|held| stock::units(&stock::lines_of(&work.order, held)) == stock::units(lines));
            let lines = (!whole).then(|| lines.clone());
            work.emit(OrderEvent::StockReturned { key: key.clone(), of, lines });
        }
        (StepCall::Release { reserve_key, .. }, StepResult::FoundCommitted { reservation_id }) => {
            let of = stock::name_of(&work.order, reserve_key);
            work.emit(OrderEvent::StockFoundCommitted { reservation_id, of });
        }
        (StepCall::CreateLabel { .. }, StepResult::LabelCreated { carrier, tracking_number, label_url }) => {
            if let Some(shipment_id) = shipment_of(work, call) {
                work.emit(OrderEvent::LabelCreated { shipment_id, carrier, tracking_number, label_url });
            }
        }
        (StepCall::VoidLabel { .. }, StepResult::LabelVoided) => {
            if let Some(shipment_id) = shipment_of(work, call) {
                work.emit(OrderEvent::LabelVoided { shipment_id });
            }
        }
        _ => {
            let error = "the answer does not belong to the call".to_owned();
            return Some(Setback { dependency: "order", error, unsent: false });
        }
    }
    if let Some(saga) = &mut work.saga {
        (saga.tries, saga.last_error, saga.attention) = (0, None, None);
    }
    None
}

/// The payment service does not know the charge. Forward: send it (again), same key. Backward: it was never made,
/// if it was asked after the last moment at which a late request can have arrived. When the answer came says
/// nothing about that, so a question that was asked too early is asked once more.
fn not_found(work: &mut Work<'_>, key: &super::ids::CallKey) -> Option<Setback> {
    let lag = chrono::Duration::from_std(work.policy.charge_settle_lag).unwrap_or_default();
    let now = work.now;
    let saga = work.saga.as_mut()?;
    if saga.turn.is_some() {
        // It turns round now and asks again on the way back.
        return None;
    }
    if saga.direction == Direction::Forward {
        saga.resend = true;
        return None;
    }
    let sent_at = saga.sent_at.unwrap_or(saga.started_at);
    let sure_at = sent_at.checked_add_signed(lag).unwrap_or(now);
    if !saga.resend || now < sure_at {
        saga.resend = true;
        saga.next_at = Some(sure_at.max(now));
        return None;
    }
    saga.resend = false;
    forget_token(work);
    work.emit(OrderEvent::ChargeFailed { key: key.clone(), code: "NEVER_ARRIVED".to_owned() });
    None
}

/// The collaborator decided against it.
fn refused(
    work: &mut Work<'_>,
    call: &StepCall,
    dependency: &'static str,
    reason: String,
    shortages: Vec<Shortage>,
) {
    match call {
        StepCall::Reserve { .. } | StepCall::CommitStock { .. }
            if waiting::reserve_anew(work, call, &reason) => {}
        StepCall::Reserve { key, .. } if waiting::renews(&work.order, key) && !waiting::is_lost(&reason) => {
            // It says nothing about what is held, so that is kept.
            set_back(work, call, Setback { dependency, error: reason, unsent: true });
        }
        StepCall::Reserve { key, .. } => {
            let of = stock::name_of(&work.order, key);
            work.emit(OrderEvent::StockRefused { shortages: shortages.clone(), of });
            let failure = if reason == "OUT_OF_STOCK" {
                Failure::OutOfStock { shortages }
            } else {
                Failure::Refused { dependency: dependency.to_owned(), reason }
            };
            fail(work, failure, CancelReason::OutOfStock);
        }
        StepCall::Charge { key, .. } | StepCall::QueryCharge { key } => {
            forget_token(work);
            work.emit(OrderEvent::ChargeFailed { key: key.clone(), code: reason.clone() });
            fail(work, Failure::PaymentDeclined { code: reason }, CancelReason::PaymentDeclined);
        }
        StepCall::CommitStock { .. } => {
            // The reservation is lost for good: give the money back.
            fail(work, Failure::OutOfStock { shortages }, CancelReason::OutOfStock);
        }
        StepCall::CreateLabel { .. } => {
            if let Some(shipment_id) = shipment_of(work, call) {
                work.emit(OrderEvent::LabelVoided { shipment_id });
            }
            let failure = Failure::Refused { dependency: dependency.to_owned(), reason };
            fail(work, failure, CancelReason::DependencyUnavailable);
        }
        StepCall::Refund { key, .. } => {
            work.emit(OrderEvent::RefundFailed { key: key.clone(), code: reason.clone() });
            if is_of_edit(key) {
                return edit_refused(work, call, dependency, reason);
            }
            let wished = refund::is_of_grant(&work.order, key);
            let error = refusal(dependency, &reason);
            if wished { give_up(work, call, error) } else { insist(work, call, error) }
        }
        StepCall::Release { .. } | StepCall::Restock { .. } | StepCall::VoidLabel { .. } => {
            insist(work, call, refusal(dependency, &reason));
        }
    }
}

/// The payment service does not give back what an edit leaves over: then the edit is not made. Where a part of it went back
/// already, the rest has to follow.
fn edit_refused(work: &mut Work<'_>, call: &StepCall, dependency: &str, reason: String) {
    let Some(saga) = &work.saga else { return };
    let (no, forward) = (saga.no, saga.direction == Direction::Forward && saga.turn.is_none());
    let returned = stories(&work.order.payments).iter().any(|story| {
        let key = &story.last.key;
        is_of_edit(key) && key.saga() == Some(no) && story.last.state == EntryState::Succeeded
    });
    if forward && returned {
        insist(work, call, format!("{dependency} refused: {reason}"));
    } else if forward {
        let failure = Failure::Refused { dependency: dependency.to_owned(), reason };
        fail(work, failure, CancelReason::DependencyUnavailable);
    }
}

/// The saga misses its goal and turns round.
fn fail(work: &mut Work<'_>, failure: Failure, reason: CancelReason) {
    let Some(saga) = &mut work.saga else { return };
    if saga.direction == Direction::Backward {
        return;
    }
    saga.failure = Some(failure);
    // A cancellation that came first keeps its reason.
    let turn = saga.turn.take();
    let recorded = turn.is_some();
    let (reason, notes) = turn.map_or((reason, String::new()), |turn| (turn.reason, turn.notes));
    turn_round(work, reason, &notes, recorded);
}

/// A refusal of what somebody wished for: a person is called, and whether it is tried again is for people to say. Of an
/// order that is cancelled meanwhile all money has to go back, and that is insisted on.
fn give_up(work: &mut Work<'_>, call: &StepCall, error: String) {
    let (step, _) = call.station();
    let is_cancelled = work.order.status == OrderStatus::Cancelling;
    let Some(saga) = &mut work.saga else { return };
    saga.tries = 0;
    saga.last_error = Some(error.clone());
    let no = saga.no;
    if !is_cancelled {
        work.emit(OrderEvent::AttentionNeeded { saga: no, step, reason: error });
    }
}

/// A refusal of something that has to happen: a person is called at once, and it is tried again at leisure. The
/// pause grows with every no, so that the ledger of an order that waits for weeks stays short.
fn insist(work: &mut Work<'_>, call: &StepCall, error: String) {
    let (step, _) = call.station();
    let now = work.now;
    let Some(saga) = &mut work.saga else { return };
    saga.tries = saga.tries.saturating_add(1);
    let pause = work.policy.retry_max.saturating_mul(saga.tries.min(LONGEST_PAUSE));
    saga.next_at = Some(spread(now, pause, call.key(), saga.tries));
    saga.last_error = Some(error.clone());
    let (no, flagged) = (saga.no, saga.attention.replace(error.clone()).is_some());
    if !flagged {
        work.emit(OrderEvent::AttentionNeeded { saga: no, step, reason: error });
    }
}

/// The call did not bring the saga on: it is tried again later, or given up where that is allowed.
fn set_back(work: &mut Work<'_>, call: &StepCall, setback: Setback) {
    let Setback { dependency, error, unsent } = setback;
    let mut certain = false;
    match call {
        StepCall::Reserve { key, fresh, .. } if unsent && *fresh => {
            certain = true;
            work.emit(OrderEvent::StockUnsent { key: key.clone() });
        }
        StepCall::Charge { key, fresh, .. } => {
            if unsent && *fresh {
                certain = true;
                work.emit(OrderEvent::ChargeUnsent { key: key.clone() });
            } else if last_state(work, call) != Some(EntryState::Unknown) {
                work.emit(OrderEvent::ChargeUnknown { key: key.clone() });
            }
        }
        StepCall::Refund { key, .. } if !unsent && last_state(work, call) != Some(EntryState::Unknown) => {
            work.emit(OrderEvent::RefundUnknown { key: key.clone() });
        }
        _ => {}
    }
    let (now, policy) = (work.now, work.policy);
    let Some(saga) = &mut work.saga else { return };
    if matches!(call, StepCall::Charge { .. }) && !certain {
        // Not before the moment until which somebody who lost the order may have gone on with it.
        saga.sent_at = saga.sent_at.max(Some(now));
    }
    saga.tries = saga.tries.saturating_add(1);
    saga.last_error = Some(error.clone());
    let (no, tries, direction) = (saga.no, saga.tries, saga.direction);
    let (step, _) = call.station();
    // An unknown charge and what comes after a charge are never given up.
    let may_give_up = direction == Direction::Forward
        && match call {
            // A saga that ran ahead and was interrupted asks again for stock, and it may have been paid by then.
            StepCall::Reserve { key, .. } => {
                in_doubt(&work.order.payments, EntryKind::Charge).is_none() && !waiting::is_bound(work, key)
            }
            StepCall::CreateLabel { .. } => true,
            StepCall::Charge { .. } => certain,
            _ => false,
        };
    if may_give_up && tries >= policy.forward_tries {
        let failure = Failure::DependencyUnavailable { dependency: dependency.to_owned() };
        fail(work, failure, CancelReason::DependencyUnavailable);
        return;
    }
    let next_at = retry_at(work, call.key(), tries);
    let is_unknown_for_long = waiting::is_unknown_for_long(work);
    let Some(saga) = &mut work.saga else { return };
    saga.next_at = Some(next_at);
    let long = tries >= policy.attention_after_tries || is_unknown_for_long;
    let attention = !may_give_up && long && saga.attention.is_none();
    if attention {
        saga.attention = Some(error.clone());
    }
    // The history of a long outage stays short: past the call for a person only the saga's record changes.
    if tries <= policy.attention_after_tries {
        let error = error.clone();
        work.emit(OrderEvent::StepDelayed { saga: no, step, direction, tries, error, next_at });
    }
    if attention {
        work.emit(OrderEvent::AttentionNeeded { saga: no, step, reason: error });
    }
}

fn forget_token(work: &mut Work<'_>) {
    if let Some(saga) = &mut work.saga {
        saga.token = None;
    }
}

fn last_state(work: &Work<'_>, call: &StepCall) -> Option<EntryState> {
    stories(&work.order.payments)
        .iter()
        .find(|story| story.last.key == *call.key())
        .map(|story| story.last.state)
}

fn shipment_of(work: &Work<'_>, call: &StepCall) -> Option<uuid::Uuid> {
    work.order
        .shipments
        .iter()
        .find(|shipment| shipment.key.as_ref() == Some(call.key()) && shipment.state != LabelState::Voided)
        .map(|shipment| shipment.id)
}
