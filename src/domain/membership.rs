//! Who is in the cluster and which node owns which slot: the rules, as functions of one value.
//!
//! A store keeps the [`View`] and applies each [`Change`] to it atomically, so all nodes see the same views in the same
//! order. The store's own statements hold the same conditions as [`View::apply`]; one suite runs both side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// So many nodes look after each node at most; the majority of them may vote it out.
pub const WATCHERS: usize = 5;

/// How long a vote counts, by the store's clock.
pub const VOTE_FOR: Duration = Duration::from_secs(5);

/// One process life of a node; unique for ever. Once gone, it never comes back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub i64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where a process life is between its start and its end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeState {
    /// Takes its share of the slots.
    Active,
    /// Gives its slots to others and takes none.
    Leaving,
    /// Ended by itself, having let go of everything.
    Left,
    /// Declared dead by others. It can commit nothing where somebody else has taken over, and ends when it hears of it.
    Dead,
}

impl NodeState {
    /// The name as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Leaving => "LEAVING",
            Self::Left => "LEFT",
            Self::Dead => "DEAD",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Leaving, Self::Left, Self::Dead].into_iter().find(|state| state.as_str() == name)
    }

    /// Whether it takes part: its lease is renewed and it may own slots.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Active | Self::Leaving)
    }
}

/// What a starting node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMember {
    /// Its name, the same in every life: places it on the ring.
    pub name: String,
    /// `HOST:PORT` at which other nodes reach it.
    pub address: String,
    /// Its share of the slots compared with others, 1 to 16.
    pub weight: u32,
    /// The program's version.
    pub version: String,
    /// Which build of it.
    pub build: String,
    /// How long its lease lasts without a renewal.
    pub lease: Duration,
    /// For how long after the start of its last good renewal it answers reads from its memory.
    pub read_for: Duration,
}

/// A process life as the cluster knows it. Times are of the store's clock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Which life.
    pub incarnation: Incarnation,
    /// The node's name.
    pub name: String,
    /// `HOST:PORT` at which other nodes reach it.
    pub address: String,
    /// Its share of the slots compared with others, 1 to 16.
    pub weight: u32,
    /// The program's version.
    pub version: String,
    /// Which build of it.
    pub build: String,
    /// Where it is between start and end.
    pub state: NodeState,
    /// As of [`NewMember::read_for`].
    pub read_for: Duration,
    /// When it joined.
    pub started_at: Timestamp,
    /// Until when nobody may call its lease over.
    pub lease_until: Timestamp,
    /// Once it is gone: from then on it answers nothing from its memory, so others may take its slots.
    pub silent_at: Option<Timestamp>,
    /// Orders that were live on it at its last renewal.
    pub live_orders: i64,
}

/// Who owns a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SlotOwner {
    /// The version of the view that made it so; 0 = nobody ever owned it.
    pub epoch: i64,
    /// The owner, which may be gone; none when nobody owns it.
    pub owner: Option<Incarnation>,
}

/// All members and slots at one moment. Versions grow by one with each change.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct View {
    /// Which view.
    pub version: i64,
    /// Everybody live, and those gone that still own slots or went lately.
    pub members: BTreeMap<Incarnation, Member>,
    /// By slot.
    pub slots: Vec<SlotOwner>,
}

/// What may happen to a view, besides that somebody joins.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// `node` wants to own no slots any more.
    Leave {
        /// Active until now.
        node: Incarnation,
    },
    /// `node` ends and answers nothing any more.
    End {
        /// Live until now.
        node: Incarnation,
    },
    /// `node` is dead, because its lease is over.
    Expire {
        /// Whose lease is over.
        node: Incarnation,
        /// Who says so: live, and with renewals unbroken for a whole lease.
        by: Incarnation,
    },
    /// `node` is dead, because most of those who watch it say that they cannot reach it.
    VoteOut {
        /// Who is dead.
        node: Incarnation,
        /// Who counts the votes; live.
        by: Incarnation,
    },
    /// The owner gives slots to another node. It has let go of all their orders before.
    Grant {
        /// The owner of all of them.
        from: Incarnation,
        /// The new owner; active.
        to: Incarnation,
        /// Which.
        slots: Vec<u16>,
    },
    /// Slots that nobody owns, or whose owner is gone and silent, get an owner.
    Take {
        /// The new owner; active, or live where nobody is active.
        by: Incarnation,
        /// Which.
        slots: Vec<u16>,
    },
    /// Nothing but a new version: whatever was sent before and may still arrive is refused from now on.
    Touch,
}

