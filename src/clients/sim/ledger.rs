//! The one truth of the simulator: who was called for what, and where every unit and every cent is.
//!
//! Everything stands behind one lock that is held for about a microsecond, so that a snapshot is consistent across
//! services. Maps are split in parts, or growing one of a million entries would stop all calls for long.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use uuid::Uuid;

use super::catalogue::CatalogueEntry;
use super::faults::Method;
use super::records::{LedgerPage, OrderLedger, ReservationState, StockTotals, Units};
use crate::domain::Timestamp;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::{ProductRef, Shortage, StockLine};
use crate::ports::call::{CallError, reason};

/// Most lines of one call.
pub const MAX_LINES: usize = 200;
/// Records after which a page of the ledger ends, whole orders only.
const PAGE_RECORDS: usize = 5_000;
/// Parts of each big map.
const PARTS: usize = 64;

/// A map in parts, by uniformly spread 128-bit keys.
#[derive(Debug)]
struct Spread<V>(Vec<HashMap<u128, V>>);

impl<V> Spread<V> {
    fn new() -> Self {
        Self((0..PARTS).map(|_| HashMap::new()).collect())
    }

    /// Folds in the middle bits: those of an order id are its slot, the same for all orders of a user.
    fn part(key: u128) -> usize {
        const MASK: u128 = PARTS as u128 - 1;
        ((key ^ (key >> 20) ^ (key >> 100)) & MASK) as usize
    }

    fn get(&self, key: u128) -> Option<&V> {
        self.0.get(Self::part(key))?.get(&key)
    }

    fn get_mut(&mut self, key: u128) -> Option<&mut V> {
        self.0.get_mut(Self::part(key))?.get_mut(&key)
    }

    fn insert(&mut self, key: u128, value: V) {
        if let Some(part) = self.0.get_mut(Self::part(key)) {
            part.insert(key, value);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    books: Spread<OrderLedger>,
    /// Under which order a key's effect, or a reservation or transaction, is booked.
    homes: Spread<OrderId>,
    /// Orders as they were first seen: what pages are counted by.
    sequence: Vec<OrderId>,
    stock: HashMap<ProductRef, StockTotals>,
    /// Held reservations by the time they run out; entries of settled ones are skipped.
    expiries: BinaryHeap<Reverse<(Timestamp, OrderId, usize)>>,
    records: usize,
    max_records: usize,
}

impl Ledger {
    pub(super) fn new(catalogue: &[CatalogueEntry], max_records: usize) -> Self {
        let stock = catalogue.iter().map(|entry| {
            let product = entry.product.product;
            let (initial, available) = (entry.stock, entry.stock);
            (product, StockTotals { product, initial, available, reserved: 0, committed: 0 })
        });
        Self {
            books: Spread::new(),
            homes: Spread::new(),
            sequence: Vec::new(),
            stock: stock.collect(),
            expiries: BinaryHeap::new(),
            records: 0,
            max_records,
        }
    }

    /// Where what was derived from a key is booked, if it is anywhere.
    pub(super) fn home(&self, id: Uuid) -> Option<OrderId> {
        self.homes.get(id.as_u128()).copied()
    }

    /// From now on `id` is booked under `order`.
    pub(super) fn settle(&mut self, id: Uuid, order: OrderId) {
        self.homes.insert(id.as_u128(), order);
    }

    /// The book of an order, made when missing.
    pub(super) fn book(&mut self, order: OrderId) -> Result<&mut OrderLedger, CallError> {
        let id = order.0.as_u128();
        if self.books.get(id).is_none() {
            self.books.insert(id, OrderLedger::empty(order));
            self.sequence.push(order);
        }
        self.books.get_mut(id).ok_or_else(|| CallError::Unavailable("no room for an order".to_owned()))
    }

    /// Makes room for one more record.
    pub(super) fn count_record(&mut self) -> Result<(), CallError> {
        if self.records >= self.max_records {
            return Err(CallError::Unavailable("the simulator's ledger is full".to_owned()));
        }
        self.records = self.records.saturating_add(1);
        Ok(())
    }

    /// Notes that a call with `key` has arrived for `order`.
    pub(super) fn arrive(&mut self, order: OrderId, method: Method, key: &CallKey) -> Result<(), CallError> {
        let book = self.book(order)?;
        if let Some(calls) = book.keys.iter_mut().find(|calls| calls.method == method && calls.key == *key) {
            calls.received = calls.received.saturating_add(1);
            return Ok(());
        }
        self.count_record()?;
        let calls = super::records::KeyCalls { key: key.clone(), method, received: 1 };
        self.book(order)?.keys.push(calls);
        Ok(())
    }

    // ---- stock

    /// The lines there is not enough of; all of them when `none` at all shall be there.
    pub(super) fn shortages(&self, units: &[Units], none: bool) -> Vec<Shortage> {
        let short = units.iter().filter_map(|line| {
            let available = self.stock.get(&line.product).map_or(0, |totals| totals.available);
            let available = if none { 0 } else { available };
            (available < line.quantity).then(|| Shortage {
                product: line.product,
                requested_quantity: saturate(line.quantity),
                available_quantity: saturate(available),
            })
        });
        short.collect()
    }

    /// On sale to held. The caller has looked for shortages under the same lock.
    pub(super) fn hold(&mut self, units: &[Units]) {
        self.shift(units, |totals| (&mut totals.available, &mut totals.reserved));
    }

    /// Held to on sale.
    pub(super) fn give_back(&mut self, units: &[Units]) {
        self.shift(units, |totals| (&mut totals.reserved, &mut totals.available));
    }

    /// Held to sold.
    pub(super) fn sell(&mut self, units: &[Units]) {
        self.shift(units, |totals| (&mut totals.reserved, &mut totals.committed));
    }

    /// Sold to on sale.
    pub(super) fn bring_back(&mut self, units: &[Units]) {
        self.shift(units, |totals| (&mut totals.committed, &mut totals.available));
    }

    /// Moves units between two of a product's totals, never more than there are: the sum cannot change.
    fn shift(&mut self, units: &[Units], between: fn(&mut StockTotals) -> (&mut u64, &mut u64)) {
        for line in units {
            if let Some(totals) = self.stock.get_mut(&line.product) {
                let (from, to) = between(totals);
                let moved = line.quantity.min(*from);
                *from = from.saturating_sub(moved);
                *to = to.saturating_add(moved);
            }
        }
    }

    /// Sets what is on sale of a product; `None` when it is unknown.
    pub(super) fn set_stock(&mut self, product: ProductRef, available: u64) -> Option<StockTotals> {
        let totals = self.stock.get_mut(&product)?;
        totals.available = available;
        totals.initial = available.saturating_add(totals.reserved).saturating_add(totals.committed);
        Some(*totals)
    }

    /// Remembers when a held reservation, the `index`-th of its order, runs out.
    pub(super) fn expire_at(&mut self, at: Timestamp, order: OrderId, index: usize) {
        self.expiries.push(Reverse((at, order, index)));
    }

    /// Gives the stock of reservations back that have run out by `now`.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some(Reverse((at, order, index))) = self.expiries.peek().copied() {
            if at > now {
                return;
            }
            self.expiries.pop();
            let reservation =
                self.books.get_mut(order.0.as_u128()).and_then(|book| book.reservations.get_mut(index));
            let Some(reservation) = reservation else { continue };
            if reservation.state == ReservationState::Held {
                reservation.state = ReservationState::Expired;
                reservation.changed_at = at;
                let lines = reservation.lines.clone();
                self.give_back(&lines);
            }
        }
    }

