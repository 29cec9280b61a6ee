//! Taking held stock for good. Its undo is that of `reserve`: release says that it was committed, restock follows.

use super::failed;
use crate::domain::ids::CallKey;
use crate::domain::saga::StepResult;
use crate::ports::call::{CallContext, Collaborator};
use crate::ports::inventory::Inventory;

/// A repeat with the same key is harmless.
pub(super) async fn commit(
    inventory: &dyn Inventory,
    context: &CallContext,
    key: &CallKey,
    reservation_id: &str,
) -> StepResult {
    match inventory.commit(context, key, reservation_id).await {
        Ok(()) => StepResult::Committed,
        Err(error) => failed(Collaborator::Inventory, error),
    }
}
