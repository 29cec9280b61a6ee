//! Sagas as tables: every answer of every call, a crash and a cancel at every point, tried one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use order_service::domain::Timestamp;
use order_service::domain::command::OrderCommand;
use order_service::domain::event::OrderEvent;
use order_service::domain::react::{Change, Input, Policy, Reaction, react};
use order_service::domain::refund;
use order_service::domain::saga::{Direction, SagaKind, SagaMove, StepCall, StepName, StepResult};
use order_service::domain::status::OrderStatus;

use crate::harness::laws::{Calls, Store};
use crate::harness::world::{Mood, World};
use crate::harness::{CALL_TIMEOUT, NOVELTY, PROVIDER_LAG, Wish, ask, dawn, edited, policy, set_status};

/// How one call may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Fine,
    /// Done, and nobody hears of it.
    Lost,
    /// Not done, and nobody knows.
    Vanished,
    /// Unknown now, done later.
    Late,
    Unavailable,
    Refused,
    /// The process dies before the call.
    DiesBefore,
    /// The process dies after the call had its effect.
    DiesAfter,
}

/// All but [`Fate::Fine`].
const TROUBLES: [Fate; 7] = [
    Fate::Lost,
    Fate::Vanished,
    Fate::Late,
    Fate::Unavailable,
    Fate::Refused,
    Fate::DiesBefore,
    Fate::DiesAfter,
];

/// One path, up to a point where it branches.
#[derive(Clone)]
struct Path {
    store: Store,
    world: World,
    calls: Calls,
    now: Timestamp,
    /// Troubles that are left.
    troubles: u32,
    /// A cancel is left.
    cancel: bool,
    cancelled: bool,
    /// Refunds that are left to be wished for.
    refunds: u32,
    /// Edits that are left to be wished for.
    edits: u32,
    policy: Policy,
    /// What a saga that runs ahead has not stored yet.
    ahead: Option<Change>,
    late: Option<(StepCall, Timestamp)>,
    steps: Vec<String>,
}

/// What all paths together saw.
#[derive(Default)]
struct Seen {
    walks: BTreeSet<(OrderStatus, OrderStatus)>,
    stations: BTreeSet<(SagaKind, StepName, Direction)>,
    ends: BTreeMap<OrderStatus, u32>,
}

