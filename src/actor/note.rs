//! What a change writes, and what is counted and logged of it.

use std::sync::Arc;

use metrics::Counter;

use crate::domain::command::OrderCommand;
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::react::Change;
use crate::domain::saga::{SagaKind, StepCall, StepResult};
use crate::domain::status::OrderStatus;
use crate::ports::store::{Commit, Touched};

/// Which rows the change writes: what is shared between the two versions did not change.
pub(super) fn touched(before: Option<&Order>, after: &Order) -> Touched {
    let Some(before) = before else {
        let timer = after.timer().is_some();
        return Touched { items: true, addresses: true, shipments: true, payments_from: 0, timer };
    };
    Touched {
        items: !Arc::ptr_eq(&before.items, &after.items),
        addresses: !Arc::ptr_eq(&before.addresses, &after.addresses),
        shipments: !Arc::ptr_eq(&before.shipments, &after.shipments),
        payments_from: before.payments.len(),
        timer: before.timer() != after.timer(),
    }
}

/// Whether the answer to this command waits for no saga.
pub(super) fn is_noted(command: &OrderCommand, change: &Change) -> bool {
    let by_saga = change.saga.as_ref().is_some_and(|saga| saga.kind == SagaKind::Amend);
    command.is_noted() || (matches!(command, OrderCommand::Edit(_)) && !by_saga)
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

/// What operators count of a change, once it is stored.
pub(super) fn counters(commit: &Commit) -> Vec<Counter> {
    let counter = |recorded: &RecordedEvent| match &recorded.event {
        OrderEvent::OrderCreated { .. } => Some(metrics::counter!("orders_created_total")),
        OrderEvent::Charged { .. } if is_late(commit, recorded) => {
            Some(metrics::counter!("order_late_charges_total"))
        }
        OrderEvent::AttentionNeeded { step, .. } => {
            Some(metrics::counter!("orders_needing_attention_total", "step" => step.as_str()))
        }
        OrderEvent::Repaired { repair, .. } => {
            Some(metrics::counter!("order_repairs_total", "repair" => repair.as_str()))
        }
        OrderEvent::StatusChanged { to, reason, .. } => {
            let reason = reason.map_or("", |reason| reason.as_str());
            Some(metrics::counter!("order_status_changes_total", "to" => to.as_str(), "reason" => reason))
        }
        _ => None,
    };
    commit.events.iter().filter_map(counter).collect()
}

/// Whether a charge succeeded after the end of its order was wanted: its saga gives the money back.
fn is_late(commit: &Commit, charge: &RecordedEvent) -> bool {
    let ends_later = commit.events.iter().any(|recorded| {
        recorded.seq > charge.seq && matches!(&recorded.event, OrderEvent::StatusChanged { .. })
    });
    commit.order.status == OrderStatus::Cancelling && !ends_later
}
