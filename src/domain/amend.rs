//! Other items for an order that exists: what changes, whether it may, and what begins.
//!
//! Only a difference in quantity touches stock, and only a difference in the total touches money. The lines that stay keep
//! their unit price; coupon, tax and shipping are worked out anew for all of them by whoever makes the [`Edit`].

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::advance::advance;
use super::command::Ask;
use super::decide::{begin, record, takes_more, unchanged};
use super::error::OrderError;
use super::event::OrderEvent;
use super::evolve::evolve;
use super::item::OrderItem;
use super::order::{Order, StockState};
use super::pricing::Totals;
use super::react::{Policy, Reaction, Work};
use super::refund;
use super::saga::{Direction, SagaKind, SagaProgress};
use super::status::OrderStatus;

/// Most reservations besides the first that an order may have: each edit that needs more stock makes one.
pub const MAX_ADDITIONS: usize = 100;

/// What becomes of one line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineChange {
    /// Where the line stands: among the lines before, or for a new one among those after.
    pub place: usize,
    /// As it was; none for a new line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<OrderItem>,
    /// As it is now; none for a line that was removed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<OrderItem>,
}

/// Items that are to replace the order's, by the saga that reserves and pays for them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Amendment {
    /// The saga's number.
    pub saga: u32,
    /// The lines afterwards.
    pub items: Vec<OrderItem>,
    /// The amounts afterwards.
    pub totals: Totals,
    /// The order has them now; what is left is stock that is too much.
    pub applied: bool,
}

/// A checked and priced wish for other items.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// The lines that it was made for; of an order that has others, it says nothing.
    pub base: Vec<OrderItem>,
    /// The lines afterwards, 1..=200: those that stay in the order they had, then the new ones.
    pub items: Vec<OrderItem>,
    /// The amounts afterwards.
    pub totals: Totals,
}

/// What has to change to make `before` into `after`, where the lines that stay keep their order and new ones follow.
pub(super) fn changes(before: &[OrderItem], after: &[OrderItem]) -> Vec<LineChange> {
    let mut changes = Vec::new();
    for (place, item) in before.iter().enumerate() {
        let now = after.iter().find(|other| other.id == item.id);
        if now != Some(item) {
            changes.push(LineChange { place, before: Some(item.clone()), after: now.cloned() });
        }
    }
    for (place, item) in after.iter().enumerate() {
        if before.iter().all(|other| other.id != item.id) {
            changes.push(LineChange { place, before: None, after: Some(item.clone()) });
        }
    }
    changes
}

/// The lines after the changes.
pub fn apply(items: &[OrderItem], changes: &[LineChange]) -> Vec<OrderItem> {
    let changed = |place| changes.iter().find(|change| change.before.is_some() && change.place == place);
    let mut after: Vec<OrderItem> = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        match changed(place) {
            Some(change) => after.extend(change.after.clone()),
            None => after.push(item.clone()),
        }
    }
    after.extend(changes.iter().filter(|change| change.before.is_none()).filter_map(|new| new.after.clone()));
    after
}

/// The lines before the changes.
pub fn undo(items: &[OrderItem], changes: &[LineChange]) -> Vec<OrderItem> {
    let added = |item: &OrderItem| {
        let is_it = |after: &OrderItem| after.id == item.id;
        changes.iter().any(|change| change.before.is_none() && change.after.as_ref().is_some_and(is_it))
    };
    let mut before: Vec<OrderItem> = items.iter().filter(|item| !added(item)).cloned().collect();
    for change in changes {
        let Some(old) = &change.before else { continue };
        let place = change.place.min(before.len());
        match (&change.after, before.get_mut(place)) {
            (Some(_), Some(item)) => *item = old.clone(),
            _ => before.insert(place, old.clone()),
        }
    }
    before
}

/// Whether the items may be changed at all, as far as the order alone can tell.
///
/// # Errors
/// `NotEditable` or `OnHold`; `Busy` while it is paid for the first time or edited.
pub fn editable(order: &Order, now: Timestamp) -> Result<(), OrderError> {
    let status = order.status;
    let refuse = |why| Err(OrderError::NotEditable { status, why });
    match status {
        OrderStatus::Pending => {
            if !order.payments.is_empty() {
                return Err(OrderError::Busy { status });
            }
        }
        OrderStatus::Confirmed => {
            if let Some(hold) = order.hold.as_ref().filter(|hold| hold.is_on(now)) {
                return Err(OrderError::OnHold { status, reason: hold.reason.clone() });
            }
            if order.amendment.is_some() {
                return Err(OrderError::Busy { status });
            }
            if order.grants.iter().any(|grant| refund::stands(order, grant)) {
                return refuse("some of its money was given back");
            }
        }
        _ => return refuse("it is too far on its way"),
    }
    if order.additions.len() >= MAX_ADDITIONS {
        return refuse("they were changed too often");
    }
    Ok(())
}

