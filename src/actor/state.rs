//! What an actor holds of its order.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use super::registry::Entry;
use super::shared::Shared;
use super::waiters::Waiters;
use crate::domain::chain::EventHash;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::react::Change;
use crate::domain::saga::SagaProgress;
use crate::domain::trace::TraceContext;
use crate::ports::store::Owner;

/// One order in memory: the last committed version and what runs.
pub(super) struct State {
    pub(super) id: OrderId,
    /// As whom it writes.
    pub(super) owner: Owner,
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) loaded: bool,
    pub(super) order: Option<Arc<Order>>,
    pub(super) saga: Option<Box<SagaProgress>>,
    /// The hash of the order's last stored event.
    pub(super) event_head: Option<EventHash>,
    /// What the call under way builds on and is not stored yet. Nobody is told of it; whoever asks has it stored first.
    pub(super) ahead: Option<Box<Change>>,
    pub(super) waiters: Waiters,
    /// Grows with each call and each wait; an answer with another ticket is late.
    pub(super) ticket: u64,
    pub(super) calling: bool,
    pub(super) timer: Option<AbortHandle>,
    /// A hold keeps its saga: nobody is kept waiting for that.
    pub(super) held: bool,
    /// Held while the sweeper's resumption of this order makes calls.
    pub(super) place: Option<OwnedSemaphorePermit>,
    pub(super) left: bool,
    /// Where in its trace the saga goes on that somebody else had begun.
    pub(super) resumed: Option<Box<TraceContext>>,
    /// Where in its trace the command is that is being carried out, if that is recorded.
    pub(super) asked: Option<Box<TraceContext>>,
}

impl State {
    pub(super) fn new(id: OrderId, owner: Owner, shared: Arc<Shared>) -> Self {
        Self {
            id,
            owner,
            shared,
            entry: None,
            loaded: false,
            order: None,
            saga: None,
            event_head: None,
            ahead: None,
            waiters: Waiters::default(),
            ticket: 0,
            calling: false,
            timer: None,
            held: false,
            place: None,
            left: false,
            resumed: None,
            asked: None,
        }
    }

    /// Order and saga as the next input meets them.
    pub(super) fn head(&self) -> (Option<&Order>, Option<&SagaProgress>) {
        match &self.ahead {
            Some(change) => (Some(&change.order), change.saga.as_ref()),
            None => (self.order.as_deref(), self.saga.as_deref()),
        }
    }

    /// Whether this process still owns the order, by what it knows.
    pub(super) fn is_owned(&self) -> bool {
        self.shared.placement.owner(self.id.slot()) == Some(self.owner)
    }

    pub(super) fn unsettled(&self) -> Option<&SagaProgress> {
        self.saga.as_deref().filter(|saga| !saga.settled)
    }

    pub(super) fn stop_timer(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

impl Drop for State {
    /// Runs however the actor ended, a panic included.
    fn drop(&mut self) {
        self.stop_timer();
        if !self.left {
            // What is near by may be older than what this actor stored.
            if let (Some(order), Ok(runtime)) = (&self.order, tokio::runtime::Handle::try_current()) {
                let (cache, id, version) = (Arc::clone(&self.shared.cache), self.id, order.version);
                runtime.spawn(async move { cache.forget(id, version).await });
            }
            if let Some(order) = &self.order {
                self.shared.left_at(self.id, order.version);
            }
            if let Some(entry) = self.entry.take().or_else(|| self.shared.registry.get(self.id)) {
                self.shared.leave(self.id, &entry);
            }
            // A stopping node drops its actors; that is no failure of theirs.
            if !self.shared.is_stopping() {
                self.shared.failed(self.id, false);
            }
        }
    }
}
