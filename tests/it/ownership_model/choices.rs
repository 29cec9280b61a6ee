//! What can happen in a state.

use super::state::{Budget, Event, Fate, LEASE, NODES, Node, READ_FOR, SERVE_FOR, SLOTS, State};

/// How the protocol is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Not at all.
    None,
    /// What a node owned that was voted out may be taken at once.
    TakesAtOnce,
    /// A commit names the version only.
    CommitsUnfenced,
    /// A slot is closed when the grant is answered, not before it is sent.
    GrantsOpen,
    /// A lease is judged by nodes whose own renewals were broken.
    JudgesAfterBreak,
    /// A node serves what it owns for longer than its lease.
    ServesTooLong,
    /// After a grant of unknown outcome the node looks once and opens what it sees itself own.
    ReopensUntouched,
    /// A claim leaves the version as it is, although a commit of this owner may still arrive.
    ClaimsInDoubt,
    /// What is in memory is shown also while a commit is under way, where it should wait.
    ShowsDuringCommit,
    /// What an owner read without a claim is kept and shown.
    KeepsUnclaimed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Time passes; whoever is heard renews.
    Tick,
    /// The renewals of the node are not heard from now on: it is paused, cut off or unlucky.
    Lose(usize),
    /// They are heard again.
    Heal(usize),
    /// kill -9.
    Crash(usize),
    /// The node ends and says so.
    End(usize),
    /// The node starts, as a new incarnation.
    Restart(usize),
    /// The database cannot be reached.
    Away,
    /// It can again.
    Back,
    /// The node reads the newest view, for whatever reason.
    Look(usize),
    /// The node reads the newest view; the answer takes its time.
    Fetch(usize),
    /// It arrives.
    Adopt(usize),
    /// All that watch the node say that they cannot reach it.
    VoteOut(usize),
    Expire {
        node: usize,
        by: usize,
    },
    Take {
        by: usize,
        slot: usize,
    },
    /// The owner closes a slot and asks for its grant to another.
    Hand {
        from: usize,
        to: usize,
        slot: usize,
    },
    GrantLands(usize),
    GrantTold(usize),
    /// The answer to the grant is not waited for any longer.
    GrantUnknown(usize),
    Touch(usize),
    /// The owner opens what it could not give away.
    Reopen(usize),
    /// The order is activated.
    Claim {
        node: usize,
        order: usize,
    },
    Commit {
        node: usize,
        order: usize,
    },
    CommitLands(usize),
    /// The answer arrives; a success is acknowledged.
    CommitTold(usize),
    /// The answer is not waited for any longer; the actor ends.
    CommitUnknown(usize),
    /// A read of what is not active: the owner keeps what it found in the store. Correct nodes do not.
    Keep {
        node: usize,
        order: usize,
    },
}

/// The model, within bounds.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// What may happen.
    pub budget: Budget,
    /// Ticks.
    pub horizon: u8,
    /// Orders that are worked on, those of the first slots.
    pub orders: usize,
    /// Whether they exist from the start.
    pub exists: bool,
    /// Whether views may arrive late.
    pub late_looks: bool,
    /// Whether an order is not shown from memory while a commit of it is under way.
    pub waits: bool,
    /// What must be met on the way, or the search has looked at nothing.
    pub meets: &'static [Event],
    pub flaw: Flaw,
}

impl Ownership {
    pub fn serve_for(&self) -> u8 {
        if self.flaw == Flaw::ServesTooLong { LEASE + 2 } else { SERVE_FOR }
    }

    /// As of `Placement::owner`.
    pub fn owns(&self, node: &Node, slot: usize) -> bool {
        node.holds(slot) && node.age < self.serve_for()
    }

    /// As of `Placement::reader`.
    pub fn reads(&self, node: &Node, slot: usize) -> bool {
        node.holds(slot) && node.age < READ_FOR
    }

