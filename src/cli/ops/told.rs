//! What the service tells operators: as JSON with the names of the API, or as lines for people.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::cli::order::table::clean;
use crate::proto::admin as pb;

pub(in crate::cli) fn time(at: Option<Timestamp>) -> Option<String> {
    let at = at?;
    let time: DateTime<Utc> = DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)?;
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Leaves out what is empty.
pub(in crate::cli) fn full(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    Value::Object(fields.into_iter().filter(|(_, value)| says(value)).collect::<Map<_, _>>())
}

pub(super) fn repaired_json(order: &pb::RepairedOrder) -> Value {
    full(json!({
        "order_id": order.order_id,
        "order_number": order.order_number,
        "status": order.status,
        "payment_status": order.payment_status,
        "version": order.version,
        "event_sequence": order.event_sequence,
        "attention_reason": order.attention_reason,
    }))
}

pub(super) fn repaired(order: &pb::RepairedOrder) -> String {
    let number = clean(&order.order_number);
    let mut text = format!(
        "Order {number}  {}  payment {}  version {}",
        clean(&order.status),
        clean(&order.payment_status),
        order.version
    );
    if !order.attention_reason.is_empty() {
        let _ = write!(text, "\n  calls for a person: {}", clean(&order.attention_reason));
    }
    let _ = write!(text, "\n  see what comes of it with: order-service ops explain {number}");
    text
}

pub(super) fn explanation_json(found: &pb::OrderExplanation) -> Value {
    let attempts: Vec<Value> = found
        .attempts
        .iter()
        .map(|attempt| {
            full(json!({
                "sequence": attempt.sequence,
                "at": time(attempt.at),
                "step": attempt.step,
                "direction": attempt.direction,
                "key": attempt.key,
                "what": attempt.what,
                "error": attempt.error,
                "next_at": time(attempt.next_at),
            }))
        })
        .collect();
    let doubts: Vec<Value> = found
        .payments_in_doubt
        .iter()
        .map(|doubt| {
            full(json!({
                "key": doubt.key,
                "kind": doubt.kind,
                "status": doubt.status,
                "amount": doubt.amount,
                "currency": doubt.currency,
                "at": time(doubt.at),
            }))
        })
        .collect();
    let choices: Vec<Value> = found
        .choices
        .iter()
        .map(|choice| {
            full(json!({
                "what": choice.what,
                "allowed": choice.allowed,
                "refused_because": choice.refused_because,
            }))
        })
        .collect();
    full(json!({
        "order_id": found.order_id,
        "order_number": found.order_number,
        "status": found.status,
        "payment_status": found.payment_status,
        "stock_status": found.stock_status,
        "version": found.version,
        "attention_reason": found.attention_reason,
        "waits_for": found.waits_for,
        "summary": found.summary,
        "since": time(found.since),
        "next_at": time(found.next_at),
        "call": found.call,
        "call_key": found.call_key,
        "saga": found.saga.as_ref().map(saga_json),
        "attempts": attempts,
        "payments_in_doubt": doubts,
        "choices": choices,
        "node": found.node.map(|node| json!({
            "incarnation": node.incarnation,
            "order_is_live": node.order_is_live,
        })),
        "quarantine": found.quarantine.map(|quarantine| json!({
            "known_version": quarantine.known_version,
            "stored_version": quarantine.stored_version,
            "since": time(quarantine.since),
        })),
        "failing": found.failing.map(|failing| json!({
            "failures": failing.failures,
            "until": time(failing.until),
        })),
    }))
}

fn saga_json(saga: &pb::Saga) -> Value {
    full(json!({
        "number": saga.number,
        "kind": saga.kind,
        "direction": saga.direction,
        "step": saga.step,
        "tries": saga.tries,
        "started_at": time(saga.started_at),
        "last_error": saga.last_error,
        "turn_wanted": saga.turn_wanted,
        "principal": saga.principal,
        "request_id": saga.request_id,
    }))
}

