//! What a change writes, and what is logged of it.

use std::sync::Arc;

use crate::domain::command::OrderCommand;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::react::Change;
use crate::domain::saga::{SagaKind, StepCall, StepResult};
use crate::ports::store::Touched;

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
