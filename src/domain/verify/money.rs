//! Sums, the ledger, and what is owed.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::Findings;
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::money::is_amount;
use crate::domain::order::Order;
use crate::domain::payment::{
    EntryKind, EntryState, LedgerEntry, in_doubt, money_may_be_here, payment_status, settled, stories,
};
use crate::domain::refund;
use crate::domain::saga::{SagaKind, SagaProgress};
use crate::domain::status::OrderStatus;

use super::standing::is_unwinding;

/// I10: lines and columns agree, in whole units of the currency.
pub(super) fn sums(findings: &mut Findings, order: &Order) {
    let totals = &order.totals;
    findings.expect(order.adds_up(), "I10", || {
        format!(
            "subtotal {} - discount {} + tax {} + shipping {} and the lines do not make total {}",
            totals.subtotal, totals.discount, totals.tax, totals.shipping, totals.total
        )
    });
    let columns = [totals.subtotal, totals.discount, totals.tax, totals.shipping, totals.total];
    let lines = order
        .items
        .iter()
        .flat_map(|item| [item.unit_price, item.subtotal, item.discount_amount, item.tax_amount]);
    let entries = order.payments.iter().map(|entry| entry.amount);
    let strange =
        columns.into_iter().chain(lines).chain(entries).find(|sum| !is_amount(*sum, order.currency));
    findings.expect(strange.is_none(), "I10", || {
        format!("{} is no amount of {}", strange.unwrap_or_default(), order.currency.code())
    });
    findings.expect(order.items.iter().all(|item| item.quantity > 0), "I10", || {
        String::from("a line has no quantity")
    });
}

/// I3, I4: each call's entries tell one story, and no intent took money twice.
pub(super) fn ledger(findings: &mut Findings, order: &Order, events: &[RecordedEvent]) {
    let entries = &order.payments;
    for (place, entry) in entries.iter().enumerate() {
        let invariant = if entry.kind == EntryKind::Charge { "I4" } else { "I3" };
        findings.expect(entry.amount > Decimal::ZERO, "I3", || {
            format!("ledger entry {place} is about {}", entry.amount)
        });
        let earlier: Vec<_> = entries.iter().take(place).filter(|other| other.key == entry.key).collect();
        let Some(last) = earlier.last() else {
            // A charge that a saga made while it ran ahead is recorded with its answer.
            let at_once = entry.kind == EntryKind::Charge
                && entry.state == EntryState::Succeeded
                && events.iter().any(|recorded| {
                    matches!(&recorded.event, OrderEvent::Charged { key, amount: Some(_), .. } if *key == entry.key)
                });
            findings.expect(entry.state == EntryState::Requested || at_once, invariant, || {
                format!("call {} is {} and was never intended", entry.key, entry.state)
            });
            succeeded(findings, entry, invariant);
            continue;
        };
        findings.expect(last.kind == entry.kind && last.amount == entry.amount, invariant, || {
            format!(
                "call {} is about {} {} and {} {}",
                entry.key, last.kind, last.amount, entry.kind, entry.amount
            )
        });
        let ended = matches!(last.state, EntryState::Succeeded | EntryState::Failed);
        findings.expect(!ended, invariant, || {
            format!("call {} was {} and is {} in entry {place}", entry.key, last.state, entry.state)
        });
        succeeded(findings, entry, invariant);
    }
    let mut references: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.state == EntryState::Succeeded) {
        let other = references.insert(&entry.transaction_id, entry.key.as_str());
        findings.expect(other.is_none_or(|key| key == entry.key.as_str()), "I4", || {
            format!("calls {} and {} are one payment", other.unwrap_or_default(), entry.key)
        });
    }
    let mut takings: BTreeMap<&str, u32> = BTreeMap::new();
    for story in stories(entries) {
        if story.last.kind == EntryKind::Charge && story.last.state == EntryState::Succeeded {
            let count = takings.entry(story.last.key.intent()).or_default();
            *count = count.saturating_add(1);
        }
    }
    for (intent, count) in takings {
        findings.expect(count == 1, "I4", || format!("{count} charges of {intent} succeeded"));
    }
    let told = payment_status(entries, order.totals.total, order.status);
    findings.expect(order.payment_status == told, "I3", || {
        format!("payment status is {} and the ledger says {told}", order.payment_status)
    });
}

fn succeeded(findings: &mut Findings, entry: &LedgerEntry, invariant: &'static str) {
    findings.expect(
        entry.state != EntryState::Succeeded || !entry.transaction_id.is_empty(),
        invariant,
        || format!("call {} succeeded without a transaction id", entry.key),
    );
}