/// Gives the order other items: in place as long as nothing was asked of the payment service, by a saga afterwards.
pub(super) fn edit(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    edit: &Edit,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    let status = order.status;
    let creating = status == OrderStatus::Pending;
    if creating && saga.is_some_and(|saga| saga.turn.is_some() || saga.direction == Direction::Backward) {
        return Err(OrderError::NotEditable { status, why: "it is being cancelled" });
    }
    editable(order, now)?;
    if *order.items != edit.base {
        return Err(OrderError::Busy { status });
    }
    let changes = changes(&edit.base, &edit.items);
    if changes.is_empty() {
        return Ok(unchanged(order, saga, ask, calling, now, policy));
    }
    let (before, totals) = (order.totals, edit.totals);
    if creating {
        let asked = |state| matches!(state, StockState::None | StockState::Held);
        let quiet = !calling
            && saga.is_some_and(|saga| !saga.ahead)
            && asked(order.reservation.state)
            && order.additions.iter().all(|addition| asked(addition.state));
        if !quiet {
            return Err(OrderError::Busy { status });
        }
        let mut work = begin(order, saga, ask, now, policy);
        work.emit(OrderEvent::ItemsChanged { changes, before, totals });
        let act = advance(&mut work);
        return Ok(work.commit(record(ask, None), None, act));
    }
    if saga.is_some() {
        return Err(OrderError::Busy { status });
    }
    takes_more(order)?;
    let mut work: Work<'_> = begin(order, None, ask, now, policy);
    work.start(SagaKind::Amend, ask, "");
    let no = work.order.saga_no;
    work.emit(OrderEvent::AmendmentBegun { saga: no, changes, totals });
    let act = advance(&mut work);
    Ok(work.commit(record(ask, Some(no)), None, act))
}

/// The order that an edit would make, for those who only want to know. Its version stays: nothing is stored.
///
/// # Errors
/// As of [`editable`].
pub fn preview(order: &Order, edit: &Edit, now: Timestamp) -> Result<Order, OrderError> {
    editable(order, now)?;
    let mut order = order.clone();
    let changes = changes(&edit.base, &edit.items);
    let event = OrderEvent::ItemsChanged { changes, before: order.totals, totals: edit.totals };
    evolve(&mut order, &event, now);
    Ok(order)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use rust_decimal::Decimal;
    use uuid::Uuid;

    use super::super::item::ProductRef;
    use super::*;

    fn item(id: u128, quantity: u32) -> OrderItem {
        let at = "2024-05-03T12:00:00Z".parse().unwrap();
        OrderItem {
            id: Uuid::from_u128(id),
            product: ProductRef { product_id: Uuid::from_u128(id), variant_id: None },
            sku: String::new(),
            name: String::new(),
            tax_class: String::new(),
            quantity,
            unit_price: Decimal::ONE,
            subtotal: Decimal::from(quantity),
            discount_amount: Decimal::ZERO,
            tax_amount: Decimal::ZERO,
            created_at: at,
            updated_at: at,
        }
    }

    #[test]
    fn changes_lead_there_and_back() {
        let before = [item(1, 1), item(2, 2), item(3, 3)];
        for after in [
            vec![item(1, 1), item(2, 5), item(3, 3)],
            vec![item(1, 1), item(2, 2), item(3, 3), item(4, 1)],
            vec![item(2, 2), item(3, 3)],
            vec![item(1, 7), item(3, 9)],
            vec![item(2, 1), item(5, 1), item(6, 1)],
            vec![item(7, 1)],
        ] {
            let changes = changes(&before, &after);
            assert_eq!(apply(&before, &changes), after, "{changes:?}");
            assert_eq!(undo(&after, &changes), before, "{changes:?}");
        }
        assert!(changes(&before, &before).is_empty());
    }
}
