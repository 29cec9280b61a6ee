//! What comes of what happens. Views change by the real rules only.

use order_service::domain::membership::{Change, Incarnation, Member, Vote};

use super::choices::{Action, Flaw, Ownership};
use super::state::{
    Actor, Breach, Commit, Event, Fate, Grant, Handover, Known, LEASE, NODES, Node, State, at, newcomer,
    ticks,
};

fn life(number: i64) -> Incarnation {
    Incarnation(number)
}

impl Ownership {
    /// Carries out what is allowed; none when nothing comes of it.
    pub fn step(&self, state: &mut State, action: Action) -> Option<()> {
        let needs_database = !matches!(
            action,
            Action::Tick
                | Action::Lose(_)
                | Action::Crash(_)
                | Action::Away
                | Action::Back
                | Action::Adopt(_)
                | Action::GrantTold(_)
                | Action::GrantUnknown(_)
                | Action::Reopen(_)
                | Action::Commit { .. }
                | Action::CommitTold(_)
                | Action::CommitUnknown(_)
        );
        if needs_database && state.is_away {
            return None;
        }
        match action {
            Action::Tick => self.tick(state),
            Action::Lose(node) => {
                state.left.lose -= 1;
                state.nodes[node].is_heard = false;
            }
            Action::Heal(node) => {
                state.nodes[node].is_heard = true;
                self.renew(state, node);
            }
            Action::Crash(node) => {
                state.left.crash -= 1;
                state.stop(node);
            }
            Action::End(node) => {
                state.left.end -= 1;
                let change = Change::End { node: life(state.nodes[node].life) };
                state.change(&change, &[])?;
                state.stop(node);
            }
            Action::Restart(node) => {
                state.left.restart -= 1;
                let next = state.view.members.keys().map(|life| life.0).max()? + 1;
                let view = state.view.edit();
                let before = Known::of(view).live;
                view.join(&newcomer(node), life(next), at(state.now)).ok()?;
                state.hurried |= before & !Known::of(view).live;
                state.nodes[node] = Node::start(next, view);
            }
            Action::Away => {
                state.left.away -= 1;
                state.is_away = true;
            }
            Action::Back => state.is_away = false,
            Action::Look(node) => {
                let known = Known::of(&state.view);
                self.learn(state, node, known);
            }
            Action::Fetch(node) => state.nodes[node].held = Some(Known::of(&state.view)),
            Action::Adopt(node) => {
                let held = state.nodes[node].held.take()?;
                self.learn(state, node, held);
            }
            Action::VoteOut(node) => self.vote_out(state, node)?,
            Action::Expire { node, by } => self.expire(state, node, by)?,
            Action::Take { by, slot } => {
                let me = state.nodes[by].life;
                state.change(&Change::Take { by: life(me), slots: vec![slot as u16] }, &[])?;
                let known = Known::of(&state.view);
                self.learn(state, by, known);
            }
            Action::Hand { from, to, slot } => self.hand(state, from, to, slot)?,
            Action::GrantLands(index) => {
                let grant = state.grants[index];
                let change = Change::Grant {
                    from: life(grant.from),
                    to: life(grant.to),
                    slots: vec![grant.slot.into()],
                };
                let is_made = state.change_on(grant.expected, &change, &[]).is_some();
                if is_made && grant.is_given_up {
                    state.happened |= Event::LateGrant.bit();
                }
                state.grants[index].fate = if is_made { Fate::Made } else { Fate::Refused };
            }
            Action::GrantTold(index) => {
                let grant = state.grants.remove(index);
                let node = usize::from(grant.node);
                state.nodes[node].handover = None;
                if grant.fate == Fate::Made {
                    // What is known of the view that the grant was decided on, and the grant.
                    let mut known = state.nodes[node].known;
                    if known.version == grant.expected {
                        known.version += 1;
                        known.slots[usize::from(grant.slot)] = (known.version, grant.to);
                        self.learn(state, node, known);
                    }
                }
            }
            Action::GrantUnknown(index) => {
                state.left.give_up -= 1;
                state.grants[index].is_given_up = true;
                let node = usize::from(state.grants[index].node);
                if let Some(handover) = &mut state.nodes[node].handover {
                    handover.is_unknown = true;
                }
            }
            Action::Touch(node) => {
                state.change(&Change::Touch, &[])?;
                let known = Known::of(&state.view);
                self.learn(state, node, known);
            }
            Action::Reopen(node) => {
                state.nodes[node].handover = None;
                state.happened |= Event::Reopening.bit();
            }
            Action::Claim { node, order } => self.claim(state, node, order)?,
            Action::Commit { node, order } => self.commit(state, node, order)?,
            Action::CommitLands(index) => self.commit_lands(state, index),
            Action::CommitTold(index) => self.commit_told(state, index),
            Action::CommitUnknown(index) => {
                state.left.give_up -= 1;
                let commit = &mut state.commits[index];
                commit.is_given_up = true;
                let (node, order) = (usize::from(commit.node), usize::from(commit.order));
                state.nodes[node].actors[order] = None;
                state.nodes[node].doubts[order] = true;
            }
            Action::Keep { node, order } => self.keep(state, node, order),
        }
        state.forget();
        Some(())
    }

