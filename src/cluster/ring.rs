//! Which node should own which slot: consistent hashing with virtual nodes (Karger et al., 1997). Pure.
//!
//! Every node computes the same from the same members, also while two versions of this program run side by side. So
//! nothing here may change what comes out: a test pins it.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use xxhash_rust::xxh3::Xxh3Default;

use crate::domain::ids::SLOTS;
use crate::domain::membership::{Incarnation, View};

/// Points on the ring of a node of weight 1. More of them would make shares more even and the ring slower to build.
const POINTS: usize = 512;

/// xxh3 of bytes whose layout is fixed here.
#[derive(Clone, Copy, Debug)]
struct Xxh3;

impl RingHash for Xxh3 {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = Xxh3Default::new();
        item.hash(&mut hasher);
        hasher.finish()
    }

    fn hash_vnode<K: Hash>(&self, node: &K, sequence: usize) -> u64 {
        let mut hasher = Xxh3Default::new();
        node.hash(&mut hasher);
        hasher.write(&(sequence as u64).to_le_bytes());
        hasher.finish()
    }
}

/// A node's name. What it feeds to the hash does not depend on the standard library's idea of a string.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Name(String);

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"node/");
        state.write(self.0.as_bytes());
        state.write(b"/");
    }
}

#[derive(Debug)]
struct Slot(u16);

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"slot/");
        state.write(&self.0.to_le_bytes());
    }
}

/// Where each slot should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring<T> {
    slots: Vec<T>,
}

impl<T: Copy> Ring<T> {
    /// Places all slots on these nodes, given by name and weight; their names are different. No nodes, no places.
    pub fn new<'a>(nodes: impl Iterator<Item = (&'a str, u32, T)>) -> Self {
        let nodes = nodes.map(|(name, weight, value)| {
            let points = usize::try_from(weight).unwrap_or(usize::MAX).saturating_mul(POINTS);
            Node::new(Name(name.to_owned())).quantity(points).value(value)
        });
        let ring = StaticHashRing::new(Xxh3, nodes);
        // `calc_candidates` of this crate panics on no nodes at all.
        if ring.len() == 0 {
            return Self { slots: Vec::new() };
        }
        let place = |slot| ring.calc_candidates(&Slot(slot)).next().map(|node| node.value);
        Self { slots: (0..SLOTS).map_while(place).collect() }
    }

    /// The node that should own the slot; none without nodes.
    pub fn place(&self, slot: u16) -> Option<T> {
        self.slots.get(usize::from(slot)).copied()
    }
}

impl Ring<Incarnation> {
    /// The ring of those members that slots are for.
    pub fn of(view: &View) -> Self {
        let members = view.takers();
        Self::new(members.map(|member| (member.name.as_str(), member.weight, member.incarnation)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ring(names: impl IntoIterator<Item = String>) -> Ring<usize> {
        let names: Vec<String> = names.into_iter().collect();
        Ring::new(names.iter().enumerate().map(|(index, name)| (name.as_str(), 1, index)))
    }

    fn named(family: &str, count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("{family}-{number}")).collect()
    }

    fn counts(ring: &Ring<usize>) -> BTreeMap<usize, usize> {
        (0..SLOTS).filter_map(|slot| ring.place(slot)).fold(BTreeMap::new(), |mut counts, node| {
            *counts.entry(node).or_default() += 1;
            counts
        })
    }

    /// The largest share of slots, of the mean.
    fn largest(family: &str, nodes: usize) -> f64 {
        let most = counts(&ring(named(family, nodes))).into_values().max().unwrap();
        most as f64 * nodes as f64 / f64::from(SLOTS)
    }

    /// What moves when one more joins, of the share that it should get; and whether anything moves between the others.
    fn movement(family: &str, nodes: usize) -> (f64, bool) {
        let (before, after) = (ring(named(family, nodes)), ring(named(family, nodes + 1)));
        let moved: Vec<u16> = (0..SLOTS).filter(|slot| before.place(*slot) != after.place(*slot)).collect();
        let astray = moved.iter().any(|slot| after.place(*slot) != Some(nodes));
        (moved.len() as f64 * (nodes + 1) as f64 / f64::from(SLOTS), astray)
    }

    #[test]
    fn shares_are_even() {
        for (nodes, most) in [(1, 1.0), (3, 1.15), (5, 1.15), (64, 1.4)] {
            let share = largest("node", nodes);
            assert!(share <= most, "{share} of the mean at {nodes} nodes");
        }
        // Names are chance: what holds of most of them.
        for (nodes, most) in [(5, 1.15), (64, 1.5)] {
            let families = 40;
            let over = (0..families).filter(|n| largest(&format!("family{n}"), nodes) > most).count();
            assert!(over <= 2, "{over} of {families} are above {most} at {nodes} nodes");
        }
    }

    #[test]
    fn one_node_more_moves_its_share_to_itself_and_nothing_else() {
        for nodes in [1, 2, 3, 4, 5, 64] {
            let (moved, astray) = movement("node", nodes);
            assert!(moved <= 1.1, "{moved} of the fair share, at {nodes} nodes");
            assert!(!astray, "at {nodes} nodes");
        }
        for n in 0..40 {
            assert!(!movement(&format!("family{n}"), 5).1);
        }
    }

    #[test]
    fn a_weight_is_a_share() {
        let ring = Ring::new([("a", 1, 0usize), ("b", 1, 1), ("c", 2, 2)].into_iter());
        let share = counts(&ring)[&2] as f64 / f64::from(SLOTS);
        assert!((0.45..0.55).contains(&share), "{share}");
    }

    #[test]
    fn without_nodes_there_are_no_places() {
        let ring = ring(Vec::new());
        assert_eq!(ring.place(0), None);
        assert_eq!(ring.place(SLOTS - 1), None);
    }

    /// What comes out must never change: nodes of two versions would disagree during an upgrade.
    #[test]
    fn places_are_pinned() {
        let ring = ring(named("node", 5));
        let places: Vec<u8> = (0..SLOTS).map(|slot| ring.place(slot).unwrap() as u8).collect();
        assert_eq!(places[..16], [1, 3, 4, 1, 3, 0, 2, 0, 3, 0, 2, 0, 0, 4, 2, 3]);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&places), 6_593_718_833_315_853_754);
    }
}
