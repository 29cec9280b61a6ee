//! Repairs by operators: what may be done by hand to an order whose saga waits, and what is refused because it would break
//! an invariant.
//!
//! Each is a command like any other, and stands in the history as [`OrderEvent::Repaired`] with who, why and on what
//! evidence. None of them gives a saga another direction: one that undoes never turns forward again.
//!
//! - A retry makes the call that waits due now and forgets its backoff. It is the call that would be made anyway, with the
//!   same key, so it is harmless in either direction; what has to be waited for to be certain (a charge that may still
//!   arrive) is waited for again.
//! - A skip says that somebody did by hand what a step insists on. Only two steps may be skipped: the voiding of a label,
//!   which can be done twice, and a restock that inventory has refused, which therefore did not happen. Charges, refunds,
//!   reservations, commits and releases are refused: what they did, or may have done, would be lost.
//! - A settlement says what became of a charge or refund in doubt, on evidence from outside. That it did not happen is
//!   believed only once no call that was sent can still arrive.

mod explain;

pub use explain::{Attempt, Choice, Explanation, Waits, explain, method};

use super::Timestamp;
use super::advance::{advance, doubt};
use super::book::book;
use super::cause::Cause;
use super::command::Ask;
use super::decide::{begin, record};
use super::error::OrderError;
use super::event::OrderEvent;
use super::ids::CallKey;
use super::order::Order;
use super::payment::{EntryKind, EntryState, LedgerEntry, is_of_another, stories};
use super::react::{Policy, Reaction, Work};
use super::saga::{Direction, SagaMove, SagaProgress, StepCall, StepName, StepResult};
use super::sealed::PersonalData;
use super::status::names;
use super::text::Violation;

/// Longest reason or evidence, in characters.
pub const REASON_CHARS: usize = 500;
/// Longest name of who asks for a repair, in characters.
pub const BY_CHARS: usize = 100;
/// Longest reference of a payment service that is given as evidence, in characters.
pub const REFERENCE_CHARS: usize = 100;

names! {
    /// What an operator did.
    RepairKind {
        /// Made a call that waited due at once.
        RetryStep = "RETRY_STEP",
        /// Did by hand what a step insisted on.
        SkipStep = "SKIP_STEP",
        /// Told what became of a charge or refund in doubt.
        ResolvePayment = "RESOLVE_PAYMENT",
        /// Let an order that was set aside be used again.
        Unquarantine = "UNQUARANTINE",
        /// Took out names, address lines, telephone numbers, email addresses and notes for good.
        ErasePersonalData = "ERASE_PERSONAL_DATA",
        /// Wrote names and addresses again, so that they are stored encrypted.
        EncryptPersonalData = "ENCRYPT_PERSONAL_DATA",
    }
}

names! {
    /// What became of a charge or refund, by evidence from outside.
    Outcome {
        /// The customer was charged.
        Charged = "CHARGED",
        /// The customer was not charged.
        NotCharged = "NOT_CHARGED",
        /// The money went back.
        Refunded = "REFUNDED",
        /// The money did not go back.
        NotRefunded = "NOT_REFUNDED",
    }
}

impl Outcome {
    /// What it is about.
    pub fn kind(self) -> EntryKind {
        match self {
            Self::Charged | Self::NotCharged => EntryKind::Charge,
            Self::Refunded | Self::NotRefunded => EntryKind::Refund,
        }
    }

    /// Whether it says that the call had its effect.
    pub fn happened(self) -> bool {
        matches!(self, Self::Charged | Self::Refunded)
    }
}

/// Where the operator saw the saga. A repair is refused when it is elsewhere by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// At this step; none = whichever it is.
    pub step: Option<StepName>,
    /// Walking this way; none = whichever it is.
    pub direction: Option<Direction>,
}

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Make the call that waits due now.
    Retry(Seen),
    /// Take the call that waits as done: somebody did it by hand.
    Skip(Seen),
    /// Settle a charge or refund in doubt.
    Settle {
        /// What became of it.
        outcome: Outcome,
        /// The payment service's reference, 1..=100 characters; needed where it happened.
        reference: Option<String>,
        /// Which call; needed where several are in doubt.
        key: Option<CallKey>,
    },
    /// Only recorded here: what was set aside is let go before.
    Unquarantine,
    /// Take the personal data out for good.
    ErasePersonalData,
    /// Write the addresses again: the store encrypts what it writes, and what was stored before that may be plain.
    EncryptPersonalData,
}

