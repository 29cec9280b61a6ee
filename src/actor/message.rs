//! What an order's actor is sent.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::registry::Permit;
use crate::domain::command::Ask;
use crate::domain::error::OrderError;
use crate::domain::order::Order;
use crate::domain::saga::{StepCall, StepResult};

/// What an asker hears.
pub(super) type Answer = Result<Arc<Order>, OrderError>;

/// Where an answer goes. Dropped unanswered when the actor ends: the asker then asks a fresh one.
#[derive(Debug)]
pub(super) struct Reply {
    to: oneshot::Sender<Answer>,
    accepted: Option<oneshot::Sender<Permit>>,
}

impl Reply {
    /// A reply, where its answer comes out, and where it is told that the command is taken.
    pub(super) fn new() -> (Self, oneshot::Receiver<Answer>, oneshot::Receiver<Permit>) {
        let ((to, heard), (accept, accepted)) = (oneshot::channel(), oneshot::channel());
        (Self { to, accepted: Some(accept) }, heard, accepted)
    }

    /// Says that the command is stored and its saga runs: who cannot wait any longer may look at the order. From here
    /// on the asker holds the permit, so that whoever stops waiting makes room at once.
    pub(super) fn accept(&mut self, permit: Permit) {
        if let Some(accepted) = self.accepted.take() {
            // Whoever hung up does not hear it, and the permit is dropped.
            let _gone = accepted.send(permit);
        }
    }

    pub(super) fn send(self, answer: Answer) {
        // Whoever hung up does not hear it.
        let _gone = self.to.send(answer);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.to.is_closed()
    }
}

/// One message. Mailboxes are unbounded, so each message from outside carries a permit that counts it.
#[derive(Debug)]
pub(super) enum Message {
    /// Somebody asks.
    Ask {
        /// What.
        ask: Box<Ask>,
        /// A moment ago this order was not stored: a creation need not be looked for. If it is by now, the store
        /// refuses it.
        fresh: bool,
        /// Where the answer goes.
        reply: Reply,
        /// Counts this command until it is answered.
        permit: Permit,
    },
    /// The call with this ticket came back.
    StepDone {
        /// Which attempt.
        ticket: u64,
        /// The call.
        call: Box<StepCall>,
        /// What it came back with.
        result: Box<StepResult>,
    },
    /// The call with this ticket takes longer than a saga may run ahead.
    Slow {
        /// Which attempt.
        ticket: u64,
    },
    /// The wait with this ticket is over.
    Due {
        /// Which wait.
        ticket: u64,
    },
    /// The sweeper found an unfinished saga.
    Wake {
        /// Its place among those that are resumed; kept until it waits or ends.
        place: OwnedSemaphorePermit,
    },
    /// Leave, if nothing is going on.
    Passivate,
    /// Leave, whatever is going on: the order has another owner.
    Release,
}
