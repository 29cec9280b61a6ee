//! What an order does next once it is stored: the next call, a pause, or nothing.

use std::sync::Arc;

use ractor::ActorRef;

use super::attempt;
use super::message::Message;
use super::order_actor::OrderActor;
use super::state::State;
use crate::domain::saga::SagaMove;

impl OrderActor {
    /// Does what the saga says is next.
    pub(super) fn act(&self, myself: &ActorRef<Message>, state: &mut State, act: SagaMove) {
        if act != SagaMove::Keep {
            state.held = matches!(act, SagaMove::Held(_));
        }
        if state.held
            && let Some(order) = &state.order
        {
            state.waiters.settle(order);
        }
        match act {
            SagaMove::Keep => {}
            SagaMove::Run(call) => {
                state.stop_timer();
                state.ticket = state.ticket.wrapping_add(1);
                state.calling = true;
                if let Some(entry) = &state.entry {
                    entry.set_running(Some(&call));
                }
                let order = match &state.ahead {
                    Some(change) => Some(Arc::new(change.order.clone())),
                    None => state.order.clone(),
                };
                if let (Some(order), (_, Some(saga))) = (order, state.head()) {
                    let slow_after = state.ahead.as_ref().map(|_| self.runs_ahead_for(saga));
                    let trace = state.trace_of(saga);
                    let try_of = attempt::Try { ticket: state.ticket, order, saga, call, slow_after, trace };
                    attempt::start(&self.0, myself.clone(), try_of);
                }
            }
            SagaMove::Wait(at) | SagaMove::Held(at) => {
                state.stop_timer();
                state.ticket = state.ticket.wrapping_add(1);
                let (ticket, actor) = (state.ticket, myself.clone());
                let pause = at.signed_duration_since(self.0.clock.now()).to_std().unwrap_or_default();
                let timer = tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _gone = actor.cast(Message::Due { ticket });
                });
                state.timer = Some(timer.abort_handle());
            }
            SagaMove::Settled => {
                state.stop_timer();
                if let Some(order) = &state.order {
                    state.waiters.settle(order);
                }
            }
        }
        if let Some(entry) = &state.entry {
            entry.set_busy(state.calling);
            if !state.calling {
                entry.set_running(None);
            }
            entry.set_settled(state.unsettled().is_none() || state.held);
        }
    }
}
