//! The actor of one order: react, commit, adopt, act, answer, in that order. What may wait for the commit after it is in
//! [`super::ahead`].

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::crash::{Moment, Points};
use super::end::End;
use super::message::{Message, Reply};
use super::note::{is_noted, log_setback, touched};
use super::registry::Permit;
use super::regression;
use super::shared::Shared;
use super::state::State;
use super::tally::Mark;
use super::traced;
use super::waiters::{Want, answer};
use crate::domain::command::{Ask, OrderCommand};
use crate::domain::error::OrderError;
use crate::domain::ids::{OrderId, OrderNumber};
use crate::domain::react::{Change, CouponChange, Input, Reaction, react};
use crate::domain::saga::{SagaMove, StepCall, StepName, StepResult};
use crate::domain::status::OrderStatus;
use crate::domain::text::{Violation, ViolationReason};
use crate::ports::store::{
    Chain, ClaimError, Commit, CommitError, CouponMove, Owner, StoreError, WriteGuard,
};
use crate::trace;

/// Numbers tried for a new order before it is refused: 38 bits are seldom taken twice, never eight times.
const NUMBER_ATTEMPTS: u32 = 8;

/// Why a command is refused that the store has no room for.
const QUEUE_FULL: &str = "the order store has too many changes waiting";

/// The behavior; all orders share one.
#[derive(Debug)]
pub(super) struct OrderActor(pub(super) Arc<Shared>);

impl Actor for OrderActor {
    type Msg = Message;
    type State = State;
    type Arguments = (OrderId, Owner);

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        (id, owner): (OrderId, Owner),
    ) -> Result<State, ActorProcessingErr> {
        Ok(State::new(id, owner, Arc::clone(&self.0)))
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if state.left {
            return Ok(());
        }
        let current = state.works_for(&message);
        let handling = async {
            if let Err(end) = self.on(&myself, message, state).await {
                self.leave(&myself, state, end).await;
            }
        };
        // Boxed, so that an idle actor does not carry the space of a busy one.
        Box::pin(trace::within(current, handling)).await;
        Ok(())
    }
}

impl OrderActor {
    async fn on(&self, myself: &ActorRef<Message>, message: Message, state: &mut State) -> Result<(), End> {
        if state.entry.is_none() {
            state.entry = self.0.registry.get(state.id);
        }
        match message {
            Message::Ask { ask, fresh, reply, permit } => {
                // One that this node has acknowledged is none, also when the store should have lost it.
                let is_new = fresh
                    && matches!(ask.command, OrderCommand::Create(_))
                    && self.0.acknowledged.highest(state.id) == 0;
                if !state.loaded
                    && !is_new
                    && let Err((error, end)) = self.load(state).await
                {
                    reply.send(Err(error));
                    return Err(end);
                }
                let (ask, _span) = traced::command(state, *ask);
                let asked = self.ask(myself, state, ask, reply, permit).await;
                state.asked = None;
                asked?;
            }
            Message::StepDone { ticket, call, result } => {
                if ticket != state.ticket || !state.calling {
                    tracing::debug!(order_id = %state.id, "a late answer was dropped");
                    return Ok(());
                }
                self.step_done(myself, state, *call, *result).await?;
            }
            Message::Slow { ticket } => {
                if ticket == state.ticket && state.calling {
                    match self.catch_up(state).await {
                        // It is stored with the answer that comes next.
                        Ok(()) | Err(CommitError::QueueFull) => {}
                        Err(error) => return Err(End::of_commit(&error)),
                    }
                }
                return Ok(());
            }
            Message::Due { ticket } => {
                if ticket == state.ticket {
                    state.timer = None;
                }
            }
            Message::Wake { place } => {
                state.place = Some(place);
                if !state.loaded
                    && let Err((_, end)) = self.load(state).await
                {
                    return Err(end);
                }
                let now = self.0.clock.now();
                if state.unsettled().and_then(|saga| saga.next_at).is_some_and(|at| at <= now) {
                    // Its own timer is late: the clock went on while this process stood still, or was wrong.
                    state.stop_timer();
                }
                let is_due = state.order.as_ref().and_then(|order| order.timer()).is_some_and(|at| at <= now);
                if is_due && state.unsettled().is_none() {
                    self.resume(myself, state).await?;
                }
            }
            Message::Release => {
                // Should it stay here after all, nothing older may be found near by.
                if let Some(order) = &state.order {
                    self.0.cache.put(Arc::clone(order), state.owner.epoch).await;
                }
                return Err(End::Left);
            }
            Message::Passivate => {
                // One that is held may be so for days; the sweeper brings it back when it is due.
                if state.unsettled().is_none() || state.held {
                    // Near by before it is gone: a read in between must not find an older one.
                    if let Some(order) = &state.order {
                        self.0.cache.put(Arc::clone(order), state.owner.epoch).await;
                    }
                    if state.entry.as_ref().is_some_and(|entry| entry.close_if_idle()) {
                        self.0.tally.passivations.increment(1);
                        return Err(End::Left);
                    }
                }
                return Ok(());
            }
        }
        if state.order.is_none() {
            // Others who ask for what is not here are answered from memory; the last one turns off the light.
            let last = state.entry.as_ref().is_none_or(|entry| entry.close_if_idle());
            return if last { Err(End::Left) } else { Ok(()) };
        }
        // Whatever came in, a saga with no call and no wait under way goes on.
        if state.unsettled().is_some() && !state.calling && state.timer.is_none() {
            self.resume(myself, state).await?;
        }
        if !state.calling {
            // It waits or has ended: others may be resumed.
            state.place = None;
        }
        Ok(())
    }

