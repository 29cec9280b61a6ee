//! Ways through the model at random: less than a search, but as long as one likes.

use stateright::{Expectation, Model, Property};

use super::choices::{Action, Ownership};
use crate::harness::Chance;

/// Where walks have been.
#[derive(Debug)]
pub struct Walked {
    pub steps: usize,
    pub longest: usize,
}

/// Walks so often, each time until nothing can happen any more, and fails as a search does.
pub fn walk(model: &Ownership, walks: u64) -> Walked {
    let mut missing = model.properties();
    missing.retain(|property| property.expectation == Expectation::Sometimes);
    let mut must_hold = model.properties();
    must_hold.retain(|property| property.expectation == Expectation::Always);
    let mut walked = Walked { steps: 0, longest: 0 };
    for seed in 0..walks {
        let length = walk_once(model, seed, &must_hold, &mut missing);
        walked.steps += length;
        walked.longest = walked.longest.max(length);
    }
    assert!(missing.is_empty(), "never met: {:?}", missing.iter().map(|one| one.name).collect::<Vec<_>>());
    walked
}

fn walk_once(
    model: &Ownership,
    seed: u64,
    must_hold: &[Property<Ownership>],
    missing: &mut Vec<Property<Ownership>>,
) -> usize {
    let mut chance = Chance::new(seed);
    let mut state = model.init_states().remove(0);
    let (mut way, mut actions) = (Vec::new(), Vec::new());
    loop {
        for Property { name, condition, .. } in must_hold {
            assert!(condition(model, &state), "not so: {name}, by seed {seed} after {way:#?}");
        }
        missing.retain(|property| !(property.condition)(model, &state));
        actions.clear();
        model.actions(&state, &mut actions);
        let next = loop {
            if actions.is_empty() {
                return way.len();
            }
            let index = chance.below(actions.len() as i64) as usize;
            // Most of the time most of it works, or budgets are used up before anything has happened.
            if is_rare(actions[index]) && actions.len() > 1 && !chance.percent(10) {
                continue;
            }
            let action = actions.swap_remove(index);
            if let Some(next) = model.next_state(&state, action) {
                way.push(action);
                break next;
            }
        };
        state = next;
    }
}

fn is_rare(action: Action) -> bool {
    matches!(
        action,
        Action::Tick
            | Action::Lose(_)
            | Action::Crash(_)
            | Action::End(_)
            | Action::Away
            | Action::VoteOut(_)
            | Action::GrantUnknown(_)
            | Action::CommitUnknown(_)
    )
}