    fn tick(&self, state: &mut State) {
        state.now += 1;
        for node in 0..NODES {
            if state.nodes[node].is_heard && !state.is_away {
                let me = &mut state.nodes[node];
                me.steady = if me.age == 0 { (me.steady + 1).min(LEASE) } else { 0 };
                self.renew(state, node);
            } else if state.nodes[node].life != 0 {
                let node = &mut state.nodes[node];
                node.age = (node.age + 1).min(self.serve_for());
                node.steady = 0;
            }
        }
    }

    /// The renewal of a node: at once there, heard and answered. Any delay between makes it only less sure of itself.
    fn renew(&self, state: &mut State, node: usize) {
        let me = state.nodes[node].life;
        if me == 0 {
            return;
        }
        if state.view.edit().renew(life(me), ticks(LEASE), at(state.now)) {
            state.nodes[node].age = 0;
        } else {
            state.stop(node);
        }
    }

    fn learn(&self, state: &mut State, node: usize, known: Known) {
        let is_live = known.live & (1 << state.nodes[node].life) != 0;
        if is_live {
            state.nodes[node].learn(known);
        } else {
            state.stop(node);
        }
    }

    fn vote_out(&self, state: &mut State, node: usize) -> Option<()> {
        state.left.vote -= 1;
        let suspect = state.member_at(node)?.incarnation;
        let watchers = state.view.watchers(suspect);
        let vote = |voter: &Incarnation| Vote { suspect, voter: *voter, at: at(state.now) };
        let votes: Vec<Vote> = watchers.iter().map(vote).collect();
        state.change(&Change::VoteOut { node: suspect, by: *watchers.first()? }, &votes)?;
        state.hurried |= 1 << suspect.0;
        if self.flaw == Flaw::TakesAtOnce {
            let now = at(state.now);
            state.view.edit().members.get_mut(&suspect)?.silent_at = Some(now);
        }
        Some(())
    }

    fn expire(&self, state: &mut State, node: usize, by: usize) -> Option<()> {
        let judge = state.nodes[by];
        if !self.may_judge(&judge) {
            return None;
        }
        let change = Change::Expire { node: state.member_at(node)?.incarnation, by: life(judge.life) };
        state.change(&change, &[])?;
        state.happened |= Event::Expiry.bit();
        let known = Known::of(&state.view);
        self.learn(state, by, known);
        Some(())
    }

    fn hand(&self, state: &mut State, from: usize, to: usize, slot: usize) -> Option<()> {
        let (owner, receiver) = (state.nodes[from], state.nodes[to].life);
        if owner.handover.is_some() || owner.known.live & (1 << receiver) == 0 {
            return None;
        }
        state.left.hand -= 1;
        let expected = owner.known.version;
        if self.flaw != Flaw::GrantsOpen {
            state.nodes[from].handover = Some(Handover { slot: slot as u8, expected, is_unknown: false });
            state.nodes[from].actors[slot] = None;
        }
        state.grants.push(Grant {
            node: from as u8,
            from: owner.life,
            to: receiver,
            slot: slot as u8,
            expected,
            fate: Fate::Sent,
            is_given_up: false,
        });
        Some(())
    }

    fn claim(&self, state: &mut State, node: usize, order: usize) -> Option<()> {
        let (epoch, me) = state.nodes[node].known.slots[order];
        let is_doubtful = state.nodes[node].doubts[order] && self.flaw != Flaw::ClaimsInDoubt;
        let row = &mut state.orders[order];
        if row.version > 0 {
            if row.epoch > epoch {
                return None;
            }
            if (1..epoch).contains(&row.epoch) {
                state.happened |= Event::NewerOwner.bit();
            }
            (row.epoch, row.life) = (epoch, me);
            row.version += u8::from(is_doubtful);
            row.fence = row.fence.max(epoch);
            let on_the_way =
                |commit: &&Commit| usize::from(commit.order) == order && commit.fate == Fate::Sent;
            // A creation may still arrive.
            let bits = state.commits.iter().filter(on_the_way).filter(|commit| commit.version > 0);
            row.settled |= bits.map(|commit| commit.bit).fold(0, |all, bit| all | bit);
        }
        let actor = Actor { epoch, version: row.version, content: row.content, is_claimed: true };
        state.nodes[node].actors[order] = Some(actor);
        state.nodes[node].doubts[order] &= row.version == 0;
        Some(())
    }

