//! How an actor ends.

use ractor::ActorRef;

use super::message::Message;
use super::order_actor::OrderActor;
use super::state::State;
use crate::ports::store::CommitError;

/// Why an actor ends.
#[derive(Debug)]
pub(super) enum End {
    /// Nothing is here, nothing is left to do, or it is for somebody else to do.
    Left,
    /// Memory can no longer be trusted; `counts` says that the order itself may be to blame.
    Failed { why: String, counts: bool, hopeless: bool },
}

impl End {
    pub(super) fn of_commit(error: &CommitError) -> Self {
        // Whatever else goes wrong with a commit is the store's trouble, not this order's.
        let counts = matches!(error, CommitError::Conflict);
        Self::Failed { why: error.to_string(), counts, hopeless: false }
    }
}

impl OrderActor {
    /// Takes the order out of memory. The cache keeps it only if what is in memory is certain.
    pub(super) async fn leave(&self, myself: &ActorRef<Message>, state: &mut State, end: End) {
        state.left = true;
        state.stop_timer();
        match (end, &state.order) {
            (End::Left, _) => {}
            (End::Failed { why, counts, hopeless }, order) => {
                tracing::warn!(order_id = %state.id, why, "an order's actor ends; the next one loads afresh");
                if let Some(order) = order {
                    self.0.left_at(state.id, order.version);
                }
                if state.unsettled().is_some() {
                    // Full: the sweeper finds it by itself.
                    let _later = self.0.orphans.try_send(state.id);
                }
                // Known to be at least this; it may be one more.
                let at_least = order.as_ref().map_or(1, |order| order.version.saturating_add(1));
                self.0.cache.forget(state.id, at_least).await;
                // Who has lost an order has not failed.
                if counts && (hopeless || state.is_owned()) {
                    self.0.failed(state.id, hopeless);
                }
            }
        }
        if let Some(entry) = &state.entry {
            self.0.leave(state.id, entry);
        }
        myself.stop(None);
    }
}
