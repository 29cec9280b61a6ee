//! The one road for every change: an order, its saga and an input go in; what to store and what to do next comes out.
//!
//! A person asking, a collaborator answering and a crash being recovered all come through [`react`]. It decides and
//! computes; it stores nothing, calls nobody and tells no one. The caller stores the [`Change`] first, and only then
//! acts on its [`SagaMove`] and answers; a change that [`Change::may_wait`] is acted on before, and told of only after.

use std::time::Duration;

use super::cause::Cause;
use super::command::{Ask, OrderCommand};
use super::error::OrderError;
use super::event::{OrderEvent, RecordedEvent};
use super::evolve::evolve;
use super::ids::CallKey;
use super::order::{Order, RequestRecord};
use super::pricing::CouponUse;
use super::saga::{SagaKind, SagaMove, SagaProgress, StepCall, StepResult};
use super::trace::TraceContext;
use super::{Timestamp, advance, book, decide, waiting};

/// How patient sagas are. All limits that pure code needs.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Wait before the first retry.
    pub retry_initial: Duration,
    /// Longest wait between retries.
    pub retry_max: Duration,
    /// Tries of a step that may be given up, 1..; then the saga turns round.
    pub forward_tries: u32,
    /// Tries of a step that may not be given up, 1..; then a person is called, and the tries go on.
    pub attention_after_tries: u32,
    /// A charge whose key the payment service does not know this long after it was sent was never made: call timeout
    /// plus the provider's lag.
    pub charge_settle_lag: Duration,
    /// How long after its creation an order's calls may follow each other without each being stored before: their keys
    /// are known from the first commit on, so a repeat after a crash is the same call. Zero stores each one.
    ///
    /// It also bounds how long after the creation a process that was paused, and lost the order meanwhile, may go on with
    /// it.
    pub run_ahead: Duration,
    /// How long inventory holds what it reserved; half of it after it last said so it is asked to go on. Not zero.
    pub reservation_ttl: Duration,
    /// How long after its creation an order that is not paid is canceled; zero = never.
    pub expire_after: Duration,
    /// How long it may be unknown what became of a payment before a person is called; the questions go on.
    pub unknown_attention_after: Duration,
}

/// What reaches an order.
#[derive(Debug)]
pub enum Input {
    /// Somebody asks. `calling` says that a step's call is under way: then no other may be begun.
    Command {
        /// What and who.
        ask: Ask,
        /// A call is under way.
        calling: bool,
    },
    /// The call that was under way came back.
    StepFinished {
        /// The call.
        call: StepCall,
        /// What it came back with.
        result: StepResult,
    },
    /// The saga's next call is due, or was lost in a crash; or a timer of the order is due.
    Resume,
    /// What a saga that runs ahead has not recorded yet is to be stored, and it runs ahead no more.
    CatchUp {
        /// The call that is under way.
        running: StepCall,
    },
}

/// What happens to a coupon's use count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CouponChange {
    /// One more use, unless the limit is reached.
    Claim(CouponUse),
    /// The use of this order is given back.
    Release(String),
}

/// What to store, then what to do.
#[derive(Clone, Debug)]
pub struct Change {
    /// The order after the change, at the next version.
    pub order: Order,
    /// What happened, at least one saga step or one event.
    pub events: Vec<RecordedEvent>,
    /// The saga after the change.
    pub saga: Option<SagaProgress>,
    /// The request id this change answers.
    pub request: Option<RequestRecord>,
    /// What happens to the coupon.
    pub coupon: Option<CouponChange>,
    /// What to do once it is stored.
    pub act: SagaMove,
    /// It may be acted on before it is stored, and is stored with the change after it: what is stored already says that
    /// this may have happened. Nobody may be told of it until then.
    pub may_wait: bool,
}

impl Change {
    /// This change as the state that the next input meets before it is stored: under the version that is stored.
    #[must_use]
    pub fn unstored(mut self) -> Self {
        self.order.version = self.order.version.saturating_sub(1);
        self
    }

    /// Both changes as one. `earlier` was [`Self::unstored`] when this one was made.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        let mut events = earlier.events;
        events.append(&mut self.events);
        let (request, coupon) = (self.request.or(earlier.request), self.coupon.or(earlier.coupon));
        Self { events, request, coupon, ..self }
    }
}