    /// What the node answers from memory; none when it asks the store.
    pub fn shows(&self, state: &State, node: usize, order: usize) -> Option<u8> {
        let me = &state.nodes[node];
        let actor = me.actors[order].filter(|_| self.reads(me, order))?;
        let is_late = self.waits && self.flaw != Flaw::ShowsDuringCommit && state.is_busy(node, order);
        (actor.version > 0 && !is_late).then_some(actor.content)
    }

    /// All that might happen; what is refused is among it.
    pub fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        let left = &state.left;
        if state.now < self.horizon {
            actions.push(Action::Tick);
        }
        if state.is_away {
            actions.push(Action::Back);
        } else if left.away > 0 {
            actions.push(Action::Away);
        }
        for (index, commit) in state.commits.iter().enumerate() {
            match commit.fate {
                Fate::Sent => actions.push(Action::CommitLands(index)),
                _ => actions.push(Action::CommitTold(index)),
            }
            if left.give_up > 0 && !commit.is_given_up {
                actions.push(Action::CommitUnknown(index));
            }
        }
        for (index, grant) in state.grants.iter().enumerate() {
            match grant.fate {
                Fate::Sent => actions.push(Action::GrantLands(index)),
                _ => actions.push(Action::GrantTold(index)),
            }
            if left.give_up > 0 && !grant.is_given_up {
                actions.push(Action::GrantUnknown(index));
            }
        }
        for (index, node) in state.nodes.iter().enumerate() {
            if left.vote > 0 {
                actions.push(Action::VoteOut(index));
            }
            if node.life == 0 {
                if left.restart > 0 {
                    actions.push(Action::Restart(index));
                }
                continue;
            }
            self.possible_at(state, index, node, actions);
        }
    }

    fn possible_at(&self, state: &State, index: usize, node: &Node, actions: &mut Vec<Action>) {
        let (left, version) = (&state.left, state.view.version);
        if !node.is_heard {
            actions.push(Action::Heal(index));
        } else if left.lose > 0 {
            actions.push(Action::Lose(index));
        }
        if left.crash > 0 {
            actions.push(Action::Crash(index));
        }
        if node.known.version < version {
            actions.push(Action::Look(index));
            if self.late_looks && node.held.is_none_or(|held| held.version < version) {
                actions.push(Action::Fetch(index));
            }
        }
        if node.held.is_some() {
            actions.push(Action::Adopt(index));
        }
        // Decided on an older view, a change is refused.
        if node.known.version == version {
            if left.end > 0 {
                actions.push(Action::End(index));
            }
            for other in (0..NODES).filter(|other| *other != index) {
                if self.may_judge(node) && state.is_overdue(other) {
                    actions.push(Action::Expire { node: other, by: index });
                }
                for slot in (0..SLOTS).filter(|slot| left.hand > 0 && node.holds(*slot)) {
                    actions.push(Action::Hand { from: index, to: other, slot });
                }
            }
            let free = (0..SLOTS).filter(|slot| state.is_free(*slot));
            actions.extend(free.map(|slot| Action::Take { by: index, slot }));
        }
        if let Some(handover) = node.handover.filter(|handover| handover.is_unknown) {
            if (node.known.version, version) == (handover.expected, handover.expected) {
                actions.push(Action::Touch(index));
            }
            if node.known.version > handover.expected || self.flaw == Flaw::ReopensUntouched {
                actions.push(Action::Reopen(index));
            }
        }
        for order in 0..self.orders {
            if self.owns(node, order) {
                let is_busy = state.is_busy(index, order);
                match node.actors[order].filter(|actor| actor.is_claimed) {
                    None if !is_busy => actions.push(Action::Claim { node: index, order }),
                    Some(_) if !is_busy && left.commit > 0 => {
                        actions.push(Action::Commit { node: index, order });
                    }
                    _ => {}
                }
            }
            if self.flaw == Flaw::KeepsUnclaimed && self.owns(node, order) && node.actors[order].is_none() {
                actions.push(Action::Keep { node: index, order });
            }
        }
    }

    /// Whether it was steady for a whole lease.
    pub fn may_judge(&self, node: &Node) -> bool {
        node.steady >= LEASE || self.flaw == Flaw::JudgesAfterBreak
    }
}
