//! What a change writes, and what is counted and logged of it.

use std::sync::Arc;

use crate::domain::event::OrderEvent;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::saga::{StepCall, StepResult};
use crate::ports::store::{Commit, Touched};

/// Which rows the change writes: what is shared between the two versions did not change.
pub(super) fn touched(before: Option<&Order>, after: &Order) -> Touched {
    let Some(before) = before else {
        return Touched { items: true, addresses: true, shipments: true, payments_from: 0 };
    };
    Touched {
        items: !Arc::ptr_eq(&before.items, &after.items),
        addresses: !Arc::ptr_eq(&before.addresses, &after.addresses),
        shipments: !Arc::ptr_eq(&before.shipments, &after.shipments),
        payments_from: before.payments.len(),
    }
}

/// A failure of a call is told here, once; what it means is the saga's business.
pub(super) fn log_setback(order_id: OrderId, call: &StepCall, result: &StepResult) {
    let (dependency, error) = match result {
        StepResult::Refused { dependency, reason, .. } => (dependency, reason),
        StepResult::Unknown { dependency, error } | StepResult::Unavailable { dependency, error } => {
            (dependency, error)
        }
        _ => return,
    };
    tracing::warn!(%order_id, key = %call.key(), dependency, error, "a step's call did not succeed");
}

/// What operators count.
pub(super) fn count(commit: &Commit) {
    for recorded in &commit.events {
        match &recorded.event {
            OrderEvent::OrderCreated { .. } => metrics::counter!("orders_created_total").increment(1),
            OrderEvent::AttentionNeeded { step, .. } => {
                metrics::counter!("orders_needing_attention_total", "step" => step.as_str()).increment(1);
            }
            OrderEvent::StatusChanged { to, reason, .. } => {
                let reason = reason.map_or("", |reason| reason.as_str());
                metrics::counter!("order_status_changes_total", "to" => to.as_str(), "reason" => reason)
                    .increment(1);
            }
            _ => {}
        }
    }
}
