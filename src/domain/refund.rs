//! Refunds that somebody wishes for while the order lives on: what is left to give back, and what a part of a line is worth.
//!
//! A wish that is granted is kept with the order. Whether its money went back is what the ledger says, by the key that
//! follows from the number of the wish's saga.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::OrderError;
use super::ids::{CallKey, OrderId};
use super::item::OrderItem;
use super::money::{Currency, format_amount, parse_amount, round_half_up};
use super::order::Order;
use super::payment::{EntryKind, EntryState, LedgerEntry, settled, stories};
use super::text::Violation;

/// What is to be given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Everything that is left.
    Rest,
    /// So much, as it was written: what it means depends on the order's currency.
    Amount(String),
    /// So many of these lines.
    Items(Vec<(Uuid, u32)>),
}

/// A part of a line that is given back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefundedItem {
    /// The line.
    pub item_id: Uuid,
    /// How many of it.
    pub quantity: u32,
    /// What they cost.
    pub amount: Decimal,
}

/// A wish that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The saga that carries it out.
    pub saga: u32,
    /// How much.
    pub amount: Decimal,
    /// What for, where that was said; then the amounts of these make the amount.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub items: Vec<RefundedItem>,
}

/// The step of the calls that carry out a grant. One that is refused is not tried under another key.
pub(super) const STEP: &str = "refund";

/// The name of the `number`th (from 0) of several calls of one step.
pub(super) fn numbered(step: &str, number: usize) -> String {
    match number.checked_add(1) {
        Some(number) if number > 1 => format!("{step}{number}"),
        _ => step.to_owned(),
    }
}

/// The key of the `part`th (from 0) of the calls that carry out the grant of saga `saga`: a refund of more than one charge
/// takes several.
pub fn key(order: OrderId, saga: u32, part: usize) -> CallKey {
    CallKey::new(order, saga, &numbered(STEP, part), 1)
}

/// What the ledger says of a grant's calls: the newest entry of each.
pub fn parts<'a>(order: &'a Order, grant: &Grant) -> Vec<&'a LedgerEntry> {
    let of = |part| {
        let key = key(order.id, grant.saga, part);
        order.payments.iter().rfind(|entry| entry.key == key)
    };
    (0..order.payments.len()).map_while(of).collect()
}

/// Whether this call carries out a grant.
pub fn is_of_grant(order: &Order, key: &CallKey) -> bool {
    order.grants.iter().any(|grant| parts(order, grant).iter().any(|entry| entry.key == *key))
}

/// What went back of a grant.
fn returned(order: &Order, grant: &Grant) -> Decimal {
    let made = |entry: &&&LedgerEntry| entry.state == EntryState::Succeeded;
    parts(order, grant).iter().filter(made).fold(Decimal::ZERO, |sum, entry| sum.saturating_add(entry.amount))
}

/// Whether a part of it was refused; then nothing more is tried.
fn is_refused(order: &Order, grant: &Grant) -> bool {
    parts(order, grant).iter().any(|entry| entry.state == EntryState::Failed)
}

/// Whether a grant counts: it was carried out, or may be.
pub fn stands(order: &Order, grant: &Grant) -> bool {
    !is_refused(order, grant) || returned(order, grant) > Decimal::ZERO
}

/// Whether a refund of items was refused after a part of it went back: which of the items that was for, nobody can say.
fn is_half_done(order: &Order, grant: &Grant) -> bool {
    !grant.items.is_empty() && is_refused(order, grant) && stands(order, grant)
}

/// What went back because somebody wished so.
pub fn given_back(order: &Order) -> Decimal {
    order.grants.iter().fold(Decimal::ZERO, |sum, grant| sum.saturating_add(returned(order, grant)))
}

/// What may have gone back, or is about to, because somebody wished so.
pub fn going_back(order: &Order) -> Decimal {
    let open = order.grants.iter().filter(|grant| !is_refused(order, grant));
    open.fold(Decimal::ZERO, |sum, grant| {
        sum.saturating_add(grant.amount.saturating_sub(returned(order, grant)))
    })
}

/// What can be given back at most: what was taken and neither went back nor may have.
pub fn left(order: &Order) -> Decimal {
    let gone = |state| matches!(state, EntryState::Requested | EntryState::Unsent | EntryState::Unknown);
    let going = stories(&order.payments)
        .iter()
        .filter(|story| story.last.kind == EntryKind::Refund && gone(story.last.state))
        .fold(Decimal::ZERO, |sum, story| sum.saturating_add(story.last.amount));
    settled(&order.payments, EntryKind::Charge)
        .saturating_sub(settled(&order.payments, EntryKind::Refund))
        .saturating_sub(going)
        .max(Decimal::ZERO)
}

