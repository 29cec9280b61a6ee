//! The one truth of the simulator: who was called for what, and where every unit and every cent is.
//!
//! Everything stands behind one lock that is held for about a microsecond, so that a snapshot is consistent across
//! services. Maps are split in parts, or growing one of a million entries would stop all calls for long.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use uuid::Uuid;

use super::catalogue::CatalogueEntry;
use super::effects::Entry;
use super::faults::Method;
use super::journal::Journal;
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

    fn remove(&mut self, key: u128) {
        if let Some(part) = self.0.get_mut(Self::part(key)) {
            part.remove(&key);
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
    /// Held reservations by the time they run out; entries of settled and of renewed ones are skipped.
    expiries: BinaryHeap<Reverse<(Timestamp, OrderId, usize)>>,
    records: usize,
    max_records: usize,
    /// The latest time that was told. A clock that is set back does not take back what has run out.
    latest: Timestamp,
    journal: Journaling,
}

/// Where effects are written to before they are booked.
#[derive(Debug)]
enum Journaling {
    /// Nowhere: this ledger ends with its process.
    Off,
    On(Journal),
    /// The journal was given up, so that nothing can be booked any more.
    Closed,
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
            latest: Timestamp::MIN_UTC,
            journal: Journaling::Off,
        }
    }

    /// From now on, effects are written to `journal` first.
    pub(super) fn keep(&mut self, journal: Journal) {
        self.journal = Journaling::On(journal);
    }

    /// Gives its journal up, if it has one.
    pub(super) fn close(&mut self) {
        if let Journaling::On(_) = self.journal {
            self.journal = Journaling::Closed;
        }
    }

    /// Writes an entry to the journal, if there is one.
    pub(super) fn write(&mut self, at: Timestamp, entry: &Entry) -> Result<(), CallError> {
        match &mut self.journal {
            Journaling::Off => Ok(()),
            Journaling::On(journal) => journal.append(at, entry),
            Journaling::Closed => Err(CallError::Unavailable("the simulator was closed".to_owned())),
        }
    }

    #[cfg(test)]
    pub(super) fn journal_mut(&mut self) -> &mut Journal {
        match &mut self.journal {
            Journaling::On(journal) => journal,
            Journaling::Off | Journaling::Closed => panic!("there is no journal"),
        }
    }

    /// Lets time pass: everything that has run out by `now` expires. Tells what time it is for this ledger.
    pub(super) fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        self.expire(self.latest);
        self.latest
    }

    /// Where what was derived from a key is booked, if it is anywhere.
    pub(super) fn home(&self, id: Uuid) -> Option<OrderId> {
        self.homes.get(id.as_u128()).copied()
    }

    /// The book of an order that gets one more record, which what was derived as `name` leads to from now on.
    pub(super) fn record(&mut self, name: Uuid, order: OrderId) -> Result<&mut OrderLedger, CallError> {
        self.count_record();
        self.homes.insert(name.as_u128(), order);
        self.book(order)
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

    /// The book of an order that has one.
    pub(super) fn known_book(&mut self, order: OrderId) -> Option<&mut OrderLedger> {
        self.books.get_mut(order.0.as_u128())
    }

    /// Fails unless there is room for one more record.
    pub(super) fn room(&self) -> Result<(), CallError> {
        if self.records >= self.max_records {
            return Err(CallError::Unavailable("the simulator's ledger is full".to_owned()));
        }
        Ok(())
    }

    /// There is one more record.
    pub(super) fn count_record(&mut self) {
        self.records = self.records.saturating_add(1);
    }

    /// There are fewer records.
    pub(super) fn discount_records(&mut self, fewer: usize) {
        self.records = self.records.saturating_sub(fewer);
    }

    /// From now on there is room for so many records. What is there stays, even when it is more.
    pub(super) fn limit_records(&mut self, max_records: usize) {
        self.max_records = max_records;
    }

    /// Notes that a call with `key` has arrived for `order`.
    pub(super) fn arrive(&mut self, order: OrderId, method: Method, key: &CallKey) -> Result<(), CallError> {
        let book = self.book(order)?;
        if let Some(calls) = book.keys.iter_mut().find(|calls| calls.method == method && calls.key == *key) {
            calls.received = calls.received.saturating_add(1);
            return Ok(());
        }
        self.room()?;
        self.count_record();
        let calls = super::records::KeyCalls { key: key.clone(), method, received: 1 };
        self.book(order)?.keys.push(calls);
        Ok(())
    }

    /// Undoes [`Self::arrive`] for the call that arrived last.
    pub(super) fn take_arrival_back(&mut self, order: OrderId, method: Method, key: &CallKey) {
        let Some(book) = self.known_book(order) else { return };
        let found = book.keys.iter().position(|calls| calls.method == method && calls.key == *key);
        let Some(index) = found else { return };
        if let Some(calls) = book.keys.get_mut(index).filter(|calls| calls.received > 1) {
            calls.received = calls.received.saturating_sub(1);
            return;
        }
        book.keys.remove(index);
        let first_seen = book.is_empty();
        self.discount_records(1);
        if first_seen && self.sequence.last() == Some(&order) {
            self.sequence.pop();
            self.books.remove(order.0.as_u128());
        }
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

    /// Journals and sets what is on sale of a product; `None` when it is unknown.
    pub(super) fn set_stock(
        &mut self,
        product: ProductRef,
        available: u64,
        now: Timestamp,
    ) -> Result<Option<StockTotals>, CallError> {
        if !self.stock.contains_key(&product) {
            return Ok(None);
        }
        let entry = Entry::Stock { product, available };
        self.write(now, &entry)?;
        self.apply(entry, now)?;
        Ok(self.stock.get(&product).copied())
    }

    /// Sets what is on sale of a product; `None` when it is unknown.
    pub(super) fn set_available(&mut self, product: ProductRef, available: u64) -> Option<()> {
        let totals = self.stock.get_mut(&product)?;
        totals.available = available;
        totals.initial = available.saturating_add(totals.reserved).saturating_add(totals.committed);
        Some(())
    }

    /// Remembers when a held reservation, the `index`-th of its order, runs out.
    pub(super) fn expire_at(&mut self, at: Timestamp, order: OrderId, index: usize) {
        self.expiries.push(Reverse((at, order, index)));
    }

    /// Gives the stock of reservations back that have run out by `now`.
    fn expire(&mut self, now: Timestamp) {
        while let Some(Reverse((at, order, index))) = self.expiries.peek().copied() {
            if at > now {
                return;
            }
            self.expiries.pop();
            let reservation =
                self.books.get_mut(order.0.as_u128()).and_then(|book| book.reservations.get_mut(index));
            let Some(reservation) = reservation else { continue };
            // One that was renewed stands farther behind once more.
            if reservation.state == ReservationState::Held && reservation.expires_at <= at {
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