/// What an input leads to.
#[derive(Debug)]
pub enum Reaction {
    /// Store this, then act.
    Commit(Box<Change>),
    /// Nothing to store; act.
    Act(SagaMove),
    /// The same was asked before; its answer is the end of this saga, or the order as it stands.
    Repeat(Option<u32>),
    /// The running saga leads where the caller wants to go: wait for its end.
    Join,
    /// The order is already as asked.
    Unchanged,
}

/// Decides what `input` does to an order.
///
/// # Errors
/// The reason why a command is refused; then nothing changes. A step's result is never refused.
pub fn react(
    order: Option<&Order>,
    saga: Option<&SagaProgress>,
    input: Input,
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    // What is settled is over: no late answer and no timer moves it again.
    let running_saga = saga.filter(|saga| !saga.settled);
    match input {
        Input::Command { ask, calling } => match (order, &ask.command) {
            // The one place where a command meets its order: nothing of it is known to whoever does not get at it.
            (Some(order), _) if !ask.reach.covers(order.user_id) => {
                Err(OrderError::OrderNotFound { order: String::new() })
            }
            (None, OrderCommand::Create(draft)) if !ask.reach.covers(draft.user_id) => {
                Err(OrderError::OrderNotFound { order: String::new() })
            }
            (None, OrderCommand::Create(draft)) => Ok(decide::create(draft, &ask, now, policy)),
            (None, _) => Err(OrderError::OrderNotFound { order: String::new() }),
            (Some(order), _) => decide::decide(order, running_saga, &ask, calling, now, policy),
        },
        Input::StepFinished { call, result } => {
            let (Some(order), Some(saga)) = (order, running_saga) else { return Ok(Reaction::Unchanged) };
            let mut work = Work::on(order, Some(saga), Cause::of_saga(saga), now, policy);
            work.ahead = may_go_on(saga, &call, &result, now, policy);
            book::book(&mut work, &call, result);
            let act = advance::advance(&mut work);
            work.ahead &= matches!(act, SagaMove::Run(_));
            work.may_wait = work.ahead;
            if work.is_idle(saga) {
                return Ok(Reaction::Act(act));
            }
            Ok(work.commit(None, None, act))
        }
        Input::CatchUp { running } => {
            let (Some(order), Some(saga)) = (order, running_saga) else { return Ok(Reaction::Unchanged) };
            let mut work = Work::on(order, Some(saga), Cause::of_saga(saga), now, policy);
            advance::intend(&mut work, &running);
            Ok(work.commit(None, None, SagaMove::Keep))
        }
        Input::Resume => {
            let Some(order) = order else { return Ok(Reaction::Unchanged) };
            let Some(saga) = running_saga else { return Ok(waiting::timer(order, now, policy)) };
            let mut work = Work::on(order, Some(saga), Cause::of_saga(saga), now, policy);
            waiting::end_hold(&mut work);
            advance::doubt(&mut work);
            let act = advance::advance(&mut work);
            if work.is_idle(saga) {
                return Ok(Reaction::Act(act));
            }
            Ok(work.commit(None, None, act))
        }
    }
}

/// Whether the saga's next call may be made before this answer is stored: the answer is the one that was hoped for, and it
/// came in time.
fn may_go_on(
    saga: &SagaProgress,
    call: &StepCall,
    result: &StepResult,
    now: Timestamp,
    policy: &Policy,
) -> bool {
    let hoped_for = matches!(
        (call, result),
        (StepCall::Reserve { fresh: true, .. }, StepResult::Reserved { .. })
            | (StepCall::Charge { fresh: true, .. }, StepResult::Charged { .. })
    );
    // A clock that was set back tells nothing of how much time has passed.
    let passed = now.signed_duration_since(saga.started_at).to_std();
    saga.ahead && saga.turn.is_none() && hoped_for && passed.is_ok_and(|passed| passed < policy.run_ahead)
}

/// The order that a draft would become, for those who only want to know. It is at version 0: nothing is stored.
pub fn preview(draft: &super::command::Draft, now: Timestamp) -> Order {
    super::evolve::open(draft, now)
}

/// A change in the making.
pub(super) struct Work<'a> {
    pub(super) order: Order,
    pub(super) saga: Option<SagaProgress>,
    pub(super) events: Vec<RecordedEvent>,
    pub(super) now: Timestamp,
    pub(super) policy: &'a Policy,
    /// The saga may run ahead of what is stored after this change.
    pub(super) ahead: bool,
    may_wait: bool,
    cause: Cause,
}