impl Path {
    fn new(wish: &Wish, troubles: u32, (refunds, edits): (u32, u32), run_ahead: Duration) -> (Self, Input) {
        let draft = wish.draft(1);
        let lines = draft.items.iter().map(|item| order_service::domain::item::StockLine {
            product: item.product,
            quantity: item.quantity,
        });
        let mut world = World::new(&lines.collect::<Vec<_>>(), true, 5);
        world.stock(NOVELTY, 5);
        let path = Self {
            store: Store::default(),
            world,
            calls: Calls::default(),
            now: dawn(),
            troubles,
            cancel: true,
            cancelled: false,
            refunds,
            edits,
            policy: Policy { run_ahead, ..policy() },
            ahead: None,
            late: None,
            steps: Vec::new(),
        };
        let ask = ask(OrderCommand::Create(Box::new(draft)), Some(("create", 1)), None);
        (path, Input::Command { ask, calling: false })
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}\non the path\n  {}", self.steps.join("\n  "))
    }

    /// One input; none when nothing came of it.
    fn input(&mut self, input: Input, seen: &mut Seen) -> Option<SagaMove> {
        let (order, saga) = match &self.ahead {
            Some(change) => (Some(&change.order), change.saga.as_ref()),
            None => (self.store.order.as_ref(), self.store.saga.as_ref()),
        };
        match react(order, saga, input, self.now, &self.policy) {
            Ok(Reaction::Commit(change)) if change.may_wait => {
                let (act, change) = (change.act.clone(), change.unstored());
                self.ahead = Some(match self.ahead.take() {
                    Some(earlier) => change.after(earlier),
                    None => change,
                });
                Some(act)
            }
            Ok(Reaction::Commit(change)) => {
                let change = match self.ahead.take() {
                    Some(earlier) => change.after(earlier),
                    None => *change,
                };
                for event in &change.events {
                    if let OrderEvent::StatusChanged { from, to, .. } = &event.event {
                        seen.walks.insert((*from, *to));
                    }
                }
                let stored = self.store.commit(&change, &self.world, self.now);
                stored.unwrap_or_else(|what| self.fail(&what));
                Some(change.act)
            }
            Ok(Reaction::Act(act)) => Some(act),
            _ => None,
        }
    }

    fn ask_cancel(&mut self, calling: bool, seen: &mut Seen) -> Option<SagaMove> {
        self.cancel = false;
        if let Some(SagaMove::Run(running)) = self.ahead.as_ref().map(|change| change.act.clone()) {
            self.input(Input::CatchUp { running }, seen);
        }
        self.steps.push(format!("cancel, calling: {calling}"));
        let command = OrderCommand::Cancel { notes: String::new() };
        let can = self.store.order.as_ref().is_some_and(|order| order.status.can_cancel());
        self.cancelled |= can;
        self.input(Input::Command { ask: ask(command, None, None), calling }, seen)
    }

    /// More of a line and a new one while two edits are left, less of everything afterwards.
    fn ask_edit(&mut self, seen: &mut Seen) -> Option<SagaMove> {
        let order = self.store.order.clone()?;
        let quantities: Vec<_> = if self.edits > 1 {
            vec![(order.items[0].product, order.items[0].quantity + 1), (NOVELTY, 2)]
        } else {
            vec![(order.items[0].product, 1), (order.items.last()?.product, 0)]
        };
        self.edits -= 1;
        let edit = edited(&order, &quantities)?;
        self.steps.push(format!("asked for {quantities:?}"));
        let asked = ask(OrderCommand::Edit(Box::new(edit)), None, None);
        self.input(Input::Command { ask: asked, calling: false }, seen)
    }

    fn execute_late(&mut self) {
        if let Some((call, _)) = self.late.take() {
            self.steps.push(format!("late: {call:?}"));
            self.world.execute(&call, Mood::default(), self.now);
        }
    }

    fn go(mut self, act: SagaMove, seen: &mut Seen) {
        if self.steps.len() > 100 {
            self.fail("no end");
        }
        match act {
            SagaMove::Run(call) => self.call(&call, seen),
            SagaMove::Wait(at) | SagaMove::Held(at) => {
                self.steps.push(format!("until {at}"));
                if self.cancel {
                    let mut other = self.clone();
                    if let Some(act) = other.ask_cancel(false, seen) {
                        other.go(act, seen);
                    }
                }
                if self.edits > 0 {
                    let mut other = self.clone();
                    if let Some(act) = other.ask_edit(seen) {
                        other.go(act, seen);
                    }
                }
                self.now = self.now.max(at);
                if self.late.as_ref().is_some_and(|(_, until)| *until <= self.now) {
                    self.execute_late();
                }
                let act = self.input(Input::Resume, seen).unwrap_or_else(|| self.fail("stuck after a wait"));
                self.go(act, seen);
            }
            SagaMove::Keep => self.fail("nothing is under way"),
            SagaMove::Settled => self.rest(seen),
        }
    }

    /// The saga is settled: whatever may be asked next is asked.
    fn rest(mut self, seen: &mut Seen) {
        self.execute_late();
        self.store.at_rest(&self.world, self.cancelled).unwrap_or_else(|what| self.fail(&what));
        let status = self.store.order.as_ref().unwrap().status;
        *seen.ends.entry(status).or_default() += 1;
        if self.refunds > 0 {
            let mut next = self.clone();
            next.refunds -= 1;
            next.steps.push("asked for a refund".to_owned());
            let wish =
                if self.refunds > 1 { refund::Wish::Amount("1.01".to_owned()) } else { refund::Wish::Rest };
            let asked = ask(OrderCommand::Refund { wish, reason: String::new() }, None, None);
            if let Some(act) = next.input(Input::Command { ask: asked, calling: false }, seen) {
                next.go(act, seen);
            }
        }
        if self.edits > 0 {
            let mut next = self.clone();
            if let Some(act) = next.ask_edit(seen) {
                next.go(act, seen);
            }
        }
        for to in OrderStatus::ALL {
            let mut next = self.clone();
            next.steps.push(format!("asked for {to}"));
            let asked = ask(set_status(*to), None, None);
            if *to == OrderStatus::Cancelled && !self.cancel {
                continue;
            }
            if let Some(act) = next.input(Input::Command { ask: asked, calling: false }, seen) {
                next.cancelled |= *to == OrderStatus::Cancelled;
                next.go(act, seen);
            }
        }
    }

    fn call(self, call: &StepCall, seen: &mut Seen) {
        let ahead = self.ahead.as_ref().and_then(|change| change.saga.as_ref());
        let saga = ahead.or(self.store.saga.as_ref()).unwrap();
        let station = (saga.kind, call.station().0, saga.direction);
        seen.stations.insert(station);
        let troubles: &[Fate] = if self.troubles > 0 { &TROUBLES } else { &[] };
        for fate in [Fate::Fine].iter().chain(troubles) {
            for cancel in [false, true] {
                for late_first in [true, false] {
                    let skips_cancel = cancel && (!self.cancel || *fate == Fate::DiesBefore);
                    if skips_cancel || (!late_first && self.late.is_none()) {
                        continue;
                    }
                    let mut path = self.clone();
                    path.steps.push(format!("{call:?}: {fate:?}"));
                    path.one(call, *fate, cancel, late_first, seen);
                }
            }
        }
    }

    /// One way a call may go.
    fn one(mut self, call: &StepCall, fate: Fate, cancel: bool, late_first: bool, seen: &mut Seen) {
        self.troubles -= u32::from(fate != Fate::Fine);
        if late_first {
            self.execute_late();
        }
        let unknown = || StepResult::Unknown { dependency: "somebody", error: "no answer".to_owned() };
        let mood = Mood { refuses: fate == Fate::Refused, ..Mood::default() };
        if fate != Fate::DiesBefore {
            self.calls.send(call).unwrap_or_else(|what| self.fail(&what));
        }
        if !matches!(fate, Fate::DiesBefore | Fate::Unavailable) {
            self.calls.may_arrive(call);
        }
        if cancel && let Some(act) = self.ask_cancel(true, seen) {
            assert_eq!(act, SagaMove::Keep, "a second call while one is under way");
        }
        let sent = self.now;
        let result = match fate {
            Fate::Fine | Fate::Refused => Some(self.world.execute(call, mood, self.now)),
            Fate::Lost => {
                self.world.execute(call, mood, self.now);
                Some(unknown())
            }
            Fate::DiesAfter => {
                self.world.execute(call, mood, self.now);
                None
            }
            Fate::Vanished => Some(unknown()),
            Fate::Late => {
                self.execute_late();
                self.late = Some((call.clone(), sent + CALL_TIMEOUT + PROVIDER_LAG));
                Some(unknown())
            }
            Fate::Unavailable => {
                Some(StepResult::Unavailable { dependency: "somebody", error: "no way".to_owned() })
            }
            Fate::DiesBefore => None,
        };
        if fate != Fate::Late && !late_first {
            self.execute_late();
        }
        let input = match result {
            Some(result) => {
                self.now += if matches!(result, StepResult::Unknown { .. }) {
                    CALL_TIMEOUT
                } else {
                    Duration::from_millis(10)
                };
                Input::StepFinished { call: call.clone(), result }
            }
            None => {
                self.ahead = None;
                Input::Resume
            }
        };
        let act = self.input(input, seen).unwrap_or_else(|| self.fail("an answer was dropped"));
        self.go(act, seen);
    }
}

