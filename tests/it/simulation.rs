//! Seeded simulation: `react`, a store, a model world and virtual time in one thread.
//!
//! Calls lose their answers, come late or twice, fail surely, are refused; the process dies at any moment; commands
//! arrive at any moment. After a while faults stop, and when nothing moves any more every law must hold.
//!
//! `ORDER_SIM_SEEDS=n` tries n seeds; `ORDER_SIM_SEED=n` replays one and prints what happened.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::{Draft, OrderCommand};
use order_service::domain::error::OrderError;
use order_service::domain::react::{Input, Reaction, react};
use order_service::domain::saga::{SagaMove, StepCall, StepResult};
use order_service::domain::status::{OrderStatus, Rule};

use crate::harness::laws::{Calls, Law, Store, law};
use crate::harness::world::{Mood, World};
use crate::harness::{CALL_TIMEOUT, Chance, PROVIDER_LAG, SEND_LAG, Wish, ask, dawn, policy, set_status};

/// Seeds of a plain test run.
const SEEDS: u64 = 10_000;
/// All must be at rest this long after faults stop.
const REST: TimeDelta = TimeDelta::minutes(10);

#[test]
fn simulation() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    if let Some(seed) = number("ORDER_SIM_SEED") {
        let (run, end) = Run::play(seed, true);
        println!("{}", run.trace.join("\n"));
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
    for mark in
        ["CANCELLED", "CONFIRMED", "PROCESSING", "SHIPPED", "DELIVERED", "RETURNED", "attention", "crash"]
    {
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
    Crash,
    Restart(u64),
}

/// A command that somebody will give.
#[derive(Clone, Debug)]
struct Wanted {
    command: OrderCommand,
    request: Option<(String, u8)>,
    stale: bool,
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
    timer: u64,
    flying: Option<(u64, StepCall)>,
    wanted: Vec<Wanted>,
    /// Versions whose commands were acknowledged.
    acknowledged: Vec<i64>,
    cancel_acknowledged: bool,
    trace: Option<()>,
    lines: Vec<String>,
}

fn seconds(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

fn long(time: std::time::Duration) -> i64 {
    time.as_micros() as i64
}

impl Run {
    fn play(seed: u64, traced: bool) -> (Played, Law) {
        let mut run = Self::new(seed, traced);
        let end = run.run();
        (
            Played {
                trace: run.lines,
                status: run.store.order.as_ref().map(|order| order.status),
                store: run.store,
                crashes: run.crashes,
            },
            end,
        )
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
            until: dawn() + seconds(5 + chance.below(120)),
        };
        let draft = Wish::any(&mut chance).draft(seed);
        let enough = !chance.percent(8);
        let order_lines = draft.items.iter().map(|item| order_service::domain::item::StockLine {
            product: item.product,
            quantity: item.quantity,
        });
        let world = World::new(order_lines.collect(), draft.totals.total, enough);
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
            timer: 0,
            flying: None,
            wanted: Vec::new(),
            acknowledged: Vec::new(),
            cancel_acknowledged: false,
            trace: traced.then_some(()),
            lines: Vec::new(),
        };
        run.at(dawn(), Next::Create);
        run.plan();
        run
    }

    /// What callers will want, and when the process dies by itself.
    fn plan(&mut self) {
        let eager = self.chance.percent(60);
        let wishes = if eager { 8 + self.chance.below(10) } else { self.chance.below(6) };
        let cancels = if self.chance.percent(50) { 25 } else { 3 };
        for n in 0..wishes {
            let command = if self.chance.percent(cancels) {
                OrderCommand::Cancel { notes: "changed my mind".to_owned() }
            } else {
                set_status(self.chance.pick(&[
                    OrderStatus::Processing,
                    OrderStatus::Processing,
                    OrderStatus::Shipped,
                    OrderStatus::Shipped,
                    OrderStatus::Delivered,
                    OrderStatus::Returned,
                    OrderStatus::Confirmed,
                ]))
            };
            let request = self.chance.percent(50).then(|| (format!("request-{n}"), 2));
            let wanted = Wanted { command, request, stale: self.chance.percent(5) };
            let at = if self.chance.percent(50) {
                // While the first calls are under way.
                dawn() + TimeDelta::milliseconds(self.chance.below(5_000))
            } else {
                dawn() + TimeDelta::milliseconds(self.chance.below(240_000))
            };
            for again in 0..=i64::from(wanted.request.is_some()) * self.chance.below(3) {
                let mut wanted = wanted.clone();
                if let Some((_, content)) = &mut wanted.request
                    && again > 0
                    && self.chance.percent(20)
                {
                    *content = 3;
                }
                self.wanted.push(wanted);
                let later = TimeDelta::milliseconds(again * self.chance.below(20_000));
                self.at(at + later, Next::Command(self.wanted.len() - 1));
            }
        }
        if self.chance.percent(30) {
            let at = dawn() + TimeDelta::milliseconds(self.chance.below(3_000));
            self.at(at, Next::Create);
        }
        for _ in 0..self.weather.crash / 8 {
            let at = dawn() + TimeDelta::milliseconds(self.chance.below(20_000));
            self.at(at, Next::Crash);
        }
    }

    fn at(&mut self, at: Timestamp, next: Next) {
        self.count += 1;
        self.queue.insert((at.max(self.now), self.count), next);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.is_some() {
            let line = format!("{:>10.3}s {}", (self.now - dawn()).as_seconds_f64(), line());
            self.lines.push(line);
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
            self.step(next)?;
            law!(self.calls.sent < 3000, "a busy loop: {} calls", self.calls.sent);
        }
        self.world.pass(self.now + REST);
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
                if !self.up {
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
        self.timer += 1;
        let back = self.now + TimeDelta::milliseconds(1 + self.chance.below(6_000));
        self.at(back, Next::Restart(self.life));
    }

    /// One input: decide, store, act.
    fn input(&mut self, input: Input) -> Result<Heard, String> {
        let (order, saga) = (self.store.order.as_ref(), self.store.saga.as_ref());
        let reaction = match react(order, saga, input, self.now, &policy()) {
            Ok(reaction) => reaction,
            Err(error) => return Ok(Heard::No(error)),
        };
        match reaction {
            Reaction::Commit(change) => {
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
                Ok(())
            }
            SagaMove::Keep => {
                law!(self.flying.is_some(), "nothing is under way that could go on");
                Ok(())
            }
            SagaMove::Settled => Ok(()),
        }
    }

    /// Sends a call and decides what the network and the collaborator make of it.
    fn send(&mut self, call: StepCall) -> Law {
        law!(self.flying.is_none(), "two calls at once: {:?} and {call:?}", self.flying);
        self.calls.send(&call)?;
        self.count += 1;
        let ticket = self.count;
        self.flying = Some((ticket, call.clone()));
        let stormy = self.stormy();
        let weather = &self.weather;
        let chance = &mut self.chance;
        let mut strikes = |percent: u32| chance.percent(if stormy { percent } else { 0 });
        let (unavailable, lost, late) =
            (strikes(weather.unavailable), strikes(weather.lost), strikes(weather.late));
        let (twice, refused, ponders) =
            (strikes(weather.twice), strikes(weather.refused), strikes(weather.ponders));
        let backward = self
            .store
            .saga
            .as_ref()
            .is_some_and(|saga| saga.direction == order_service::domain::saga::Direction::Backward);
        let mood = Mood {
            refuses: refused || (weather.no_refunds && matches!(call, StepCall::Refund { .. })),
            ponders: ponders.then(|| TimeDelta::microseconds(chance.below(20_000_000))),
            expires: weather.expires.then(|| seconds(10 + chance.below(20))),
            closes: weather.closes && backward,
        };
        let dependency = "somebody";
        let sent = self.now + TimeDelta::microseconds(chance.below(long(SEND_LAG)));
        let timeout = TimeDelta::from_std(CALL_TIMEOUT).unwrap();
        if unavailable {
            let answer = StepResult::Unavailable { dependency, error: "no connection".to_owned() };
            self.at(sent, Next::Answer { ticket, result: answer });
            return Ok(());
        }
        self.calls.may_arrive(&call);
        let unknown = Next::Answer {
            ticket,
            result: StepResult::Unknown { dependency, error: "no answer".to_owned() },
        };
        let bound = long(CALL_TIMEOUT) + if weather.closes { 600_000_000 } else { long(PROVIDER_LAG) };
        if late {
            let at = sent + TimeDelta::microseconds(chance.below(bound));
            self.at(at, Next::Execute { call, mood, ticket, answer_at: None });
            self.at(sent + timeout, unknown);
            return Ok(());
        }
        let arrives =
            sent + TimeDelta::microseconds(chance.below(if stormy { long(CALL_TIMEOUT) } else { 50_000 }));
        if lost {
            if chance.percent(70) {
                self.at(arrives, Next::Execute { call, mood, ticket, answer_at: None });
            }
            self.at(sent + timeout, unknown);
            return Ok(());
        }
        let most = if stormy { (sent + timeout - arrives).num_microseconds().unwrap() } else { 50_000 };
        let answer_at = Some(arrives + TimeDelta::microseconds(chance.below(most)));
        if twice {
            let at = arrives + TimeDelta::microseconds(chance.below(bound - long(CALL_TIMEOUT)));
            let call = call.clone();
            self.at(at, Next::Execute { call, mood, ticket, answer_at: Some(at) });
        }
        self.at(arrives, Next::Execute { call, mood, ticket, answer_at });
        Ok(())
    }

    fn command(&mut self, number: usize) -> Law {
        if !self.up || self.store.order.is_none() {
            return Ok(());
        }
        let wanted = self.wanted[number].clone();
        let order = self.store.order.clone().unwrap();
        let version = wanted.stale.then(|| order.version - self.chance.below(2));
        let request = wanted.request.as_ref().map(|(id, content)| (id.as_str(), *content));
        let known = request.and_then(|(id, content)| {
            let record = order.requests.iter().find(|record| record.request_id == id)?;
            Some(record.hash == [content; 16])
        });
        let running = self.store.saga.as_ref().is_some_and(|saga| !saga.settled);
        let calling = self.flying.is_some();
        let asked = ask(wanted.command.clone(), request, version);
        let heard = self.input(Input::Command { ask: asked, calling })?;
        self.note(|| format!("  heard {heard:?}"));
        let cancel = matches!(wanted.command, OrderCommand::Cancel { .. });
        let to = match wanted.command {
            OrderCommand::SetStatus { to, .. } => to,
            _ => OrderStatus::Cancelled,
        };
        let fits = match (&heard, known) {
            (Heard::Died, _) => true,
            (Heard::No(OrderError::RequestIdReused), known) => known == Some(false),
            (Heard::Repeat(_), known) => known == Some(true) && !(cancel && running),
            (Heard::Join, Some(true)) => cancel && running,
            (_, Some(_)) => false,
            (Heard::No(OrderError::VersionMismatch { .. }), _) => {
                version.is_some_and(|seen| seen != order.version)
            }
            _ if version.is_some_and(|seen| seen != order.version) => false,
            (Heard::Done, None) if cancel => order.status.can_cancel(),
            (Heard::Join, None) => cancel && running && order.status.can_cancel(),
            (Heard::No(OrderError::IllegalTransition { .. }), None) if cancel => {
                !order.status.can_cancel() && order.status != OrderStatus::Cancelled
            }
            (Heard::Unchanged, None) => order.status.rule(to) == Rule::Same,
            (Heard::Done, None) => order.status.rule(to) == Rule::Request && !running,
            (Heard::No(OrderError::Busy { .. }), None) => order.status.rule(to) == Rule::Request && running,
            (Heard::No(OrderError::StatusManagedBySaga { .. }), None) => to == OrderStatus::Confirmed,
            (Heard::No(OrderError::IllegalTransition { .. }), None) => order.status.rule(to) != Rule::Request,
            _ => false,
        };
        law!(fits, "I2: {:?} of an order that is {} was answered {heard:?}", wanted, order.status);
        if matches!(heard, Heard::Done) {
            self.acknowledged.push(order.version + 1);
        }
        if cancel && matches!(heard, Heard::Done | Heard::Join | Heard::Unchanged) {
            self.cancel_acknowledged = true;
        }
        Ok(())
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

/// A run that is over.
struct Played {
    trace: Vec<String>,
    status: Option<OrderStatus>,
    store: Store,
    crashes: u32,
}

impl Played {
    /// What the run got to.
    fn marks(&self) -> Vec<String> {
        let mut marks: Vec<String> = self.status.iter().map(|status| status.as_str().to_owned()).collect();
        if self.store.events.iter().any(|event| event.event.kind() == "attention_needed") {
            marks.push("attention".to_owned());
        }
        if self.crashes > 0 {
            marks.push("crash".to_owned());
        }
        marks
    }
}
