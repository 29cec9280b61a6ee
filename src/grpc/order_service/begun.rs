//! What every call begins and ends with.

use std::cell::RefCell;
use std::time::Duration;

use http::HeaderValue;
use metrics::Histogram;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::domain::Timestamp;
use crate::domain::access::Caller;
use crate::domain::command::{Ask, OrderCommand, Repeatable, RequestContext};
use crate::domain::reach::Reach;
use crate::grpc::forward::{self, Refusal};
use crate::grpc::headers;
use crate::grpc::view::{Viewed, Viewer};
use crate::trace::{Key, Span};

/// Where a call comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) caller: Caller,
    pub(crate) context: RequestContext,
    /// The view of the node that forwarded the call here; none = it came from a caller.
    pub(crate) via: Option<i64>,
}

/// What every call begins with.
pub(crate) struct Begun {
    pub(crate) origin: Origin,
    /// Whose orders the caller gets at.
    pub(crate) reach: Reach,
    /// How long the caller may be kept waiting for a saga, from the start.
    pub(crate) wait: Duration,
    pub(crate) started: Instant,
    /// When the caller gives up.
    pub(crate) deadline: Instant,
    /// The view of this node, told to the one that forwarded the call.
    pub(crate) view: Option<i64>,
    pub(crate) method: &'static str,
    pub(crate) permit: OwnedSemaphorePermit,
    /// Recorded when the call ends, however it does.
    pub(crate) span: Span,
}

/// Ends the span of a call that was refused before it began.
pub(crate) fn refused(mut span: Span, status: Status) -> Status {
    told(&mut span, status.code());
    status
}

fn told(span: &mut Span, code: tonic::Code) {
    span.word(Key::Code, code_name(code));
    // What is the caller's own fault is no failure of this side.
    if matches!(
        code,
        tonic::Code::Unknown
            | tonic::Code::DeadlineExceeded
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::Unavailable
            | tonic::Code::DataLoss
    ) {
        span.fail();
    }
}

impl Begun {
    pub(crate) fn ask(
        &self,
        command: OrderCommand,
        expected_version: Option<i64>,
        repeatable: Option<Repeatable>,
    ) -> Ask {
        let (caller, context) = (self.origin.caller.clone(), self.origin.context.clone());
        Ask { caller, reach: self.reach, context, expected_version, repeatable, command }
    }

    /// Who is answered, as far as that decides what is shown.
    pub(crate) fn viewer(&self) -> Viewer {
        Viewer::new(&self.origin.caller, self.reach)
    }

    /// How long what proved who the caller is is good after `now`; none = it does not end by itself.
    pub(crate) fn proven_for(&self, now: Timestamp) -> Option<Duration> {
        Some(self.origin.caller.until?.signed_duration_since(now).to_std().unwrap_or_default())
    }

    /// How long the caller may still be kept waiting for a saga.
    pub(crate) fn wait(&self) -> Duration {
        self.wait.saturating_sub(self.started.elapsed())
    }

    /// Ends the call with what the caller may see of the answer or the refusal.
    pub(crate) fn end<T: Viewed>(self, answer: Result<T, impl Into<Refusal>>) -> Result<Response<T>, Status> {
        let viewer = self.viewer();
        let answer = match answer {
            Ok(answer) => Ok(answer.seen_by(&viewer)),
            Err(refusal) => Err(match refusal.into() {
                Refusal::Own(error) => Refusal::Own(viewer.refusal(error)),
                told @ Refusal::Told(_) => told,
            }),
        };
        self.end_whole(answer)
    }

    /// Ends the call: counts it, and puts the whole answer or refusal on the wire.
    pub(crate) fn end_whole<T>(
        mut self,
        answer: Result<T, impl Into<Refusal>>,
    ) -> Result<Response<T>, Status> {
        drop(self.permit);
        let answer = answer.map_err(|refusal| refusal.into().into_status());
        let code = answer.as_ref().map_or_else(|status| status.code(), |_| tonic::Code::Ok);
        record(self.method, code, self.started.elapsed());
        told(&mut self.span, code);
        tracing::debug!(method = self.method, ?code, "answered");
        let request_id = HeaderValue::from_str(&self.origin.context.request_id).map(headers::once);
        // Whoever looks at recorded traces is told where this call is in them.
        let sampled = self.origin.context.trace.as_ref().filter(|trace| trace.sampled && self.view.is_none());
        let trace = sampled.and_then(|trace| HeaderValue::try_from(trace.parent()).ok()).map(headers::once);
        match answer {
            Ok(answer) => {
                let mut response = Response::new(answer);
                // A node that has forwarded the call has it already.
                if let Ok(request_id) = request_id
                    && self.view.is_none()
                {
                    response.metadata_mut().as_mut().insert(&headers::REQUEST_ID, request_id);
                }
                if let Some(trace) = trace {
                    response.metadata_mut().as_mut().insert(&headers::TRACE_RESPONSE, trace);
                }
                Ok(response)
            }
            Err(mut status) => {
                if let Ok(request_id) = request_id {
                    status.metadata_mut().as_mut().insert(&headers::REQUEST_ID, request_id);
                }
                if let Some(trace) = trace {
                    status.metadata_mut().as_mut().insert(&headers::TRACE_RESPONSE, trace);
                }
                if let Some(view) = self.view {
                    forward::tell_view(status.metadata_mut(), view);
                }
                Err(status)
            }
        }
    }
}

thread_local! {
    /// The histograms that this thread has used, by method and code: to look one up costs as much as some calls do. They
    /// are few, and told apart by where the method's name is rather than by its letters.
    static SECONDS: RefCell<Vec<(&'static str, tonic::Code, Histogram)>> = const { RefCell::new(Vec::new()) };
}

/// Counts a call that has ended.
fn record(method: &'static str, code: tonic::Code, took: Duration) {
    SECONDS.with_borrow_mut(|known| {
        let is_it =
            |one: &(&'static str, tonic::Code, Histogram)| std::ptr::eq(one.0, method) && one.1 == code;
        if let Some((_, _, histogram)) = known.iter().find(|one| is_it(one)) {
            return histogram.record(took.as_secs_f64());
        }
        let histogram =
            metrics::histogram!("order_grpc_seconds", "method" => method, "code" => code_name(code));
        histogram.record(took.as_secs_f64());
        known.push((method, code, histogram));
    });
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
