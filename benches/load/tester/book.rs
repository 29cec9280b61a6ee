//! What the tester was told, in so few bytes that a long run fits into memory: some hundred for each order.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use order_service::proto::order as pb;
use uuid::Uuid;

use super::calls::{Call, NewOrder};
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

/// Requests to change one order, each with an id of its own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// To change its items.
    pub edits: u32,
    /// To give something back.
    pub refunds: u32,
}

impl Changes {
    /// I2: nothing was done for a request more than once. Nobody else changes the order.
    ///
    /// # Errors
    /// What was done too often.
    pub fn law(self, events: &[pb::OrderEvent]) -> Result<(), String> {
        for (done, asked) in [("items_changed", self.edits), ("refund_granted", self.refunds)] {
            let times = events.iter().filter(|event| event.r#type == done).count();
            if times > asked as usize {
                return Err(format!("I2: {done} {times} times, asked for {asked} times"));
            }
        }
        Ok(())
    }
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
    /// How many different requests to change an order were sent, of those that were changed.
    pub changes: HashMap<Uuid, Changes>,
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
        told.is_older(id, heard.version, known);
        let before = told.orders.get(&id).copied().flatten();
        if before.is_some_and(|before| before.contradicts(&heard)) {
            told.blame(id, format!("I1: two answers tell of different content of version {}", heard.version));
        }
        let so_far = told.orders.entry(id).or_default();
        *so_far = Some(so_far.map_or(heard, |so_far| so_far.and(heard)));
    }

    /// An answer says which status an order has, and not more; `known` as in [`Self::heard`].
    pub fn heard_status(&self, answer: &pb::GetOrderStatusResponse, known: Option<i64>) {
        let Ok(id) = answer.id.parse() else { return };
        let mut told = self.told();
        told.acknowledgements += 1;
        told.is_older(id, answer.version, known);
        let so_far = told.orders.entry(id).or_default();
        *so_far = so_far.map(|so_far| so_far.with_status(answer.status, answer.version));
    }

    /// The highest version that was told of an order.
    pub fn version(&self, id: Uuid) -> Option<i64> {
        Some(self.told().orders.get(&id).copied().flatten()?.shown)
    }

    /// An order that was told of before is said not to be there.
    pub fn missing(&self, id: Uuid) {
        self.told().blame(id, "I1: told before, now not found".to_owned());
    }

    /// A refusal names this order.
    pub fn named(&self, id: Uuid) {
        self.told().orders.entry(id).or_default();
    }

    /// Something is asked for; with repeats, once.
    pub fn asks(&self, call: &Call) {
        let mut told = self.told();
        match call {
            Call::Create(_) => told.requests += 1,
            Call::UpdateItem(id, ..) | Call::AddItem(id, ..) => {
                told.changes.entry(*id).or_default().edits += 1;
            }
            Call::Refund(id, _) => told.changes.entry(*id).or_default().refunds += 1,
            _ => {}
        }
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

    /// One of the orders that stand.
    pub fn pick(&self, keys: Keys, chance: &mut Chance) -> Option<Standing> {
        let told = self.told();
        let place = keys.pick(told.standing.len() as u64, chance) as usize;
        told.standing.get(place).copied()
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
    fn is_older(&mut self, id: Uuid, version: i64, known: Option<i64>) {
        if let Some(known) = known.filter(|known| *known > version) {
            self.blame(
                id,
                format!("I1: shown at version {version}, told to be at {known} before the question"),
            );
        }
    }

    fn blame(&mut self, id: Uuid, what: String) {
        if self.stale.len() < MOST_TOLD {
            self.stale.push((id, what));
        }
    }
}
