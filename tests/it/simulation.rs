//! Seeded simulation: `react`, a store, a model world and virtual time in one thread.
//!
//! Calls lose their answers, come late or twice, fail surely, are refused; the process dies at any moment; commands
//! arrive at any moment. After a while faults stop, and when nothing moves any more every law must hold.
//!
//! `ORDER_SIM_SEEDS=n` tries n seeds; `ORDER_SIM_SEED=n` replays one and prints what happened.

mod callers;
mod network;
mod operators;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::{Draft, OrderCommand};
use order_service::domain::error::OrderError;
use order_service::domain::event::{OrderEvent, RecordedEvent};
use order_service::domain::item::StockLine;
use order_service::domain::order::Order;
use order_service::domain::react::{Change, Input, Policy, Reaction, react};
use order_service::domain::refund;
use order_service::domain::saga::{Failure, SagaMove, StepCall, StepResult};

use rust_decimal::Decimal;

use self::callers::Wanted;
use crate::harness::laws::{Calls, Law, Store, law};
use crate::harness::world::{Mood, World};
use crate::harness::{Chance, NOVELTY, Wish, ask, dawn, policy};

/// Seeds of a plain test run.
const SEEDS: u64 = 6_000;
/// All must be at rest this long after faults stop.
const REST: TimeDelta = TimeDelta::minutes(10);

#[test]
fn simulation() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    if let Some(seed) = number("ORDER_SIM_SEED") {
        let (_run, end) = Run::play(seed, true);

        end.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        return;
    }
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..number("ORDER_SIM_SEEDS").unwrap_or(SEEDS) {
        let (run, end) = Run::play(seed, false);
        if let Err(what) = end {
            panic!(
                "seed {seed}: {what}\nreplay: ORDER_SIM_SEED={seed} cargo test --test it simulation -- --nocapture"
            );
        }
        for mark in run.marks() {
            *ends.entry(mark).or_default() += 1;
        }
    }
    println!("{ends:?}");
    // A simulation that never gets anywhere finds nothing.
    for mark in [
        "CANCELLED",
        "CONFIRMED",
        "PROCESSING",
        "SHIPPED",
        "DELIVERED",
        "RETURNED",
        "attention",
        "held",
        "refund_granted",
        "refund_twice",
        "refund_cancelled",
        "edited",
        "edited_in_place",
        "edited_twice",
        "edit_failed",
        "edit_cancelled",
        "refund_of_several_charges",
        "ahead",
        "crash",
        "retry_step",
        "resolve_payment",
    ] {
        assert!(ends.get(mark).is_some_and(|count| *count > 10), "{mark} is hardly ever reached: {ends:?}");
    }
}

/// How unkind a run is, in percent per chance.
#[derive(Debug)]
struct Weather {
    unavailable: u32,
    lost: u32,
    late: u32,
    twice: u32,
    refused: u32,
    crash: u32,
    ponders: u32,
    /// Refunds are refused for good.
    no_refunds: bool,
    /// Reservations run out soon.
    expires: bool,
    /// Questions on the way back close the charge's key, and calls may be later than any bound.
    closes: bool,
    /// Somebody looks after a saga that waits.
    operators: u32,
    /// Until then.
    until: Timestamp,
}

/// What is going to happen.
#[derive(Clone, Debug)]
enum Next {
    Create,
    Command(usize),
    /// A call arrives; its answer is due at that time, unless it is lost.
    Execute {
        call: StepCall,
        mood: Mood,
        ticket: u64,
        answer_at: Option<Timestamp>,
    },
    Answer {
        ticket: u64,
        result: StepResult,
    },
    Timer(u64),
    /// The call with this ticket takes longer than its saga may run ahead.
    Slow(u64),
    Crash,
    Restart(u64),
}

struct Run {
    chance: Chance,
    weather: Weather,
    draft: Draft,
    world: World,
    store: Store,
    calls: Calls,
    queue: BTreeMap<(Timestamp, u64), Next>,
    count: u64,
    now: Timestamp,
    up: bool,
    life: u64,
    crashes: u32,
    runs_ahead: u32,
    timer: u64,
    policy: Policy,
    /// What a saga that runs ahead has not stored yet.
    ahead: Option<Change>,
    flying: Option<(u64, StepCall)>,
    wanted: Vec<Wanted>,
    /// Versions whose commands were acknowledged.
    acknowledged: Vec<i64>,
    cancel_acknowledged: bool,
    /// Repairs that were taken, by kind.
    repairs: BTreeMap<String, u32>,
    /// What happened, when somebody wants to read it.
    trace: Option<Vec<String>>,
}

