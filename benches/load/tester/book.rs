//! What the tester was told, in so few bytes that a long run fits into memory: some hundred for each order.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use order_service::proto::order as pb;
use uuid::Uuid;

use super::calls::NewOrder;
use super::mix::Keys;
use crate::harness::Chance;
use crate::harness::invariants::Heard;

/// Orders that are read and changed: the latest ones.
const MOST_STANDING: usize = 200_000;
/// Answers against the law that are told in words.
const MOST_TOLD: usize = 100;

/// An order that can be read and changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The order.
    pub id: Uuid,
    /// Its first line.
    pub item: Uuid,
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Book(Mutex<Told>);

/// The parts of a [`Book`].
#[derive(Debug, Default)]
pub struct Told {
    /// Every order that an answer named, and what was said of it; nothing when only a refusal named it.
    pub orders: HashMap<Uuid, Option<Heard>>,
    /// New orders of which nobody knows what became.
    pub in_doubt: Vec<NewOrder>,
    /// Orders that were shown older than they were, or not at all.
    pub stale: Vec<(Uuid, String)>,
    /// Which order was made for a request to make one: request id and order.
    pub made: HashMap<Uuid, Uuid>,
    /// How many different requests to make an order were sent.
    pub requests: u64,
    /// Answers that acknowledged something.
    pub acknowledgements: u64,
    standing: Vec<Standing>,
    /// The place that is written over next, once all are taken.
    oldest: usize,
}

impl Book {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    /// An answer says how an order stands. `known` is what was known of it when the question was sent.
    pub fn heard(&self, order: &pb::Order, known: Option<i64>) {
        let Ok(id) = order.id.parse() else { return };
        let heard = Heard::of(order);
        let mut told = self.told();
        told.acknowledgements += 1;
        if let Some(known) = known.filter(|known| *known > heard.version) {
            told.blame(
                id,
                format!("I1: shown at version {}, told to be at {known} before the question", heard.version),
            );
        }
        let so_far = told.orders.entry(id).or_default();
        *so_far = Some(so_far.map_or(heard, |so_far| so_far.and(heard)));
    }

    /// An order that was told of before is said not to be there.
    pub fn missing(&self, id: Uuid) {
        self.told().blame(id, "I1: told before, now not found".to_owned());
    }

    /// A refusal names this order.
    pub fn named(&self, id: Uuid) {
        self.told().orders.entry(id).or_default();
    }

    /// An order is asked for; with repeats, once.
    pub fn asks(&self) {
        self.told().requests += 1;
    }

    /// This order was made for a request.
    pub fn made(&self, request: Uuid, id: Uuid) {
        let mut told = self.told();
        let before = *told.made.entry(request).or_insert(id);
        if before != id {
            told.blame(id, twice(request, before));
        }
    }

    /// Nobody knows what became of this.
    pub fn doubt(&self, order: NewOrder) {
        self.told().in_doubt.push(order);
    }

    /// An order that may be read and changed from now on.
    pub fn stands(&self, order: &pb::Order) {
        let item = order.items.first().and_then(|item| item.id.parse().ok());
        let (Ok(id), Some(item)) = (order.id.parse(), item) else { return };
        let mut told = self.told();
        let standing = Standing { id, item };
        if told.standing.len() < MOST_STANDING {
            told.standing.push(standing);
        } else {
            let place = told.oldest % MOST_STANDING;
            told.standing[place] = standing;
            told.oldest = place + 1;
        }
    }

    /// One of the orders that stand, and the highest version that was told of it.
    pub fn pick(&self, keys: Keys, chance: &mut Chance) -> Option<(Standing, Option<i64>)> {
        let told = self.told();
        let place = keys.pick(told.standing.len() as u64, chance) as usize;
        let standing = *told.standing.get(place)?;
        let version = told.orders.get(&standing.id).copied().flatten().map(|heard| heard.version);
        Some((standing, version))
    }

    /// As [`Self::pick`]; nobody else is given it any more.
    pub fn take(&self, keys: Keys, chance: &mut Chance) -> Option<Standing> {
        let mut told = self.told();
        let place = keys.pick(told.standing.len() as u64, chance) as usize;
        (place < told.standing.len()).then(|| told.standing.swap_remove(place))
    }

    /// All of it; the book is empty then.
    pub fn close(&self) -> Told {
        std::mem::take(&mut self.told())
    }
}

/// What is said of a second order for the same request.
pub fn twice(request: Uuid, first: Uuid) -> String {
    format!("I2: made for request {request}, for which {first} was made before")
}

impl Told {
    fn blame(&mut self, id: Uuid, what: String) {
        if self.stale.len() < MOST_TOLD {
            self.stale.push((id, what));
        }
    }
}
