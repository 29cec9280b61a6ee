//! Errors of calls: the body of the API's JSON, or lines for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::table::clean;
use crate::clients::orders::{ApiError, Shortage};

/// `{"error": {"code", "message", "details": [...]}}`.
#[derive(Serialize)]
struct Body<'a> {
    error: ErrorJson<'a>,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    code: &'a str,
    message: &'a str,
    details: Vec<DetailJson<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DetailJson<'a> {
    Shortage(&'a Shortage),
    Violation { field: &'a str, description: &'a str },
    Resource { resource_type: &'a str, resource_name: &'a str },
    Facts(&'a BTreeMap<String, String>),
    Retry { retry_after_ms: u64 },
}

/// The body of an error in JSON.
pub(super) fn json(error: &ApiError) -> String {
    let told = error.details.as_ref();
    let mut details: Vec<DetailJson<'_>> = told.shortages.iter().map(DetailJson::Shortage).collect();
    let violations = told.violations.iter();
    details.extend(
        violations.map(|bad| DetailJson::Violation { field: &bad.field, description: &bad.description }),
    );
    if let Some((kind, name)) = &told.resource {
        details.push(DetailJson::Resource { resource_type: kind, resource_name: name });
    }
    if !told.metadata.is_empty() {
        details.push(DetailJson::Facts(&told.metadata));
    }
    if let Some(delay) = told.retry_after {
        let retry_after_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        details.push(DetailJson::Retry { retry_after_ms });
    }
    let body = Body { error: ErrorJson { code: &error.reason, message: &error.message, details } };
    serde_json::to_string_pretty(&body).unwrap_or_else(|failure| failure.to_string())
}

/// One sentence, then what belongs to it, one a line.
pub(super) fn lines(error: &ApiError) -> String {
    let mut text = format!("error: {}", clean(&error.message));
    if error.reason != error.code {
        let _ = write!(text, " ({})", clean(&error.reason));
    }
    if let Some((kind, name)) = &error.details.resource
        && !error.message.contains(name.as_str())
    {
        let _ = write!(text, "\n  {}: {}", clean(kind), clean(name));
    }
    for bad in &error.details.violations {
        let _ = write!(text, "\n  {}: {}", clean(&bad.field), clean(&bad.description));
    }
    for short in &error.details.shortages {
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
    for (name, value) in &error.details.metadata {
        let (name, value) = (clean(name), clean(value));
        let _ = match name.as_str() {
            "order_id" => write!(text, "\n  see the order with: order-service order get {value}"),
            "request_id" => write!(text, "\n  to repeat it safely, add: --request-id {value}"),
            _ => write!(text, "\n  {}: {value}", name.replace('_', " ")),
        };
    }
    if let Some(delay) = error.details.retry_after {
        let _ = write!(text, "\n  try again in {delay:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::clients::orders::{ApiDetails, FieldViolation};

    fn sample() -> ApiError {
        ApiError {
            code: "FAILED_PRECONDITION",
            reason: "INVENTORY_UNAVAILABLE".into(),
            message: "some items are not available".into(),
            details: Box::new(ApiDetails {
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
            }),
        }
    }

    #[test]
    fn json_is_the_body_of_the_api() {
        let text = json(&sample());
        let body: Value = serde_json::from_str(&text).unwrap();
        assert!(text.find("code") < text.find("message") && text.find("message") < text.find("details"));
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
