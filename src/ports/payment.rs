//! Payments: charges, what became of them, and refunds.

use std::fmt::Debug;

use async_trait::async_trait;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::call::{CallContext, CallError};
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::money::Currency;

/// Reasons of refusals by the payment service that programs look at; any other reason of a refused charge is the
/// gateway's decline code.
pub mod reason {
    /// The key was closed ([`super::Payments::close_transaction`]) before the charge arrived.
    pub const TRANSACTION_CLOSED: &str = "TRANSACTION_CLOSED";
    /// Refund of a transaction nobody knows.
    pub const TRANSACTION_NOT_FOUND: &str = "TRANSACTION_NOT_FOUND";
    /// Refunds would exceed the charge.
    pub const REFUND_EXCEEDS_CHARGE: &str = "REFUND_EXCEEDS_CHARGE";
    /// Refund in another currency than the charge's.
    pub const CURRENCY_MISMATCH: &str = "CURRENCY_MISMATCH";
    /// Not enough money on the account.
    pub const INSUFFICIENT_FUNDS: &str = "INSUFFICIENT_FUNDS";
    /// The issuer said no.
    pub const CARD_DECLINED: &str = "CARD_DECLINED";
    /// The card is past its date.
    pub const EXPIRED_CARD: &str = "EXPIRED_CARD";
}

pub use crate::domain::payment::PaymentToken;

/// What we keep of a gateway's answer: an allow-list, so that no answer can bring card data into the store.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GatewayFacts {
    /// The issuer's code for the approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_code: Option<String>,
    /// `VISA`, `MASTERCARD`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_brand: Option<String>,
    /// The last four digits of the card: exactly four digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last4: Option<String>,
    /// Result of the address verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avs_result: Option<String>,
}

impl GatewayFacts {
    /// Longest value kept, in bytes.
    pub const MAX_LEN: usize = 32;

    /// These facts without the values that are out of bounds: empty, longer than [`Self::MAX_LEN`], holding
    /// anything but ASCII letters, digits, `-`, `_` and blanks, or with more than eight digits (a card number has
    /// no business here); `last4` other than four digits.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            authorization_code: self.authorization_code.filter(|text| is_plain(text)),
            card_brand: self.card_brand.filter(|text| is_plain(text)),
            last4: self.last4.filter(|text| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit())),
            avs_result: self.avs_result.filter(|text| is_plain(text)),
        }
    }
}

fn is_plain(text: &str) -> bool {
    const MOST_DIGITS: usize = 8;
    !text.is_empty()
        && text.len() <= GatewayFacts::MAX_LEN
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b' '))
        && text.bytes().filter(u8::is_ascii_digit).count() <= MOST_DIGITS
}

/// Money was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charged {
    /// The payment service's id of the charge; refunds name it.
    pub transaction_id: String,
    /// What the gateway told.
    pub gateway: GatewayFacts,
}

/// What became of the charge with a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransactionState {
    /// No charge with this key has arrived. It may still arrive as long as a caller's deadline has not passed;
    /// [`Payments::close_transaction`] rules that out.
    NotFound,
    /// It arrived and is being worked on.
    Pending,
    /// Money was taken.
    Succeeded(Charged),
    /// Money was not taken and will not be.
    Declined {
        /// The decline code, e.g. `CARD_DECLINED`.
        code: String,
    },
}

/// Money was given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refunded {
    /// The payment service's id of the refund.
    pub refund_id: String,
}

/// The payment service. Every call with a key may be repeated with it and then answers the same.
#[async_trait]
pub trait Payments: Send + Sync + Debug {
    /// Takes `amount` (above zero, in `currency`'s digits).
    ///
    /// # Errors
    /// Refused with the decline code as reason when the gateway declined.
    // The arguments are those of the wire; a struct would only rename them.
    #[allow(clippy::too_many_arguments)]
    async fn charge(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        amount: Decimal,
        currency: Currency,
        method: &str,
        token: Option<&PaymentToken>,
    ) -> Result<Charged, CallError>;

    /// What became of the charge with this key.
    ///
    /// # Errors
    /// [`CallError`]; a read, never refused.
    async fn get_transaction(&self, ctx: &CallContext, key: &CallKey) -> Result<TransactionState, CallError>;

    /// Like [`Self::get_transaction`], but when the answer is [`TransactionState::NotFound`] that is final: a
    /// tombstone makes a late `charge` with the key refused as `TRANSACTION_CLOSED`. What a saga asks before it
    /// gives up on a charge whose answer never came; without it the late charge would take money for nothing.
    ///
    /// # Errors
    /// [`CallError`], never refused; ask again until it answers, as often as it takes.
    async fn close_transaction(
        &self,
        ctx: &CallContext,
        key: &CallKey,
    ) -> Result<TransactionState, CallError>;

    /// Gives `amount` of a charge back; all refunds of a charge together never exceed it.
    ///
    /// # Errors
    /// Refused `TRANSACTION_NOT_FOUND`, `REFUND_EXCEEDS_CHARGE`, `CURRENCY_MISMATCH`, or a reason of the gateway's.
    async fn refund(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        transaction_id: &str,
        amount: Decimal,
        currency: Currency,
    ) -> Result<Refunded, CallError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_itself_nowhere() {
        let token = PaymentToken::new("tok_secret");
        assert_eq!(format!("{token} {token:?}"), "*** ***");
        assert_eq!(serde_json::to_string(&token).unwrap(), "\"tok_secret\"");
    }

    #[test]
    fn facts_out_of_bounds_are_dropped() {
        let some = |text: &str| Some(text.to_owned());
        let facts = GatewayFacts {
            authorization_code: some("4111-1111-1111-1111"),
            card_brand: some("VISA"),
            last4: some("4242424"),
            avs_result: some(&"Y".repeat(33)),
        };
        let kept = facts.bounded();
        assert_eq!(kept, GatewayFacts { card_brand: some("VISA"), ..GatewayFacts::default() });
    }
}