    // ---- reading back

    /// Everything that was done for an order.
    pub(super) fn of_order(&self, order: OrderId) -> OrderLedger {
        self.books.get(order.0.as_u128()).cloned().unwrap_or_else(|| OrderLedger::empty(order))
    }

    /// Up to `size` orders from the `from`-th on.
    pub(super) fn page(&self, from: usize, size: usize) -> LedgerPage {
        let mut orders = Vec::new();
        let mut records = 0usize;
        for order in self.sequence.iter().skip(from).take(size) {
            if records >= PAGE_RECORDS {
                break;
            }
            let book = self.of_order(*order);
            records = records.saturating_add(book.len());
            orders.push(book);
        }
        let next = from.saturating_add(orders.len());
        LedgerPage { next: (next < self.sequence.len()).then_some(next), orders, stock: self.totals() }
    }

    /// Where the units of every product are.
    pub(super) fn totals(&self) -> Vec<StockTotals> {
        let mut totals: Vec<_> = self.stock.values().copied().collect();
        totals.sort_by_key(|totals| totals.product);
        totals
    }
}

fn saturate(quantity: u64) -> u32 {
    u32::try_from(quantity).unwrap_or(u32::MAX)
}

/// The order that a key names, by its form; the nil UUID when it has another form.
pub(super) fn order_named_by(key: &CallKey) -> OrderId {
    let head = key.as_str().split('/').next().unwrap_or_default();
    OrderId(Uuid::try_parse(head).unwrap_or(Uuid::nil()))
}

/// A refusal of a call that is wrong in itself.
pub(super) fn invalid(message: &str) -> CallError {
    CallError::refused(reason::INVALID_REQUEST, message)
}

/// A refusal of a key that was used with other content.
pub(super) fn reused() -> CallError {
    CallError::refused(reason::KEY_REUSED, "this key was used before with other content")
}

/// Checks a key's length.
pub(super) fn check_key(key: &CallKey) -> Result<(), CallError> {
    if (1..=CallKey::MAX_LEN).contains(&key.as_str().len()) {
        Ok(())
    } else {
        Err(invalid("key must have 1 to 128 bytes"))
    }
}

/// Checks lines and sums those of the same product.
pub(super) fn units_of(lines: &[StockLine]) -> Result<Vec<Units>, CallError> {
    if lines.is_empty() || lines.len() > MAX_LINES {
        return Err(invalid("lines must have 1 to 200 entries"));
    }
    let mut units: Vec<Units> = Vec::with_capacity(lines.len());
    for line in lines {
        if line.quantity == 0 {
            return Err(invalid("quantity must be at least 1"));
        }
        let quantity = u64::from(line.quantity);
        match units.iter_mut().find(|sum| sum.product == line.product) {
            Some(sum) => sum.quantity = sum.quantity.saturating_add(quantity),
            None => units.push(Units { product: line.product, quantity }),
        }
    }
    units.sort_by_key(|line| line.product);
    Ok(units)
}
