//! The outward side of a saga: one file a step, what it does and how it is undone side by side.
//!
//! A step makes one call, with a key that is stored already, and says what came of it. It decides nothing: whether to
//! try again, wait or turn round is [`crate::domain::react`]'s business.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::order::Order;
use crate::domain::payment::PaymentToken;
use crate::domain::saga::{StepCall, StepResult};
use crate::ports::Collaborators;
use crate::ports::call::{CallContext, CallError, Collaborator};

mod charge;
mod commit_stock;
pub mod edit;
mod label;
pub mod prepare;
mod reserve;

/// Limits of a step's call.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// How long inventory should hold what it reserves.
    pub reservation_ttl: Duration,
}

/// What a call needs to know: the order as stored, and the secret for the charge.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// The order, its intent for this call included.
    pub order: Arc<Order>,
    /// The payment token, as long as the charge is not settled.
    pub token: Option<PaymentToken>,
    /// Whether the saga is on its way back: a charge that is not known then must not arrive later either.
    pub closing: bool,
    /// Request id and trace to pass on.
    pub context: CallContext,
}

/// Makes one call and waits for its answer, no longer than the limit.
pub async fn run(
    collaborators: &Collaborators,
    limits: &StepLimits,
    input: &StepInput,
    call: &StepCall,
) -> StepResult {
    let (order, context) = (&*input.order, &input.context);
    let inventory = &*collaborators.inventory;
    match call {
        StepCall::Reserve { key, lines, .. } => {
            reserve::reserve(inventory, context, key, order.id, lines, limits.reservation_ttl).await
        }
        StepCall::Release { key, reservation_id, reserve_key } => {
            reserve::release(inventory, context, key, reservation_id.as_deref(), reserve_key).await
        }
        StepCall::Restock { key, reservation_id, lines } => {
            reserve::restock(inventory, context, key, reservation_id, lines).await
        }
        StepCall::CommitStock { key, reservation_id } => {
            commit_stock::commit(inventory, context, key, reservation_id).await
        }
        StepCall::Charge { key, amount, .. } => {
            let token = input.token.as_ref();
            charge::charge(&*collaborators.payments, context, key, *amount, order, token).await
        }
        StepCall::QueryCharge { key } => {
            charge::query(&*collaborators.payments, context, key, input.closing).await
        }
        StepCall::Refund { key, transaction_id, amount } => {
            charge::refund(&*collaborators.payments, context, key, transaction_id, *amount, order).await
        }
        StepCall::CreateLabel { key } => label::create(&*collaborators.shipping, context, key, order).await,
        StepCall::VoidLabel { key } => label::void(&*collaborators.shipping, context, key).await,
    }
}

/// How a failed call is told to the saga.
fn failed(collaborator: Collaborator, error: CallError) -> StepResult {
    let dependency = collaborator.as_str();
    match error {
        CallError::Refused(refusal) => {
            StepResult::Refused { dependency, reason: refusal.reason, shortages: refusal.shortages }
        }
        CallError::Unknown(error) => StepResult::Unknown { dependency, error },
        CallError::Unavailable(error) => StepResult::Unavailable { dependency, error },
    }
}
