//! What an order waits for, since when, and what may be done about it.

use super::super::Timestamp;
use super::super::cause::Cause;
use super::super::event::{OrderEvent, RecordedEvent};
use super::super::ids::CallKey;
use super::super::order::Order;
use super::super::payment::LedgerEntry;
use super::super::react::{Policy, Work};
use super::super::refund;
use super::super::saga::{Direction, SagaProgress, StepCall, StepName};
use super::super::status::names;
use super::{Outcome, Repair, RepairOrder, Seen, apply, doubtful, next_call};

/// Most attempts that are told of, the newest ones.
const ATTEMPTS: usize = 50;

names! {
    /// What an order waits for.
    Waits {
        /// Nothing: no saga runs.
        Nothing = "NOTHING",
        /// The answer of a call that is under way.
        Answer = "ANSWER",
        /// The moment of a call's next try.
        Retry = "RETRY",
        /// The moment from which on no charge that was sent can still arrive.
        Certainty = "CERTAINTY",
        /// The end of a hold.
        Release = "RELEASE",
        /// A node that makes the call that is due.
        Node = "NODE",
        /// A person: no saga runs, and something is left to do.
        Person = "PERSON",
    }
}

/// One event in the life of the running, or else the last, saga's calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Its place in the history.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// The step.
    pub step: StepName,
    /// Doing or undoing it.
    pub direction: Direction,
    /// The key of the call, where it is known.
    pub key: Option<CallKey>,
    /// What happened: the kind of the event.
    pub what: &'static str,
    /// What went wrong, if something did.
    pub error: String,
    /// When it was to be tried next, if it was.
    pub next_at: Option<Timestamp>,
}

/// Something that may or may not be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// What, in the words of the command line.
    pub what: &'static str,
    /// Why it would be refused now; none = it would be taken.
    pub refused: Option<String>,
}

/// Why an order is where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// What it waits for.
    pub waits: Waits,
    /// The same as a sentence.
    pub summary: String,
    /// Since when: the last time that it came on.
    pub since: Timestamp,
    /// When the next call is made, if that is in the future.
    pub next_at: Option<Timestamp>,
    /// The call that is under way or comes next.
    pub call: Option<StepCall>,
    /// Calls of the running, or else the last, saga; oldest first, at most the newest 50 events.
    pub attempts: Vec<Attempt>,
    /// Calls to the payment service that may or may not have happened.
    pub doubts: Vec<LedgerEntry>,
    /// What may be done.
    pub choices: Vec<Choice>,
}

/// Explains an order as of `now`. `events` are its newest ones, in order; `running` is the call that is under way.
pub fn explain(
    order: &Order,
    saga: Option<&SagaProgress>,
    events: &[RecordedEvent],
    running: Option<&StepCall>,
    now: Timestamp,
    policy: &Policy,
) -> Explanation {
    let saga = saga.filter(|saga| !saga.settled);
    let calling = running.is_some();
    let call = running.cloned().or_else(|| saga.and_then(|saga| next_call(order, saga, now, policy)));
    let next_at = saga.and_then(|saga| saga.next_at).filter(|at| *at > now && !calling);
    let name = call.as_ref().map_or("the end of the saga", method);
    let (waits, mut summary) = match (saga, next_at) {
        (None, _) => match &order.attention {
            Some(attention) => (Waits::Person, format!("a person: {attention}")),
            None => (Waits::Nothing, format!("nothing: the order is {} and no saga runs", order.status)),
        },
        (Some(_), _) if calling => (Waits::Answer, format!("the answer of {name}, which is under way")),
        (Some(_), _) if call.is_none() && order.is_held(now) => {
            (Waits::Release, String::from("the end of its hold, before anything is charged"))
        }
        (Some(saga), Some(_)) if saga.resend && saga.direction == Direction::Backward => {
            let what =
                format!("certainty: from then on no late charge can arrive, and {name} is called again");
            (Waits::Certainty, what)
        }
        (Some(saga), Some(_)) => {
            let error = saga.last_error.as_deref().unwrap_or("no error is known");
            (Waits::Retry, format!("the next try of {name} after {} in vain: {error}", saga.tries))
        }
        (Some(_), None) => (Waits::Node, format!("a node that takes it up: {name} is due")),
    };
    if let Some(hold) = order.hold.as_ref().filter(|hold| hold.is_on(now)) {
        summary.push_str(&format!("; it is on hold: {}", hold.reason));
    }
    let began = saga.map_or(order.updated_at, |saga| saga.started_at);
    Explanation {
        waits,
        summary,
        since: events.iter().rfind(|event| brings_on(&event.event)).map_or(began, |event| event.at),
        next_at,
        attempts: attempts(saga, events, call.as_ref()),
        doubts: doubtful(order).into_iter().cloned().collect(),
        choices: choices(order, saga, calling, now, policy),
        call,
    }
}