fn seconds(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

impl Run {
    fn play(seed: u64, traced: bool) -> (Self, Law) {
        let mut run = Self::new(seed, traced);
        let end = run.run();
        (run, end)
    }

    fn new(seed: u64, traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let mut rate = |most: i64| if chance.percent(40) { chance.below(most) as u32 } else { 0 };
        let (unavailable, lost, late, twice) = (rate(60), rate(60), rate(60), rate(60));
        let (refused, crash, ponders) = (rate(20), rate(25), rate(40));
        let weather = Weather {
            unavailable,
            lost,
            late,
            twice,
            refused,
            crash,
            ponders,
            no_refunds: chance.percent(5),
            expires: chance.percent(15),
            closes: chance.percent(30),
            operators: if chance.percent(15) { 60 } else { 0 },
            until: dawn() + seconds(5 + chance.below(120)),
        };
        let run_ahead = Duration::from_millis([0, 300, 4_000, 30_000][chance.below(4) as usize]);
        let policy = Policy { run_ahead, ..policy() };
        let draft = Wish::any(&mut chance).draft(seed);
        let enough = !chance.percent(8);
        let order_lines =
            draft.items.iter().map(|item| StockLine { product: item.product, quantity: item.quantity });
        let spare = [0, 2, 50][chance.below(3) as usize];
        let mut world = World::new(&order_lines.collect::<Vec<_>>(), enough, spare);
        world.stock(NOVELTY, spare);
        let mut run = Self {
            chance,
            weather,
            draft,
            world,
            store: Store::default(),
            calls: Calls::default(),
            queue: BTreeMap::new(),
            count: 0,
            now: dawn(),
            up: true,
            life: 0,
            crashes: 0,
            runs_ahead: 0,
            timer: 0,
            policy,
            ahead: None,
            flying: None,
            wanted: Vec::new(),
            acknowledged: Vec::new(),
            cancel_acknowledged: false,
            repairs: BTreeMap::new(),
            trace: traced.then(Vec::new),
        };
        run.at(dawn(), Next::Create);
        run.plan();
        run
    }

    fn at(&mut self, at: Timestamp, next: Next) {
        self.count += 1;
        self.queue.insert((at.max(self.now), self.count), next);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            let line = format!("{:>10.3}s {}", (self.now - dawn()).as_seconds_f64(), line());
            // At once: a run that never ends tells why.
            eprintln!("{line}");
            lines.push(line);
        }
    }

    fn stormy(&self) -> bool {
        self.now < self.weather.until
    }

    fn run(&mut self) -> Law {
        while let Some((key, next)) = self.queue.pop_first() {
            self.now = key.0;
            if self.now > self.weather.until.max(dawn() + seconds(260)) + REST * 2 {
                break;
            }
            self.note(|| format!("{next:?}"));
            // Time has passed since the last commit. Not every time: it would double what a run takes.
            if self.count.is_multiple_of(8) {
                self.store.verify(self.now)?;
            }
            self.step(next)?;
            law!(self.calls.sent < 3000, "a busy loop: {} calls", self.calls.sent);
        }
        self.world.pass(self.now + REST);
        self.store.verify(self.now)?;
        for version in &self.acknowledged {
            let known = self.store.events.iter().any(|event| event.version == *version);
            law!(known, "I1: version {version} was acknowledged and is not in the history");
        }
        if !self.weather.no_refunds {
            let running = self.store.saga.as_ref().filter(|saga| !saga.settled);
            law!(running.is_none(), "I14: not at rest long after the last fault: {running:?}");
        }
        self.store.at_rest(&self.world, self.cancel_acknowledged)
    }

    fn step(&mut self, next: Next) -> Law {
        match next {
            Next::Create => {
                let content = if self.store.order.is_some() && self.chance.percent(30) { 9 } else { 1 };
                let mut draft = self.draft.clone();
                draft.request_hash = [content; 16];
                let ask = ask(OrderCommand::Create(Box::new(draft)), Some(("create", content)), None);
                let known = self.store.order.is_some();
                let calling = self.flying.is_some();
                if !self.up || !self.catch_up()? {
                    return Ok(());
                }
                match (self.input(Input::Command { ask, calling })?, known, content) {
                    (Heard::Done, false, _) | (Heard::Repeat(Some(1)), true, 1) | (Heard::Died, ..) => Ok(()),
                    (Heard::No(OrderError::RequestIdReused), true, 9) => Ok(()),
                    (heard, ..) => Err(format!("I2: create with content {content}: {heard:?}")),
                }
            }
            Next::Command(number) => self.command(number),
            Next::Execute { call, mood, ticket, answer_at } => {
                let result = self.world.execute(&call, mood, self.now);
                self.note(|| format!("  world: {result:?}"));
                if let Some(at) = answer_at {
                    self.at(at, Next::Answer { ticket, result });
                }
                Ok(())
            }
            Next::Answer { ticket, result } => match self.flying.take() {
                Some((waiting, call)) if waiting == ticket && self.up => {
                    self.input(Input::StepFinished { call, result }).map(|_| ())
                }
                other => {
                    self.flying = other;
                    Ok(())
                }
            },
            Next::Timer(timer) if self.up && timer == self.timer && self.flying.is_none() => {
                self.input(Input::Resume).map(|_| ())
            }
            Next::Timer(_) => Ok(()),
            Next::Slow(ticket) => {
                if self.up && self.flying.as_ref().is_some_and(|(waiting, _)| *waiting == ticket) {
                    self.catch_up()?;
                }
                Ok(())
            }
            Next::Crash => {
                self.crash();
                Ok(())
            }
            Next::Restart(life) if life == self.life && !self.up => {
                self.up = true;
                if self.store.order.is_none() {
                    return self.step(Next::Create);
                }
                if self.store.saga.as_ref().is_some_and(|saga| !saga.settled) {
                    return self.input(Input::Resume).map(|_| ());
                }
                Ok(())
            }
            Next::Restart(_) => Ok(()),
        }
    }

    fn crash(&mut self) {
        if !self.up {
            return;
        }
        self.note(|| "  the process dies".to_owned());
        self.up = false;
        self.crashes += 1;
        self.life += 1;
        self.flying = None;
        self.ahead = None;
        self.timer += 1;
        let back = self.now + TimeDelta::milliseconds(1 + self.chance.below(6_000));
        self.at(back, Next::Restart(self.life));
    }

    /// Stores what is not stored yet, as before anybody is answered. False when the process died of it.
    fn catch_up(&mut self) -> Result<bool, String> {
        let Some(SagaMove::Run(running)) = self.ahead.as_ref().map(|change| change.act.clone()) else {
            return Ok(true);
        };
        Ok(!matches!(self.input(Input::CatchUp { running })?, Heard::Died))
    }

    /// One input: decide, store, act.
    fn input(&mut self, input: Input) -> Result<Heard, String> {
        let (order, saga) = match &self.ahead {
            Some(change) => (Some(&change.order), change.saga.as_ref()),
            None => (self.store.order.as_ref(), self.store.saga.as_ref()),
        };
        let reaction = match react(order, saga, input, self.now, &self.policy) {
            Ok(reaction) => reaction,
            Err(error) => return Ok(Heard::No(error)),
        };
        match reaction {
            Reaction::Commit(change) if change.may_wait => {
                if self.chance.percent(if self.stormy() { self.weather.crash } else { 0 }) {
                    self.note(|| "  ahead of the store".to_owned());
                    self.crash();
                    return Ok(Heard::Died);
                }
                self.runs_ahead += 1;
                let act = change.act.clone();
                let seen = change.events.iter().map(|event| event.event.kind()).collect::<Vec<_>>();
                self.note(|| format!("  ahead: {seen:?} {act:?}"));
                let change = change.unstored();
                self.ahead = Some(match self.ahead.take() {
                    Some(earlier) => change.after(earlier),
                    None => change,
                });
                self.act(act)?;
                let started = self.ahead.as_ref().and_then(|change| change.saga.as_ref()).unwrap().started_at;
                if let Some((ticket, _)) = self.flying {
                    self.at(started + self.policy.run_ahead, Next::Slow(ticket));
                }
                Ok(Heard::Done)
            }
            Reaction::Commit(change) => {
                let change = match self.ahead.take() {
                    Some(earlier) => change.after(earlier),
                    None => *change,
                };
                let crash = if self.stormy() { self.weather.crash } else { 0 };
                if self.chance.percent(crash / 2) {
                    self.note(|| "  before the commit".to_owned());
                    self.crash();
                    return Ok(Heard::Died);
                }
                self.store.commit(&change, &self.world, self.now)?;
                let seen = change.events.iter().map(|event| event.event.kind()).collect::<Vec<_>>();
                let (version, status) = (change.order.version, change.order.status);
                self.note(|| format!("  v{version} {status} {seen:?} {:?}", change.act));
                if self.chance.percent(crash / 2) {
                    self.note(|| "  after the commit".to_owned());
                    self.crash();
                    return Ok(Heard::Died);
                }
                self.act(change.act)?;
                Ok(Heard::Done)
            }
            Reaction::Act(act) => {
                self.act(act)?;
                Ok(Heard::Done)
            }
            Reaction::Repeat(saga) => Ok(Heard::Repeat(saga)),
            Reaction::Join => Ok(Heard::Join),
            Reaction::Unchanged => Ok(Heard::Unchanged),
        }
    }

    fn act(&mut self, act: SagaMove) -> Law {
        self.timer += 1;
        match act {
            SagaMove::Run(call) => self.send(call),
            SagaMove::Wait(at) => {
                self.at(at, Next::Timer(self.timer));
                self.look_after(at);
                Ok(())
            }
            SagaMove::Keep => {
                law!(self.flying.is_some(), "nothing is under way that could go on");
                Ok(())
            }
            SagaMove::Settled => Ok(()),
        }
    }
}

