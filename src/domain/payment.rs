//! The payment ledger of one order: what was asked of the payment service and what it answered.
//!
//! Append-only. Every sum and the payment status are computed from the entries each time, never counted up.

use std::collections::BTreeMap;
use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;
use super::ids::CallKey;
use super::status::{OrderStatus, PaymentStatus, names};

names! {
    /// What an entry is about.
    EntryKind {
        /// Money from the customer to us.
        Charge = "CHARGE",
        /// Money from us back to the customer.
        Refund = "REFUND",
    }
}

names! {
    /// What is known about the call an entry records.
    EntryState {
        /// We are about to ask, or asked and have not booked an answer.
        Requested = "REQUESTED",
        /// The request surely did not reach the service.
        Unsent = "UNSENT",
        /// It happened.
        Succeeded = "SUCCEEDED",
        /// It did not happen and will not.
        Failed = "FAILED",
        /// It may have happened.
        Unknown = "UNKNOWN",
    }
}

/// A payment method token of the payment provider. Secret: printed as `***`, kept only until the charge is settled.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentToken(String);

impl PaymentToken {
    /// Longest token accepted, in characters.
    pub const MAX_LEN: usize = 256;

    /// Wraps a token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the call that needs it and the store that keeps it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PaymentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for PaymentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One line of the ledger. Several entries with one `key` tell one call's story; the last one holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Derived from the order id and the entry's number.
    pub id: Uuid,
    /// Charge or refund.
    pub kind: EntryKind,
    /// What is known after this entry.
    pub state: EntryState,
    /// Our idempotency key of the call.
    pub key: CallKey,
    /// The payment service's reference; empty while unknown.
    pub transaction_id: String,
    /// At most 50 characters.
    pub method: String,
    /// Always positive, in the order's currency.
    pub amount: Decimal,
    /// Why the service said no.
    pub code: Option<String>,
    /// Allow-listed facts of the gateway's answer, as JSON.
    pub gateway_response: Option<String>,
    /// When this was booked.
    pub created_at: Timestamp,
}

/// What the ledger knows about one call: its first and last entry taken together.
#[derive(Clone, Debug)]
pub struct CallStory<'a> {
    /// When it was first asked for.
    pub first: &'a LedgerEntry,
    /// What is known now.
    pub last: &'a LedgerEntry,
}

/// The calls of a ledger in order of their first entry.
pub fn stories(entries: &[LedgerEntry]) -> Vec<CallStory<'_>> {
    let mut order: Vec<&CallKey> = Vec::new();
    let mut by_key: BTreeMap<&CallKey, CallStory<'_>> = BTreeMap::new();
    for entry in entries {
        by_key.entry(&entry.key).and_modify(|story| story.last = entry).or_insert_with(|| {
            order.push(&entry.key);
            CallStory { first: entry, last: entry }
        });
    }
    order.into_iter().filter_map(|key| by_key.remove(key)).collect()
}

/// Sum of the amounts of `kind` that surely happened.
pub fn settled(entries: &[LedgerEntry], kind: EntryKind) -> Decimal {
    stories(entries)
        .iter()
        .filter(|story| story.last.kind == kind && story.last.state == EntryState::Succeeded)
        .fold(Decimal::ZERO, |sum, story| sum.saturating_add(story.last.amount))
}

/// A call of `kind` that may or may not have happened.
pub fn in_doubt(entries: &[LedgerEntry], kind: EntryKind) -> Option<&LedgerEntry> {
    stories(entries)
        .iter()
        .map(|story| story.last)
        .find(|last| last.kind == kind && matches!(last.state, EntryState::Requested | EntryState::Unknown))
}

/// The charge that brought money in and is not yet given back in full, if any.
pub fn captured(entries: &[LedgerEntry]) -> Option<&LedgerEntry> {
    stories(entries)
        .iter()
        .map(|story| story.last)
        .find(|last| last.kind == EntryKind::Charge && last.state == EntryState::Succeeded)
}

/// The refusal of the refund that was intended last, unless some attempt of it was successful.
pub fn refused_refund(entries: &[LedgerEntry]) -> Option<&LedgerEntry> {
    let newest = entries.iter().rfind(|entry| entry.kind == EntryKind::Refund)?;
    let intended = |entry: &&LedgerEntry| entry.key.intent() == newest.key.intent();
    let mut last = None;
    for entry in entries.iter().filter(intended) {
        match entry.state {
            EntryState::Succeeded => return None,
            EntryState::Failed => last = Some(entry),
            _ => {}
        }
    }
    last
}

/// Whether money of the customer is, or may be, with us.
pub fn money_may_be_here(entries: &[LedgerEntry]) -> bool {
    in_doubt(entries, EntryKind::Charge).is_some()
        || settled(entries, EntryKind::Charge) > settled(entries, EntryKind::Refund)
}

/// The payment status of an order with these entries.
///
/// An order of total zero has no entries; it counts as paid once it is confirmed.
pub fn payment_status(entries: &[LedgerEntry], total: Decimal, status: OrderStatus) -> PaymentStatus {
    let (taken, returned) = (settled(entries, EntryKind::Charge), settled(entries, EntryKind::Refund));
    let stories = stories(entries);
    let last = |kind: EntryKind, state: EntryState| {
        stories.iter().any(|story| story.last.kind == kind && story.last.state == state)
    };
    if taken > Decimal::ZERO {
        return if returned >= taken {
            PaymentStatus::Refunded
        } else if refused_refund(entries).is_some() {
            PaymentStatus::RefundFailed
        } else if [EntryState::Requested, EntryState::Unknown, EntryState::Unsent]
            .into_iter()
            .any(|state| last(EntryKind::Refund, state))
        {
            PaymentStatus::RefundPending
        } else if returned > Decimal::ZERO {
            PaymentStatus::PartiallyRefunded
        } else {
            PaymentStatus::Paid
        };
    }
    if last(EntryKind::Charge, EntryState::Unknown) {
        PaymentStatus::Unknown
    } else if last(EntryKind::Charge, EntryState::Requested) || last(EntryKind::Charge, EntryState::Unsent) {
        PaymentStatus::Pending
    } else if last(EntryKind::Charge, EntryState::Failed) {
        PaymentStatus::Failed
    } else if total.is_zero()
        && matches!(
            status,
            OrderStatus::Confirmed | OrderStatus::Processing | OrderStatus::Shipped | OrderStatus::Delivered
        )
    {
        PaymentStatus::Paid
    } else {
        PaymentStatus::Pending
    }
}
