//! What must hold in every state, and what must be possible.

use order_service::domain::membership::NodeState;
use stateright::{Model, Property};

use super::choices::{Action, Ownership};
use super::state::{Breach, Budget, Event, Fate, LEASE, NODES, Node, SLOTS, State};

pub const ONE_WRITER: &str = "one accepted writer per order version, epochs only grow";
pub const NO_GHOST: &str = "what a claim did not find never arrives";
pub const NOTHING_LOST: &str = "no acknowledged commit is lost";
pub const READS_ARE_FRESH: &str = "a read from memory shows all that was acknowledged before";
pub const READS_LAG: &str =
    "a read from memory lags behind the store by a commit that is not acknowledged, at most";
pub const READS_ARE_ORDERED: &str = "a read from memory shows all that is stored";
pub const ONE_READER: &str = "one node at most answers from memory for a slot";
pub const ONE_OWNER: &str = "one node at most serves a slot, unless the other was voted out";
pub const NOBODY_DIES: &str = "nobody is declared dead because the database was away";
pub const RECOVERS: &str = "once faults stop, every slot is served again and takes writes";

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(self.budget, self.exists)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_WRITER, |_, state: &State| state.breach != Some(Breach::SecondWriter)),
            Property::always(NO_GHOST, |_, state: &State| state.breach != Some(Breach::Ghost)),
            Property::always(NOTHING_LOST, |_, state: &State| {
                state.orders.iter().all(|order| order.acknowledged & !order.content == 0)
            }),
            Property::always(READS_ARE_FRESH, |model: &Self, state: &State| {
                shown(model, state, |state, _, order| state.orders[order].acknowledged)
            }),
            Property::always(READS_LAG, |model: &Self, state: &State| {
                shown(model, state, |state, node, order| {
                    let own = state.commits.iter().filter(|commit| {
                        commit.fate == Fate::Made
                            && (usize::from(commit.node), usize::from(commit.order)) == (node, order)
                    });
                    own.fold(state.orders[order].content, |content, commit| content & !commit.bit)
                })
            }),
            Property::always(READS_ARE_ORDERED, |model: &Self, state: &State| {
                !model.waits || shown(model, state, |state, _, order| state.orders[order].content)
            }),
            Property::always(ONE_READER, |model: &Self, state: &State| {
                (0..SLOTS).all(|slot| state.nodes.iter().filter(|node| model.reads(node, slot)).count() <= 1)
            }),
            Property::always(ONE_OWNER, one_owner),
            Property::always(RECOVERS, |model: &Self, state: &State| {
                // Every earlier state may let the time pass and is one of these then.
                state.now < model.horizon || (recovers(model, state, false) && recovers(model, state, true))
            }),
        ];
        let Budget { lose, crash, end, vote, restart, .. } = self.budget;
        if lose + crash + end + vote + restart == 0 {
            properties.push(Property::always(NOBODY_DIES, |_, state: &State| {
                state.view.members.values().all(|member| member.state == NodeState::Active)
            }));
        }
        properties.extend(self.meets.iter().copied().map(meets));
        properties
    }
}

fn meets(event: Event) -> Property<Ownership> {
    let (name, condition): (_, fn(&Ownership, &State) -> bool) = match event {
        Event::Expiry => ("a lease runs out", |_, state| state.has_met(Event::Expiry)),
        Event::LateGrant => ("a grant that was given up is made", |_, state| state.has_met(Event::LateGrant)),
        Event::Reopening => ("a slot is opened again", |_, state| state.has_met(Event::Reopening)),
        Event::RefusedCommit => ("a commit is refused", |_, state| state.has_met(Event::RefusedCommit)),
        Event::LateCommit => {
            ("a commit that was given up is made", |_, state| state.has_met(Event::LateCommit))
        }
        Event::NewerOwner => ("a newer owner claims", |_, state| state.has_met(Event::NewerOwner)),
    };
    Property::sometimes(name, condition)
}

/// Whether what nodes answer from memory contains at least the floor, by node and order.
fn shown(model: &Ownership, state: &State, floor: impl Fn(&State, usize, usize) -> u8) -> bool {
    (0..model.orders).all(|order| {
        (0..NODES).all(|node| match model.shows(state, node, order) {
            Some(content) => floor(state, node, order) & !content == 0,
            None => true,
        })
    })
}

fn one_owner(model: &Ownership, state: &State) -> bool {
    (0..SLOTS).all(|slot| {
        let owners = state.nodes.iter().filter(|node| model.owns(node, slot));
        owners.filter(|node| state.hurried & (1 << node.life) == 0).count() <= 1
    })
}