/// The call as its service names it.
pub fn method(call: &StepCall) -> &'static str {
    match call {
        StepCall::Reserve { .. } => "inventory.Reserve",
        StepCall::Charge { .. } => "payment.Charge",
        StepCall::QueryCharge { .. } => "payment.GetTransaction",
        StepCall::CommitStock { .. } => "inventory.Commit",
        StepCall::Refund { .. } => "payment.Refund",
        StepCall::Release { .. } => "inventory.Release",
        StepCall::Restock { .. } => "inventory.Restock",
        StepCall::CreateLabel { .. } => "shipping.CreateLabel",
        StepCall::VoidLabel { .. } => "shipping.VoidLabel",
    }
}

/// Whether the order came on with this; what only asks, fails or is noted does not.
fn brings_on(event: &OrderEvent) -> bool {
    !matches!(
        event,
        OrderEvent::OrderHeld { .. }
            | OrderEvent::OrderReleased { .. }
            | OrderEvent::StepDelayed { .. }
            | OrderEvent::AttentionNeeded { .. }
            | OrderEvent::Repaired { .. }
            | OrderEvent::StockRequested { .. }
            | OrderEvent::StockUnsent { .. }
            | OrderEvent::StockCommitRequested { .. }
            | OrderEvent::ChargeRequested { .. }
            | OrderEvent::ChargeUnsent { .. }
            | OrderEvent::ChargeUnknown { .. }
            | OrderEvent::RefundRequested { .. }
            | OrderEvent::RefundUnknown { .. }
            | OrderEvent::RefundFailed { .. }
            | OrderEvent::LabelRequested { .. }
    )
}

fn attempts(saga: Option<&SagaProgress>, events: &[RecordedEvent], next: Option<&StepCall>) -> Vec<Attempt> {
    let starts = |event: &RecordedEvent| match (&event.event, saga) {
        (OrderEvent::SagaStarted { saga: no, .. }, Some(saga)) => *no == saga.no,
        (OrderEvent::SagaStarted { .. }, None) => true,
        _ => false,
    };
    let from = events.iter().rposition(starts).unwrap_or_default();
    // What was tried since the order came on last, was the call that is made now.
    let came_on = events.iter().rfind(|event| brings_on(&event.event)).map_or(0, |event| event.seq);
    let mut found: Vec<Attempt> = Vec::new();
    for event in events.iter().skip(from) {
        let Some(mut attempt) = attempt(event) else { continue };
        if attempt.key.is_none() && attempt.seq > came_on {
            attempt.key = next.map(|call| call.key().clone());
        }
        if attempt.key.is_none() {
            let same = |other: &&Attempt| (other.step, other.direction) == (attempt.step, attempt.direction);
            attempt.key = found.iter().rfind(same).and_then(|other| other.key.clone());
        }
        found.push(attempt);
    }
    found.split_off(found.len().saturating_sub(ATTEMPTS))
}