/// I3, I6: what we keep is what is owed in this status.
pub(super) fn owed(findings: &mut Findings, order: &Order, saga: Option<&SagaProgress>) {
    let entries = &order.payments;
    let (taken, back) = (settled(entries, EntryKind::Charge), settled(entries, EntryKind::Refund));
    let going_back = stories(entries)
        .iter()
        .filter(|story| story.last.kind == EntryKind::Refund && is_open(story.last.state))
        .fold(Decimal::ZERO, |sum, story| sum.saturating_add(story.last.amount));
    let most = back.saturating_add(going_back);
    findings.expect(most <= taken, "I3", || {
        format!("{back} refunded and {going_back} being refunded of {taken} captured")
    });
    let (status, kept) = (order.status, taken.saturating_sub(back));
    let in_doubt = in_doubt(entries, EntryKind::Charge).is_some();
    match status {
        OrderStatus::Pending => {
            findings.expect(taken.is_zero(), "I3", || format!("{status} with {taken} captured"));
            let untouched = !saga.is_some_and(is_unwinding) || !money_may_be_here(entries);
            findings.expect(untouched, "I3", || {
                format!("{status} and being unwound while a charge may have happened")
            });
        }
        OrderStatus::Confirmed | OrderStatus::Processing | OrderStatus::Shipped | OrderStatus::Delivered => {
            // Nothing goes back but what somebody wished for.
            let owed = order.totals.total.saturating_sub(refund::given_back(order));
            let wished = refund::going_back(order);
            let edits = saga.filter(|saga| saga.kind == SagaKind::Amend);
            let (of_edit, edit_going_back) = edits.map(|saga| of_edit(order, saga.no)).unwrap_or_default();
            let (owed, wished) = (owed.saturating_add(of_edit), wished.saturating_add(edit_going_back));
            // A refund of several charges takes several calls, one after the other.
            let moving = going_back <= wished && going_back.is_zero() == wished.is_zero();
            findings.expect(kept == owed && moving, "I3", || {
                format!("{status} keeps {kept} ({going_back} being refunded) of {owed} ({wished})")
            });
            let at_work = saga.is_some_and(|saga| matches!(saga.kind, SagaKind::Refund | SagaKind::Amend));
            findings.expect(wished.is_zero() || at_work, "I3", || {
                format!("{status} owes a refund of {wished} and no saga makes it")
            });
            findings.expect(!in_doubt || edits.is_some(), "I6", || {
                format!("{status} while a charge may have happened")
            });
        }
        OrderStatus::Cancelled | OrderStatus::Returned => {
            // The refund of a return is made after the status says so.
            let at_rest = saga.is_none();
            findings.expect(!at_rest || kept.is_zero(), "I3", || format!("{status} keeps {kept}"));
            findings.expect(!at_rest || (!in_doubt && going_back.is_zero()), "I3", || {
                format!("{status} while a charge or a refund may have happened")
            });
        }
        OrderStatus::Cancelling => {}
    }
}

/// I3: what was granted is what was asked of the payment service, and the parts of a line make what they cost.
pub(super) fn grants(findings: &mut Findings, order: &Order) {
    for grant in order.grants.iter() {
        let (no, calls) = (grant.saga, refund::parts(order, grant));
        let asked = calls.iter().fold(Decimal::ZERO, |sum, entry| sum.saturating_add(entry.amount));
        let done = calls.iter().all(|entry| entry.state == EntryState::Succeeded);
        let all = !calls.is_empty() && (asked == grant.amount || (!done && asked < grant.amount));
        findings.expect(all, "I3", || {
            format!("refund {no} of {} is granted and {asked} was asked for", grant.amount)
        });
        let parts = grant.items.iter().fold(Decimal::ZERO, |sum, part| sum.saturating_add(part.amount));
        findings.expect(grant.items.is_empty() || parts == grant.amount, "I3", || {
            format!("refund {no} is about {} and its parts about {parts}", grant.amount)
        });
        let stands = refund::stands(order, grant);
        let strange = grant
            .items
            .iter()
            .filter(|_| stands)
            .find(|part| order.items.iter().all(|item| item.id != part.item_id));
        findings.expect(strange.is_none(), "I3", || format!("refund {no} is about a line that is not there"));
    }
    for item in order.items.iter() {
        let (count, paid) = refund::of_line(order, item.id);
        let due = refund::worth(item, count, order.currency);
        findings.expect(count <= item.quantity && due == Some(paid), "I3", || {
            format!("{count} of {} of a line went back for {paid}, which is not their share", item.quantity)
        });
    }
}

/// What an edit that is under way took and did not give back again, and what of its refunds may be on its way. Once the
/// order has its new items, that is a part of what it costs.
fn of_edit(order: &Order, saga: u32) -> (Decimal, Decimal) {
    let applied = order.amendment.as_ref().is_some_and(|amendment| amendment.applied);
    let (mut kept, mut going_back) = (Decimal::ZERO, Decimal::ZERO);
    for story in stories(&order.payments).iter().filter(|story| story.last.key.saga() == Some(saga)) {
        let (kind, state, amount) = (story.last.kind, story.last.state, story.last.amount);
        match (kind, state) {
            (EntryKind::Charge, EntryState::Succeeded) if !applied => kept = kept.saturating_add(amount),
            (EntryKind::Refund, EntryState::Succeeded) if !applied => kept = kept.saturating_sub(amount),
            (EntryKind::Refund, state) if is_open(state) => going_back = going_back.saturating_add(amount),
            _ => {}
        }
    }
    (kept, going_back)
}

fn is_open(state: EntryState) -> bool {
    matches!(state, EntryState::Requested | EntryState::Unknown | EntryState::Unsent)
}