impl Repair {
    /// What it is called.
    pub fn kind(&self) -> RepairKind {
        match self {
            Self::Retry(_) => RepairKind::RetryStep,
            Self::Skip(_) => RepairKind::SkipStep,
            Self::Settle { .. } => RepairKind::ResolvePayment,
            Self::Unquarantine => RepairKind::Unquarantine,
            Self::ErasePersonalData => RepairKind::ErasePersonalData,
            Self::EncryptPersonalData => RepairKind::EncryptPersonalData,
        }
    }
}

/// A repair with what the history keeps of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairOrder {
    /// What is asked for.
    pub repair: Repair,
    /// Why, or the evidence; 1..=500 characters, without personal data.
    pub reason: String,
    /// Who, besides the principal; at most 100 characters, empty = nobody else.
    pub by: String,
}

/// Takes or refuses a repair.
pub(super) fn decide(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    wanted: &RepairOrder,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    if wanted.repair == Repair::ErasePersonalData && is_erased(order, saga) {
        return Ok(super::decide::unchanged(order, saga, ask, calling, now, policy));
    }
    let mut work = begin(order, saga, ask, now, policy);
    let act = apply(&mut work, wanted, calling)?;
    Ok(work.commit(record(ask, None), None, act))
}

/// Whether there is nothing left to take out.
fn is_erased(order: &Order, saga: Option<&SagaProgress>) -> bool {
    let is_quiet = |saga: &SagaProgress| {
        saga.notes.is_empty() && saga.turn.as_ref().is_none_or(|turn| turn.notes.is_empty())
    };
    order.personal_data() == PersonalData::Erased
        && order.notes.is_empty()
        && order.metadata.is_empty()
        && saga.is_none_or(is_quiet)
}

fn apply(work: &mut Work<'_>, wanted: &RepairOrder, calling: bool) -> Result<SagaMove, OrderError> {
    if !calling {
        doubt(work);
    }
    match &wanted.repair {
        Repair::Retry(seen) => retry(work, wanted, *seen, calling)?,
        Repair::Skip(seen) => skip(work, wanted, *seen, calling)?,
        Repair::Settle { outcome, reference, key } => {
            settle(work, wanted, (*outcome, reference.as_deref(), key.as_ref()), calling)?;
        }
        Repair::ErasePersonalData => {
            tell(work, wanted, None);
            // Else what was noted would come back with the event that ends the saga.
            if let Some(saga) = &mut work.saga {
                saga.notes.clear();
                if let Some(turn) = &mut saga.turn {
                    turn.notes.clear();
                }
            }
        }
        Repair::Unquarantine | Repair::EncryptPersonalData => tell(work, wanted, None),
    }
    Ok(match work.saga {
        None => SagaMove::Settled,
        Some(_) if calling => SagaMove::Keep,
        Some(_) => advance(work),
    })
}

/// The same call, with the same key, at once.
fn retry(work: &mut Work<'_>, wanted: &RepairOrder, seen: Seen, calling: bool) -> Result<(), OrderError> {
    let call = waiting(work, seen, calling)?;
    tell(work, wanted, call.as_ref());
    if let Some(saga) = &mut work.saga {
        (saga.next_at, saga.tries) = (None, 0);
    }
    Ok(())
}

