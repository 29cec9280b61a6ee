//! Client of `payment.v1`.

use async_trait::async_trait;
use rust_decimal::Decimal;
use tonic::transport::Channel;

use super::{Caller, ClientConfig, ClientError, bounded_id, build, can_be_kept, channel, unreadable};
use crate::clients::status::Kind;
use crate::domain::card::masked;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::money::{Currency, format_amount, is_amount};
use crate::ports::call::{CallContext, CallError, Collaborator, MAX_REASON_LEN, reason};
use crate::ports::payment::{Charged, GatewayFacts, PaymentToken, Payments, Refunded, TransactionState};
use crate::proto::payment as wire;
use crate::proto::payment::payment_service_client::PaymentServiceClient;

/// The payment service at a URL.
#[derive(Debug)]
pub struct PaymentClient(Caller<PaymentServiceClient<Channel>>);

fn read_facts(facts: Option<wire::GatewayFacts>) -> GatewayFacts {
    let wire::GatewayFacts { authorization_code, card_brand, last4, avs_result } = facts.unwrap_or_default();
    GatewayFacts { authorization_code, card_brand, last4, avs_result }.bounded()
}

/// An amount for the wire; one with more digits than the currency has is refused, not rounded.
fn write_amount(amount: Decimal, currency: Currency) -> Result<String, CallError> {
    if is_amount(amount, currency) {
        Ok(format_amount(amount, currency))
    } else {
        Err(CallError::refused(reason::INVALID_REQUEST, "amount has more digits than its currency"))
    }
}

fn read_transaction(answer: wire::Transaction, method: &str) -> Result<TransactionState, CallError> {
    use wire::transaction::State;
    match answer.state() {
        State::NotFound => Ok(TransactionState::NotFound),
        State::Pending => Ok(TransactionState::Pending),
        State::Succeeded => Ok(TransactionState::Succeeded(Charged {
            transaction_id: bounded_id(answer.transaction_id, method)?,
            gateway: read_facts(answer.gateway),
        })),
        State::Declined
            if (1..=MAX_REASON_LEN).contains(&answer.decline_code.len())
                && can_be_kept(&answer.decline_code) =>
        {
            Ok(TransactionState::Declined { code: masked(&answer.decline_code).into_owned() })
        }
        State::Declined | State::Unspecified => Err(unreadable(method)),
    }
}

impl PaymentClient {
    /// A client that connects when first used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self(build!(PaymentServiceClient, Collaborator::Payment, config)))
    }

    async fn look_up(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        close_if_not_found: bool,
    ) -> Result<TransactionState, CallError> {
        const METHOD: &str = "payment.GetTransaction";
        // Closing is as repeatable as reading: it is by key, and says the same again.
        let message = wire::GetTransactionRequest { key: key.to_string(), close_if_not_found };
        let answer = self
            .0
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| async move {
                client.get_transaction(request).await
            })
            .await?;
        read_transaction(answer, METHOD)
    }
}

#[async_trait]
impl Payments for PaymentClient {
    async fn charge(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        amount: Decimal,
        currency: Currency,
        method: &str,
        token: Option<&PaymentToken>,
    ) -> Result<Charged, CallError> {
        const METHOD: &str = "payment.Charge";
        let message = wire::ChargeRequest {
            key: key.to_string(),
            order_id: order.to_string(),
            amount: write_amount(amount, currency)?,
            currency: currency.code().to_owned(),
            method: method.to_owned(),
            token: token.map(|token| token.expose().to_owned()).unwrap_or_default(),
        };
        let answer = self
            .0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.charge(request).await
            })
            .await?;
        Ok(Charged {
            transaction_id: bounded_id(answer.transaction_id, METHOD)?,
            gateway: read_facts(answer.gateway),
        })
    }

    async fn get_transaction(&self, ctx: &CallContext, key: &CallKey) -> Result<TransactionState, CallError> {
        self.look_up(ctx, key, false).await
    }

    async fn close_transaction(
        &self,
        ctx: &CallContext,
        key: &CallKey,
    ) -> Result<TransactionState, CallError> {
        self.look_up(ctx, key, true).await
    }

    async fn refund(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        transaction_id: &str,
        amount: Decimal,
        currency: Currency,
    ) -> Result<Refunded, CallError> {
        const METHOD: &str = "payment.Refund";
        let message = wire::RefundRequest {
            key: key.to_string(),
            transaction_id: transaction_id.to_owned(),
            amount: write_amount(amount, currency)?,
            currency: currency.code().to_owned(),
        };
        let answer = self
            .0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.refund(request).await
            })
            .await?;
        Ok(Refunded { refund_id: bounded_id(answer.refund_id, METHOD)? })
    }
}
