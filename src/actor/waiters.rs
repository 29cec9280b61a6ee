//! Those who wait for an order's saga to end.

use std::sync::Arc;

use super::message::Reply;
use super::registry::Permit;
use crate::domain::error::OrderError;
use crate::domain::order::Order;
use crate::domain::saga::Failure;
use crate::domain::status::OrderStatus;

/// What somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// That this saga reaches its goal; its failure is the answer.
    Goal(u32),
    /// That this saga makes the order PROCESSING; being cancelled meanwhile is a refusal.
    Processing(u32),
    /// That nothing is left to do, however it went.
    End,
}

#[derive(Debug)]
struct Waiter {
    want: Want,
    reply: Reply,
}

/// At most as many as an order may have commands in flight: each asker that still waits holds its permit.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    pub(super) fn add(&mut self, want: Want, mut reply: Reply, permit: Permit) {
        // Whoever hung up makes room.
        self.0.retain(|waiter| !waiter.reply.is_closed());
        reply.accept(permit);
        self.0.push(Waiter { want, reply });
    }

    /// Answers everybody.
    pub(super) fn settle(&mut self, order: &Arc<Order>) {
        for waiter in self.0.drain(..) {
            waiter.reply.send(answer(order, waiter.want));
        }
        self.0.shrink_to_fit();
    }
}

/// The answer to somebody who wanted this from a settled order.
pub(super) fn answer(order: &Arc<Order>, want: Want) -> Result<Arc<Order>, OrderError> {
    let failure = match want {
        Want::Goal(saga) | Want::Processing(saga) => order.failures.get(&saga),
        Want::End => None,
    };
    let id = || order.id.to_string();
    match failure {
        None if matches!(want, Want::Processing(_))
            && matches!(order.status, OrderStatus::Cancelling | OrderStatus::Cancelled) =>
        {
            let (from, to) = (order.status, OrderStatus::Processing);
            Err(OrderError::IllegalTransition { from, to, missing: None })
        }
        None => Ok(Arc::clone(order)),
        Some(Failure::OutOfStock { shortages }) => {
            let (shortages, order_id) = (shortages.clone(), Some(id()));
            Err(OrderError::InventoryUnavailable { shortages, order_id })
        }
        Some(Failure::Cancelled) => {
            let why = "it was cancelled before they were there";
            Err(OrderError::NotEditable { status: order.status, why })
        }
        Some(Failure::PaymentDeclined { code }) => {
            Err(OrderError::PaymentDeclined { code: code.clone(), order_id: id() })
        }
        Some(Failure::DependencyUnavailable { dependency } | Failure::Refused { dependency, .. }) => {
            let (dependency, order_id) = (dependency.clone(), Some(id()));
            Err(OrderError::DependencyUnavailable { dependency, order_id })
        }
    }
}
