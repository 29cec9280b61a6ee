//! What inventory holds for an order, and what it would have to hold: only the difference is asked for or given back.

use std::collections::BTreeMap;

use super::ids::CallKey;
use super::item::{OrderItem, ProductRef, StockLine};
use super::order::{Order, Reservation, StockState};

/// Units of each product.
pub type Units = BTreeMap<ProductRef, u32>;

/// The units of these lines.
pub fn units(lines: &[StockLine]) -> Units {
    let mut units = Units::new();
    for line in lines {
        let count = units.entry(line.product).or_default();
        *count = count.saturating_add(line.quantity);
    }
    units
}

/// What these items need.
pub fn needs(items: &[OrderItem]) -> Units {
    let lines: Vec<StockLine> = items.iter().map(stock_line).collect();
    units(&lines)
}

/// An item as inventory counts it.
pub fn stock_line(item: &OrderItem) -> StockLine {
    StockLine { product: item.product, quantity: item.quantity }
}

/// The order's reservations: the first one, then the others in the order they were asked for.
pub fn reservations(order: &Order) -> impl DoubleEndedIterator<Item = &Reservation> {
    std::iter::once(&order.reservation).chain(order.additions.iter())
}

/// What a reservation of the order is about, as far as it did not go back.
pub fn lines_of(order: &Order, reservation: &Reservation) -> Vec<StockLine> {
    reservation.lines.clone().unwrap_or_else(|| order.stock_lines())
}

/// The key that names a reservation in events; none for the first.
pub(super) fn name_of(order: &Order, reserve_key: &CallKey) -> Option<CallKey> {
    let is_it = |addition: &&Reservation| addition.key.as_ref() == Some(reserve_key);
    order.additions.iter().find(is_it).and_then(|addition| addition.key.clone())
}

/// The same, by inventory's id.
pub(super) fn name_by_id(order: &Order, id: &str) -> Option<CallKey> {
    let is_it = |addition: &&Reservation| addition.id.as_deref() == Some(id);
    order.additions.iter().find(is_it).and_then(|addition| addition.key.clone())
}

/// The reservation with inventory's id.
pub(super) fn by_id<'a>(order: &'a Order, id: &str) -> Option<&'a Reservation> {
    reservations(order).find(|reservation| reservation.id.as_deref() == Some(id))
}

/// What is set aside for the order, or may be.
pub fn held(order: &Order) -> Units {
    let live = reservations(order).filter(|reservation| reservation.is_live());
    let lines: Vec<StockLine> = live.flat_map(|reservation| lines_of(order, reservation)).collect();
    units(&lines)
}

/// Whether what is set aside is at least what the items need.
pub fn covers(order: &Order) -> bool {
    missing(order, &order.items).is_empty()
}

/// Whether what is set aside is exactly what the items need.
pub fn fits(order: &Order) -> bool {
    held(order) == needs(&order.items)
}

/// What these items need beyond what is held.
pub(super) fn missing(order: &Order, items: &[OrderItem]) -> Vec<StockLine> {
    let held = held(order);
    difference(&needs(items), &held)
}

/// What is committed beyond what these items need: the newest reservation that has any of it, and how much.
pub(super) fn surplus<'a>(
    order: &'a Order,
    items: &[OrderItem],
) -> Option<(usize, &'a Reservation, Vec<StockLine>)> {
    let over = units(&difference(&held(order), &needs(items)));
    let committed = |(_, reservation): &(usize, &Reservation)| reservation.state == StockState::Committed;
    let places: Vec<(usize, &Reservation)> = reservations(order).enumerate().filter(committed).collect();
    places.into_iter().rev().find_map(|(place, reservation)| {
        let own = units(&lines_of(order, reservation));
        let back = own.into_iter().filter_map(|(product, count)| {
            let quantity = over.get(&product).copied().unwrap_or_default().min(count);
            (quantity > 0).then_some(StockLine { product, quantity })
        });
        let back: Vec<StockLine> = back.collect();
        (!back.is_empty()).then_some((place, reservation, back))
    })
}

/// `lines` without `back`.
pub(super) fn without(lines: &[StockLine], back: &[StockLine]) -> Vec<StockLine> {
    difference(&units(lines), &units(back))
}

fn difference(more: &Units, less: &Units) -> Vec<StockLine> {
    let rest = more.iter().filter_map(|(product, count)| {
        let quantity = count.saturating_sub(less.get(product).copied().unwrap_or_default());
        (quantity > 0).then_some(StockLine { product: *product, quantity })
    });
    rest.collect()
}