/// Whether nodes that do their work, one after another, bring everything back when nothing goes wrong any more.
/// Messages that were under way arrive first, or never.
fn recovers(model: &Ownership, before: &State, reversed: bool) -> bool {
    let mut state =
        State { left: Budget { commit: 0, give_up: u8::MAX, ..Budget::default() }, ..before.clone() };
    let mut go = |state: &mut State, action: Action| {
        let mut next = state.clone();
        if model.step(&mut next, action).is_some() {
            *state = next;
        }
    };
    go(&mut state, Action::Back);
    settle_messages(&mut state, reversed, &mut go);
    let order: Vec<usize> = if reversed { (0..NODES).rev().collect() } else { (0..NODES).collect() };
    // A node that just came back may judge others after a lease.
    for _ in 0..LEASE + 3 {
        for node in 0..NODES {
            if state.nodes[node].life != 0 {
                go(&mut state, Action::Heal(node));
            }
        }
        go(&mut state, Action::Tick);
        if state.nodes.iter().all(|node| node.life == 0) {
            state.left.restart = 1;
            go(&mut state, Action::Restart(0));
        }
        for node in order.iter().copied() {
            work(&mut state, node, &mut go);
        }
        if is_settled(model, &state) {
            break;
        }
    }
    is_settled(model, &state) && takes_writes(model, &mut state, &mut go)
}

fn settle_messages(state: &mut State, are_lost: bool, go: &mut impl FnMut(&mut State, Action)) {
    if are_lost {
        while let Some(index) = state.commits.iter().position(|commit| !commit.is_given_up) {
            go(state, Action::CommitUnknown(index));
        }
        while let Some(index) = state.grants.iter().position(|grant| !grant.is_given_up) {
            go(state, Action::GrantUnknown(index));
        }
        return;
    }
    while !state.commits.is_empty() {
        go(state, Action::CommitLands(0));
        if !state.commits.is_empty() {
            go(state, Action::CommitTold(0));
        }
    }
    while !state.grants.is_empty() {
        go(state, Action::GrantLands(0));
        if !state.grants.is_empty() {
            go(state, Action::GrantTold(0));
        }
    }
}

/// What a node does by itself.
fn work(state: &mut State, node: usize, go: &mut impl FnMut(&mut State, Action)) {
    for action in [Action::Look(node), Action::Touch(node), Action::Reopen(node)] {
        let me = state.nodes[node];
        let is_due = match action {
            Action::Touch(_) | Action::Reopen(_) => me.handover.is_some_and(|handover| {
                handover.is_unknown
                    && matches!(action, Action::Touch(_)) == (me.known.version == handover.expected)
            }),
            _ => true,
        };
        if me.life != 0 && is_due {
            go(state, action);
        }
    }
    for other in (0..NODES).filter(|other| *other != node) {
        if state.nodes[node].life != 0 && state.is_overdue(other) {
            go(state, Action::Expire { node: other, by: node });
        }
    }
    for slot in 0..SLOTS {
        if state.nodes[node].life != 0 && state.is_free(slot) {
            go(state, Action::Take { by: node, slot });
        }
    }
}

/// Whether each slot has one owner that answers, and all know of it.
fn is_settled(model: &Ownership, state: &State) -> bool {
    let knows = |node: &Node| node.life == 0 || node.known.version == state.view.version;
    state.nodes.iter().all(knows) && (0..SLOTS).all(|slot| owner(model, state, slot).is_some())
}

fn owner(model: &Ownership, state: &State, slot: usize) -> Option<usize> {
    let mut owners = (0..NODES).filter(|node| model.reads(&state.nodes[*node], slot));
    owners.next().filter(|_| owners.next().is_none())
}

/// Whether a write to each order is acknowledged and shown.
fn takes_writes(model: &Ownership, state: &mut State, go: &mut impl FnMut(&mut State, Action)) -> bool {
    (0..model.orders).all(|order| {
        let Some(node) = owner(model, state, order) else { return false };
        // Any bit will do: the budget that names them is used up.
        state.left.commit = model.budget.commit.max(1);
        state.orders[order].acknowledged = 0;
        state.commits.clear();
        go(state, Action::Claim { node, order });
        for action in [Action::Commit { node, order }, Action::CommitLands(0), Action::CommitTold(0)] {
            if !matches!(action, Action::CommitLands(_) | Action::CommitTold(_)) || !state.commits.is_empty()
            {
                go(state, action);
            }
        }
        state.orders[order].acknowledged != 0 && model.shows(state, node, order).is_some()
    })
}
