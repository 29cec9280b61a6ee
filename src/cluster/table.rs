//! What this node knows of the cluster: the newest view it has seen, its lease, and which of its slots change hands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::lease::Lease;
use super::ring::Ring;
use crate::domain::ids::SLOTS;
use crate::domain::membership::{Incarnation, Member, NodeState, SlotOwner, View};
use crate::ports::members::ViewUpdate;
use crate::ports::placement::Placement;
use crate::ports::store::Owner;

/// Whether commands for a slot of this node are let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Door {
    /// They are.
    Open,
    /// New ones wait, what runs goes on.
    Held,
    /// Nothing runs any more: the slot is being given away.
    Closed,
}

impl Door {
    fn from_u8(door: u8) -> Self {
        match door {
            0 => Self::Open,
            1 => Self::Held,
            _ => Self::Closed,
        }
    }
}

/// A view and what follows from it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) view: Arc<View>,
    pub(super) ring: Arc<Ring<Incarnation>>,
    /// The live members.
    peers: BTreeMap<Incarnation, Arc<Member>>,
}

impl Known {
    fn new(view: View, before: Option<&Self>) -> Self {
        let peers = view.all_live().map(|member| (member.incarnation, Arc::new(member.clone()))).collect();
        // Most views differ in slots only.
        let same = before.filter(|before| {
            let places = |member: &Member| (member.incarnation, member.weight);
            before.view.takers().map(places).eq(view.takers().map(places))
        });
        let ring = same.map_or_else(|| Arc::new(Ring::of(&view)), |before| Arc::clone(&before.ring));
        Self { ring, peers, view: Arc::new(view) }
    }

    /// All live members but `me`.
    pub(super) fn others(&self, me: Incarnation) -> impl Iterator<Item = &Arc<Member>> {
        self.peers.values().filter(move |member| member.incarnation != me)
    }
}

/// Where a command for a slot belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// Here.
    Here,
    /// Here, but this node has not renewed its lease for too long.
    Lapsed,
    /// To another node.
    Peer(Arc<Member>),
    /// Nowhere for now: the slot changes hands, or its owner is gone.
    Nobody,
}

/// What this node knows.
#[derive(Debug)]
pub(super) struct Table {
    /// This life, once it has joined; 0 before.
    me: AtomicI64,
    known: ArcSwap<Known>,
    doors: Vec<AtomicU8>,
    pub(super) lease: Lease,
    /// Grows with everything that may change an answer.
    changes: watch::Sender<u64>,
}

impl Table {
    pub(super) fn new(lease: Lease) -> Self {
        let known = Known::new(View { version: 0, ..View::empty(usize::from(SLOTS)) }, None);
        Self {
            me: AtomicI64::new(0),
            known: ArcSwap::from_pointee(known),
            doors: (0..SLOTS).map(|_| AtomicU8::new(Door::Open as u8)).collect(),
            lease,
            changes: watch::Sender::new(0),
        }
    }

    pub(super) fn join(&self, me: Incarnation) {
        self.me.store(me.0, Ordering::Release);
    }

    pub(super) fn me(&self) -> Incarnation {
        Incarnation(self.me.load(Ordering::Acquire))
    }

    pub(super) fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    pub(super) fn version(&self) -> i64 {
        self.known.load().view.version
    }

    /// Whether this node takes its share of the slots.
    pub(super) fn is_active(&self) -> bool {
        let known = self.known.load();
        known.view.members.get(&self.me()).is_some_and(|member| member.state == NodeState::Active)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Has those who wait look again.
    pub(super) fn note_change(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes over what is new in the view; none when it is not newer. Returns the slots that became this node's own and
    /// those that are so no longer. Only one caller at a time.
    pub(super) fn update(&self, update: ViewUpdate) -> Option<(BTreeSet<u16>, BTreeSet<u16>)> {
        let before = self.known.load_full();
        if update.version <= before.view.version {
            return None;
        }
        let me = self.me();
        let mut view = View {
            version: update.version,
            members: update.members.into_iter().map(|member| (member.incarnation, member)).collect(),
            slots: before.view.slots.clone(),
        };
        let (mut gained, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for (slot, owner) in update.slots {
            let Some(known) = view.slots.get_mut(usize::from(slot)) else { continue };
            // Two looks may overlap: what is known already must not open a door that was shut since.
            if owner.epoch <= known.epoch {
                continue;
            }
            if owner.owner == Some(me) {
                gained.insert(slot);
            } else if known.owner == Some(me) {
                lost.insert(slot);
            }
            *known = owner;
        }
        // A slot that comes back opens only after everybody sees its new epoch.
        for slot in &lost {
            self.set_door(*slot, Door::Closed);
        }
        self.known.store(Arc::new(Known::new(view, Some(&before))));
        for slot in &gained {
            self.set_door(*slot, Door::Open);
        }
        self.note_change();
        Some((gained, lost))
    }

    pub(super) fn set_door(&self, slot: u16, door: Door) {
        if let Some(known) = self.doors.get(usize::from(slot)) {
            known.store(door as u8, Ordering::Release);
        }
    }

    fn door(&self, slot: u16) -> Door {
        self.doors
            .get(usize::from(slot))
            .map_or(Door::Open, |door| Door::from_u8(door.load(Ordering::Acquire)))
    }

    fn slot(&self, slot: u16) -> SlotOwner {
        self.known.load().view.slots.get(usize::from(slot)).copied().unwrap_or_default()
    }

    /// Where a command for the slot belongs.
    pub(super) fn whose(&self, slot: u16) -> Whose {
        let known = self.known.load();
        let owner = known.view.slots.get(usize::from(slot)).and_then(|slot| slot.owner);
        match owner {
            Some(owner) if owner == self.me() => match (self.door(slot), self.lease.serves()) {
                (_, false) => Whose::Lapsed,
                (Door::Open, true) => Whose::Here,
                (Door::Held | Door::Closed, true) => Whose::Nobody,
            },
            Some(owner) => {
                known.peers.get(&owner).map_or(Whose::Nobody, |member| Whose::Peer(Arc::clone(member)))
            }
            None => Whose::Nobody,
        }
    }

    fn mine(&self, slot: u16) -> Option<Owner> {
        let (me, owned) = (self.me(), self.slot(slot));
        let is_mine = owned.owner == Some(me) && self.door(slot) != Door::Closed;
        is_mine.then_some(Owner { epoch: owned.epoch, incarnation: me.0 })
    }
}

impl Placement for Table {
    fn owner(&self, slot: u16) -> Option<Owner> {
        self.mine(slot).filter(|_| self.lease.serves())
    }

    fn reader(&self, slot: u16) -> Option<Owner> {
        self.mine(slot).filter(|_| self.lease.reads())
    }

    fn is_shared(&self) -> bool {
        true
    }
}
