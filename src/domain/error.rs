//! Why an order refuses a command. Every reason is one of the contract's names.

use std::time::Duration;

use super::item::Shortage;
use super::status::OrderStatus;
use super::text::Violation;

/// A refusal. Nothing was changed, unless the variant says that an order was kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OrderError {
    /// The request is malformed; every bad field is listed.
    #[error("{}", invalid(.0))]
    Invalid(Vec<Violation>),
    /// The request id was used before with other content.
    #[error("request_id was used before with other content; use a new one")]
    RequestIdReused,
    /// No such order, or not the caller's.
    #[error("there is no such order")]
    OrderNotFound {
        /// The id or number asked for.
        order: String,
    },
    /// A product is unknown.
    #[error("there is no product {product}")]
    ProductNotFound {
        /// Product, and variant where given.
        product: String,
    },
    /// The order has no such line.
    #[error("the order has no item {item}")]
    ItemNotFound {
        /// The id asked for.
        item: String,
    },
    /// The user is unknown.
    #[error("there is no user {user}")]
    UserNotFound {
        /// The id asked for.
        user: String,
    },
    /// The status table does not allow it.
    #[error("an order that is {from} cannot become {to}")]
    IllegalTransition {
        /// Now.
        from: OrderStatus,
        /// Asked for.
        to: OrderStatus,
        /// What is missing, when the table would allow it.
        missing: Option<&'static str>,
    },
    /// What was asked for is not done to an order in this status.
    #[error("an order that is {status} cannot be {what}")]
    NotAllowed {
        /// Now.
        status: OrderStatus,
        /// What was asked for, as a participle.
        what: &'static str,
    },
    /// Its items cannot be changed.
    #[error("the items of this order cannot be changed: {why}")]
    NotEditable {
        /// Now.
        status: OrderStatus,
        /// What is in the way.
        why: &'static str,
    },
    /// Only a saga sets this status.
    #[error("{to} is set by the order itself, never by a caller")]
    StatusManagedBySaga {
        /// Now.
        from: OrderStatus,
        /// Asked for.
        to: OrderStatus,
    },
    /// The order is on hold.
    #[error("the order is on hold: {reason}")]
    OnHold {
        /// Now.
        status: OrderStatus,
        /// Why.
        reason: String,
    },
    /// The total is not what the caller expected.
    #[error("the total is {actual}, not {expected} as expected; nothing was stored")]
    PriceChanged {
        /// What the caller expected.
        expected: String,
        /// What it is.
        actual: String,
        /// ISO 4217 code.
        currency: String,
    },
    /// Inventory cannot serve every line.
    #[error("some items are not available")]
    InventoryUnavailable {
        /// What is short.
        shortages: Vec<Shortage>,
        /// The order that was kept as CANCELLED, if it got that far.
        order_id: Option<String>,
    },
    /// The payment service declined.
    #[error("the payment was declined: {code}")]
    PaymentDeclined {
        /// Its code.
        code: String,
        /// The order that was kept as CANCELLED.
        order_id: String,
    },
    /// The order is at another version.
    #[error("the order is at version {current}, not {expected}; read it again")]
    VersionMismatch {
        /// Given.
        expected: i64,
        /// Now.
        current: i64,
    },
    /// Another change of this order is under way.
    #[error("another change of this order is under way; try again")]
    Busy {
        /// Now.
        status: OrderStatus,
    },
    /// An operator's repair would break an invariant, or there is nothing to repair.
    #[error("{what}")]
    RepairRefused {
        /// Now, where that is known.
        status: Option<OrderStatus>,
        /// Why, and what may be done instead.
        what: String,
    },
    /// The store did not take or give it.
    #[error("the order store is not available; try again")]
    StorageUnavailable,
    /// A collaborator could not be reached or refused for a reason of its own.
    #[error("{}", unavailable(dependency, order_id.as_deref()))]
    DependencyUnavailable {
        /// Which.
        dependency: String,
        /// The order that was kept as CANCELLED, if it got that far.
        order_id: Option<String>,
    },
    /// This node is stopping.
    #[error("this node is shutting down; try again")]
    ShuttingDown,
    /// Another owner took the order over while this ran.
    #[error("another node owns this order now; try again")]
    NotOwner,
    /// A limit of this order or node is reached.
    #[error("{what}; try again later")]
    Overloaded {
        /// Which limit.
        what: &'static str,
    },
    /// The call does not prove who it comes from.
    #[error("{what}")]
    Unauthenticated {
        /// What is wrong and what was expected; nothing of the token itself.
        what: &'static str,
    },
    /// The caller is known and may not ask for this.
    #[error("{what}")]
    Forbidden {
        /// What is not allowed, and to whom.
        what: String,
    },
    /// The caller has asked too often.
    #[error("{what}; try again in {} ms", .retry_after.as_millis())]
    RateLimited {
        /// Which limit.
        what: &'static str,
        /// When the same call would be let in.
        retry_after: Duration,
    },
    /// A watcher did not read for too long.
    #[error("this watcher reads too slowly; watch again after sequence {resume_after}")]
    SlowWatcher {
        /// The last sequence in its stream.
        resume_after: i64,
    },
    /// The order's stored state cannot be worked with; an operator is needed.
    #[error("this order is quarantined after repeated failures; an operator has been alerted")]
    Quarantined,
}

/// The first bad field and how many more there are; the details list them all.
fn invalid(violations: &[Violation]) -> String {
    let Some(first) = violations.first() else { return "the request is invalid".to_owned() };
    let more = match violations.len().saturating_sub(1) {
        0 => String::new(),
        1 => " (and 1 more field)".to_owned(),
        more => format!(" (and {more} more fields)"),
    };
    format!("{}: {}{more}", first.field, first.expected)
}

/// Before anything began, asking again is all it takes; what was begun was undone and stays so for its request id.
fn unavailable(dependency: &str, order_id: Option<&str>) -> String {
    match order_id {
        None => format!("the {dependency} service is not available; try again"),
        Some(order) => format!(
            "the {dependency} service is not available, and what was begun for order {order} was undone; \
             ask again with a new request_id"
        ),
    }
}