    fn commit(&self, state: &mut State, node: usize, order: usize) -> Option<()> {
        let bit = 2 << (self.budget.commit - state.left.commit);
        state.left.commit -= 1;
        let actor = state.nodes[node].actors[order]?;
        state.commits.push(Commit {
            bit,
            order: order as u8,
            node: node as u8,
            life: state.nodes[node].life,
            epoch: actor.epoch,
            version: actor.version,
            content: actor.content | bit,
            fate: Fate::Sent,
            is_given_up: false,
        });
        Some(())
    }

    fn commit_lands(&self, state: &mut State, index: usize) {
        let commit = &mut state.commits[index];
        let row = &mut state.orders[usize::from(commit.order)];
        let is_owner = commit.version == 0
            || (row.epoch, row.life) == (commit.epoch, commit.life)
            || self.flaw == Flaw::CommitsUnfenced;
        if row.version != commit.version || !is_owner {
            commit.fate = Fate::Refused;
            state.happened |= Event::RefusedCommit.bit();
            return;
        }
        commit.fate = Fate::Made;
        (row.version, row.content) = (commit.version + 1, commit.content);
        (row.epoch, row.life) = (commit.epoch, commit.life);
        if row.settled & commit.bit != 0 {
            state.breach = Some(Breach::Ghost);
        }
        if commit.epoch < row.fence || row.version <= row.made {
            state.breach = Some(Breach::SecondWriter);
        }
        row.made = row.version;
        row.fence = row.fence.max(commit.epoch);
        if commit.is_given_up {
            state.happened |= Event::LateCommit.bit();
        }
    }

    fn commit_told(&self, state: &mut State, index: usize) {
        let commit = state.commits.remove(index);
        let (node, order) = (usize::from(commit.node), usize::from(commit.order));
        let actor = &mut state.nodes[node].actors[order];
        if commit.fate == Fate::Refused {
            *actor = None;
            return;
        }
        let row = &mut state.orders[order];
        row.acknowledged |= commit.bit;
        // Not for an actor that is gone, nor for one of a later epoch.
        if let Some(actor) = actor.as_mut().filter(|actor| actor.epoch == commit.epoch) {
            (actor.version, actor.content) = (commit.version + 1, commit.content);
        }
    }

    fn keep(&self, state: &mut State, node: usize, order: usize) {
        let row = &state.orders[order];
        let (epoch, _) = state.nodes[node].known.slots[order];
        state.nodes[node].actors[order] =
            Some(Actor { epoch, version: row.version, content: row.content, is_claimed: false });
    }
}

impl State {
    /// Whether the node has a commit of the order under way: claims and commits of an order go one after another.
    pub fn is_busy(&self, node: usize, order: usize) -> bool {
        self.commits.iter().any(|commit| {
            !commit.is_given_up && (usize::from(commit.node), usize::from(commit.order)) == (node, order)
        })
    }

    /// The life at this place that counts as live.
    fn member_at(&self, node: usize) -> Option<&Member> {
        let name = ["a", "b", "c"][node];
        self.view.all_live().find(|member| member.name == name)
    }

    /// Whether the lease of the life at this place is over.
    pub fn is_overdue(&self, node: usize) -> bool {
        self.member_at(node).is_some_and(|member| member.lease_until < at(self.now))
    }

    /// Whether somebody may take the slot.
    pub fn is_free(&self, slot: usize) -> bool {
        self.view.free_from(self.view.slots[slot].owner).is_some_and(|from| from <= at(self.now))
    }

    fn change(&mut self, change: &Change, votes: &[Vote]) -> Option<()> {
        self.change_on(self.view.version, change, votes)
    }

    fn change_on(&mut self, expected: i64, change: &Change, votes: &[Vote]) -> Option<()> {
        let now = at(self.now);
        // Looked at before it is copied: most of what is tried is refused.
        if self.view.version != expected {
            return None;
        }
        self.view.edit().apply(expected, change, votes, now).ok()
    }
}
