//! The spans of an order's actor, and for which call it works.
//!
//! What a saga does belongs to the trace of the request that began it, by the place in that trace that is stored with the
//! saga. Whoever takes a saga up again makes a span that is linked to that place, and goes on below it.

use std::sync::Arc;

use super::attempt;
use super::message::Message;
use super::state::State;
use crate::domain::command::{Ask, OrderCommand};
use crate::domain::saga::{Direction, SagaProgress, StepCall, StepResult};
use crate::domain::trace::TraceContext;
use crate::ports::store::{Commit, CommitError};
use crate::trace::{self, Current, Key, Kind, Name, Span};

impl State {
    /// For which call a message is handled.
    pub(super) fn works_for(&self, message: &Message) -> Option<Current> {
        match message {
            Message::Ask { ask, .. } => Current::new(&ask.context.request_id, ask.context.trace.as_ref()),
            Message::StepDone { .. } | Message::Slow { .. } | Message::Due { .. } | Message::Wake { .. } => {
                let saga = self.head().1.filter(|saga| !saga.settled)?;
                Current::new(&Arc::from(saga.request_id.as_str()), self.trace_of(saga).as_ref())
            }
            Message::Passivate | Message::Release => None,
        }
    }

    /// Where in its trace a saga goes on.
    pub(super) fn trace_of(&self, saga: &SagaProgress) -> Option<TraceContext> {
        let stored = TraceContext::stored(saga.trace_parent.as_deref()?)?;
        let resumed = self.resumed.as_deref().filter(|resumed| resumed.trace == stored.trace);
        Some(resumed.cloned().unwrap_or(stored))
    }

    /// Notes that the saga that was just loaded was left by somebody else, or by an earlier life.
    pub(super) fn note_resumed(&mut self) {
        self.resumed = None;
        let Some(stored) = self.unsettled().and_then(|saga| saga.trace_parent.as_deref()) else { return };
        let Some(stored) = TraceContext::stored(stored) else { return };
        let (mut span, resumed) = trace::resumed(&stored, Name::Word("actor resume"));
        span.order(self.id);
        if let Some(saga) = self.unsettled() {
            tell_saga(&mut span, saga);
        }
        self.resumed = Some(Box::new(resumed));
    }
}

/// The span of a command. What the command brings about happens below it from here on.
pub(super) fn command(state: &mut State, mut ask: Ask) -> (Ask, Span) {
    let Some(context) = &ask.context.trace else { return (ask, Span::none()) };
    let name = || Name::Of("actor", word(&ask.command));
    let (mut span, context) = trace::child(context, Kind::Internal, name);
    span.order(state.id);
    state.asked = span.is_recorded().then(|| Box::new(context.clone()));
    ask.context.trace = Some(context);
    (ask, span)
}

/// The span of a commit, below the command that is carried out, or where the saga is.
pub(super) fn commit(state: &State, commit: &Commit) -> Span {
    let of_saga = || state.head().1.and_then(|saga| state.trace_of(saga));
    let Some(parent) = state.asked.as_deref().cloned().or_else(of_saga) else { return Span::none() };
    let (mut span, _) = trace::child(&parent, Kind::Internal, || Name::Word("store commit"));
    if span.is_recorded() {
        span.order(state.id);
        span.name(Key::Number, commit.order.order_number.as_str());
        span.count(Key::Version, commit.order.version);
        span.count(Key::Events, commit.events.len());
    }
    span
}

/// What came of it.
pub(super) fn committed<T>(mut span: Span, stored: &Result<T, CommitError>) {
    if stored.is_err() {
        span.word(Key::Outcome, "not stored");
        span.fail();
    }
}

/// The span of one try of a saga's call.
pub(super) fn step(parent: Option<&TraceContext>, saga: &SagaProgress, call: &StepCall) -> attempt::Traced {
    let Some(parent) = parent else { return (Span::none(), None) };
    let (mut span, context) = trace::child(parent, Kind::Internal, || Name::Of("saga", call_word(call)));
    if span.is_recorded() {
        let (step, _) = call.station();
        span.order(saga.order_id);
        tell_saga(&mut span, saga);
        span.word(Key::Step, step.as_str());
        span.word(Key::Direction, saga.direction.as_str());
        span.count(Key::Attempt, saga.tries.saturating_add(1));
        if saga.tries > 0 {
            span.event("retry");
        }
        if saga.direction == Direction::Backward {
            span.event("compensation");
        }
    }
    (span, Some(context))
}

/// What came of the try: nothing that the collaborator has said.
pub(super) fn tried(span: &mut Span, result: &StepResult) {
    let outcome = match result {
        StepResult::Refused { .. } => "refused",
        StepResult::Unknown { .. } => "unknown",
        StepResult::Unavailable { .. } => "unavailable",
        StepResult::ChargeNotFound => "not found",
        StepResult::ChargePending => "pending",
        _ => "done",
    };
    span.word(Key::Outcome, outcome);
    if matches!(result, StepResult::Unknown { .. } | StepResult::Unavailable { .. }) {
        span.fail();
    }
}

fn tell_saga(span: &mut Span, saga: &SagaProgress) {
    span.word(Key::Saga, saga.kind.as_str());
    span.count(Key::SagaNo, saga.no);
}

fn word(command: &OrderCommand) -> &'static str {
    match command {
        OrderCommand::Create(_) => "create",
        OrderCommand::Rejoin { .. } => "rejoin",
        OrderCommand::Cancel { .. } => "cancel",
        OrderCommand::SetStatus { .. } => "set status",
        OrderCommand::Refund { .. } => "refund",
        OrderCommand::Edit(_) => "edit",
        OrderCommand::AddShipment { .. } => "add shipment",
        OrderCommand::Hold { .. } => "hold",
        OrderCommand::Release { .. } => "release",
        OrderCommand::Repair(_) => "repair",
    }
}

fn call_word(call: &StepCall) -> &'static str {
    match call {
        StepCall::Reserve { .. } => "reserve",
        StepCall::Charge { .. } => "charge",
        StepCall::QueryCharge { .. } => "query charge",
        StepCall::CommitStock { .. } => "commit stock",
        StepCall::Refund { .. } => "refund",
        StepCall::Release { .. } => "release",
        StepCall::Restock { .. } => "restock",
        StepCall::CreateLabel { .. } => "create label",
        StepCall::VoidLabel { .. } => "void label",
    }
}