/// As if the call had been answered as hoped for.
fn skip(work: &mut Work<'_>, wanted: &RepairOrder, seen: Seen, calling: bool) -> Result<(), OrderError> {
    let Some(call) = waiting(work, seen, calling)? else {
        return refuse(work, "the saga has no call left to make; retry the step to let it end");
    };
    let (was_tried, was_refused) =
        work.saga.as_ref().map_or((false, false), |saga| (saga.tries > 0, saga.was_refused()));
    let done = match &call {
        StepCall::VoidLabel { .. } if was_tried => StepResult::LabelVoided,
        StepCall::Restock { .. } if was_refused => StepResult::Restocked,
        StepCall::VoidLabel { .. } => {
            return refuse(work, "voiding the label has not failed; let it be tried before it is skipped");
        }
        StepCall::Restock { .. } => {
            let what = "inventory has not refused the restock, so it may have happened or still happen, and stock that \
                        is put back by hand would be there twice; retry the step, it is the same call";
            return refuse(work, what);
        }
        StepCall::Charge { .. } | StepCall::QueryCharge { .. } | StepCall::Refund { .. } => {
            let what = "a step that moves money is never skipped: the money would be unexplained; settle it by \
                        evidence, or retry the step";
            return refuse(work, what);
        }
        StepCall::Release { .. } => {
            let what = "stock is or may be held, and skipping its release would leak it; mend inventory and retry the \
                        step";
            return refuse(work, what);
        }
        _ => {
            let what = "what follows needs what this step brings, so it is never skipped; retry the step, or cancel \
                        the order";
            return refuse(work, what);
        }
    };
    tell(work, wanted, Some(&call));
    book(work, &call, done);
    if let Some(saga) = &mut work.saga {
        saga.next_at = None;
    }
    Ok(())
}

/// As if the payment service had said so.
fn settle(
    work: &mut Work<'_>,
    wanted: &RepairOrder,
    (outcome, reference, key): (Outcome, Option<&str>, Option<&CallKey>),
    calling: bool,
) -> Result<(), OrderError> {
    if calling {
        return Err(OrderError::Busy { status: work.order.status });
    }
    let entry = in_question(work, outcome.kind(), key)?;
    // What comes before it is made certain first: an order is not paid before its stock is known to be held.
    let next = work.saga.as_ref().and_then(|saga| next_call(&work.order, saga, work.now, work.policy));
    if let Some(next) = next.filter(|next| *next.key() != entry.key) {
        return refuse(work, format!("{} comes before it; retry that step first", method(&next)));
    }
    let reference = reference.unwrap_or_default();
    if outcome.happened() && reference.is_empty() {
        let expected = "expected the payment service's reference of what happened";
        return Err(OrderError::Invalid(vec![Violation::invalid("reference", expected)]));
    }
    if !outcome.happened() && !reference.is_empty() {
        let expected = "expected no reference of what did not happen";
        return Err(OrderError::Invalid(vec![Violation::invalid("reference", expected)]));
    }
    if let Some(sure_at) = work.saga.as_ref().map(|saga| sure_at(saga, work.policy))
        && !outcome.happened()
        && work.now < sure_at
    {
        let what = format!(
            "the call may still arrive until {}; only then can be known that it did not happen",
            sure_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        );
        return refuse(work, what);
    }
    if outcome.happened() && is_of_another(&work.order.payments, &entry.key, reference) {
        return refuse(work, "another payment of this order has this reference already");
    }
    let (key, amount) = (entry.key.clone(), entry.amount);
    let refused = || StepResult::Refused {
        dependency: "payment",
        reason: outcome.as_str().to_owned(),
        shortages: Vec::new(),
    };
    let (call, result) = match outcome {
        Outcome::Charged => {
            let (transaction_id, gateway_response) = (reference.to_owned(), None);
            (StepCall::QueryCharge { key }, StepResult::Charged { transaction_id, gateway_response })
        }
        Outcome::NotCharged => (StepCall::QueryCharge { key }, refused()),
        Outcome::Refunded | Outcome::NotRefunded => {
            let transaction_id = entry.parent.clone().unwrap_or_default();
            let happened = StepResult::Refunded { refund_id: reference.to_owned() };
            let result = if outcome.happened() { happened } else { refused() };
            (StepCall::Refund { key, transaction_id, amount }, result)
        }
    };
    tell(work, wanted, Some(&call));
    book(work, &call, result);
    if let Some(saga) = &mut work.saga {
        // A refund that has to be made is asked for again under a key of its own, at once.
        (saga.next_at, saga.resend) = (None, false);
    }
    Ok(())
}

