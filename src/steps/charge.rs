//! Taking money, asking what became of it, and giving it back.

use rust_decimal::Decimal;

use super::failed;
use crate::domain::ids::CallKey;
use crate::domain::order::Order;
use crate::domain::payment::PaymentToken;
use crate::domain::saga::StepResult;
use crate::ports::call::{CallContext, Collaborator};
use crate::ports::payment::{Charged, Payments, TransactionState};

/// A repeat with the same key charges nothing more. Without a token it is the payment service that knows how the order
/// is paid for: by what the order's first charge was made with.
pub(super) async fn charge(
    payments: &dyn Payments,
    context: &CallContext,
    key: &CallKey,
    amount: Decimal,
    order: &Order,
    token: Option<&PaymentToken>,
) -> StepResult {
    let method = order.payment_method.as_str();
    match payments.charge(context, key, order.id, amount, order.currency, method, token).await {
        Ok(charged) => told(charged),
        Err(error) => failed(Collaborator::Payment, error),
    }
}

/// The only way out of an unknown charge. `closing` also asks the payment service to refuse the key from now on, if it
/// does not know it; one that cannot is covered by the settle lag.
pub(super) async fn query(
    payments: &dyn Payments,
    context: &CallContext,
    key: &CallKey,
    closing: bool,
) -> StepResult {
    let state = if closing {
        payments.close_transaction(context, key).await
    } else {
        payments.get_transaction(context, key).await
    };
    match state {
        Ok(TransactionState::Succeeded(charged)) => told(charged),
        Ok(TransactionState::Declined { code }) => StepResult::Refused {
            dependency: Collaborator::Payment.as_str(),
            reason: code,
            shortages: Vec::new(),
        },
        Ok(TransactionState::NotFound) => StepResult::ChargeNotFound,
        Ok(TransactionState::Pending) => StepResult::ChargePending,
        // A refusal to answer a question says nothing about the charge.
        Err(error) => {
            StepResult::Unavailable { dependency: Collaborator::Payment.as_str(), error: error.to_string() }
        }
    }
}

/// A repeat with the same key refunds nothing more.
pub(super) async fn refund(
    payments: &dyn Payments,
    context: &CallContext,
    key: &CallKey,
    transaction_id: &str,
    amount: Decimal,
    order: &Order,
) -> StepResult {
    match payments.refund(context, key, transaction_id, amount, order.currency).await {
        Ok(refunded) => StepResult::Refunded { refund_id: refunded.refund_id },
        Err(error) => failed(Collaborator::Payment, error),
    }
}

fn told(charged: Charged) -> StepResult {
    StepResult::Charged {
        transaction_id: charged.transaction_id,
        gateway_response: serde_json::to_string(&charged.gateway).ok().filter(|facts| facts != "{}"),
    }
}