/// What a caller hears.
#[derive(Debug)]
enum Heard {
    Done,
    Repeat(Option<u32>),
    Join,
    Unchanged,
    No(OrderError),
    Died,
}

impl Run {
    /// What the run got to.
    fn marks(&self) -> Vec<String> {
        let mut marks: Vec<String> =
            self.store.order.iter().map(|order| order.status.as_str().to_owned()).collect();
        if self.store.events.iter().any(|event| event.event.kind() == "attention_needed") {
            marks.push("attention".to_owned());
        }
        if self.store.events.iter().any(|event| event.event.kind() == "order_held") {
            marks.push("held".to_owned());
        }
        let grants = self.store.order.as_ref().map_or(0, |order| order.grants.len());
        for (mark, holds) in [
            ("refund_granted", grants > 0),
            ("refund_twice", grants > 1),
            (
                "refund_cancelled",
                self.store.wished_back() > Decimal::ZERO && marks.contains(&"CANCELLED".to_owned()),
            ),
        ] {
            marks.extend(holds.then(|| mark.to_owned()));
        }
        let count = |kind: &str| self.store.events.iter().filter(|event| event.event.kind() == kind).count();
        let failed = |cancelled: bool| {
            self.store.events.iter().any(|event| match &event.event {
                OrderEvent::SagaSettled { saga, failure: Some(failure) } => {
                    let amends = |event: &RecordedEvent| {
                        matches!(&event.event, OrderEvent::AmendmentBegun { saga: no, .. } if no == saga)
                    };
                    self.store.events.iter().any(amends) && cancelled == (*failure == Failure::Cancelled)
                }
                _ => false,
            })
        };
        let several = |order: &Order| order.grants.iter().any(|grant| refund::parts(order, grant).len() > 1);
        for (mark, holds) in [
            ("edited", count("items_changed") > 0),
            ("edited_in_place", count("items_changed") > 0 && count("amendment_begun") == 0),
            ("edited_twice", count("items_changed") > 1),
            ("edit_failed", failed(false)),
            ("edit_cancelled", failed(true)),
            ("refund_of_several_charges", self.store.order.as_ref().is_some_and(several)),
        ] {
            marks.extend(holds.then(|| mark.to_owned()));
        }
        if self.runs_ahead > 1 {
            marks.push("ahead".to_owned());
        }
        marks.extend(self.repairs.keys().cloned());
        if self.crashes > 0 {
            marks.push("crash".to_owned());
        }
        marks
    }
}