/// Why a change was not made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// The view is another one than the change was decided on.
    #[error("the view has changed")]
    Stale,
    /// It is not allowed in this view, or not yet.
    #[error("{0}")]
    NotAllowed(&'static str),
}

/// A vote: `voter` cannot reach `suspect`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Vote {
    /// Who is not reached.
    pub suspect: Incarnation,
    /// Who cannot.
    pub voter: Incarnation,
    /// When it was cast, by the store's clock.
    pub at: Timestamp,
}

impl View {
    /// A view in which nobody owns any of `slots` slots.
    pub fn empty(slots: usize) -> Self {
        Self { version: 1, members: BTreeMap::new(), slots: vec![SlotOwner::default(); slots] }
    }

    /// The member, while it is live.
    pub fn live(&self, node: Incarnation) -> Option<&Member> {
        self.members.get(&node).filter(|member| member.state.is_live())
    }

    /// All live members, by incarnation.
    pub fn all_live(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.state.is_live())
    }

    /// All active members, by incarnation: those that slots are for.
    pub fn all_active(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.state == NodeState::Active)
    }

    /// Those that slots are for: the active members; where there are none, the live ones, so that somebody serves.
    pub fn takers(&self) -> impl Iterator<Item = &Member> {
        let some_active = self.all_active().next().is_some();
        self.all_live().filter(move |member| !some_active || member.state == NodeState::Active)
    }

    /// How many slots the node owns.
    pub fn slots_of(&self, node: Incarnation) -> usize {
        self.slots.iter().filter(|slot| slot.owner == Some(node)).count()
    }

    /// Who looks after `node`: the live members that come next by incarnation, the first after the last, at most
    /// [`WATCHERS`].
    pub fn watchers(&self, node: Incarnation) -> Vec<Incarnation> {
        let live = || self.all_live().map(|member| member.incarnation);
        let later = live().filter(|other| *other > node);
        let earlier = live().filter(|other| *other < node);
        later.chain(earlier).take(WATCHERS).collect()
    }

    /// Whom `node` looks after.
    pub fn watched_by(&self, node: Incarnation) -> Vec<&Member> {
        let mut live: Vec<&Member> = self.all_live().filter(|member| member.incarnation != node).collect();
        // Those that come before it, nearest first.
        live.sort_by_key(|member| (member.incarnation > node, std::cmp::Reverse(member.incarnation)));
        live.truncate(WATCHERS);
        live
    }

    /// Votes that are needed to declare a node dead that so many look after: the majority.
    pub fn votes_needed(watchers: usize) -> usize {
        watchers.checked_div(2).unwrap_or(0).saturating_add(1)
    }

    /// From when on slots of `owner` may be taken; none when they may not, because it is live.
    pub fn free_from(&self, owner: Option<Incarnation>) -> Option<Timestamp> {
        let Some(owner) = owner else { return Some(Timestamp::MIN_UTC) };
        match self.members.get(&owner) {
            Some(member) if member.state.is_live() => None,
            Some(member) => Some(member.silent_at.unwrap_or(member.lease_until)),
            // Gone so long that it is forgotten.
            None => Some(Timestamp::MIN_UTC),
        }
    }

    /// A node joins. An earlier life at the same address, or of the same name and with its lease over, is dead by that.
    ///
    /// # Errors
    /// When a live node at another address has the name.
    pub fn join(&mut self, new: &NewMember, incarnation: Incarnation, now: Timestamp) -> Result<(), Refusal> {
        let is_rival = |member: &Member| {
            member.state.is_live() && member.name == new.name && member.address != new.address
        };
        if self.members.values().any(|member| is_rival(member) && member.lease_until >= now) {
            return Err(Refusal::NotAllowed("a live node at another address has this name"));
        }
        for member in self.members.values_mut() {
            // Also of one whose lease is over: a server that crashed may have lost its last renewal.
            if is_rival(member) || (member.state.is_live() && member.address == new.address) {
                member.state = NodeState::Dead;
                member.silent_at = Some(after(now, member.read_for));
            }
        }
        self.members.insert(
            incarnation,
            Member {
                incarnation,
                name: new.name.clone(),
                address: new.address.clone(),
                weight: new.weight,
                version: new.version.clone(),
                build: new.build.clone(),
                state: NodeState::Active,
                read_for: new.read_for,
                started_at: now,
                lease_until: after(now, new.lease),
                silent_at: None,
                live_orders: 0,
            },
        );
        self.version = self.version.saturating_add(1);
        Ok(())
    }

    /// A node says that it lives. False when it is gone: then it has to end.
    pub fn renew(&mut self, node: Incarnation, lease: Duration, now: Timestamp) -> bool {
        match self.members.get_mut(&node).filter(|member| member.state.is_live()) {
            Some(member) => {
                member.lease_until = after(now, lease);
                true
            }
            None => false,
        }
    }

    /// Makes the change, if this is the view it was decided on. `votes` are those that were cast and not withdrawn.
    ///
    /// # Errors
    /// When it is another view, or the change is not allowed in it; then nothing has changed.
    pub fn apply(
        &mut self,
        expected: i64,
        change: &Change,
        votes: &[Vote],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.version != expected {
            return Err(Refusal::Stale);
        }
        self.check(change, votes, now).map_err(Refusal::NotAllowed)?;
        self.version = self.version.saturating_add(1);
        let epoch = self.version;
        match change {
            Change::Leave { node } => self.set_state(*node, NodeState::Leaving, None),
            Change::End { node } => self.set_state(*node, NodeState::Left, Some(now)),
            Change::Expire { node, .. } => self.set_state(*node, NodeState::Dead, Some(now)),
            Change::VoteOut { node, .. } => {
                let read_for = self.members.get(node).map_or(Duration::ZERO, |member| member.read_for);
                self.set_state(*node, NodeState::Dead, Some(after(now, read_for)));
            }
            Change::Grant { to, slots, .. } => self.give(slots, *to, epoch),
            Change::Take { by, slots } => self.give(slots, *by, epoch),
            Change::Touch => {}
        }
        Ok(())
    }

    fn check(&self, change: &Change, votes: &[Vote], now: Timestamp) -> Result<(), &'static str> {
        let is = |node: &Incarnation, state: NodeState| {
            self.members.get(node).is_some_and(|member| member.state == state)
        };
        let require = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
        match change {
            Change::Leave { node } => require(is(node, NodeState::Active), "the node is not active"),
            Change::End { node } => require(self.live(*node).is_some(), "the node is gone"),
            Change::Expire { node, by } => {
                let member = self.live(*node).ok_or("the node is gone")?;
                require(node != by, "a node does not judge itself")?;
                require(self.live(*by).is_some(), "who says so is gone")?;
                require(member.lease_until < now, "the lease is not over")
            }
            Change::VoteOut { node, by } => {
                self.live(*node).ok_or("the node is gone")?;
                require(self.live(*by).is_some(), "who says so is gone")?;
                let watchers = self.watchers(*node);
                let counted = watchers
                    .iter()
                    .filter(|watcher| {
                        votes.iter().any(|vote| {
                            (vote.suspect, vote.voter) == (*node, **watcher) && after(vote.at, VOTE_FOR) > now
                        })
                    })
                    .count();
                require(counted >= Self::votes_needed(watchers.len()), "there are not enough votes")
            }
            Change::Grant { from, to, slots } => {
                require(self.live(*from).is_some(), "the owner is gone")?;
                require(is(to, NodeState::Active), "the receiver is not active")?;
                require(from != to, "the receiver is the owner")?;
                require(self.all(slots, |slot| slot.owner == Some(*from)), "a slot has another owner")
            }
            Change::Take { by, slots } => {
                let takes = self.takers().any(|member| member.incarnation == *by);
                require(takes, "the receiver takes no slots")?;
                let is_free = |slot: &SlotOwner| self.free_from(slot.owner).is_some_and(|from| from <= now);
                require(self.all(slots, is_free), "a slot's owner may still answer")
            }
            Change::Touch => Ok(()),
        }
    }

    /// Whether there are such slots and `holds` of all of them.
    fn all(&self, slots: &[u16], holds: impl Fn(&SlotOwner) -> bool) -> bool {
        slots.iter().all(|slot| self.slots.get(usize::from(*slot)).is_some_and(&holds))
    }

    fn give(&mut self, slots: &[u16], to: Incarnation, epoch: i64) {
        for slot in slots {
            if let Some(slot) = self.slots.get_mut(usize::from(*slot)) {
                *slot = SlotOwner { epoch, owner: Some(to) };
            }
        }
    }

    fn set_state(&mut self, node: Incarnation, state: NodeState, silent_at: Option<Timestamp>) {
        if let Some(member) = self.members.get_mut(&node) {
            (member.state, member.silent_at) = (state, silent_at);
        }
    }
}

fn after(at: Timestamp, pause: Duration) -> Timestamp {
    let pause = chrono::Duration::from_std(pause).unwrap_or(chrono::Duration::MAX);
    at.checked_add_signed(pause).unwrap_or(Timestamp::MAX_UTC)
}
