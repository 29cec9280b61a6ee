//! What every call begins and ends with.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::domain::Timestamp;
use crate::domain::access::Caller;
use crate::domain::command::{Ask, OrderCommand, Repeatable, RequestContext};
use crate::domain::reach::Reach;
use crate::grpc::auth;
use crate::grpc::forward::{self, Refusal};
use crate::grpc::view::{Viewed, Viewer};

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
    pub(crate) fn end_whole<T>(self, answer: Result<T, impl Into<Refusal>>) -> Result<Response<T>, Status> {
        drop(self.permit);
        let answer = answer.map_err(|refusal| refusal.into().into_status());
        let code = answer.as_ref().map_or_else(|status| status.code(), |_| tonic::Code::Ok);
        metrics::histogram!("order_grpc_seconds", "method" => self.method, "code" => code_name(code))
            .record(self.started.elapsed().as_secs_f64());
        tracing::debug!(method = self.method, request_id = %self.origin.context.request_id, ?code, "answered");
        let request_id = self.origin.context.request_id.parse().map(auth::once);
        match answer {
            Ok(answer) => {
                let mut response = Response::new(answer);
                // A node that has forwarded the call has it already.
                if let Ok(request_id) = request_id
                    && self.view.is_none()
                {
                    response.metadata_mut().insert(auth::REQUEST_ID, request_id);
                }
                Ok(response)
            }
            Err(mut status) => {
                if let Ok(request_id) = request_id {
                    status.metadata_mut().insert(auth::REQUEST_ID, request_id);
                }
                if let Some(view) = self.view {
                    forward::tell_view(status.metadata_mut(), view);
                }
                Err(status)
            }
        }
    }
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        _ => "OTHER",
    }
}
