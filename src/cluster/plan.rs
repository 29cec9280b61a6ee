//! What a node does next about slots: pure, from a view and its ring.

use super::ring::Ring;
use crate::domain::Timestamp;
use crate::domain::ids::SLOTS;
use crate::domain::membership::{Incarnation, NodeState, View};

/// What `me` should do.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Plan {
    /// Slots that are free and should be taken.
    pub(super) take: Vec<u16>,
    /// When the next slot becomes free that should be taken then.
    pub(super) take_at: Option<Timestamp>,
    /// Slots to hand over to one node, at most a batch.
    pub(super) give: Option<(Incarnation, Vec<u16>)>,
}

impl Plan {
    /// The next thing to do for `me` when it is `now` by the store's clock.
    pub(super) fn new(
        view: &View,
        ring: &Ring<Incarnation>,
        me: Incarnation,
        now: Timestamp,
        batch: usize,
    ) -> Self {
        let mut plan = Self::default();
        let is_active = |node: Incarnation| {
            view.members.get(&node).is_some_and(|member| member.state == NodeState::Active)
        };
        for slot in 0..SLOTS {
            let Some(place) = ring.place(slot) else { return plan };
            let owner = view.slots.get(usize::from(slot)).and_then(|slot| slot.owner);
            if place == me && owner != Some(me) {
                match view.free_from(owner) {
                    Some(from) if from <= now => plan.take.push(slot),
                    Some(from) => {
                        plan.take_at = Some(plan.take_at.map_or(from, |known| known.min(from)));
                    }
                    None => {}
                }
            } else if place != me && owner == Some(me) && is_active(place) {
                let (to, slots) = plan.give.get_or_insert_with(|| (place, Vec::new()));
                if *to == place && slots.len() < batch {
                    slots.push(slot);
                }
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::membership::{Change, NewMember};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn new(name: &str) -> NewMember {
        NewMember {
            name: name.to_owned(),
            address: format!("{name}:1"),
            weight: 1,
            version: String::new(),
            build: String::new(),
            lease: Duration::from_secs(6),
            read_for: Duration::from_secs(2),
        }
    }

    fn plan(view: &View, me: i64, now: Timestamp) -> Plan {
        Plan::new(view, &Ring::of(view), Incarnation(me), now, 64)
    }

    /// Does what everybody plans until nobody plans anything.
    fn settle(view: &mut View, now: Timestamp) -> usize {
        let mut moves = 0;
        loop {
            let before = view.version;
            let live: Vec<Incarnation> = view.all_live().map(|member| member.incarnation).collect();
            for me in live {
                let Plan { take, give, .. } = plan(view, me.0, now);
                if !take.is_empty() {
                    moves += take.len();
                    view.apply(view.version, &Change::Take { by: me, slots: take }, &[], now).unwrap();
                }
                if let Some((to, slots)) = give {
                    assert!(slots.len() <= 64);
                    moves += slots.len();
                    view.apply(view.version, &Change::Grant { from: me, to, slots }, &[], now).unwrap();
                }
            }
            if view.version == before {
                return moves;
            }
        }
    }

    #[test]
    fn slots_follow_those_who_come_and_go() {
        let mut view = View::empty(usize::from(SLOTS));
        view.join(&new("a"), Incarnation(1), at(0)).unwrap();
        assert_eq!(settle(&mut view, at(0)), 4096);
        view.join(&new("b"), Incarnation(2), at(1)).unwrap();
        let moved = settle(&mut view, at(1));
        assert_eq!(moved, view.slots_of(Incarnation(2)));
        assert_eq!(view.slots_of(Incarnation(1)) + moved, 4096);
        // One leaves: it gives everything, also when told twice.
        let version = view.version;
        view.apply(version, &Change::Leave { node: Incarnation(2) }, &[], at(2)).unwrap();
        assert_eq!(settle(&mut view, at(2)), moved);
        assert_eq!(settle(&mut view, at(2)), 0);
        assert_eq!(view.slots_of(Incarnation(2)), 0);
    }

    #[test]
    fn slots_of_the_dead_are_taken_once_they_are_silent() {
        let mut view = View::empty(usize::from(SLOTS));
        view.join(&new("a"), Incarnation(1), at(0)).unwrap();
        view.join(&new("b"), Incarnation(2), at(0)).unwrap();
        settle(&mut view, at(0));
        // It comes back at once, at the same address.
        view.join(&new("b"), Incarnation(3), at(1)).unwrap();
        let waits = plan(&view, 3, at(1));
        assert_eq!((waits.take.len(), waits.take_at), (0, Some(at(3))));
        assert_eq!(plan(&view, 3, at(3)).take.len(), view.slots_of(Incarnation(2)));
        assert!(plan(&view, 1, at(3)).take.is_empty());
    }

    #[test]
    fn where_all_are_leaving_those_that_live_take_what_the_dead_had() {
        let mut view = View::empty(usize::from(SLOTS));
        view.join(&new("a"), Incarnation(1), at(0)).unwrap();
        view.join(&new("b"), Incarnation(2), at(0)).unwrap();
        settle(&mut view, at(0));
        view.apply(view.version, &Change::Leave { node: Incarnation(1) }, &[], at(1)).unwrap();
        settle(&mut view, at(1));
        assert_eq!(view.slots_of(Incarnation(1)), 0);
        let expire = Change::Expire { node: Incarnation(2), by: Incarnation(1) };
        view.apply(view.version, &expire, &[], at(8)).unwrap();
        settle(&mut view, at(8));
        assert_eq!(view.slots_of(Incarnation(1)), 4096);
    }

    #[test]
    fn the_last_node_keeps_what_nobody_can_take() {
        let mut view = View::empty(usize::from(SLOTS));
        view.join(&new("a"), Incarnation(1), at(0)).unwrap();
        settle(&mut view, at(0));
        let version = view.version;
        view.apply(version, &Change::Leave { node: Incarnation(1) }, &[], at(1)).unwrap();
        assert_eq!(plan(&view, 1, at(1)), Plan::default());
    }
}
