//! The run: calls that come at their times or one after the other, and what is noted of each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_service::proto::order as pb;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::args::{Args, Mode};
use super::book::Book;
use super::calls::{Answer, Call, Class, NewOrder, class, is_missing, named, reason, unanswered};
use super::mix::{Kind, Scenario};
use super::record::{Ended, Recorder};
use super::shape::{Schedule, Shape};
use crate::harness::Chance;
use crate::harness::fleet::Fleet;

/// The first pause before a call is sent again; it doubles.
const PAUSE: Duration = Duration::from_millis(25);
/// How long nobody looks whether the run is to end.
const NAP: Duration = Duration::from_millis(50);
/// Orders that are made at once before the run.
const PREPARE_AT_ONCE: usize = 16;

/// Everything that a run shares.
pub struct Load {
    /// What was asked for.
    pub args: Args,
    /// The servers; each stands there as often as it has connections.
    pub fleet: Fleet,
    /// How many servers there are.
    pub servers: usize,
    /// What was told.
    pub book: Book,
    /// What is measured.
    pub recorder: Recorder,
    /// Cancelled when no more calls are to come.
    pub enough: CancellationToken,
    /// Calls under way.
    pub in_flight: AtomicU64,
    /// When calls began to come.
    pub started: Mutex<Instant>,
    /// Where the numbers of the users begin: no other run has the same ones.
    pub first_user: u64,
    seed: u64,
}

/// What became of a call.
enum Outcome {
    Order(Box<pb::Order>),
    Other,
    No,
}

impl Load {
    /// A run against these servers.
    pub fn new(args: Args, urls: &[String]) -> Arc<Self> {
        let places = (0..args.connections).flat_map(|_| urls.iter().cloned()).collect::<Vec<_>>();
        let fleet = Fleet::showing(places.into_iter(), &args.access());
        let steps = if let Shape::Step(steps) = args.shape { steps } else { 0 };
        let by_clock = Uuid::now_v7().as_u128();
        Arc::new(Self {
            fleet,
            servers: urls.len(),
            book: Book::default(),
            recorder: Recorder::new(args.length(), steps, urls.len()),
            enough: CancellationToken::new(),
            in_flight: AtomicU64::new(0),
            started: Mutex::new(Instant::now()),
            // Of the time in milliseconds the part that comes back after a year, and room for a billion users.
            first_user: ((by_clock >> 80) as u64 & 0x7_FFFF_FFFF) << 26,
            seed: args.seed.unwrap_or(by_clock as u64),
            args,
        })
    }

    /// What chance is drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Since calls began to come.
    pub fn elapsed(&self) -> Duration {
        self.started.lock().unwrap().elapsed()
    }