fn attempt(recorded: &RecordedEvent) -> Option<Attempt> {
    use Direction::{Backward, Forward};
    use StepName::{Charge, CommitStock, Label, Reserve};
    let (station, key, error, next_at) = match &recorded.event {
        OrderEvent::StockRequested { key, .. } | OrderEvent::StockUnsent { key } => {
            ((Reserve, Forward), Some(key), "", None)
        }
        OrderEvent::StockReserved { .. } => ((Reserve, Forward), None, "", None),
        OrderEvent::StockRefused { .. } => ((Reserve, Forward), None, "OUT_OF_STOCK", None),
        OrderEvent::StockCommitRequested { key, .. } => ((CommitStock, Forward), Some(key), "", None),
        OrderEvent::StockCommitted { .. } => ((CommitStock, Forward), None, "", None),
        OrderEvent::StockFoundCommitted { .. } => ((Reserve, Backward), None, "", None),
        OrderEvent::StockReturned { key, .. } => ((Reserve, Backward), Some(key), "", None),
        OrderEvent::ChargeRequested { key, .. }
        | OrderEvent::ChargeUnsent { key }
        | OrderEvent::ChargeUnknown { key }
        | OrderEvent::Charged { key, .. } => ((Charge, Forward), Some(key), "", None),
        OrderEvent::ChargeFailed { key, code } => ((Charge, Forward), Some(key), code.as_str(), None),
        OrderEvent::RefundRequested { key, .. }
        | OrderEvent::RefundUnknown { key }
        | OrderEvent::Refunded { key, .. } => ((Charge, Backward), Some(key), "", None),
        OrderEvent::RefundFailed { key, code } => ((Charge, Backward), Some(key), code.as_str(), None),
        OrderEvent::LabelRequested { key, .. } => ((Label, Forward), Some(key), "", None),
        OrderEvent::LabelCreated { .. } => ((Label, Forward), None, "", None),
        OrderEvent::LabelVoided { .. } => ((Label, Backward), None, "", None),
        OrderEvent::StepDelayed { step, direction, error, next_at, .. } => {
            ((*step, *direction), None, error.as_str(), Some(*next_at))
        }
        OrderEvent::Repaired { step: Some(step), direction: Some(direction), key, .. } => {
            ((*step, *direction), key.as_ref(), "", None)
        }
        _ => return None,
    };
    Some(Attempt {
        seq: recorded.seq,
        at: recorded.at,
        step: station.0,
        direction: station.1,
        key: key.cloned(),
        what: recorded.event.kind(),
        error: error.to_owned(),
        next_at,
    })
}

/// What may be done: each repair is tried on a copy, so what is told here is what would be answered.
fn choices(
    order: &Order,
    saga: Option<&SagaProgress>,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Vec<Choice> {
    let tried = |what, repair| {
        let wanted = RepairOrder { repair, reason: String::new(), by: String::new() };
        let mut work = Work::on(order, saga, Cause::default(), now, policy);
        let refused = apply(&mut work, &wanted, calling).err().map(|error| error.to_string());
        Choice { what, refused }
    };
    let settling = |what, outcome: Outcome| {
        let reference = outcome.happened().then(|| String::from("any"));
        let key = doubtful(order).into_iter().find(|entry| entry.kind == outcome.kind());
        let key = key.map(|entry| entry.key.clone());
        tried(what, Repair::Settle { outcome, reference, key })
    };
    let plain = |what, is_allowed: bool, otherwise: String| Choice {
        what,
        refused: (!is_allowed).then_some(otherwise),
    };
    let status = order.status;
    vec![
        tried("retry-step", Repair::Retry(Seen::default())),
        tried("skip-step", Repair::Skip(Seen::default())),
        settling("resolve-payment charged", Outcome::Charged),
        settling("resolve-payment not-charged", Outcome::NotCharged),
        settling("resolve-payment refunded", Outcome::Refunded),
        settling("resolve-payment not-refunded", Outcome::NotRefunded),
        plain("cancel", status.can_cancel(), format!("an order that is {status} cannot be cancelled")),
        match saga {
            Some(_) => plain("refund", false, String::from("another change of this order is under way")),
            None => {
                let is_allowed = status.can_refund() && !refund::left(order).is_zero();
                plain("refund", is_allowed, format!("an order that is {status} has nothing to give back"))
            }
        },
    ]
}