/// The call of the ledger that is in doubt.
fn in_question(work: &Work<'_>, kind: EntryKind, key: Option<&CallKey>) -> Result<LedgerEntry, OrderError> {
    let open: Vec<&LedgerEntry> = doubtful(&work.order)
        .into_iter()
        .filter(|entry| entry.kind == kind && key.is_none_or(|key| *key == entry.key))
        .collect();
    let name = kind.as_str().to_lowercase();
    match (open.as_slice(), &work.saga) {
        ([entry], Some(_)) => Ok((*entry).clone()),
        ([], _) | (_, None) => {
            refuse(work, format!("no such {name} is in doubt, so there is nothing to settle"))
        }
        _ => refuse(work, format!("more than one {name} is in doubt; name the key of the one that is meant")),
    }
}

/// The calls of the ledger that may or may not have happened.
fn doubtful(order: &Order) -> Vec<&LedgerEntry> {
    let is_open = |state| matches!(state, EntryState::Requested | EntryState::Unknown);
    stories(&order.payments).into_iter().map(|story| story.last).filter(|last| is_open(last.state)).collect()
}

/// From when on nothing that was sent for this saga can still arrive.
fn sure_at(saga: &SagaProgress, policy: &Policy) -> Timestamp {
    let lag = chrono::Duration::from_std(policy.charge_settle_lag).unwrap_or_default();
    let sent_at = saga.sent_at.unwrap_or(saga.started_at);
    sent_at.checked_add_signed(lag).unwrap_or(Timestamp::MAX_UTC)
}

/// The call that the saga waits to make, if it waits where it was seen; none where all that is left is to end.
fn waiting(work: &Work<'_>, seen: Seen, calling: bool) -> Result<Option<StepCall>, OrderError> {
    let Some(saga) = work.saga.as_ref().filter(|saga| !saga.settled) else {
        let what = if work.order.attention.is_some() {
            "no saga runs, so nothing waits to be tried; a refund that was refused is asked for again as a refund of its own"
        } else {
            "no saga runs, so nothing waits"
        };
        return refuse(work, what);
    };
    let (step, direction) = (saga.step, saga.direction);
    if seen.direction == Some(Direction::Forward) && direction == Direction::Backward {
        return refuse(work, "the saga undoes by now, and no repair turns it forward again");
    }
    if seen.direction.is_some_and(|seen| seen != direction)
        || seen.step.is_some_and(|seen| Some(seen) != step)
    {
        let step = step.map_or("no step", StepName::as_str);
        return refuse(work, format!("the saga is at {step} {direction} by now; look at the order again"));
    }
    if calling {
        return refuse(
            work,
            "a call of the saga is under way, so nothing waits; look again when it is answered",
        );
    }
    Ok(next_call(&work.order, saga, work.now, work.policy))
}

/// The call that the saga makes next, once it is due.
fn next_call(order: &Order, saga: &SagaProgress, now: Timestamp, policy: &Policy) -> Option<StepCall> {
    let due = SagaProgress { next_at: None, ..saga.clone() };
    let mut work = Work::on(order, Some(&due), Cause::default(), now, policy);
    doubt(&mut work);
    match advance(&mut work) {
        SagaMove::Run(call) => Some(call),
        SagaMove::Wait(_) | SagaMove::Held(_) | SagaMove::Keep | SagaMove::Settled => None,
    }
}

fn refuse<T>(work: &Work<'_>, what: impl Into<String>) -> Result<T, OrderError> {
    Err(OrderError::RepairRefused { status: Some(work.order.status), what: what.into() })
}

/// Puts the repair in the history, ahead of what it leads to.
fn tell(work: &mut Work<'_>, wanted: &RepairOrder, call: Option<&StepCall>) {
    let running = work.saga.as_ref().filter(|saga| !saga.settled);
    let (saga, step) = (running.map(|saga| saga.no), running.and_then(|saga| saga.step));
    let direction = running.map(|saga| saga.direction);
    let outcome = match &wanted.repair {
        Repair::Settle { outcome, .. } => Some(*outcome),
        _ => None,
    };
    work.emit(OrderEvent::Repaired {
        repair: wanted.repair.kind(),
        saga,
        step,
        direction,
        key: call.map(|call| call.key().clone()),
        outcome,
        reason: wanted.reason.clone(),
        by: wanted.by.clone(),
    });
}
