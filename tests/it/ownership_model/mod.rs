//! The protocol of ownership as a model, searched exhaustively within bounds: three nodes, two slots with an order each,
//! one database.
//!
//! The database holds a real [`View`](order_service::domain::membership::View) and changes it by its real rules. Time
//! goes in ticks, by which all clocks agree: memory is answered from for 1, slots are served for 2, a lease lasts 3. Within
//! a tick things happen in any order. Every step of a node may be left out, so a paused node is one whose renewals are not
//! heard and that takes no step, and one cut off may take some. A renewal takes no time: any delay between its start, the
//! database and its answer makes a node only less sure of itself. A node may look at the view at any moment, for no reason,
//! so announcements may be lost, late, double or false without being modeled; with `late_looks` an answer takes its time.
//! Claims take no time either: between a claim and its answer nothing can happen that could not happen after the answer.
//! Commits and grants stay under way for as long as they like, also when their sender is gone.
//!
//! Looked at in every state: what [`checks`] names. That everything is served again in the end is looked at in all
//! states of the last tick, which every state before it leads to: nodes do their work one after another, twice, once
//! after what was under way has arrived, and once, in the other order, without that it ever does. That is one fair course
//! of two, not all of them.
//!
//! `ORDER_OWNERSHIP="lose=1 vote=1 hand=1 commit=2 horizon=4 ..."` plays what it says (names of `Budget` and
//! `Ownership`, flags as 0 and 1) and tells how many states there are; `ORDER_OWNERSHIP_SECONDS` ends it early, and with
//! `ORDER_OWNERSHIP_WALKS=n` it goes n ways at random instead of searching.

mod checks;
mod choices;
mod rules;
mod state;
mod walks;

use std::time::{Duration, Instant};

use stateright::{Checker, CheckerBuilder, HasDiscoveries, Model, Property};

use self::choices::{Flaw, Ownership};
use self::state::{Budget, Event};

/// Walks at random.
const WALKS: u64 = 10_000;

const CALM: Budget =
    Budget { lose: 0, crash: 0, end: 0, restart: 0, vote: 0, hand: 0, away: 0, commit: 1, give_up: 0 };

fn model(horizon: u8, budget: Budget) -> Ownership {
    Ownership {
        budget,
        horizon,
        orders: 1,
        exists: true,
        late_looks: false,
        waits: false,
        meets: &[],
        flaw: Flaw::None,
    }
}

fn search(model: &Ownership) -> CheckerBuilder<Ownership> {
    model.clone().checker()
}

/// Searches all states.
fn holds(model: &Ownership) {
    finds_nothing(model, search(model).threads(2).spawn_bfs());
}

/// Fails with the way to what must not be, or without what must be met.
fn finds_nothing(model: &Ownership, search: impl Checker<Ownership>) {
    let start = Instant::now();
    let checker = search.join();
    println!(
        "{} states, {} made, at most {} deep, in {:.1} s: {:?}, {} ticks",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        start.elapsed().as_secs_f64(),
        model.budget,
        model.horizon
    );
    let mut found = checker.discoveries();
    for Property { expectation, name, .. } in model.properties() {
        let way = found.remove(name).map(|path| path.into_actions());
        match way {
            Some(way) if expectation.discovery_is_failure() => panic!("not so: {name}, after {way:#?}"),
            None if !expectation.discovery_is_failure() => panic!("never met: {name}"),
            _ => {}
        }
    }
}

/// Searches until the named property fails; it must.
fn breaks(model: &Ownership, property: &'static str) {
    let until = HasDiscoveries::AnyOf([property].into());
    let checker = search(model).finish_when(until).spawn_bfs().join();
    let path = checker.discovery(property);
    let Some(path) = path else { panic!("{:?} does no harm to: {property}", model.flaw) };
    println!("{:?}, not so: {property}, after {:?}", model.flaw, path.into_actions());
}

/// A node is voted out while its renewals are not heard, and others go on with what it owned.
#[test]
fn nodes_are_voted_out() {
    let budget = Budget { lose: 1, vote: 1, commit: 2, ..CALM };
    holds(&Ownership { meets: &[Event::NewerOwner, Event::RefusedCommit], ..model(3, budget) });
}

/// A node's renewals are not heard for longer than a lease, and then they are again.
#[test]
fn leases_run_out() {
    let budget = Budget { lose: 1, commit: 2, give_up: 1, ..CALM };
    let meets = &[Event::Expiry, Event::NewerOwner, Event::RefusedCommit, Event::LateCommit];
    holds(&Ownership { meets, ..model(5, budget) });
}

/// A node is killed and starts again, and finds what it was doing under way.
#[test]
fn nodes_are_killed_and_start_again() {
    let budget = Budget { crash: 1, restart: 1, give_up: 1, ..CALM };
    holds(&Ownership { meets: &[Event::Expiry, Event::LateCommit], ..model(5, budget) });
}

/// A node ends and says so, and starts again.
#[test]
fn nodes_end_and_start_again() {
    let budget = Budget { end: 1, restart: 1, give_up: 1, ..CALM };
    holds(&Ownership { meets: &[Event::NewerOwner], ..model(2, budget) });
}

/// A slot goes to and fro, and it is not known whether it went.
#[test]
fn slots_are_handed_over() {
    let budget = Budget { hand: 2, give_up: 1, ..CALM };
    holds(&Ownership { meets: &[Event::LateGrant, Event::Reopening], ..model(1, budget) });
}

/// A slot goes away, and views arrive late.
#[test]
fn views_arrive_late() {
    let budget = Budget { hand: 1, commit: 2, give_up: 1, ..CALM };
    let meets = &[Event::LateGrant, Event::Reopening, Event::NewerOwner];
    holds(&Ownership { meets, late_looks: true, ..model(1, budget) });
}