fn explore(wish: &Wish, troubles: u32, wishes: (u32, u32), run_ahead: Duration) -> Seen {
    let mut seen = Seen::default();
    let (mut path, create) = Path::new(wish, troubles, wishes, run_ahead);
    let act = path.input(create, &mut seen).unwrap();
    path.go(act, &mut seen);
    seen
}

/// Longer than calls take that go well.
const FOR_LONG: Duration = Duration::from_secs(10);

#[test]
fn every_walk_is_in_the_table_and_every_station_is_tried() {
    every_walk(Duration::ZERO);
}

#[test]
fn every_walk_of_a_saga_that_runs_ahead_is_in_the_table_and_every_station_is_tried() {
    every_walk(FOR_LONG);
}

fn every_walk(run_ahead: Duration) {
    let seen = explore(&Wish::plain(), 2, (0, 0), run_ahead);
    println!("{:?}", seen.ends);
    let table: BTreeSet<_> = OrderStatus::ALL
        .iter()
        .flat_map(|from| OrderStatus::ALL.iter().map(|to| (*from, *to)))
        .filter(|(from, to)| from.may_become(*to))
        .collect();
    assert_eq!(seen.walks, table);
    assert_eq!(seen.stations, stations(|kind| !matches!(kind, SagaKind::Refund | SagaKind::Amend)));
}

fn stations(of: fn(SagaKind) -> bool) -> BTreeSet<(SagaKind, StepName, Direction)> {
    let kinds = SagaKind::ALL.iter().copied().filter(|kind| of(*kind));
    kinds
        .flat_map(|kind| kind.stations().into_iter().map(move |(step, direction)| (kind, step, direction)))
        .collect()
}

#[test]
fn every_station_of_refunds_is_tried_in_every_status() {
    let seen = explore(&Wish::plain(), 1, (2, 0), Duration::ZERO);
    println!("{:?}", seen.ends);
    assert_eq!(seen.stations, stations(|kind| kind != SagaKind::Amend));
}

#[test]
fn every_station_of_edits_is_tried() {
    let seen = explore(&Wish::plain(), 1, (0, 2), Duration::ZERO);
    println!("{:?}", seen.ends);
    assert_eq!(seen.stations, stations(|kind| kind != SagaKind::Refund));
}

#[test]
fn a_refund_after_edits_is_of_all_charges() {
    let seen = explore(&Wish::plain(), 1, (1, 1), Duration::ZERO);
    assert!(seen.ends.keys().any(|status| *status == OrderStatus::Returned));
}

#[test]
fn a_free_order_is_never_charged() {
    let free = Wish { shipping_method: "PICKUP", coupon: Some("FREEALL"), ..Wish::plain() };
    for run_ahead in [Duration::ZERO, FOR_LONG] {
        let seen = explore(&free, 1, (1, 0), run_ahead);
        assert!(seen.stations.iter().all(|(_, step, _)| *step != StepName::Charge));
        // Without money in doubt there is nothing to refund: it is cancelled from where it stands.
        assert!(seen.walks.contains(&(OrderStatus::Pending, OrderStatus::Cancelled)));
        assert!(!seen.walks.contains(&(OrderStatus::Pending, OrderStatus::Cancelling)));
    }
}
