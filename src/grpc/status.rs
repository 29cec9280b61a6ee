//! How a refusal is told: the one place that names gRPC codes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::error::OrderError;
use crate::domain::item::Shortage;
use crate::domain::status::OrderStatus;
use crate::domain::text::{Violation, ViolationReason};
use crate::proto::order as pb;

const DOMAIN: &str = "order.v1";
/// When to try again after a conflict: the other change is most likely done.
const SOON: Duration = Duration::from_millis(100);
/// When to try again after something was away or full.
const LATER: Duration = Duration::from_secs(1);
/// Room for a list in the details, in bytes: clients accept 8 KiB of trailers, in which details grow by a third.
const DETAIL_BYTES: usize = 4_500;
/// Most short items told: two UUIDs, two quantities and their tags take 88 bytes each.
const MOST_SHORTAGES: usize = 50;
const SHORTAGE_TYPE: &str = "type.googleapis.com/order.v1.InventoryUnavailable";

/// What a refusal is told as, before it is put on the wire.
struct Told {
    code: Code,
    reason: &'static str,
    metadata: Vec<(&'static str, String)>,
}

impl Told {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, metadata: Vec::new() }
    }

    fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    fn with_some(self, key: &'static str, value: Option<&String>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn with_state(self, status: OrderStatus) -> Self {
        let next: Vec<&str> = status.allowed_next().into_iter().map(OrderStatus::as_str).collect();
        self.with("current_status", status).with("allowed_next_statuses", next.join(","))
    }
}

/// Puts a refusal on the wire.
pub(super) fn to_status(error: &OrderError) -> Status {
    let told = tell(error);
    let metadata: HashMap<String, String> =
        told.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut details = ErrorDetails::with_error_info(told.reason, DOMAIN, metadata);
    match error {
        OrderError::Invalid(violations) => {
            // One a field: what was found first.
            let mut told: HashSet<&str> = HashSet::with_capacity(violations.len());
            let (mut room, mut more) = (DETAIL_BYTES, 0usize);
            for violation in violations.iter().filter(|violation| told.insert(&violation.field)) {
                let size = violation.field.len().saturating_add(violation.expected.len()).saturating_add(8);
                match room.checked_sub(size).filter(|_| more == 0) {
                    Some(rest) => {
                        room = rest;
                        details.add_bad_request_violation(&violation.field, &violation.expected);
                    }
                    None => more = more.saturating_add(1),
                }
            }
            if more > 0 {
                let what = format!("{more} further fields are invalid; they do not fit into an answer");
                details.add_bad_request_violation("(more)", what);
            }
        }
        OrderError::RequestIdReused => {
            let expected = "expected an id that was not used with other content";
            details.add_bad_request_violation("request_id", expected);
        }
        OrderError::OrderNotFound { order: name } => {
            details.set_resource_info("order.v1.Order", name, "", "there is no such order");
        }
        OrderError::ProductNotFound { product } => {
            details.set_resource_info("product.v1.Product", product, "", "there is no such product");
        }
        OrderError::ItemNotFound { item } => {
            details.set_resource_info("order.v1.OrderItem", item, "", "the order has no such item");
        }
        OrderError::UserNotFound { user } => {
            details.set_resource_info("user.v1.User", user, "", "there is no such user");
        }
        _ => {}
    }
    match told.code {
        Code::Aborted => {
            details.set_retry_info(Some(SOON));
        }
        Code::Unavailable | Code::ResourceExhausted => {
            let after = match error {
                OrderError::RateLimited { retry_after, .. } => *retry_after,
                _ => LATER,
            };
            details.set_retry_info(Some(after));
        }
        _ => {}
    }
    let status = Status::with_error_details(told.code, error.to_string(), details);
    match error {
        OrderError::InventoryUnavailable { shortages, .. } => with_shortages(&status, shortages),
        _ => status,
    }
}

/// A caller who may not ask for this at all.
pub(super) fn forbidden(what: &str) -> Status {
    let details = ErrorDetails::with_error_info("ROLE_FORBIDS", DOMAIN, HashMap::new());
    Status::with_error_details(Code::PermissionDenied, what, details)
}

/// A request that could not even be read is refused in the same form as one with bad fields.
pub(super) fn unreadable(response: http::Response<Body>) -> http::Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let expected = match status.code() {
        Code::OutOfRange if status.message().contains("message length too large") => {
            "expected a smaller message"
        }
        Code::Internal if status.message().starts_with("failed to decode Protobuf") => {
            "expected a well-formed message with text in UTF-8"
        }
        _ => return response,
    };
    if !status.details().is_empty() {
        return response;
    }
    to_status(&OrderError::Invalid(vec![Violation::invalid("request", expected)])).into_http()
}

