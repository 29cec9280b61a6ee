//! Letting go of orders whose slots change hands, and taking over those that come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::message::Message;
use super::orders::Orders;
use super::registry::Entry;
use crate::domain::Timestamp;
use crate::domain::error::OrderError;
use crate::domain::ids::OrderId;

/// How often it is looked whether orders have come to rest, or are gone.
const LOOK: Duration = Duration::from_millis(2);

impl Orders {
    /// Waits until no call of these slots' orders is under way and nobody waits for any, for at most `patience`. Tells
    /// whether that is so. New commands have to be kept away by whoever asks.
    pub async fn rest(&self, slots: &BTreeSet<u16>, patience: Duration) -> bool {
        // Actors that come later have nothing to do for anybody.
        none(self.live_in(slots), patience, |_, entry| entry.is_busy()).await
    }

    /// Ends the actors of these slots' orders, and the feeds of those who watch them; what is under way goes on at the
    /// next owner. This process must not be their owner any more when this is called, or no new actors may come for another
    /// reason. Waits until all have ended, for at most `patience`, and tells whether they have.
    pub async fn let_go(&self, slots: &BTreeSet<u16>, patience: Duration) -> bool {
        let all = self.live_in(slots);
        for (_, entry) in &all {
            entry.close();
            // One that ended meanwhile is gone already.
            let _gone = entry.actor().cast(Message::Release);
        }
        self.shared().hub.end(slots, &OrderError::NotOwner);
        let is_there = |id: OrderId, entry: &Arc<Entry>| {
            self.shared().registry.get(id).is_some_and(|now| Arc::ptr_eq(&now, entry))
        };
        none(all, patience, is_there).await
    }

    fn live_in(&self, slots: &BTreeSet<u16>) -> Vec<(OrderId, Arc<Entry>)> {
        let mut all = Vec::new();
        self.shared().registry.each(|id, entry| {
            if slots.contains(&id.slot()) {
                all.push((id, Arc::clone(entry)));
            }
        });
        all
    }

    /// Whether the order is this process's own, as far as it knows.
    pub fn owns(&self, id: OrderId) -> bool {
        self.shared().placement.owner(id.slot()).is_some()
    }

    /// Whether orders in this slot are this process's own, as far as it knows.
    pub fn owns_slot(&self, slot: u16) -> bool {
        self.shared().placement.owner(slot).is_some()
    }

    /// Takes up what is unfinished in slots that have become this process's own, and loads what was read lately: soon, a few
    /// orders at a time.
    pub fn take_up(&self, slots: impl IntoIterator<Item = u16>) {
        let slots: BTreeSet<u16> = slots.into_iter().collect();
        self.shared().gained.add(slots.iter().copied());
        if self.shared().config.warm_orders > 0 {
            self.shared().to_warm.add(slots);
        }
    }

    /// Tells what time it is by the store's clock, when somebody has asked it anyway; `took` is how long that took.
    pub fn set_time(&self, now: Timestamp, took: Duration) {
        self.shared().clock.set(now, took);
    }
}

/// Waits until `holds` of none of these, for at most `patience`; tells whether that is so.
async fn none(
    mut all: Vec<(OrderId, Arc<Entry>)>,
    patience: Duration,
    holds: impl Fn(OrderId, &Arc<Entry>) -> bool,
) -> bool {
    let start = Instant::now();
    let deadline = start.checked_add(patience).unwrap_or(start);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        all.retain(|(id, entry)| holds(*id, entry));
        if all.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        look.tick().await;
    }
}
