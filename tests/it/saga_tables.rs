//! Sagas as tables: every answer of every call, a crash and a cancel at every point, tried one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::OrderCommand;
use order_service::domain::event::OrderEvent;
use order_service::domain::react::{Change, Input, Policy, Reaction, react};
use order_service::domain::refund;
use order_service::domain::saga::{Direction, SagaKind, SagaMove, StepCall, StepName, StepResult};
use order_service::domain::status::OrderStatus;

use crate::harness::laws::{Calls, Store};
use crate::harness::world::{Mood, World};
use crate::harness::{CALL_TIMEOUT, PROVIDER_LAG, Wish, ask, dawn, policy, set_status};

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
    fn new(wish: &Wish, troubles: u32, refunds: u32, run_ahead: Duration) -> (Self, Input) {
        let draft = wish.draft(1);
        let lines = draft.items.iter().map(|item| order_service::domain::item::StockLine {
            product: item.product,
            quantity: item.quantity,
        });
        let world = World::new(lines.collect(), draft.totals.total, true);
        let path = Self {
            store: Store::default(),
            world,
            calls: Calls::default(),
            now: dawn(),
            troubles,
            cancel: true,
            cancelled: false,
            refunds,
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

fn explore(wish: &Wish, troubles: u32, refunds: u32, run_ahead: Duration) -> Seen {
    let mut seen = Seen::default();
    let (mut path, create) = Path::new(wish, troubles, refunds, run_ahead);
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
    let seen = explore(&Wish::plain(), 2, 0, run_ahead);
    println!("{:?}", seen.ends);
    let table: BTreeSet<_> = OrderStatus::ALL
        .iter()
        .flat_map(|from| OrderStatus::ALL.iter().map(|to| (*from, *to)))
        .filter(|(from, to)| from.may_become(*to))
        .collect();
    assert_eq!(seen.walks, table);
    assert_eq!(seen.stations, stations(|kind| kind != SagaKind::Refund));
}

fn stations(of: fn(SagaKind) -> bool) -> BTreeSet<(SagaKind, StepName, Direction)> {
    let kinds = SagaKind::ALL.iter().copied().filter(|kind| of(*kind));
    kinds
        .flat_map(|kind| kind.stations().into_iter().map(move |(step, direction)| (kind, step, direction)))
        .collect()
}

#[test]
fn every_station_of_refunds_is_tried_in_every_status() {
    let seen = explore(&Wish::plain(), 1, 2, Duration::ZERO);
    println!("{:?}", seen.ends);
    assert_eq!(seen.stations, stations(|_| true));
}

#[test]
fn a_free_order_is_never_charged() {
    let free = Wish { shipping_method: "PICKUP", coupon: Some("FREEALL"), ..Wish::plain() };
    for run_ahead in [Duration::ZERO, FOR_LONG] {
        let seen = explore(&free, 1, 1, run_ahead);
        assert!(seen.stations.iter().all(|(_, step, _)| *step != StepName::Charge));
        // Without money in doubt there is nothing to refund: it is cancelled from where it stands.
        assert!(seen.walks.contains(&(OrderStatus::Pending, OrderStatus::Cancelled)));
        assert!(!seen.walks.contains(&(OrderStatus::Pending, OrderStatus::Cancelling)));
    }
}

fn answer(store: &mut Store, world: &World, call: &StepCall, result: StepResult, now: Timestamp) -> Change {
    let input = Input::StepFinished { call: call.clone(), result };
    let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, now, &policy()).unwrap();
    let Reaction::Commit(change) = reaction else { panic!("{reaction:?}") };
    store.commit(&change, world, now).unwrap();
    *change
}

fn resume(store: &mut Store, world: &World, now: Timestamp) -> SagaMove {
    match react(store.order.as_ref(), store.saga.as_ref(), Input::Resume, now, &policy()).unwrap() {
        Reaction::Commit(change) => {
            store.commit(&change, world, now).unwrap();
            change.act
        }
        Reaction::Act(act) => act,
        other => panic!("{other:?}"),
    }
}

/// An order at its first call.
fn created(number: u64) -> (Store, World, StepCall) {
    let draft = Wish::plain().draft(number);
    let ask = ask(OrderCommand::Create(Box::new(draft)), None, None);
    let input = Input::Command { ask, calling: false };
    let Reaction::Commit(change) = react(None, None, input, dawn(), &policy()).unwrap() else { panic!() };
    let (mut store, world) = (Store::default(), World::default());
    store.commit(&change, &world, dawn()).unwrap();
    let SagaMove::Run(call) = change.act else { panic!("{:?}", change.act) };
    (store, world, call)
}

/// An order whose charge has no answer, at its query.
fn in_doubt(number: u64) -> (Store, World, StepCall, Timestamp) {
    let (mut store, world, call) = created(number);
    let reserved = StepResult::Reserved { reservation_id: "res-0".to_owned() };
    let SagaMove::Run(charge) = answer(&mut store, &world, &call, reserved, dawn()).act else { panic!() };
    let unknown = StepResult::Unknown { dependency: "payment", error: "no answer".to_owned() };
    let SagaMove::Wait(at) = answer(&mut store, &world, &charge, unknown, dawn()).act else { panic!() };
    let SagaMove::Run(query) = resume(&mut store, &world, at) else { panic!() };
    (store, world, query, at)
}

#[test]
fn waits_grow_up_to_a_cap_and_differ_between_orders() {
    let mut waits: Vec<Vec<TimeDelta>> = Vec::new();
    for number in 0..20 {
        let (mut store, world, query, mut now) = in_doubt(number);
        let mut own = Vec::new();
        for tries in 2..12u32 {
            let result = StepResult::Unavailable { dependency: "payment", error: "away".to_owned() };
            let SagaMove::Wait(at) = answer(&mut store, &world, &query, result, now).act else { panic!() };
            let full = policy().retry_initial * 2u32.pow(tries - 1);
            let full = TimeDelta::from_std(full.min(policy().retry_max)).unwrap();
            let wait = at - now;
            assert!(wait >= full / 2 && wait <= full, "try {tries}: {wait} of {full}");
            own.push(wait);
            now = at;
            assert_eq!(resume(&mut store, &world, now), SagaMove::Run(query.clone()), "another call or key");
        }
        let saga = store.saga.as_ref().unwrap();
        assert!(saga.attention.is_some());
        let flags = store.events.iter().filter(|event| event.event.kind() == "attention_needed");
        assert_eq!(flags.count(), 1);
        waits.push(own);
    }
    for tries in 0..10 {
        let distinct: BTreeSet<_> = waits.iter().map(|own| own[tries]).collect();
        assert!(distinct.len() > 10, "try {tries}: {distinct:?}");
    }
}

#[test]
fn too_early_a_question_does_not_give_a_charge_up() {
    let (mut store, world, query, now) = in_doubt(1);
    let command = OrderCommand::Cancel { notes: String::new() };
    let input = Input::Command { ask: ask(command, None, None), calling: true };
    let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, now, &policy()).unwrap();
    let Reaction::Commit(change) = reaction else { panic!() };
    store.commit(&change, &world, now).unwrap();
    // Both answers come when no charge can arrive any more; the questions were asked earlier.
    let late = now + policy().charge_settle_lag * 2;
    for _ in 0..2 {
        let act = answer(&mut store, &world, &query, StepResult::ChargeNotFound, late).act;
        assert_eq!(act, SagaMove::Run(query.clone()));
    }
    let act = answer(&mut store, &world, &query, StepResult::ChargeNotFound, late).act;
    assert!(matches!(act, SagaMove::Run(StepCall::Release { .. })), "{act:?}");
}

#[test]
fn what_is_settled_is_not_moved_by_late_answers_and_timers() {
    let (mut store, world, call) = created(1);
    let refused = StepResult::Refused {
        dependency: "inventory",
        reason: "OUT_OF_STOCK".to_owned(),
        shortages: Vec::new(),
    };
    assert_eq!(answer(&mut store, &world, &call, refused, dawn()).act, SagaMove::Settled);
    let reserved = StepResult::Reserved { reservation_id: "res-0".to_owned() };
    for input in [Input::Resume, Input::StepFinished { call, result: reserved }] {
        let reaction = react(store.order.as_ref(), store.saga.as_ref(), input, dawn(), &policy()).unwrap();
        assert!(matches!(reaction, Reaction::Unchanged), "{reaction:?}");
    }
}
