//! Headers of calls and answers, by names that are read once: whoever looks for a header by its text reads that for each call.

use http::{HeaderName, HeaderValue};

use super::access;

/// Names a request; taken over when it is well-formed, made up otherwise.
pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The place of a call in a trace.
pub(super) static TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// What other systems keep beside it.
pub(super) static TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
/// Of an answer: the trace and the span of the call, in the form of a `traceparent`.
pub(super) static TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");
/// How long the caller waits.
pub(super) static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Why the caller acts for somebody else.
pub(super) static REASON: HeaderName = HeaderName::from_static(access::ON_BEHALF_REASON);
/// How old an answer is that may be old, in milliseconds.
pub(super) static AGE: HeaderName = HeaderName::from_static("x-order-age-ms");

/// A value that no other call will have: a connection is not to remember it for the next one, which would cost both sides
/// more than it saves.
pub(super) fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}