/// A node is voted out in the middle of a handover, or who receives the slot is.
#[test]
fn a_handover_meets_an_eviction() {
    let budget = Budget { hand: 1, vote: 1, give_up: 1, ..CALM };
    holds(&Ownership { meets: &[Event::LateGrant, Event::Reopening], ..model(1, budget) });
}

/// Orders are created while their slot changes hands.
#[test]
fn orders_are_created() {
    let budget = Budget { lose: 1, vote: 1, give_up: 1, ..CALM };
    holds(&Ownership { exists: false, meets: &[Event::LateCommit], ..model(2, budget) });
}

/// The database is away for longer than a lease, twice.
#[test]
fn the_database_is_away() {
    let budget = Budget { away: 2, give_up: 1, ..CALM };
    holds(&Ownership { meets: &[Event::LateCommit], ..model(8, budget) });
}

/// What is shown from memory may be older than what a read of the store has just shown, by a commit that is stored and
/// not acknowledged yet; unless reads wait for a commit under way.
#[test]
fn the_store_may_be_ahead_of_memory_by_what_is_not_acknowledged() {
    let budget = Budget { lose: 1, vote: 1, ..CALM };
    holds(&Ownership { waits: true, ..model(2, budget) });
    breaks(
        &Ownership { flaw: Flaw::ShowsDuringCommit, waits: true, ..model(2, budget) },
        checks::READS_ARE_ORDERED,
    );
}

#[test]
fn to_take_from_a_node_that_may_still_answer_shows_old_states() {
    let budget = Budget { vote: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::TakesAtOnce, ..model(1, budget) }, checks::READS_ARE_FRESH);
}

#[test]
fn commits_that_name_no_owner_make_two_writers() {
    let budget = Budget { lose: 1, vote: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::CommitsUnfenced, ..model(2, budget) }, checks::ONE_WRITER);
    breaks(&Ownership { flaw: Flaw::CommitsUnfenced, ..model(2, budget) }, checks::READS_ARE_FRESH);
}

#[test]
fn to_grant_what_is_still_open_shows_old_states() {
    let budget = Budget { hand: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::GrantsOpen, ..model(1, budget) }, checks::READS_ARE_FRESH);
}

#[test]
fn who_was_cut_off_itself_must_not_judge() {
    let budget = Budget { away: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::JudgesAfterBreak, ..model(5, budget) }, checks::NOBODY_DIES);
}

#[test]
fn to_serve_for_longer_than_a_lease_makes_two_owners() {
    let budget = Budget { lose: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::ServesTooLong, ..model(5, budget) }, checks::ONE_OWNER);
}

#[test]
fn to_open_again_what_may_still_be_granted_shows_old_states() {
    let budget = Budget { hand: 1, give_up: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::ReopensUntouched, ..model(1, budget) }, checks::READS_ARE_FRESH);
}

#[test]
fn a_claim_that_settles_nothing_lets_a_commit_arrive_that_it_did_not_find() {
    let budget = Budget { give_up: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::ClaimsInDoubt, ..model(1, budget) }, checks::NO_GHOST);
}

#[test]
fn to_keep_what_was_read_without_a_claim_shows_old_states() {
    let budget = Budget { lose: 1, vote: 1, ..CALM };
    breaks(&Ownership { flaw: Flaw::KeepsUnclaimed, ..model(2, budget) }, checks::READS_ARE_FRESH);
}

/// All of it together, in two orders, for longer than can be searched: some ways of it, at random.
#[test]
fn everything_goes_wrong_by_chance() {
    let budget =
        Budget { lose: 3, crash: 2, end: 1, restart: 3, vote: 2, hand: 4, away: 1, commit: 6, give_up: 4 };
    let meets =
        &[Event::LateGrant, Event::Reopening, Event::RefusedCommit, Event::LateCommit, Event::NewerOwner];
    let model = Ownership { meets, orders: 2, late_looks: true, ..model(9, budget) };
    println!("{:?}", walks::walk(&model, WALKS));
}

/// What is asked for by hand.
#[test]
fn as_asked() {
    let Ok(asked) = std::env::var("ORDER_OWNERSHIP") else { return };
    let mut model = model(3, CALM);
    for word in asked.split_whitespace() {
        let (name, value) = word.split_once('=').expect("name=number");
        let value: u8 = value.parse().expect("a number");
        let budget = &mut model.budget;
        match name {
            "lose" => budget.lose = value,
            "crash" => budget.crash = value,
            "end" => budget.end = value,
            "restart" => budget.restart = value,
            "vote" => budget.vote = value,
            "hand" => budget.hand = value,
            "away" => budget.away = value,
            "commit" => budget.commit = value,
            "give_up" => budget.give_up = value,
            "horizon" => model.horizon = value,
            "orders" => model.orders = usize::from(value),
            "exists" => model.exists = value != 0,
            "late_looks" => model.late_looks = value != 0,
            "waits" => model.waits = value != 0,
            other => panic!("{other} is no part of the model"),
        }
    }
    let mut search = search(&model).threads(2);
    if let Ok(seconds) = std::env::var("ORDER_OWNERSHIP_SECONDS") {
        search = search.timeout(Duration::from_secs(seconds.parse().unwrap()));
    }
    match std::env::var("ORDER_OWNERSHIP_WALKS") {
        Ok(walks) => println!("{:?}", walks::walk(&model, walks.parse().unwrap())),
        Err(_) => finds_nothing(&model, search.spawn_bfs()),
    }
}