/// How many of a line were given back, or are about to be, and for how much. Of a grant that was refused in part it is
/// not known which lines that was for, so none counts; what can be given back at most is bounded by the money alone.
pub fn of_line(order: &Order, item: Uuid) -> (u32, Decimal) {
    let stands = |grant: &&Grant| !is_refused(order, grant);
    let parts = order.grants.iter().filter(stands).flat_map(|grant| &grant.items);
    parts.filter(|part| part.item_id == item).fold((0, Decimal::ZERO), |(count, sum), part| {
        (count.saturating_add(part.quantity), sum.saturating_add(part.amount))
    })
}

/// What the first `count` of a line cost. The shares of all of them make what the line cost, to the last digit, since
/// each is the difference of two of these.
pub fn worth(item: &OrderItem, count: u32, currency: Currency) -> Option<Decimal> {
    let cost = item.subtotal.checked_sub(item.discount_amount)?.checked_add(item.tax_amount)?;
    let share = cost.checked_mul(Decimal::from(count))?.checked_div(Decimal::from(item.quantity))?;
    Some(round_half_up(share, currency))
}

/// Grants a wish, to be carried out by saga `saga`.
///
/// # Errors
/// `ItemNotFound`, or `Invalid` with the field that asks for more than there is.
pub fn grant(order: &Order, wish: &Wish, saga: u32) -> Result<Grant, OrderError> {
    let (currency, left) = (order.currency, left(order));
    let most = format_amount(left, currency);
    let refuse = |field: &str, expected: String| {
        let expected = if left.is_zero() { "nothing is left to give back".to_owned() } else { expected };
        Err(OrderError::Invalid(vec![Violation::invalid(field, expected)]))
    };
    let above_zero = |amount: Decimal| amount > Decimal::ZERO && amount <= left;
    match wish {
        Wish::Rest if left.is_zero() => refuse("amount", String::new()),
        Wish::Rest => Ok(Grant { saga, amount: left, items: Vec::new() }),
        Wish::Amount(text) => match parse_amount(text, currency) {
            Ok(amount) if above_zero(amount) => Ok(Grant { saga, amount, items: Vec::new() }),
            Ok(_) => refuse("amount", format!("expected an amount above 0 and at most {most}")),
            Err(error) => refuse("amount", format!("{error}; at most {most} can be given back")),
        },
        Wish::Items(_) if order.grants.iter().any(|grant| is_half_done(order, grant)) => {
            let expected = "expected an amount: a refund of items was refused after a part of it went back";
            refuse("items", expected.to_owned())
        }
        Wish::Items(wanted) => {
            let items = shares(order, wanted)?;
            let amount = items.iter().fold(Decimal::ZERO, |sum, part| sum.saturating_add(part.amount));
            if !above_zero(amount) {
                let worth = format_amount(amount, currency);
                let expected = format!("expected items worth more than 0 and at most {most}, found {worth}");
                return refuse("items", expected);
            }
            Ok(Grant { saga, amount, items })
        }
    }
}

fn shares(order: &Order, wanted: &[(Uuid, u32)]) -> Result<Vec<RefundedItem>, OrderError> {
    let (mut parts, mut violations) = (Vec::with_capacity(wanted.len()), Vec::new());
    for (place, (item_id, quantity)) in wanted.iter().enumerate() {
        let Some(item) = order.items.iter().find(|item| item.id == *item_id) else {
            return Err(OrderError::ItemNotFound { item: item_id.to_string() });
        };
        let (before, paid) = of_line(order, item.id);
        let count = before.saturating_add(*quantity);
        let amount = worth(item, count, order.currency).and_then(|worth| worth.checked_sub(paid));
        match amount {
            Some(amount) if *quantity > 0 && count <= item.quantity => {
                parts.push(RefundedItem { item_id: item.id, quantity: *quantity, amount });
            }
            _ => {
                let most = item.quantity.saturating_sub(before);
                let expected = format!("expected at most {most}, what is left of the line, found {quantity}");
                violations.push(Violation::invalid(format!("items[{place}].quantity"), expected));
            }
        }
    }
    if violations.is_empty() { Ok(parts) } else { Err(OrderError::Invalid(violations)) }
}
