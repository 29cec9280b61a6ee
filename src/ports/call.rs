//! What every call to a collaborator has in common: what travels with it, and what its failure says.

use std::fmt;
use std::time::Duration;

use crate::domain::access::Caller;
use crate::domain::item::Shortage;
use crate::domain::trace::TraceContext;

/// Reasons of refusals that any collaborator may give.
pub mod reason {
    /// The call itself is wrong; repeating it is pointless.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// The key was used before with other content.
    pub const KEY_REUSED: &str = "KEY_REUSED";
    /// On the wire only, with `UNAVAILABLE`: a promise that nothing was executed ([`super::CallError::Unavailable`]).
    pub const NOT_EXECUTED: &str = "NOT_EXECUTED";
}

/// Longest reason of a refusal that is kept, in bytes; longer ones are cut.
pub const MAX_REASON_LEN: usize = 63;
/// Longest text of a refusal or failure that is kept, in bytes; longer ones are cut.
pub const MAX_MESSAGE_LEN: usize = 256;

/// What travels with a call beside its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallContext {
    /// Ties log lines of all services to one request; sent as `x-request-id`.
    pub request_id: String,
    /// Where in a trace it is asked; sent as `traceparent`, with the call's own span in it, and `tracestate`.
    pub trace: Option<TraceContext>,
    /// For whom it is, where a person or service waits for it; none for what an order does by itself. Told to the user
    /// service alone: no other one decides by it.
    pub caller: Option<Caller>,
    /// How long the caller waits. After it the answer is [`CallError::Unknown`] for a call with an effect.
    pub timeout: Duration,
}

/// The services that this one depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Collaborator {
    /// Stock and reservations.
    Inventory,
    /// Names and prices of products.
    Product,
    /// Users and their addresses.
    User,
    /// Charges and refunds.
    Payment,
    /// Labels.
    Shipping,
}

impl Collaborator {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Inventory, Self::Product, Self::User, Self::Payment, Self::Shipping];

    /// Lower-case name, as in the configuration, in metrics and in error metadata.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Product => "product",
            Self::User => "user",
            Self::Payment => "payment",
            Self::Shipping => "shipping",
        }
    }
}

impl fmt::Display for Collaborator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call failed, which is first of all: whether its effect may have happened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// Surely not done, by a decision of the collaborator. Repeating the call gets the same answer.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// May have been done, now or later. Only asking by key, or undoing by key, settles it.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Surely not executed. Repeating it is free of risk.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl CallError {
    /// A refusal with a reason and no shortages.
    pub fn refused(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused(Refusal { reason: reason.into(), message: message.into(), shortages: Vec::new() })
    }

    /// Whether the effect may have happened.
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// The refusal, when it was one.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Unknown(_) | Self::Unavailable(_) => None,
        }
    }
}

/// A "no" that was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// UPPER_SNAKE, at most [`MAX_REASON_LEN`] bytes; what programs decide by.
    pub reason: String,
    /// For people, at most [`MAX_MESSAGE_LEN`] bytes. Collaborators must keep personal data out of it.
    pub message: String,
    /// The lines that stock does not suffice for, when the reason is `OUT_OF_STOCK`; else empty.
    pub shortages: Vec<Shortage>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