fn tell(error: &OrderError) -> Told {
    match error {
        OrderError::Invalid(violations) => Told::new(Code::InvalidArgument, invalid_reason(violations)),
        OrderError::RequestIdReused => Told::new(Code::InvalidArgument, "REQUEST_ID_REUSED"),
        OrderError::OrderNotFound { .. } => Told::new(Code::NotFound, "ORDER_NOT_FOUND"),
        OrderError::ProductNotFound { .. } => Told::new(Code::NotFound, "PRODUCT_NOT_FOUND"),
        OrderError::ItemNotFound { .. } => Told::new(Code::NotFound, "ITEM_NOT_FOUND"),
        OrderError::UserNotFound { .. } => Told::new(Code::NotFound, "USER_NOT_FOUND"),
        OrderError::IllegalTransition { from, to, missing } => {
            let missing = missing.map(str::to_owned);
            Told::new(Code::FailedPrecondition, "ILLEGAL_TRANSITION")
                .with_state(*from)
                .with("requested_status", to)
                .with_some("missing", missing.as_ref())
        }
        OrderError::NotAllowed { status, .. } => {
            Told::new(Code::FailedPrecondition, "ILLEGAL_TRANSITION").with_state(*status)
        }
        OrderError::NotEditable { status, .. } => {
            Told::new(Code::FailedPrecondition, "ORDER_NOT_EDITABLE").with_state(*status)
        }
        OrderError::StatusManagedBySaga { from, to } => {
            Told::new(Code::FailedPrecondition, "STATUS_MANAGED_BY_SAGA")
                .with_state(*from)
                .with("requested_status", to)
        }
        OrderError::OnHold { status, .. } => {
            Told::new(Code::FailedPrecondition, "ORDER_ON_HOLD").with_state(*status)
        }
        OrderError::PriceChanged { expected, actual, currency } => {
            Told::new(Code::FailedPrecondition, "PRICE_CHANGED")
                .with("expected_total", expected)
                .with("actual_total", actual)
                .with("currency", currency)
        }
        OrderError::InventoryUnavailable { order_id, .. } => {
            Told::new(Code::FailedPrecondition, "INVENTORY_UNAVAILABLE")
                .with_some("order_id", order_id.as_ref())
        }
        OrderError::PaymentDeclined { code, order_id } => {
            Told::new(Code::FailedPrecondition, "PAYMENT_DECLINED")
                .with("order_id", order_id)
                .with("decline_code", code)
        }
        OrderError::VersionMismatch { expected, current } => Told::new(Code::Aborted, "VERSION_MISMATCH")
            .with("expected_version", expected)
            .with("current_version", current),
        OrderError::Busy { status } => Told::new(Code::Aborted, "ORDER_BUSY").with_state(*status),
        OrderError::RepairRefused { status, .. } => {
            let told = Told::new(Code::FailedPrecondition, "REPAIR_REFUSED");
            match status {
                Some(status) => told.with_state(*status),
                None => told,
            }
        }
        OrderError::StorageUnavailable => Told::new(Code::Unavailable, "STORAGE_UNAVAILABLE"),
        OrderError::Quarantined => {
            Told::new(Code::Unavailable, "STORAGE_UNAVAILABLE").with("quarantined", true)
        }
        OrderError::DependencyUnavailable { dependency, order_id } => {
            Told::new(Code::Unavailable, "DEPENDENCY_UNAVAILABLE")
                .with("dependency", dependency)
                .with_some("order_id", order_id.as_ref())
        }
        OrderError::ShuttingDown => Told::new(Code::Unavailable, "SHUTTING_DOWN"),
        OrderError::NotOwner => Told::new(Code::Unavailable, "NOT_OWNER"),
        OrderError::Overloaded { .. } => Told::new(Code::ResourceExhausted, "OVERLOADED"),
        OrderError::Unauthenticated { .. } => Told::new(Code::Unauthenticated, "TOKEN_INVALID"),
        OrderError::Forbidden { .. } => Told::new(Code::PermissionDenied, "ROLE_FORBIDS"),
        OrderError::RateLimited { .. } => Told::new(Code::ResourceExhausted, "RATE_LIMITED"),
        OrderError::SlowWatcher { resume_after } => {
            Told::new(Code::ResourceExhausted, "OVERLOADED").with("resume_after_sequence", resume_after)
        }
    }
}

/// One reason for a list of violations: a refused card number outranks all, a special reason holds when all share it.
fn invalid_reason(violations: &[Violation]) -> &'static str {
    let has = |reason| violations.iter().any(|violation| violation.reason == reason);
    let all =
        |reason| !violations.is_empty() && violations.iter().all(|violation| violation.reason == reason);
    if has(ViolationReason::CardNumber) {
        "CARD_NUMBER_REFUSED"
    } else if all(ViolationReason::Currency) {
        "CURRENCY_UNSUPPORTED"
    } else if all(ViolationReason::Coupon) {
        "COUPON_INVALID"
    } else {
        "INVALID_FIELD"
    }
}

/// Adds the list of short items, which none of the standard details can hold.
fn with_shortages(status: &Status, shortages: &[Shortage]) -> Status {
    let items = shortages
        .iter()
        .take(MOST_SHORTAGES)
        .map(|shortage| pb::ItemShortage {
            product_id: shortage.product.product_id.to_string(),
            variant_id: shortage.product.variant_id.map(|id| id.to_string()).unwrap_or_default(),
            requested_quantity: i32::try_from(shortage.requested_quantity).unwrap_or(i32::MAX),
            available_quantity: i32::try_from(shortage.available_quantity).unwrap_or(i32::MAX),
        })
        .collect();
    let Ok(mut packed) = tonic_types::Status::decode(status.details()) else { return status.clone() };
    let value = pb::InventoryUnavailable { items }.encode_to_vec();
    packed.details.push(Any { type_url: SHORTAGE_TYPE.to_owned(), value });
    Status::with_details(status.code(), status.message(), packed.encode_to_vec().into())
}