pub(super) fn explanation(found: &pb::OrderExplanation) -> String {
    let name = if found.order_number.is_empty() { &found.order_id } else { &found.order_number };
    let mut text = format!("Order {}", clean(name));
    if !found.status.is_empty() {
        let _ = write!(
            text,
            "  {}  payment {}  stock {}  version {}",
            clean(&found.status),
            clean(&found.payment_status),
            clean(&found.stock_status),
            found.version
        );
    }
    let _ = write!(text, "\nWaits for {}", clean(&found.summary));
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(text, "\n  {name:<10} {}", clean(&value));
        }
    };
    fact("since", time(found.since));
    fact("next try", time(found.next_at));
    fact("attention", Some(found.attention_reason.clone()));
    if let Some(saga) = &found.saga {
        let step = if saga.step.is_empty() { "no step" } else { &saga.step };
        let turn = if saga.turn_wanted { ", about to turn round" } else { "" };
        fact("saga", Some(format!("{} {} at {step} {}{turn}", saga.number, saga.kind, saga.direction)));
        fact("tries", Some(saga.tries.to_string()));
        fact("last error", Some(saga.last_error.clone()));
    }
    fact("call", Some(format!("{} {}", found.call, found.call_key).trim().to_owned()));
    if let Some(node) = &found.node {
        let place = if node.order_is_live { "in memory of" } else { "not in memory of" };
        fact("node", Some(format!("{place} process life {}", node.incarnation)));
    }
    if let Some(failing) = &found.failing {
        let until = time(failing.until).unwrap_or_default();
        fact("failing", Some(format!("{} times in a row; left alone until {until}", failing.failures)));
    }
    for doubt in &found.payments_in_doubt {
        let at = time(doubt.at).unwrap_or_default();
        let what = format!("{} of {} {} {at}", doubt.kind, doubt.amount, doubt.currency);
        fact("in doubt", Some(format!("{what} {} {}", doubt.status, doubt.key)));
    }
    if !found.attempts.is_empty() {
        let _ = write!(text, "\nWhat was tried:");
    }
    for attempt in &found.attempts {
        let at = time(attempt.at).unwrap_or_default();
        let mut line = format!("{at} {} {} {}", attempt.step, attempt.direction, attempt.what);
        for part in [&attempt.key, &attempt.error] {
            if !part.is_empty() {
                let _ = write!(line, "  {part}");
            }
        }
        if let Some(next) = time(attempt.next_at) {
            let _ = write!(line, "  again at {next}");
        }
        let _ = write!(text, "\n  {}", clean(&line));
    }
    let _ = write!(text, "\nWhat may be done:");
    for choice in &found.choices {
        let says =
            if choice.allowed { String::from("yes") } else { format!("no: {}", choice.refused_because) };
        let _ = write!(text, "\n  {:<28} {}", clean(&choice.what), clean(&says));
    }
    text
}

pub(super) fn stuck_json(page: &pb::ListStuckOrdersResponse) -> Value {
    let orders: Vec<Value> = page
        .orders
        .iter()
        .map(|order| {
            full(json!({
                "order_id": order.order_id,
                "order_number": order.order_number,
                "status": order.status,
                "payment_status": order.payment_status,
                "reason": order.reason,
                "since": time(order.since),
                "needs_attention": order.needs_attention,
                "saga_kind": order.saga_kind,
                "direction": order.direction,
                "step": order.step,
                "tries": order.tries,
                "next_at": time(order.next_at),
                "quarantined": order.quarantined,
            }))
        })
        .collect();
    json!({ "orders": orders, "next_page_token": page.next_page_token })
}

pub(super) fn stuck(page: &pb::ListStuckOrdersResponse) -> String {
    if page.orders.is_empty() {
        return String::from("No orders.");
    }
    let mut text = String::new();
    for order in &page.orders {
        let name = if order.order_number.is_empty() { &order.order_id } else { &order.order_number };
        let since = time(order.since).unwrap_or_default();
        let person = if order.needs_attention { "calls for a person" } else { "waits" };
        let mut line = format!("{name}  {}  {person} since {since}", order.status);
        if !order.saga_kind.is_empty() {
            let _ = write!(line, "  {} {} {}", order.saga_kind, order.step, order.direction);
        }
        if !order.reason.is_empty() {
            let _ = write!(line, "  {}", order.reason);
        }
        let _ = writeln!(text, "{}", clean(&line));
    }
    if !page.next_page_token.is_empty() {
        let _ = write!(text, "There are more: add --page-token {}", clean(&page.next_page_token));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> pb::OrderExplanation {
        pb::OrderExplanation {
            order_id: "o".into(),
            order_number: "ORD-7K3M9Q2XYZ".into(),
            status: "CANCELLING".into(),
            payment_status: "REFUND_FAILED".into(),
            stock_status: "COMMITTED".into(),
            version: 7,
            waits_for: "RETRY".into(),
            summary: "the next try of payment.Refund after 3 in vain: payment refused: NO\u{1b}[31m".into(),
            since: Some(Timestamp { seconds: 1_714_737_600, nanos: 0 }),
            saga: Some(pb::Saga {
                number: 2,
                kind: "CANCEL".into(),
                direction: "BACKWARD".into(),
                step: "CHARGE".into(),
                tries: 3,
                ..Default::default()
            }),
            choices: vec![
                pb::Choice { what: "retry-step".into(), allowed: true, refused_because: String::new() },
                pb::Choice { what: "skip-step".into(), allowed: false, refused_because: "money".into() },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn an_explanation_reads_well_and_cannot_steer_the_terminal() {
        let text = explanation(&sample());
        for expected in [
            "Order ORD-7K3M9Q2XYZ  CANCELLING  payment REFUND_FAILED  stock COMMITTED  version 7",
            "Waits for the next try of payment.Refund",
            "since      2024-05-03T12:00:00Z",
            "saga       2 CANCEL at CHARGE BACKWARD",
            "retry-step                   yes",
            "skip-step                    no: money",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("next try  "));
    }

    #[test]
    fn json_has_the_names_of_the_api_and_nothing_empty() {
        let value = explanation_json(&sample());
        assert_eq!(value["saga"]["step"], "CHARGE");
        assert_eq!(value["choices"][1]["refused_because"], "money");
        assert_eq!(value["choices"][0].get("refused_because"), None);
        assert_eq!((value.get("next_at"), value.get("quarantine")), (None, None));
        assert_eq!(value["attempts"], json!([]));
    }
}
