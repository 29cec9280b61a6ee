//! Who asks, and what their request carries.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use uuid::Uuid;

use super::forward;
use crate::domain::access::{Caller, Role};
use crate::domain::command::RequestContext;
use crate::domain::error::OrderError;
use crate::domain::text::contains_card_number;

/// Header that names a request; taken over when it is well-formed, made up otherwise.
pub(super) const REQUEST_ID: &str = "x-request-id";
const TRACE_PARENT: &str = "traceparent";
const MAX_REQUEST_ID: usize = 64;
/// Length of a W3C `traceparent` of version 00.
const TRACE_PARENT_LEN: usize = 55;

/// A value that no other call will have: a connection is not to remember it for the next one, which would cost both sides
/// more than it saves.
pub(super) fn once(mut value: AsciiMetadataValue) -> AsciiMetadataValue {
    value.set_sensitive(true);
    value
}

/// How callers are told apart.
#[derive(Clone, Debug)]
pub(super) enum Authenticator {
    /// `auth.mode: dev`: everybody is a principal with every right.
    Dev(Caller),
    /// The listener for other nodes: they have told callers apart.
    Peer(Caller),
}

impl Authenticator {
    pub(super) fn dev() -> Self {
        Self::Dev(Caller {
            principal: Arc::from("dev"),
            roles: Arc::from([Role::Admin]),
            user: None,
            reason: None,
        })
    }

    /// For calls that other nodes forward.
    pub(super) fn peer() -> Self {
        Self::Peer(Caller { principal: Arc::from("peer"), roles: Arc::from([]), user: None, reason: None })
    }

    /// Who a call comes from.
    ///
    /// # Errors
    /// [`OrderError::Unauthenticated`] when the call does not prove that.
    pub(super) async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, OrderError> {
        Ok(match self {
            Self::Dev(caller) => caller.clone(),
            Self::Peer(nobody) => forward::caller_of(metadata).unwrap_or_else(|| nobody.clone()),
        })
    }
}

/// Roles as one node tells them to another.
pub(super) fn roles_text(roles: &[Role]) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",")
}

/// Request id and trace of a request.
pub(super) fn context(metadata: &MetadataMap) -> RequestContext {
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    let plain = |text: &&str| {
        (1..=MAX_REQUEST_ID).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            // It is stored and logged, where no card number may ever stand.
            && !contains_card_number(text)
    };
    let request_id =
        text(REQUEST_ID).filter(plain).map_or_else(|| Arc::from(Uuid::now_v7().to_string()), Arc::from);
    let trace_parent = text(TRACE_PARENT)
        .filter(|trace| {
            trace.len() == TRACE_PARENT_LEN
                && trace.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
                && !contains_card_number(trace)
        })
        .map(Arc::from);
    RequestContext { request_id, trace_parent }
}

/// The time the caller gives us (`grpc-timeout`), if it says so.
pub(super) fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(count.saturating_mul(60))),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}
