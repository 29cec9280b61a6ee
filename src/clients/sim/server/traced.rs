//! The spans of the calls that the simulator answers, so that a trace shows both sides.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::domain::trace::TraceContext;
use crate::trace::{self, Asker, Current, Key, Name};

#[derive(Clone, Copy, Debug)]
pub(super) struct TracedLayer;

impl<S> Layer<S> for TracedLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced(inner)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Traced<S>(S);

impl<S, Q, A> Service<Request<Q>> for Traced<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let text =
            |name| request.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let caller = text("traceparent").and_then(TraceContext::parse);
        let (mut span, context) = trace::serve(caller, Asker::Ours, Name::path(request.uri().path()));
        let request_id = Arc::from(text("x-request-id").unwrap_or_default());
        let current = Current::new(&request_id, Some(&context));
        let answering = self.0.call(request);
        Box::pin(async move {
            let answer = trace::within(current, answering).await;
            let refused = answer.as_ref().is_ok_and(|answer| is_refusal(answer.headers()));
            span.word(Key::Outcome, if refused { "refused" } else { "answered" });
            answer
        })
    }
}

/// An answer without a message has its status in its headers.
fn is_refusal(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status != "0")
}
