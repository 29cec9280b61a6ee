//! Orders that are read often, on the way to their next owner.
//!
//! Readers come to every node, so each knows which orders are read that others own. When the slots of some come here, those
//! are claimed and loaded before somebody asks: reads find them in memory, and the first command waits for no load.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::orders::Orders;
use super::sweeper::GATHER;
use crate::domain::ids::OrderId;

/// Reads that are remembered, 64 KB.
const REMEMBERED: usize = 4_096;
/// Pause after each order that is loaded: two hundred a second.
const PAUSE: Duration = Duration::from_millis(5);
/// How long loading may take after slots have come; what was read before that is not hot any more.
const WARM_FOR: Duration = Duration::from_secs(30);

/// The last reads of orders that others own.
#[derive(Debug, Default)]
pub(super) struct Hot(Mutex<VecDeque<OrderId>>);

impl Hot {
    pub(super) fn note(&self, id: OrderId) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= REMEMBERED {
            last.pop_front();
        }
        last.push_back(id);
    }

    /// Orders of these slots, those that were read most first, at most `at_most`.
    fn among(&self, slots: &BTreeSet<u16>, at_most: usize) -> Vec<OrderId> {
        let mut reads: HashMap<OrderId, u32> = HashMap::new();
        {
            let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for id in last.iter().filter(|id| slots.contains(&id.slot())) {
                let count = reads.entry(*id).or_default();
                *count = count.saturating_add(1);
            }
        }
        let mut all: Vec<(OrderId, u32)> = reads.into_iter().collect();
        all.sort_by_key(|(id, reads)| (std::cmp::Reverse(*reads), *id));
        all.into_iter().take(at_most).map(|(id, _)| id).collect()
    }
}

/// Loads what was read lately whenever slots have come here.
pub(super) async fn warm(orders: &Orders) {
    let shared = orders.shared();
    loop {
        shared.to_warm.some.notified().await;
        tokio::time::sleep(GATHER).await;
        let (slots, began) = (shared.to_warm.take(), Instant::now());
        let mut warmed: u64 = 0;
        for id in shared.hot.among(&slots, shared.config.warm_orders) {
            if began.elapsed() >= WARM_FOR {
                break;
            }
            let is_own = shared.placement.owner(id.slot()).is_some();
            if !is_own || shared.registry.get(id).is_some() {
                continue;
            }
            let Ok(place) = Arc::clone(&shared.resuming).acquire_owned().await else { return };
            match orders.warm(id, place) {
                Ok(()) => warmed = warmed.saturating_add(1),
                Err(error) => tracing::debug!(order_id = %id, %error, "an order was not loaded ahead"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        if warmed > 0 {
            metrics::counter!("order_cache_warmed_total").increment(warmed);
            tracing::info!(orders = warmed, "orders are being loaded that were read lately");
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(slot: u16, number: u64) -> OrderId {
        OrderId(Uuid::from_u128((u128::from(slot) << 64) | u128::from(number)))
    }

    #[test]
    fn the_most_read_orders_of_the_slots_come_first_and_old_reads_are_forgotten() {
        let hot = Hot::default();
        hot.note(id(1, 9));
        for _ in 0..REMEMBERED {
            hot.note(id(3, 1));
        }
        for (number, reads) in [(5, 1), (6, 3), (7, 2)] {
            for _ in 0..reads {
                hot.note(id(1, number));
            }
        }
        let slots = BTreeSet::from([1, 2]);
        assert_eq!(hot.among(&slots, 10), [id(1, 6), id(1, 7), id(1, 5)]);
        assert_eq!(hot.among(&slots, 1), [id(1, 6)]);
        assert!(hot.among(&BTreeSet::from([2]), 10).is_empty());
    }
}
