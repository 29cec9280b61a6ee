//! Errors of calls: the body of the API's JSON, or lines for people.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::table::clean;
use crate::clients::orders::ApiError;

/// `{"error": {"code", "message", "details": [...]}}`.
pub(super) fn json(error: &ApiError) -> String {
    let mut details: Vec<Value> =
        error.shortages.iter().filter_map(|shortage| serde_json::to_value(shortage).ok()).collect();
    let violations = error.violations.iter();
    details.extend(violations.map(|bad| json!({ "field": bad.field, "description": bad.description })));
    if let Some((kind, name)) = &error.resource {
        details.push(json!({ "resource_type": kind, "resource_name": name }));
    }
    if !error.metadata.is_empty() {
        let facts = error.metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        details.push(Value::Object(facts.collect::<Map<_, _>>()));
    }
    if let Some(delay) = error.retry_after {
        details.push(json!({ "retry_after_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX) }));
    }
    let body = json!({ "error": { "code": error.reason, "message": error.message, "details": details } });
    format!("{body:#}")
}

/// One sentence, then what belongs to it, one a line.
pub(super) fn lines(error: &ApiError) -> String {
    let mut text = format!("error: {}", clean(&error.message));
    if error.reason != error.code {
        let _ = write!(text, " ({})", clean(&error.reason));
    }
    for bad in &error.violations {
        let _ = write!(text, "\n  {}: {}", clean(&bad.field), clean(&bad.description));
    }
    for short in &error.shortages {
        let variant = short.variant_id.as_deref().filter(|variant| !variant.is_empty());
        let variant = variant.map(|variant| format!(" (variant {})", clean(variant))).unwrap_or_default();
        let _ = write!(
            text,
            "\n  product {}{variant}: {} wanted, {} available",
            clean(&short.product_id),
            short.requested_quantity,
            short.available_quantity
        );
    }
    for (name, value) in &error.metadata {
        let (name, value) = (clean(name), clean(value));
        let _ = match name.as_str() {
            "order_id" => write!(text, "\n  see the order with: order-service order get {value}"),
            "request_id" => write!(text, "\n  to repeat it safely, add: --request-id {value}"),
            _ => write!(text, "\n  {}: {value}", name.replace('_', " ")),
        };
    }
    if let Some(delay) = error.retry_after {
        let _ = write!(text, "\n  try again in {delay:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::orders::{FieldViolation, Shortage};

    fn sample() -> ApiError {
        ApiError {
            code: "FAILED_PRECONDITION",
            reason: "INVENTORY_UNAVAILABLE".into(),
            message: "some items are not available".into(),
            violations: vec![FieldViolation { field: "items[0]".into(), description: "too many".into() }],
            shortages: vec![Shortage {
                product_id: "p".into(),
                variant_id: None,
                requested_quantity: 5,
                available_quantity: 2,
            }],
            metadata: [("order_id".to_owned(), "o".to_owned())].into(),
            resource: None,
            retry_after: Some(Duration::from_millis(1_500)),
        }
    }

    #[test]
    fn json_is_the_body_of_the_api() {
        let body: Value = serde_json::from_str(&json(&sample())).unwrap();
        assert_eq!(body.pointer("/error/code"), Some(&Value::from("INVENTORY_UNAVAILABLE")));
        assert_eq!(body.pointer("/error/message"), Some(&Value::from("some items are not available")));
        let first = json!({ "product_id": "p", "requested_quantity": 5, "available_quantity": 2 });
        assert_eq!(body.pointer("/error/details/0"), Some(&first));
        assert_eq!(body.pointer("/error/details/1/field"), Some(&Value::from("items[0]")));
        assert_eq!(body.pointer("/error/details/2/order_id"), Some(&Value::from("o")));
        assert_eq!(body.pointer("/error/details/3/retry_after_ms"), Some(&Value::from(1_500)));
    }

    #[test]
    fn lines_say_everything() {
        let expected = "error: some items are not available (INVENTORY_UNAVAILABLE)\n  items[0]: too many\n  \
            product p: 5 wanted, 2 available\n  see the order with: order-service order get o\n  \
            try again in 1.5s";
        assert_eq!(lines(&sample()), expected);
        assert_eq!(lines(&ApiError::local("UNAVAILABLE", "nobody answers")), "error: nobody answers");
    }
}
