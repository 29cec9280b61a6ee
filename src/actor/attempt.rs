//! One try of a saga's call, off the mailbox: the answer comes back as a message with the ticket of the try.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::ActorRef;
use tokio::time::Instant;

use super::crash::{CrashPoint, Moment};
use super::message::Message;
use super::shared::Shared;
use super::traced;
use crate::domain::order::Order;
use crate::domain::saga::{Direction, SagaProgress, StepCall, StepResult};
use crate::domain::trace::TraceContext;
use crate::ports::call::CallContext;
use crate::steps::{self, StepInput};
use crate::trace::{self, Current, Span};

/// A client answers within the call's limit by itself; this much later it is taken to be stuck.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// A span, and its place in its trace.
pub(super) type Traced = (Span, Option<TraceContext>);

/// One try.
pub(super) struct Try<'a> {
    pub(super) ticket: u64,
    pub(super) order: Arc<Order>,
    pub(super) saga: &'a SagaProgress,
    pub(super) call: StepCall,
    /// After so long without an answer the actor is told.
    pub(super) slow_after: Option<Duration>,
    /// Where in its trace the saga is.
    pub(super) trace: Option<TraceContext>,
}

/// Makes the call in a task of its own.
pub(super) fn start(shared: &Arc<Shared>, actor: ActorRef<Message>, try_of: Try<'_>) {
    let Try { ticket, order, saga, call, slow_after, trace } = try_of;
    let (step, _) = call.station();
    let (mut span, trace) = traced::step(trace.as_ref(), saga, &call);
    let current = Current::new(&Arc::from(saga.request_id.as_str()), trace.as_ref());
    let (kind, direction) = (saga.kind, saga.direction);
    let point = move |moment| CrashPoint { saga: kind, step, direction, moment };
    let context = CallContext {
        request_id: saga.request_id.clone(),
        trace,
        caller: None,
        timeout: shared.limits.timeout,
    };
    let closing = direction == Direction::Backward;
    let input = StepInput { order, token: saga.token.clone(), closing, context };
    let shared_by_task = Arc::clone(shared);
    shared.tasks.spawn(trace::within(current, async move {
        let shared = shared_by_task;
        point(Moment::BeforeEffect).pass(shared.crash_at);
        let limit = shared.limits.timeout.saturating_add(STUCK_AFTER);
        let started = Instant::now();
        let made_up = shared.skip_undo.and_then(|skipped| skipped.made_up(kind, &call));
        let made = {
            let run = async {
                match made_up {
                    Some(result) => result,
                    None => steps::run(&shared.collaborators, &shared.limits, &input, &call).await,
                }
            };
            let calling = AssertUnwindSafe(run);
            let calling = std::pin::pin!(tokio::time::timeout(limit, calling.catch_unwind()));
            match slow_after {
                Some(after) => told_when_slow(calling, after, &actor, ticket).await,
                None => calling.await,
            }
        };
        let result = match made {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => StepResult::Unknown { dependency: "order", error: "the call panicked".into() },
            Err(_elapsed) => StepResult::Unknown { dependency: "order", error: "the call got stuck".into() },
        };
        traced::tried(&mut span, &result);
        drop(span);
        shared.tally.step(step, direction, &result, started.elapsed());
        point(Moment::AfterEffect).pass(shared.crash_at);
        let message = Message::StepDone { ticket, call: Box::new(call), result: Box::new(result) };
        // An actor that ended meanwhile does not need it: whoever resumes the saga asks again by the same key.
        let _gone = actor.cast(message);
    }));
}

async fn told_when_slow<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    after: Duration,
    actor: &ActorRef<Message>,
    ticket: u64,
) -> T {
    if let Ok(done) = tokio::time::timeout(after, work.as_mut()).await {
        return done;
    }
    // An actor that ended has nothing left to store.
    let _gone = actor.cast(Message::Slow { ticket });
    work.await
}
