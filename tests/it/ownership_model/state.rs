//! The state of the model: the database, three nodes, and what is under way between them.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use order_service::domain::Timestamp;
use order_service::domain::membership::{Change, Incarnation, NewMember, View};

/// Nodes.
pub const NODES: usize = 3;
/// Slots, with one order each.
pub const SLOTS: usize = 2;
/// Ticks for which a node answers from memory after its last good renewal.
pub const READ_FOR: u8 = 1;
/// Ticks for which it serves what it owns.
pub const SERVE_FOR: u8 = 2;
/// Ticks of a lease.
pub const LEASE: u8 = 3;

/// What may still go wrong, or happen at all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Budget {
    /// Times that a node's renewals are not heard, for as long as it pleases: it is paused, cut off, or unlucky.
    pub lose: u8,
    /// Nodes that are killed.
    pub crash: u8,
    /// Nodes that end by themselves, and say so.
    pub end: u8,
    /// Nodes that start again.
    pub restart: u8,
    /// Nodes that are voted out.
    pub vote: u8,
    /// Handovers.
    pub hand: u8,
    /// Times that the database is away for all.
    pub away: u8,
    /// Commits.
    pub commit: u8,
    /// Commits that are given up while they are on their way.
    pub give_up: u8,
}

/// What a node knows of a view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Known {
    pub version: i64,
    /// By slot: epoch and owner, 0 = nobody.
    pub slots: [(i64, i64); SLOTS],
    /// One bit for each live incarnation.
    pub live: u16,
}

impl Known {
    pub fn of(view: &View) -> Self {
        let slot = |index: usize| {
            let slot = view.slots[index];
            (slot.epoch, slot.owner.map_or(0, |owner| owner.0))
        };
        let live = view.all_live().map(|member| 1 << member.incarnation.0).sum();
        Self { version: view.version, slots: [slot(0), slot(1)], live }
    }
}

/// An order in the memory of a node. Contents are sets of commits, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Actor {
    pub epoch: i64,
    /// 0 = there was no such order.
    pub version: u8,
    pub content: u8,
    /// False for what was only read: correct nodes keep no such thing.
    pub is_claimed: bool,
}

/// A slot that its owner has closed in order to give it away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handover {
    pub slot: u8,
    /// The view on which the grant was decided.
    pub expected: i64,
    /// The answer was waited for in vain.
    pub is_unknown: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Its incarnation; 0 = the process does not run.
    pub life: i64,
    /// Whether its renewals come through.
    pub is_heard: bool,
    /// Ticks since the start of its last good renewal, as far as it matters.
    pub age: u8,
    /// Ticks for which its renewals are unbroken, as far as it matters.
    pub steady: u8,
    pub known: Known,
    /// A view that was read and has not arrived yet.
    pub held: Option<Known>,
    pub handover: Option<Handover>,
    pub actors: [Option<Actor>; SLOTS],
    /// Orders with a commit of unknown fate.
    pub doubts: [bool; SLOTS],
}

/// How far a message to the database is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    Sent,
    /// Carried out; the answer is on its way.
    Made,
    /// Refused; the answer is on its way.
    Refused,
}

/// A commit under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Commit {
    /// Its bit.
    pub bit: u8,
    pub order: u8,
    pub node: u8,
    pub life: i64,
    pub epoch: i64,
    /// The version before; 0 = the order is created.
    pub version: u8,
    /// What the order contains with it.
    pub content: u8,
    pub fate: Fate,
    /// Nobody waits for the answer any more.
    pub is_given_up: bool,
}

/// A grant under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    pub node: u8,
    pub from: i64,
    pub to: i64,
    pub slot: u8,
    pub expected: i64,
    pub fate: Fate,
    /// Nobody waits for the answer any more.
    pub is_given_up: bool,
}

/// The order of a slot, in the database, and what is known about it from outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Order {
    /// 0 = there is none.
    pub version: u8,
    pub epoch: i64,
    pub life: i64,
    pub content: u8,
    /// Commits that were acknowledged to somebody.
    pub acknowledged: u8,
    /// Commits that cannot arrive any more, as a claim has promised.
    pub settled: u8,
    /// The highest epoch that has claimed or committed.
    pub fence: i64,
    /// The last version that a commit has made.
    pub made: u8,
}

/// What a commit has done that it must not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Breach {
    /// It was accepted although a newer owner has the order, or it made a version again.
    SecondWriter,
    /// It arrived although a claim had promised that it never would.
    Ghost,
}

/// The view as the database has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records(pub Arc<View>);

impl Hash for Records {
    /// What never changes of a member is left out; its name stands for all of it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.version, &self.0.slots).hash(state);
        for member in self.0.members.values() {
            let key = (member.incarnation, member.name.as_bytes()[0], member.state);
            (key, member.lease_until.timestamp(), member.silent_at.map(|at| at.timestamp())).hash(state);
        }
    }
}

impl Deref for Records {
    type Target = View;

    fn deref(&self) -> &View {
        &self.0
    }
}