    /// Makes the orders that there have to be before; `progress` is told how many there are. Then time begins.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn prepare(self: &Arc<Self>, progress: impl Fn(u64)) -> Result<(), String> {
        let wanted = self.args.prepared();
        let (next, made) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let failed: Arc<Mutex<Option<String>>> = Arc::default();
        let tasks = TaskTracker::new();
        for worker in 0..PREPARE_AT_ONCE {
            let (load, next, made, failed) = (Arc::clone(self), next.clone(), made.clone(), failed.clone());
            let mut chance = Chance::new(self.seed ^ (worker as u64 + 1));
            tasks.spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < wanted && !load.enough.is_cancelled() {
                    let order = NewOrder { declined: false, ..load.new_order(&mut chance) };
                    let deadline = Instant::now() + load.args.timeout;
                    let call = Call::Create(order);
                    load.book.asks(&call);
                    match load.try_call(&call, deadline, 10).await.0 {
                        Ok(Answer::Order(order)) => {
                            load.book.heard(&order, None);
                            load.noted(&call, order.id.parse().ok());
                            load.book.stands(&order);
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err((status, _)) => {
                            load.book.doubt(order);
                            let first = || format!("{}: {}", reason(&status), status.message());
                            failed.lock().unwrap().get_or_insert_with(first);
                            return;
                        }
                    }
                }
            });
        }
        tasks.close();
        while timeout(Duration::from_millis(200), tasks.wait()).await.is_err() {
            progress(made.load(Ordering::Relaxed));
        }
        // Of the orders before the run only what was told counts.
        self.recorder.records().retries.clear();
        *self.started.lock().unwrap() = Instant::now();
        let first = failed.lock().unwrap().take();
        match first {
            Some(why) => Err(format!("the orders before the run cannot be made: {why}")),
            None => Ok(()),
        }
    }

    /// Lets calls come until there are enough, and waits for those under way, which takes no longer than their timeout.
    pub async fn run(self: &Arc<Self>) {
        let tasks = TaskTracker::new();
        match self.args.mode {
            Mode::Open => self.open(&tasks).await,
            Mode::Closed => self.closed(&tasks).await,
        }
        self.enough.cancel();
        tasks.close();
        tasks.wait().await;
    }

    async fn open(self: &Arc<Self>, tasks: &TaskTracker) {
        let (load, tasks, runtime) = (Arc::clone(self), tasks.clone(), Handle::current());
        let (sender, paced) = oneshot::channel::<()>();
        // On a thread of its own: the runtime's timers are late by a millisecond.
        std::thread::spawn(move || {
            load.pace(&tasks, &runtime);
            drop(sender);
        });
        let _ended = paced.await;
        // The last one may be due before the end.
        if self.recorder.records().arrivals < self.args.requests {
            let rest = sleep_until(*self.started.lock().unwrap() + self.args.length());
            let _stopped = self.enough.run_until_cancelled(rest).await;
        }
    }

    /// Lets everything arrive at its time, whatever becomes of what arrived before.
    fn pace(self: Arc<Self>, tasks: &TaskTracker, runtime: &Handle) {
        let started = self.started.lock().unwrap().into_std();
        let places = Arc::new(Semaphore::new(self.args.places()));
        let mut chance = Chance::new(self.seed);
        let pieces = self.args.shape.pieces(self.args.rate, self.args.length());
        let schedule = Schedule::new(pieces, self.args.arrivals, self.seed ^ 0xA5A5);
        for due in schedule.take(usize::try_from(self.args.requests).unwrap_or(usize::MAX)) {
            loop {
                if self.enough.is_cancelled() {
                    return;
                }
                match (started + due).checked_duration_since(std::time::Instant::now()) {
                    None | Some(Duration::ZERO) => break,
                    Some(rest) => std::thread::sleep(rest.min(NAP)),
                }
            }
            let seed = chance.bits();
            let place = Arc::clone(&places).try_acquire_owned().ok();
            self.recorder.arrived(due, place.is_none());
            if let Some(place) = place {
                let load = Arc::clone(&self);
                let arrival = async move {
                    load.arrival(due, seed).await;
                    drop(place);
                };
                tasks.spawn_on(arrival, runtime);
            }
        }
    }

    async fn closed(self: &Arc<Self>, tasks: &TaskTracker) {
        let sent = Arc::new(AtomicU64::new(0));
        for caller in 0..self.args.places() {
            let (load, sent) = (Arc::clone(self), Arc::clone(&sent));
            let mut chance = Chance::new(self.seed ^ ((caller as u64 + 1) << 20));
            tasks.spawn(async move {
                while !load.enough.is_cancelled() && sent.fetch_add(1, Ordering::Relaxed) < load.args.requests
                {
                    let due = load.elapsed();
                    load.recorder.arrived(due, false);
                    load.arrival(due, chance.bits()).await;
                }
            });
        }
        tasks.close();
        tokio::select! {
            () = self.enough.cancelled() => {}
            () = sleep(self.args.length()) => {}
            () = tasks.wait() => {}
        }
    }

    fn new_order(&self, chance: &mut Chance) -> NewOrder {
        NewOrder {
            user: self.first_user + self.args.keys.pick(self.args.users, chance),
            request_id: Uuid::now_v7(),
            lines: chance.bits(),
            declined: chance.below(1_000_000) < (self.args.declined_share() * 1e6) as i64,
        }
    }

    /// What arrives at this moment. When there is no order to read or change, one is made instead.
    async fn arrival(&self, due: Duration, seed: u64) {
        self.recorder.late(self.elapsed().saturating_sub(due));
        let mut chance = Chance::new(seed);
        let (keys, request) = (self.args.keys, Uuid::now_v7());
        let scenario = self.args.mix.pick(&mut chance);
        let call = match scenario {
            Scenario::Create | Scenario::Life => None,
            Scenario::List => {
                let user = self.first_user + keys.pick(self.args.users, &mut chance);
                Some(Call::List(user))
            }
            Scenario::Cancel => {
                self.book.take(keys, &mut chance).map(|order| Call::Cancel(order.id, request))
            }
            Scenario::Get | Scenario::GetStatus | Scenario::Edit => {
                let picked = self.book.pick(keys, &mut chance);
                picked.map(|order| match scenario {
                    Scenario::Get => Call::Get(order.id),
                    Scenario::GetStatus => Call::GetStatus(order.id),
                    _ if chance.percent(50) => Call::add(order.id, &mut chance),
                    _ => {
                        let quantity = 1 + chance.below(5) as i32;
                        Call::UpdateItem(order.id, order.item, quantity, request)
                    }
                })
            }
        };
        let call = call.unwrap_or_else(|| Call::Create(self.new_order(&mut chance)));
        let is_new = matches!(call, Call::Create(_));
        let Outcome::Order(order) = self.call(&call, due).await else { return };
        if scenario == Scenario::Life {
            self.live(&order, &mut chance).await;
        } else if is_new {
            self.book.stands(&order);
        }
    }

    /// The life of an order after its creation, one call after the other, as long as none is refused.
    async fn live(&self, order: &pb::Order, chance: &mut Chance) {
        let Ok(id) = order.id.parse::<Uuid>() else { return };
        let mut calls: Vec<Call> = [Kind::Process, Kind::Ship, Kind::Deliver]
            .into_iter()
            .map(|to| Call::SetStatus(id, to, Uuid::now_v7()))
            .collect();
        match chance.below(10) {
            0 | 1 => calls.push(Call::SetStatus(id, Kind::Return, Uuid::now_v7())),
            2 | 3 => calls.push(Call::Refund(id, Uuid::now_v7())),
            _ => {}
        }
        for call in calls {
            let due = self.elapsed();
            self.recorder.follows(due);
            if matches!(self.call(&call, due).await, Outcome::No) {
                return;
            }
        }
    }

    /// An answer to a new order names one.
    fn noted(&self, call: &Call, id: Option<Uuid>) {
        if let (Call::Create(order), Some(id)) = (call, id) {
            self.book.made(order.request_id, id);
        }
    }

    /// Makes a call that was due at this moment, and notes what became of it.
    async fn call(&self, call: &Call, due: Duration) -> Outcome {
        let known = call.order().and_then(|id| self.book.version(id));
        let under_way = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.recorder.sent(self.elapsed(), under_way);
        self.book.asks(call);
        let deadline = Instant::now() + self.args.timeout;
        let (answer, node, moved) = self.try_call(call, deadline, self.args.retries).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (class, reason) = match &answer {
            Ok(_) => (Class::Done, None),
            Err((status, _)) => (class(status), Some(reason(status))),
        };
        let at = self.elapsed();
        self.recorder.ended(Ended { kind: call.kind(), due, at, class, reason, node, moved });
        match answer {
            Ok(Answer::Order(order)) => {
                self.book.heard(&order, known);
                self.noted(call, order.id.parse().ok());
                Outcome::Order(order)
            }
            Ok(Answer::Status(status)) => {
                self.book.heard_status(&status, known);
                Outcome::Other
            }
            Ok(Answer::Other) => Outcome::Other,
            Err((status, was_unanswered)) => {
                if let Some(id) = named(&status) {
                    self.book.named(id);
                    self.noted(call, Some(id));
                }
                if let Some(id) = call.order().filter(|_| is_missing(&status)) {
                    self.book.missing(id);
                }
                match call {
                    Call::Create(order) if was_unanswered || class == Class::Failed => {
                        self.book.doubt(*order)
                    }
                    _ => {}
                }
                Outcome::No
            }
        }
    }

    /// Sends a call, again and again when nobody answers; the answer, who gave it, and how often it went to another node
    /// unsent. An error comes with whether any try stayed without an answer.
    async fn try_call(
        &self,
        call: &Call,
        deadline: Instant,
        retries: u32,
    ) -> (Result<Answer, (tonic::Status, bool)>, Option<usize>, u32) {
        let (mut moved, mut pause, mut was_unanswered) = (0, PAUSE, false);
        for attempt in 0.. {
            let sent = self
                .fleet
                .send(deadline, |client| async move {
                    let time = deadline.saturating_duration_since(Instant::now());
                    call.make(client, time.max(Duration::from_millis(1))).await
                })
                .await;
            moved += sent.moved;
            let node = sent.node.map(|node| node % self.servers);
            let status = match sent.answer {
                Ok(answer) => return (Ok(answer), node, moved),
                Err(status) => status,
            };
            let no_answer = unanswered(&status);
            was_unanswered |= no_answer;
            if !no_answer || attempt >= retries || Instant::now() + pause >= deadline {
                return (Err((status, was_unanswered)), node, moved);
            }
            self.recorder.retried(reason(&status));
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        unreachable!("the loop ends with the last try")
    }
}
