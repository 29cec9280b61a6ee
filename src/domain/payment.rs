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
    /// Of a refund: the reference of the charge that is given back.
    pub parent: Option<String>,
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

/// Ledgers up to this length are searched from end to end: nearly all are so short.
const FEW_ENTRIES: usize = 16;

/// The calls of a ledger in order of their first entry.
pub fn stories(entries: &[LedgerEntry]) -> Vec<CallStory<'_>> {
    let is_short = entries.len() <= FEW_ENTRIES;
    let mut stories: Vec<CallStory<'_>> = Vec::with_capacity(entries.len().min(FEW_ENTRIES));
    let mut places: BTreeMap<&CallKey, usize> = BTreeMap::new();
    for entry in entries {
        let place = match is_short {
            true => stories.iter().position(|story| story.first.key == entry.key),
            false => places.get(&entry.key).copied(),
        };
        match place.and_then(|place| stories.get_mut(place)) {
            Some(story) => story.last = entry,
            None => {
                if !is_short {
                    places.insert(&entry.key, stories.len());
                }
                stories.push(CallStory { first: entry, last: entry });
            }
        }
    }
    stories
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

/// A charge that brought money in.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// What is known of it.
    pub entry: &'a LedgerEntry,
    /// Its place among the charges that were asked for, from 0.
    pub place: usize,
    /// What of it did not surely go back.
    pub left: Decimal,
    /// What of it neither went back nor may be going back.
    pub free: Decimal,
}

/// The charges that brought money in, the oldest first.
pub fn taken(entries: &[LedgerEntry]) -> Vec<Taken<'_>> {
    let stories = stories(entries);
    let charges = stories.iter().filter(|story| story.last.kind == EntryKind::Charge).enumerate();
    let mut taken: Vec<Taken<'_>> = charges
        .filter(|(_, story)| story.last.state == EntryState::Succeeded)
        .map(|(place, story)| {
            let entry = story.last;
            Taken { entry, place, left: entry.amount, free: entry.amount }
        })
        .collect();
    for story in stories.iter().filter(|story| story.last.kind == EntryKind::Refund) {
        let parent = story.first.parent.as_deref();
        let Some(charge) =
            taken.iter_mut().find(|charge| Some(charge.entry.transaction_id.as_str()) == parent)
        else {
            continue;
        };
        let amount = story.last.amount;
        if story.last.state == EntryState::Succeeded {
            charge.left = charge.left.saturating_sub(amount);
        }
        if story.last.state != EntryState::Failed {
            charge.free = charge.free.saturating_sub(amount);
        }
    }
    taken
}

/// What is known of the call with this key.
pub fn state_of(entries: &[LedgerEntry], key: &CallKey) -> Option<EntryState> {
    entries.iter().rfind(|entry| entry.key == *key).map(|entry| entry.state)
}

/// Whether another call than that with this key has this reference: one payment counts for one call, whatever a provider
/// answers.
pub(super) fn is_of_another(entries: &[LedgerEntry], key: &CallKey, reference: &str) -> bool {
    entries.iter().any(|entry| entry.key != *key && entry.transaction_id == reference)
}

/// The step of the refunds that an edit makes. If one is refused, the edit is, and nothing is owed any more.
pub(super) const EDIT_REFUND: &str = "refund_delta";

/// Whether this call gives back what an edit leaves over.
pub fn is_of_edit(key: &CallKey) -> bool {
    key.step().starts_with(EDIT_REFUND)
}

/// What the order has too much (above zero) or has still to get (below zero) of the customer's money: what was taken and
/// did not go back, without what the order costs. An order that has ended, or is being cancelled, costs nothing.
pub fn balance(order: &super::order::Order) -> Decimal {
    let kept = settled(&order.payments, EntryKind::Charge)
        .saturating_sub(settled(&order.payments, EntryKind::Refund));
    let ended =
        matches!(order.status, OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Returned);
    if ended {
        return kept;
    }
    kept.saturating_sub(order.totals.total.saturating_sub(super::refund::given_back(order)))
}

/// The refusal of the refund that was intended last, unless some attempt of it was successful.
pub fn refused_refund(entries: &[LedgerEntry]) -> Option<&LedgerEntry> {
    let counts = |entry: &&LedgerEntry| entry.kind == EntryKind::Refund && !is_of_edit(&entry.key);
    let newest = entries.iter().rfind(counts)?;
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
    if last(EntryKind::Charge, EntryState::Unknown) {
        return PaymentStatus::Unknown;
    }
    let lives = matches!(
        status,
        OrderStatus::Confirmed | OrderStatus::Processing | OrderStatus::Shipped | OrderStatus::Delivered
    );
    if taken > Decimal::ZERO {
        // An order that an edit made cheaper is paid all the same.
        let paid = lives && taken.saturating_sub(returned) >= total;
        return if returned >= taken && !paid {
            PaymentStatus::Refunded
        } else if refused_refund(entries).is_some() {
            PaymentStatus::RefundFailed
        } else if [EntryState::Requested, EntryState::Unknown, EntryState::Unsent]
            .into_iter()
            .any(|state| last(EntryKind::Refund, state))
        {
            PaymentStatus::RefundPending
        } else if returned > Decimal::ZERO && !paid {
            PaymentStatus::PartiallyRefunded
        } else {
            PaymentStatus::Paid
        };
    }
    if lives && total.is_zero() {
        return PaymentStatus::Paid;
    }
    if last(EntryKind::Charge, EntryState::Requested) || last(EntryKind::Charge, EntryState::Unsent) {
        PaymentStatus::Pending
    } else if last(EntryKind::Charge, EntryState::Failed) {
        PaymentStatus::Failed
    } else {
        PaymentStatus::Pending
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_long_ledger_tells_the_same_stories_as_its_parts() {
        let entry = |number: usize| LedgerEntry {
            id: Uuid::nil(),
            kind: EntryKind::Charge,
            state: EntryState::Succeeded,
            key: CallKey::from_text(format!("call {}", number % 7)),
            transaction_id: String::new(),
            parent: None,
            method: String::new(),
            amount: Decimal::from(number),
            code: None,
            gateway_response: None,
            created_at: DateTime::UNIX_EPOCH,
        };
        for length in [0, 1, 7, FEW_ENTRIES, FEW_ENTRIES + 1, 100] {
            let entries: Vec<LedgerEntry> = (0..length).map(entry).collect();
            let told: Vec<(Decimal, Decimal)> =
                stories(&entries).iter().map(|story| (story.first.amount, story.last.amount)).collect();
            let expected: Vec<(Decimal, Decimal)> = (0..length.min(7))
                .map(|first| {
                    let last = (first..length).step_by(7).next_back().unwrap_or(first);
                    (Decimal::from(first), Decimal::from(last))
                })
                .collect();
            assert_eq!(told, expected, "{length} entries");
        }
    }
}
