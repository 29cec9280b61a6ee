//! Letting go of orders whose slots change hands, and taking over those that come.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::message::Message;
use super::orders::Orders;
use super::registry::Entry;
use crate::domain::Timestamp;
use crate::domain::error::OrderError;

/// How often it is looked whether orders have come to rest, or are gone.
const LOOK: Duration = Duration::from_millis(2);

impl Orders {
    /// Waits until no call of these slots' orders is under way and nobody waits for any, for at most `patience`. Tells
    /// whether that is so. New commands have to be kept away by whoever asks.
    pub async fn rest(&self, slots: &BTreeSet<u16>, patience: Duration) -> bool {
        self.none(slots, patience, |entry| entry.is_busy()).await
    }

    /// Ends the actors of these slots' orders, and the feeds of those who watch them; what is under way goes on at the
    /// next owner. This process must not be their owner any more when this is called, or no new actors may come for another
    /// reason. Waits until all have ended, for at most `patience`, and tells whether they have.
    pub async fn let_go(&self, slots: &BTreeSet<u16>, patience: Duration) -> bool {
        let mut actors = Vec::new();
        self.shared().registry.each(|id, entry| {
            if slots.contains(&id.slot()) {
                entry.close();
                actors.push(entry.actor().clone());
            }
        });
        for actor in actors {
            // One that ended meanwhile is gone already.
            let _gone = actor.cast(Message::Release);
        }
        self.shared().hub.end(slots, &OrderError::NotOwner);
        self.none(slots, patience, |_| true).await
    }

    /// Takes up what is unfinished in slots that have become this process's own: soon, a few orders at a time.
    pub fn take_up(&self, slots: impl IntoIterator<Item = u16>) {
        self.shared().gained.add(slots);
    }

    /// Tells what time it is by the store's clock, when somebody has asked it anyway; `took` is how long that took.
    pub fn set_time(&self, now: Timestamp, took: Duration) {
        self.shared().clock.set(now, took);
    }

    async fn none(&self, slots: &BTreeSet<u16>, patience: Duration, which: impl Fn(&Entry) -> bool) -> bool {
        let start = Instant::now();
        let deadline = start.checked_add(patience).unwrap_or(start);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut found = false;
            self.shared().registry.each(|id, entry| {
                found = found || (slots.contains(&id.slot()) && which(entry));
            });
            if !found {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            look.tick().await;
        }
    }
}
