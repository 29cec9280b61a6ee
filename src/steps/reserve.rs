//! Holding stock for an order, and giving it back.

use std::time::Duration;

use super::failed;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::StockLine;
use crate::domain::saga::StepResult;
use crate::ports::call::{CallContext, Collaborator};
use crate::ports::inventory::{Inventory, ReleaseOutcome, ReleaseTarget};

/// All lines or none. A repeat with the same key answers the same reservation.
pub(super) async fn reserve(
    inventory: &dyn Inventory,
    context: &CallContext,
    key: &CallKey,
    order: OrderId,
    lines: &[StockLine],
    ttl: Duration,
) -> StepResult {
    match inventory.reserve(context, key, order, lines, ttl).await {
        Ok(reservation_id) => StepResult::Reserved { reservation_id },
        Err(error) => failed(Collaborator::Inventory, error),
    }
}

/// By id where it is known, else by the key of the reserve call, which leaves a tombstone against a late reserve.
pub(super) async fn release(
    inventory: &dyn Inventory,
    context: &CallContext,
    key: &CallKey,
    reservation_id: Option<&str>,
    reserve_key: &CallKey,
) -> StepResult {
    let target = match reservation_id {
        Some(id) => ReleaseTarget::Reservation(id.to_owned()),
        None => ReleaseTarget::ReserveKey(reserve_key.clone()),
    };
    match inventory.release(context, key, &target).await {
        Ok(ReleaseOutcome::Released | ReleaseOutcome::NothingHeld) => StepResult::Released,
        Ok(ReleaseOutcome::Committed { reservation_id }) => StepResult::FoundCommitted { reservation_id },
        Err(error) => failed(Collaborator::Inventory, error),
    }
}

/// What was committed goes back on the shelf.
pub(super) async fn restock(
    inventory: &dyn Inventory,
    context: &CallContext,
    key: &CallKey,
    reservation_id: &str,
    lines: &[StockLine],
) -> StepResult {
    match inventory.restock(context, key, reservation_id, lines).await {
        Ok(()) => StepResult::Restocked,
        Err(error) => failed(Collaborator::Inventory, error),
    }
}