    /// Becomes the order's only writer and takes its newest state.
    async fn load(&self, state: &mut State) -> Result<(), (OrderError, End)> {
        let failed = |why: String, hopeless: bool| End::Failed { why, counts: hopeless, hopeless };
        match self.0.store.claim(state.id, state.owner).await {
            Ok(stored) => {
                let version = stored.as_ref().map_or(0, |stored| stored.order.version);
                if let Some(lost) = self.0.regression(state.id, version) {
                    let noted = regression::quarantine(&self.0, &[lost]).await;
                    if noted.is_err() {
                        self.0.left_at(state.id, lost.known);
                    }
                    let why = noted.err().map_or_else(String::new, |error| format!(": {error}"));
                    let why = format!("the store has lost changes of the order{why}");
                    return Err((OrderError::Quarantined, failed(why, true)));
                }
                state.loaded = true;
                let Some(stored) = stored else { return Ok(()) };
                if let Some(entry) = &state.entry {
                    entry.publish(&stored.order);
                    entry.set_settled(stored.saga.is_none());
                }
                // The commit that told nobody of its events, since its own end was in doubt, is told of here.
                self.0.hub.published(stored.order.id, stored.order.event_seq);
                state.order = Some(stored.order);
                state.event_head = stored.head;
                state.saga = stored.saga.map(Box::new);
                state.note_resumed();
                Ok(())
            }
            Err(ClaimError::Deposed) => {
                fence_refused();
                Err((OrderError::NotOwner, failed("the order belongs to a newer owner".into(), false)))
            }
            Err(ClaimError::Store(error @ StoreError::Unavailable(_))) => {
                Err((OrderError::StorageUnavailable, failed(error.to_string(), false)))
            }
            Err(ClaimError::Store(error @ StoreError::Corrupt { .. })) => {
                Err((OrderError::Quarantined, failed(error.to_string(), true)))
            }
        }
    }

