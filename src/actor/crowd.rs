//! The live orders of a node as a whole, for operators.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::orders::Orders;
use super::registry::Entry;
use crate::domain::ids::OrderId;
use crate::domain::saga::{Direction, StepName};
use crate::domain::status::OrderStatus;

/// The live orders of a node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Crowd {
    /// All of them.
    pub live: usize,
    /// Those with a call under way, or a message being handled.
    pub busy: usize,
    /// Those with a change on its way to the store.
    pub storing: usize,
    /// Those with nothing left to do.
    pub settled: usize,
    /// Commands in flight.
    pub commands: u64,
    /// Those with most commands in flight, most first.
    pub busiest: Vec<LiveOrder>,
    /// Those with something left to do that nobody has asked for longest, longest first.
    pub oldest: Vec<LiveOrder>,
}

/// A live order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveOrder {
    /// Which.
    pub id: OrderId,
    /// Its status; none while nothing is known of it.
    pub status: Option<OrderStatus>,
    /// Where its saga makes a call just now.
    pub calling: Option<(StepName, Direction)>,
    /// Commands in flight.
    pub commands: u32,
    /// How long ago the last command came.
    pub asked_ago: Duration,
}

/// The `most` entries with the highest measure.
struct Top {
    most: usize,
    found: BinaryHeap<Reverse<(i64, OrderId)>>,
}

impl Top {
    fn offer(&mut self, measure: i64, id: OrderId) {
        if self.found.len() < self.most {
            self.found.push(Reverse((measure, id)));
        } else if self.found.peek().is_some_and(|Reverse((least, _))| measure > *least) {
            self.found.pop();
            self.found.push(Reverse((measure, id)));
        }
    }

    fn ids(self) -> impl Iterator<Item = OrderId> {
        self.found.into_sorted_vec().into_iter().map(|Reverse((_, id))| id)
    }
}

impl Orders {
    /// How the live orders are, with at most `most` of each list. Goes by all of them.
    pub fn crowd(&self, most: usize) -> Crowd {
        let shared = self.shared();
        let now = shared.now_millis();
        let mut crowd = Crowd::default();
        let top = || Top { most, found: BinaryHeap::new() };
        let (mut busiest, mut oldest) = (top(), top());
        shared.registry.each(|id, entry| {
            let (commands, touched_at, [settled, busy, storing]) = entry.look();
            crowd.live = crowd.live.saturating_add(1);
            crowd.busy = crowd.busy.saturating_add(usize::from(busy));
            crowd.storing = crowd.storing.saturating_add(usize::from(storing));
            crowd.settled = crowd.settled.saturating_add(usize::from(settled));
            crowd.commands = crowd.commands.saturating_add(u64::from(commands));
            if commands > 0 {
                busiest.offer(i64::from(commands), id);
            }
            if !settled {
                oldest.offer(now.saturating_sub(touched_at), id);
            }
        });
        // Looked up again, since nothing may be cloned while the walk holds its locks; one may be gone by now.
        let look = |id| shared.registry.get(id).map(|entry| live_order(id, &entry, now));
        crowd.busiest = busiest.ids().filter_map(look).collect();
        crowd.oldest = oldest.ids().filter_map(look).collect();
        crowd
    }
}

fn live_order(id: OrderId, entry: &Arc<Entry>, now: i64) -> LiveOrder {
    let (commands, touched_at, _) = entry.look();
    let asked_ago = u64::try_from(now.saturating_sub(touched_at)).unwrap_or(0);
    LiveOrder {
        id,
        status: entry.published().map(|order| order.status),
        calling: entry.running().map(|call| call.station()),
        commands,
        asked_ago: Duration::from_millis(asked_ago),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_highest_come_first_and_no_more_than_wanted() {
        let mut top = Top { most: 3, found: BinaryHeap::new() };
        let id = |number: u128| OrderId(Uuid::from_u128(number));
        for measure in [4, 9, 1, 7, 3] {
            top.offer(measure, id(u128::try_from(measure).unwrap()));
        }
        assert_eq!(top.ids().collect::<Vec<_>>(), [id(9), id(7), id(4)]);
    }
}