impl Records {
    /// To be changed.
    pub fn edit(&mut self) -> &mut View {
        Arc::make_mut(&mut self.0)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// Ticks since the beginning.
    pub now: u8,
    /// Whether the database cannot be reached by anybody.
    pub is_away: bool,
    pub view: Records,
    pub orders: [Order; SLOTS],
    pub nodes: [Node; NODES],
    pub commits: Vec<Commit>,
    pub grants: Vec<Grant>,
    pub left: Budget,
    pub breach: Option<Breach>,
    /// One bit for each incarnation that is gone for another reason than that its lease was over.
    pub hurried: u16,
    /// Events so far, one bit each.
    pub happened: u8,
}

/// What happens on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A node is declared dead because its lease is over.
    Expiry,
    /// A grant that was given up is made.
    LateGrant,
    /// A slot that could not be given away is opened again.
    Reopening,
    /// A commit is refused.
    RefusedCommit,
    /// A commit that was given up is made.
    LateCommit,
    /// An order is claimed that had an owner of an older epoch.
    NewerOwner,
}

impl Event {
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A moment by the database's clock.
pub fn at(tick: u8) -> Timestamp {
    DateTime::from_timestamp(i64::from(tick), 0).unwrap()
}

/// So many ticks.
pub fn ticks(count: u8) -> Duration {
    Duration::from_secs(u64::from(count))
}

/// What a starting node says of itself.
pub fn newcomer(node: usize) -> NewMember {
    let name = ["a", "b", "c"][node].to_owned();
    NewMember {
        address: name.clone(),
        name,
        weight: 1,
        version: String::new(),
        build: String::new(),
        lease: ticks(LEASE),
        read_for: ticks(READ_FOR),
    }
}

impl Node {
    fn new(life: i64, known: Known) -> Self {
        Self {
            life,
            is_heard: true,
            age: 0,
            steady: 0,
            known,
            held: None,
            handover: None,
            actors: [None; SLOTS],
            doubts: [false; SLOTS],
        }
    }

    /// A process that just joined.
    pub fn start(life: i64, view: &View) -> Self {
        Self::new(life, Known::of(view))
    }

    /// Whether the slot is its own and open, whatever the time.
    pub fn holds(&self, slot: usize) -> bool {
        self.life != 0
            && self.known.slots[slot].1 == self.life
            && self.handover.is_none_or(|handover| usize::from(handover.slot) != slot)
    }

    /// Takes over a newer view. What it had in memory under another epoch is gone with that.
    pub fn learn(&mut self, known: Known) {
        if known.version <= self.known.version {
            return;
        }
        self.known = known;
        for (actor, (epoch, owner)) in self.actors.iter_mut().zip(known.slots) {
            if actor.is_some_and(|actor| owner != self.life || actor.epoch != epoch) {
                *actor = None;
            }
        }
    }

    /// Drops what cannot matter any more, so that states that behave alike are one.
    pub fn forget(&mut self) {
        self.held = self.held.filter(|held| held.version > self.known.version);
    }
}

impl State {
    /// Three steady nodes; the first owns the first slot, the second the second.
    pub fn start(left: Budget, exists: bool) -> Self {
        let mut view = View::empty(SLOTS);
        for node in 0..NODES {
            view.join(&newcomer(node), Incarnation(node as i64 + 1), at(0)).unwrap();
        }
        for slot in 0..SLOTS {
            let take = Change::Take { by: Incarnation(slot as i64 + 1), slots: vec![slot as u16] };
            view.apply(view.version, &take, &[], at(0)).unwrap();
        }
        let order = if exists {
            Order { version: 1, content: 1, acknowledged: 1, made: 1, ..Order::default() }
        } else {
            Order::default()
        };
        let node = |node: usize| Node { steady: LEASE, ..Node::start(node as i64 + 1, &view) };
        Self {
            now: 0,
            is_away: false,
            orders: [order; SLOTS],
            nodes: [node(0), node(1), node(2)],
            commits: Vec::new(),
            grants: Vec::new(),
            left,
            breach: None,
            hurried: 0,
            happened: 0,
            view: Records(Arc::new(view)),
        }
    }

    pub fn has_met(&self, event: Event) -> bool {
        self.happened & event.bit() != 0
    }

    /// The process ends, whatever it was doing. Its messages go on.
    pub fn stop(&mut self, node: usize) {
        self.nodes[node] =
            Node { is_heard: true, ..Node::new(0, Known { version: 0, slots: [(0, 0); SLOTS], live: 0 }) };
        for commit in self.commits.iter_mut().filter(|commit| usize::from(commit.node) == node) {
            commit.is_given_up = true;
        }
        for grant in self.grants.iter_mut().filter(|grant| usize::from(grant.node) == node) {
            grant.is_given_up = true;
        }
    }

    /// Drops messages that can do nothing any more and answers that nobody waits for.
    pub fn forget(&mut self) {
        let (orders, view) = (&self.orders, &self.view);
        self.commits.retain(|commit| {
            let order = &orders[usize::from(commit.order)];
            !commit.is_given_up || (commit.fate == Fate::Sent && commit.version == order.version)
        });
        self.grants.retain(|grant| {
            !grant.is_given_up || (grant.fate == Fate::Sent && grant.expected == view.version)
        });
        for node in &mut self.nodes {
            node.forget();
        }
    }
}