    async fn ask(
        &self,
        myself: &ActorRef<Message>,
        state: &mut State,
        mut ask: Ask,
        reply: Reply,
        permit: Permit,
    ) -> Result<(), End> {
        // What it meets and what it is told has to be stored.
        match self.catch_up(state).await {
            Ok(()) => {}
            Err(CommitError::QueueFull) => {
                reply.send(Err(OrderError::Overloaded { what: QUEUE_FULL }));
                return Ok(());
            }
            // Without a reply its asker asks a fresh actor.
            Err(error) => return Err(End::of_commit(&error)),
        }
        let mut number_attempt = 0u32;
        loop {
            let input = Input::Command { ask: ask.clone(), calling: state.calling };
            let (order, saga) = (state.order.as_deref(), state.saga.as_deref());
            let reaction = react(order, saga, input, self.0.clock.now(), &self.0.policy);
            let change = match (reaction, &state.order) {
                (Ok(Reaction::Commit(change)), _) => change,
                (Ok(Reaction::Join), Some(order)) if state.unsettled().is_none() => {
                    reply.send(answer(order, Want::End));
                    return Ok(());
                }
                (Ok(Reaction::Join), _) => {
                    state.waiters.add(Want::End, reply, permit);
                    return Ok(());
                }
                (Ok(Reaction::Repeat(saga_no)), Some(order)) => {
                    let want = saga_no.map_or(Want::End, Want::Goal);
                    let runs = state.unsettled().is_some_and(|saga| saga_no.is_none_or(|no| no == saga.no));
                    if runs && !state.held {
                        state.waiters.add(want, reply, permit);
                    } else {
                        reply.send(answer(order, want));
                    }
                    return Ok(());
                }
                (Ok(Reaction::Unchanged | Reaction::Act(_)), Some(order)) => {
                    reply.send(Ok(Arc::clone(order)));
                    return Ok(());
                }
                (Ok(_), None) | (Err(OrderError::OrderNotFound { .. }), _) => {
                    reply.send(Err(OrderError::OrderNotFound { order: state.id.to_string() }));
                    return Ok(());
                }
                (Err(error), _) => {
                    reply.send(Err(error));
                    return Ok(());
                }
            };
            let saga_no = change.order.saga_no;
            let want = match &ask.command {
                OrderCommand::Create(_) => Want::Goal(saga_no),
                OrderCommand::Edit(_) => Want::Goal(saga_no),
                OrderCommand::AddShipment { .. } => Want::Processing(saga_no),
                OrderCommand::SetStatus { to: OrderStatus::Processing, .. } => Want::Processing(saga_no),
                _ => Want::End,
            };
            let is_noted = is_noted(&ask.command, &change);
            match self.commit(state, change, None).await {
                Ok(act) => {
                    if act == SagaMove::Settled || is_noted {
                        if let Some(order) = &state.order {
                            reply.send(answer(order, want));
                        }
                    } else {
                        state.waiters.add(want, reply, permit);
                    }
                    self.act(myself, state, act);
                    return Ok(());
                }
                Err(CommitError::NumberTaken) => {
                    number_attempt = number_attempt.saturating_add(1);
                    let OrderCommand::Create(draft) = &mut ask.command else {
                        return Err(End::of_commit(&CommitError::NumberTaken));
                    };
                    if number_attempt >= NUMBER_ATTEMPTS {
                        reply.send(Err(OrderError::StorageUnavailable));
                        return Err(End::of_commit(&CommitError::NumberTaken));
                    }
                    draft.order_number = OrderNumber::of(&self.0.key, draft.id, number_attempt);
                }
                Err(CommitError::CouponExhausted) => {
                    let (field, expected) = ("coupon_code".to_owned(), "this coupon is used up".to_owned());
                    let reason = ViolationReason::Coupon;
                    reply.send(Err(OrderError::Invalid(vec![Violation { field, reason, expected }])));
                    return Ok(());
                }
                // Nothing was tried, so what is in memory still holds.
                Err(CommitError::QueueFull) => {
                    reply.send(Err(OrderError::Overloaded { what: QUEUE_FULL }));
                    return Ok(());
                }
                Err(error @ CommitError::NotCommitted(_)) => {
                    reply.send(Err(OrderError::StorageUnavailable));
                    return Err(End::of_commit(&error));
                }
                // A repeat of a creation that nobody near by remembers. Its asker asks a fresh actor, which looks first.
                Err(CommitError::Conflict) if state.order.is_none() => return Err(End::Left),
                Err(error) => {
                    // It may be stored, and a fresh actor could not tell it from another one that asks for the same.
                    if matches!(error, CommitError::Unknown(_)) && !ask.may_be_repeated() {
                        reply.send(Err(OrderError::StorageUnavailable));
                    }
                    // Otherwise the reply is dropped: the asker asks a fresh actor, which looks at what is stored.
                    return Err(End::of_commit(&error));
                }
            }
        }
    }

    async fn step_done(
        &self,
        myself: &ActorRef<Message>,
        state: &mut State,
        call: StepCall,
        result: StepResult,
    ) -> Result<(), End> {
        log_setback(state.id, &call, &result);
        let (step, _) = call.station();
        let input = Input::StepFinished { call, result };
        self.react_alone(myself, state, input, Some(step)).await
    }