impl<'a> Work<'a> {
    pub(super) fn on(
        order: &Order,
        saga: Option<&SagaProgress>,
        cause: Cause,
        now: Timestamp,
        policy: &'a Policy,
    ) -> Self {
        let mut order = order.clone();
        // A clock that was set back must not make history run backwards.
        let now = now.max(order.updated_at);
        order.version = order.version.saturating_add(1);
        order.updated_at = now;
        let (saga, events) = (saga.cloned(), Vec::new());
        Self { order, saga, events, now, policy, ahead: false, may_wait: false, cause }
    }

    /// Whether nothing has changed: what comes next is allowed for by what is stored.
    fn is_idle(&self, before: &SagaProgress) -> bool {
        self.events.is_empty() && self.saga.as_ref() == Some(before)
    }

    /// Records an event and applies it.
    pub(super) fn emit(&mut self, event: OrderEvent) {
        self.record(self.cause.clone(), event);
    }

    /// Records an event that is the service's own doing, on the occasion of whoever asked.
    pub(super) fn emit_as(&mut self, principal: &str, event: OrderEvent) {
        let cause = Cause { request_id: self.cause.request_id.clone(), ..Cause::system(principal) };
        self.record(cause, event);
    }

    fn record(&mut self, cause: Cause, event: OrderEvent) {
        evolve(&mut self.order, &event, self.now);
        self.order.event_seq = self.order.event_seq.saturating_add(1);
        self.events.push(RecordedEvent {
            seq: self.order.event_seq,
            version: self.order.version,
            at: self.now,
            principal: cause.principal,
            role: cause.role,
            reason: cause.reason,
            request_id: cause.request_id.filter(|id| !id.is_empty()),
            event,
        });
    }

    /// Starts the order's next saga on behalf of `ask`.
    pub(super) fn start(&mut self, kind: SagaKind, ask: &Ask, notes: &str) {
        let no = self.order.saga_no.saturating_add(1);
        self.emit(OrderEvent::SagaStarted { saga: no, kind });
        self.saga = Some(SagaProgress {
            order_id: self.order.id,
            no,
            kind,
            direction: kind.starts(),
            step: None,
            tries: 0,
            resend: false,
            turn: None,
            ahead: false,
            next_at: None,
            started_at: self.now,
            sent_at: None,
            attention: None,
            last_error: None,
            failure: None,
            settled: false,
            notes: notes.to_owned(),
            principal: ask.caller.principal.to_string(),
            role: ask.caller.role(),
            reason: ask.caller.reason.clone(),
            request_id: ask.context.request_id.to_string(),
            trace_parent: ask.context.trace.as_ref().map(TraceContext::parent),
            token: None,
        });
    }

    /// The key of a call of the running saga. A repeat is the same call with the same key.
    pub(super) fn key(&self, step: &str) -> CallKey {
        self.attempt(step, 1)
    }

    /// The key of another attempt, where the last one was surely refused: under its key the answer stays no.
    pub(super) fn attempt(&self, step: &str, attempt: u32) -> CallKey {
        CallKey::new(self.order.id, self.saga.as_ref().map_or(0, |saga| saga.no), step, attempt)
    }

    pub(super) fn commit(
        mut self,
        request: Option<RequestRecord>,
        coupon: Option<CouponChange>,
        act: SagaMove,
    ) -> Reaction {
        if let Some(saga) = &mut self.saga {
            saga.ahead = self.ahead;
        }
        if let Some(request) = &request {
            std::sync::Arc::make_mut(&mut self.order.requests).push(request.clone());
        }
        let ended = self.events.iter().any(|recorded| {
            matches!(&recorded.event, OrderEvent::StatusChanged { to, .. }
                if *to == super::status::OrderStatus::Cancelled)
        });
        let coupon = match &self.order.coupon_code {
            Some(code) if ended => Some(CouponChange::Release(code.clone())),
            _ => coupon,
        };
        self.order.attention = self.order.calls_for_a_person(self.saga.as_ref());
        Reaction::Commit(Box::new(Change {
            order: self.order,
            events: self.events,
            saga: self.saga,
            request,
            coupon,
            act,
            may_wait: self.may_wait,
        }))
    }
}
