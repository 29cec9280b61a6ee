//! What operators are told, as messages.

use crate::actor::{Inspection, Stuck};
use crate::domain::ids::OrderId;
use crate::domain::money::format_amount;
use crate::domain::order::Order;
use crate::domain::payment::LedgerEntry;
use crate::domain::repair::{Attempt, Choice, Explanation, method};
use crate::domain::saga::{SagaProgress, StepName};
use crate::grpc::convert::time;
use crate::proto::admin as pb;

/// The order right after a repair.
pub(super) fn repaired(order: &Order) -> pb::RepairedOrder {
    pb::RepairedOrder {
        order_id: order.id.to_string(),
        order_number: order.order_number.to_string(),
        status: order.status.to_string(),
        payment_status: order.payment_status.to_string(),
        version: order.version,
        event_sequence: order.event_seq,
        attention_reason: order.attention.clone().unwrap_or_default(),
    }
}

/// Why an order is where it is.
pub(super) fn explanation(id: OrderId, found: &Inspection) -> pb::OrderExplanation {
    let mut told = match &found.explained {
        Some((order, saga, why)) => explained(order, saga.as_ref(), why),
        None => pb::OrderExplanation { order_id: id.to_string(), ..Default::default() },
    };
    told.node = Some(pb::Node { incarnation: found.incarnation, order_is_live: found.is_live });
    told.failing = found.failing.map(|failing| pb::Failing {
        failures: i32::try_from(failing.failures).unwrap_or(i32::MAX),
        until: Some(time(failing.until)),
    });
    if let Some(quarantine) = &found.quarantine {
        let (known, stored) = (quarantine.regression.known, quarantine.regression.stored);
        told.waits_for = String::from("QUARANTINE");
        told.summary = format!(
            "a person: version {known} was acknowledged and the store has {stored}; compare it with the books of the \
             other services, then let it go"
        );
        told.since = Some(time(quarantine.since));
        told.quarantine = Some(pb::Quarantine {
            known_version: known,
            stored_version: stored,
            since: Some(time(quarantine.since)),
        });
    }
    let refused = match (&found.quarantine, &found.failing) {
        (None, None) => "the order is not quarantined",
        _ => "",
    };
    told.choices.push(pb::Choice {
        what: String::from("unquarantine"),
        allowed: refused.is_empty(),
        refused_because: refused.to_owned(),
    });
    told
}

fn explained(order: &Order, saga: Option<&SagaProgress>, why: &Explanation) -> pb::OrderExplanation {
    pb::OrderExplanation {
        order_id: order.id.to_string(),
        order_number: order.order_number.to_string(),
        status: order.status.to_string(),
        payment_status: order.payment_status.to_string(),
        stock_status: order.reservation.state.to_string(),
        version: order.version,
        attention_reason: order.attention.clone().unwrap_or_default(),
        waits_for: why.waits.to_string(),
        summary: why.summary.clone(),
        since: Some(time(why.since)),
        next_at: why.next_at.map(time),
        call: why.call.as_ref().map(|call| method(call).to_owned()).unwrap_or_default(),
        call_key: why.call.as_ref().map(|call| call.key().to_string()).unwrap_or_default(),
        saga: saga.map(running),
        attempts: why.attempts.iter().map(attempt).collect(),
        payments_in_doubt: why.doubts.iter().map(|entry| in_doubt(order, entry)).collect(),
        choices: why.choices.iter().map(choice).collect(),
        ..Default::default()
    }
}

fn running(saga: &SagaProgress) -> pb::Saga {
    pb::Saga {
        number: i32::try_from(saga.no).unwrap_or(i32::MAX),
        kind: saga.kind.to_string(),
        direction: saga.direction.to_string(),
        step: saga.step.map_or("", StepName::as_str).to_owned(),
        tries: i32::try_from(saga.tries).unwrap_or(i32::MAX),
        started_at: Some(time(saga.started_at)),
        last_error: saga.last_error.clone().unwrap_or_default(),
        turn_wanted: saga.turn.is_some(),
        principal: saga.principal.clone(),
        request_id: saga.request_id.clone(),
    }
}

fn attempt(attempt: &Attempt) -> pb::Attempt {
    pb::Attempt {
        sequence: attempt.seq,
        at: Some(time(attempt.at)),
        step: attempt.step.to_string(),
        direction: attempt.direction.to_string(),
        key: attempt.key.as_ref().map(ToString::to_string).unwrap_or_default(),
        what: attempt.what.to_owned(),
        error: attempt.error.clone(),
        next_at: attempt.next_at.map(time),
    }
}

fn in_doubt(order: &Order, entry: &LedgerEntry) -> pb::PaymentInDoubt {
    pb::PaymentInDoubt {
        key: entry.key.to_string(),
        kind: entry.kind.to_string(),
        status: entry.state.to_string(),
        amount: format_amount(entry.amount, order.currency),
        currency: order.currency.code().to_owned(),
        at: Some(time(entry.created_at)),
    }
}

fn choice(choice: &Choice) -> pb::Choice {
    pb::Choice {
        what: choice.what.to_owned(),
        allowed: choice.refused.is_none(),
        refused_because: choice.refused.clone().unwrap_or_default(),
    }
}

/// An order that somebody should look at.
pub(super) fn stuck(stuck: &Stuck) -> pb::StuckOrder {
    let mut told = pb::StuckOrder { order_id: stuck.id.to_string(), ..Default::default() };
    if let Some(quarantine) = &stuck.quarantine {
        let regression = &quarantine.regression;
        told.reason = format!(
            "quarantined: version {} was acknowledged and the store has {}",
            regression.known, regression.stored
        );
        told.since = Some(time(quarantine.since));
        (told.quarantined, told.needs_attention) = (true, true);
        return told;
    }
    let Some((order, saga)) = &stuck.found else {
        told.reason = String::from("its rows cannot be read; see the log of the node");
        told.needs_attention = true;
        return told;
    };
    told.order_number = order.order_number.to_string();
    told.status = order.status.to_string();
    told.payment_status = order.payment_status.to_string();
    told.needs_attention = order.attention.is_some();
    let last_error = saga.as_ref().and_then(|saga| saga.last_error.clone());
    told.reason = order.attention.clone().or(last_error).unwrap_or_default();
    told.since = Some(time(saga.as_ref().map_or(order.updated_at, |saga| saga.started_at)));
    if let Some(saga) = saga {
        told.saga_kind = saga.kind.to_string();
        told.direction = saga.direction.to_string();
        told.step = saga.step.map_or("", StepName::as_str).to_owned();
        told.tries = i32::try_from(saga.tries).unwrap_or(i32::MAX);
        told.next_at = saga.next_at.map(time);
    }
    told
}