    async fn resume(&self, myself: &ActorRef<Message>, state: &mut State) -> Result<(), End> {
        self.react_alone(myself, state, Input::Resume, None).await
    }

    /// An input that nobody waits for an answer to.
    async fn react_alone(
        &self,
        myself: &ActorRef<Message>,
        state: &mut State,
        input: Input,
        finished: Option<StepName>,
    ) -> Result<(), End> {
        let (order, saga) = state.head();
        let act = match react(order, saga, input, self.0.clock.now(), &self.0.policy) {
            Ok(Reaction::Commit(change)) if change.may_wait => self.hold(state, *change, finished),
            Ok(Reaction::Commit(change)) => {
                self.commit(state, change, finished).await.map_err(|error| End::of_commit(&error))?
            }
            Ok(Reaction::Act(act)) => act,
            Ok(Reaction::Repeat(_) | Reaction::Join | Reaction::Unchanged) => SagaMove::Keep,
            Err(error) => {
                return Err(End::Failed { why: error.to_string(), counts: true, hopeless: false });
            }
        };
        state.calling = state.calling && finished.is_none();
        self.act(myself, state, act);
        Ok(())
    }

    /// Stores the change with what was kept before it, then adopts it. Memory changes only after the store has taken it.
    pub(super) async fn commit(
        &self,
        state: &mut State,
        change: Box<Change>,
        finished: Option<StepName>,
    ) -> Result<SagaMove, CommitError> {
        // Whoever has lost the order stops; the store would refuse it where somebody else has taken it.
        if !state.is_owned() {
            fence_refused();
            return Err(CommitError::Conflict);
        }
        let points = Points::of(state, &change, finished);
        let change = match state.ahead.take() {
            Some(earlier) => change.after(*earlier),
            None => *change,
        };
        let Change { order, events, saga, request, coupon, act, may_wait: _ } = change;
        points.pass(self.0.crash_at, Moment::BeforeOutcome, Moment::BeforeIntent);
        let order = Arc::new(order);
        let commit = Commit {
            guard: WriteGuard {
                version: state.order.as_ref().map_or(0, |order| order.version),
                owner: state.owner,
                key: None,
            },
            touched: touched(state.order.as_deref(), &order),
            order: Arc::clone(&order),
            events,
            saga: saga.clone(),
            request,
            coupon: coupon.map(|coupon| match coupon {
                CouponChange::Claim(coupon) => {
                    CouponMove::Claim { code: coupon.code, use_limit: coupon.use_limit }
                }
                CouponChange::Release(code) => CouponMove::Release { code },
            }),
            chain: Chain::after(state.event_head),
        };
        let marks = self.0.tally.marks(&commit);
        if let Some(entry) = &state.entry {
            entry.set_committing(true);
        }
        let span = traced::commit(state, &commit);
        let stored = self.0.store.append(commit).await;
        traced::committed(span, &stored);
        if let (Some(entry), Err(error)) = (&state.entry, &stored)
            && !matches!(error, CommitError::Unknown(_))
        {
            entry.set_committing(false);
        }
        // A creation that is there already meets no fence.
        if matches!(&stored, Err(CommitError::Conflict)) && state.order.is_some() {
            fence_refused();
        }
        let event_head = stored?;
        marks.into_iter().for_each(Mark::count);
        points.pass(self.0.crash_at, Moment::AfterOutcome, Moment::AfterIntent);
        state.loaded = true;
        // A settled one is history: idle orders do not carry it.
        state.saga = saga.filter(|saga| !saga.settled).map(Box::new);
        if let Some(entry) = &state.entry {
            entry.publish(&order);
            entry.set_committing(false);
            entry.set_settled(state.unsettled().is_none());
        }
        self.0.acknowledged.note(order.id, order.version);
        self.0.hub.published(order.id, order.event_seq);
        self.0.recovered(order.id);
        state.order = Some(order);
        state.event_head = event_head;
        Ok(act)
    }
}

/// Counts what came to nothing since the order is no longer this node's, or newer than it knew; also where that was known
/// before the store was asked.
fn fence_refused() {
    metrics::counter!("order_store_fences_refused_total").increment(1);
}
