//! Whether a node has started, should be sent calls, and still moves.
//!
//! Answers come from what is known already: probes ask neither the store nor a runtime that may be stuck. The store is asked
//! in the background; each runtime is watched by a task of its own on it, and by a clock that stands still when the whole
//! process does.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::ports::store::OrderStore;

/// How often a runtime beats, and how often that is looked at.
const BEAT: Duration = Duration::from_millis(250);

/// How patient the answers are.
#[derive(Clone, Copy, Debug)]
pub struct HealthConfig {
    /// How often the store is asked whether it is there.
    pub ping_every: Duration,
    /// The node is not ready when the store has not answered for so long.
    pub stale_after: Duration,
    /// The node is not live when a runtime has not moved for so long.
    pub stalled_after: Duration,
}

/// Whether something holds, in a few words; or why not.
pub type Finding = Result<String, String>;

/// Looks whether something holds that a node needs to be sent calls. Must not wait for anything.
pub type Look = Box<dyn Fn() -> Finding + Send + Sync>;

/// Takes part in calls, no more, or not ever again.
const SERVES: u8 = 0;
const DRAINED: u8 = 1;
const STOPS: u8 = 2;

/// See the module.
pub struct Health {
    config: HealthConfig,
    begun: Instant,
    started: AtomicBool,
    /// What the node does until it has started.
    stage: Mutex<&'static str>,
    going: AtomicU8,
    /// When the store answered last, in milliseconds since `begun`, plus one; 0 = never.
    reached: AtomicU64,
    /// How long its last answer took, in microseconds.
    took: AtomicU64,
    beats: Vec<Beat>,
    looks: OnceLock<Vec<(&'static str, Look)>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("started", &self.started).finish_non_exhaustive()
    }
}

/// One runtime.
#[derive(Debug)]
struct Beat {
    name: &'static str,
    count: AtomicU64,
    /// The count when it was looked at last, and how many looks in a row have found it unchanged.
    seen: AtomicU64,
    stale: AtomicU64,
    /// There is such a runtime.
    is_there: AtomicBool,
}

impl Beat {
    fn look(&self) {
        let count = self.count.load(Ordering::Acquire);
        if self.seen.swap(count, Ordering::AcqRel) == count && self.is_there.load(Ordering::Acquire) {
            self.stale.fetch_add(1, Ordering::AcqRel);
        } else {
            self.stale.store(0, Ordering::Release);
        }
    }

    /// Since when it has not moved, by looks: while the process stands still nobody looks.
    fn age(&self) -> Duration {
        let looks = u32::try_from(self.stale.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        BEAT.saturating_mul(looks)
    }
}

/// All checks behind one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report(pub Vec<(&'static str, Finding)>);

impl Report {
    /// The first thing that is wrong.
    pub fn why_not(&self) -> Option<String> {
        self.0.iter().find_map(|(name, found)| found.as_ref().err().map(|why| format!("{name}: {why}")))
    }

    /// A line for each check.
    pub fn lines(&self) -> String {
        self.0.iter().fold(String::new(), |mut lines, (name, found)| {
            // Writing to a String does not fail.
            let _ = match found {
                Ok(how) => writeln!(lines, "ok     {name}: {how}"),
                Err(why) => writeln!(lines, "WRONG  {name}: {why}"),
            };
            lines
        })
    }

    /// All checks as JSON.
    pub fn json(&self) -> Value {
        let check = |(name, found): &(&'static str, Finding)| match found {
            Ok(how) => json!({ "name": name, "ok": true, "detail": how }),
            Err(why) => json!({ "name": name, "ok": false, "detail": why }),
        };
        json!({ "ok": self.why_not().is_none(), "checks": self.0.iter().map(check).collect::<Vec<_>>() })
    }
}

impl Health {
    /// Of a node that starts.
    pub fn new(config: HealthConfig) -> Arc<Self> {
        let beat = |name| Beat {
            name,
            count: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            is_there: AtomicBool::new(false),
        };
        Arc::new(Self {
            config,
            begun: Instant::now(),
            started: AtomicBool::new(false),
            stage: Mutex::new("reading the configuration"),
            going: AtomicU8::new(SERVES),
            reached: AtomicU64::new(0),
            took: AtomicU64::new(0),
            beats: ["main", "cluster"].map(beat).into(),
            looks: OnceLock::new(),
        })
    }

    /// Says what the node does until it has started.
    pub fn begins(&self, stage: &'static str) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// The node has started; these are looked at as well when it is asked whether it is ready.
    pub fn has_started(&self, looks: Vec<(&'static str, Look)>) {
        let _once = self.looks.set(looks);
        self.started.store(true, Ordering::Release);
    }

    /// Has the node sent no more calls. Can be taken back.
    pub fn drain(&self) {
        self.going.fetch_max(DRAINED, Ordering::AcqRel);
    }

    /// Takes [`Self::drain`] back; false when the node stops.
    pub fn undrain(&self) -> bool {
        let taken = self.going.compare_exchange(DRAINED, SERVES, Ordering::AcqRel, Ordering::Acquire);
        !matches!(taken, Err(STOPS))
    }

    /// The node stops.
    pub fn stops(&self) {
        self.going.store(STOPS, Ordering::Release);
    }

    /// Whether the node was drained, or stops.
    pub fn is_draining(&self) -> bool {
        self.going.load(Ordering::Acquire) != SERVES
    }

    /// Whether the node stops.
    pub fn is_stopping(&self) -> bool {
        self.going.load(Ordering::Acquire) == STOPS
    }

    /// Beats on the runtime that this is run on, for ever. `name` is one of those that are watched.
    pub fn beat(self: &Arc<Self>, name: &'static str) -> impl Future<Output = ()> + Send + 'static {
        let health = Arc::clone(self);
        async move {
            let Some(beat) = health.beats.iter().find(|beat| beat.name == name) else { return };
            beat.is_there.store(true, Ordering::Release);
            let mut tick = tokio::time::interval(BEAT);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                beat.count.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Watches the beats, for ever: to be run on another runtime.
    pub(super) async fn watch(&self) {
        let mut tick = tokio::time::interval(BEAT);
        // After a stop of the whole process it goes on as if nothing had been.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.beats.iter().for_each(Beat::look);
        }
    }

    /// Asks the store now and then whether it is there, until `stop`.
    pub async fn ask(self: Arc<Self>, store: Arc<dyn OrderStore>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.config.ping_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let asking = async {
            loop {
                tick.tick().await;
                let started = Instant::now();
                // What takes longer counts as no answer anyway.
                let asked = tokio::time::timeout(self.config.stale_after, store.ping()).await;
                if matches!(asked, Ok(Ok(()))) {
                    self.store_answered(started.elapsed());
                }
            }
        };
        stop.run_until_cancelled(asking).await;
    }

    /// The store has answered, after so long.
    pub fn store_answered(&self, took: Duration) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.took.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Release);
        self.reached.store(now.saturating_add(1), Ordering::Release);
    }

    /// How long ago the store answered last, and how long that took; none before the first time.
    pub fn store_age(&self) -> Option<(Duration, Duration)> {
        let reached = self.reached.load(Ordering::Acquire).checked_sub(1)?;
        let took = Duration::from_micros(self.took.load(Ordering::Acquire));
        Some((self.begun.elapsed().saturating_sub(Duration::from_millis(reached)), took))
    }

    /// Since when each runtime has not moved.
    pub fn ages(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        self.beats.iter().map(|beat| (beat.name, beat.age()))
    }

    /// How long ago the node began to start.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether the node has started.
    pub fn startup(&self) -> Report {
        let started = match self.started.load(Ordering::Acquire) {
            true => Ok(String::from("started")),
            false => Err(format!("not yet, {}", self.stage.lock().unwrap_or_else(PoisonError::into_inner))),
        };
        Report(vec![("start", started)])
    }

    /// Whether the node still moves. Does not depend on anything outside of it: a restart would not mend that.
    pub fn live(&self) -> Report {
        let there = self.beats.iter().filter(|beat| beat.is_there.load(Ordering::Acquire));
        let looked = there.map(|beat| {
            let age = beat.age();
            let found = match age < self.config.stalled_after {
                true => Ok(String::from("moves")),
                false => Err(format!("the {} runtime has not moved for {:.0?}", beat.name, age)),
            };
            (beat.name, found)
        });
        Report(looked.collect())
    }

    /// Whether the node should be sent calls.
    pub fn ready(&self) -> Report {
        let mut checks = self.startup().0;
        let going = match self.going.load(Ordering::Acquire) {
            SERVES => Ok(String::from("takes calls")),
            DRAINED => Err(String::from("the node was drained")),
            _ => Err(String::from("the node is stopping")),
        };
        checks.push(("drain", going));
        checks.extend(self.live().0);
        checks.extend(self.looks.get().into_iter().flatten().map(|(name, look)| (*name, look())));
        let store = match self.store_age() {
            Some((age, _)) if age < self.config.stale_after => Ok(format!("answered {age:.1?} ago")),
            Some((age, _)) => Err(format!("the order store has not answered for {age:.1?}")),
            None => Err(String::from("the order store has not answered yet")),
        };
        checks.push(("store", store));
        Report(checks)
    }

    /// Whether the node should be sent calls, without the words.
    pub fn is_ready(&self) -> bool {
        self.ready().why_not().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const CONFIG: HealthConfig = HealthConfig {
        ping_every: Duration::from_millis(100),
        stale_after: Duration::from_secs(2),
        stalled_after: Duration::from_secs(1),
    };

    fn started() -> Arc<Health> {
        let mut health = Health::new(CONFIG);
        // As if it had begun an hour ago.
        Arc::get_mut(&mut health).unwrap().begun = Instant::now() - HOUR;
        health.has_started(Vec::new());
        health.store_answered(Duration::from_millis(1));
        health
    }

    /// As if the store had answered so long ago.
    fn answered(health: &Health, ago: Duration) {
        let at = health.begun.elapsed() - ago;
        health.reached.store(u64::try_from(at.as_millis()).unwrap() + 1, Ordering::SeqCst);
    }

    #[test]
    fn it_is_ready_once_it_has_started_and_the_store_has_answered() {
        let health = Health::new(CONFIG);
        health.begins("opening the store");
        assert_eq!(health.startup().why_not().unwrap(), "start: not yet, opening the store");
        assert!(!health.is_ready());
        health.has_started(Vec::new());
        assert_eq!(health.ready().why_not().unwrap(), "store: the order store has not answered yet");
        health.store_answered(Duration::from_millis(1));
        assert_eq!((health.ready().why_not(), health.startup().why_not()), (None, None));
    }

    #[test]
    fn a_store_that_has_not_answered_for_too_long_is_away_and_costs_no_liveness() {
        let health = started();
        answered(&health, Duration::from_millis(1_000));
        assert!(health.is_ready());
        answered(&health, Duration::from_secs(700));
        assert_eq!(health.ready().why_not().unwrap(), "store: the order store has not answered for 700.0s");
        assert_eq!(health.live().why_not(), None);
        health.store_answered(Duration::from_millis(1));
        assert!(health.is_ready());
    }

    #[test]
    fn what_the_node_needs_besides_is_looked_at() {
        let health = Health::new(CONFIG);
        health.store_answered(Duration::ZERO);
        health.has_started(vec![("lease", Box::new(|| Err(String::from("it is over"))))]);
        assert_eq!(health.ready().why_not().unwrap(), "lease: it is over");
        assert!(health.ready().lines().contains("WRONG  lease: it is over\n"));
        assert_eq!(health.ready().json()["ok"], false);
    }

    #[test]
    fn a_drain_can_be_taken_back_and_a_stop_cannot() {
        let health = started();
        health.drain();
        assert_eq!(health.ready().why_not().unwrap(), "drain: the node was drained");
        assert!(health.undrain() && health.is_ready());
        health.stops();
        health.drain();
        assert!(!health.undrain());
        assert_eq!(health.ready().why_not().unwrap(), "drain: the node is stopping");
    }

    /// A runtime that is blocked, seen from another one.
    #[test]
    fn a_runtime_that_is_blocked_is_not_live_until_it_moves_again() {
        let health = started();
        let watching = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (block, blocked) = std::sync::mpsc::channel::<()>();
        let main = {
            let health = Arc::clone(&health);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let beating = tokio::spawn(health.beat("main"));
                    tokio::time::sleep(BEAT * 2).await;
                    // Here nothing else runs, as when a worker waits for a lock.
                    blocked.recv().unwrap();
                    tokio::time::sleep(BEAT * 8).await;
                    beating.abort();
                });
            })
        };
        watching.block_on(async {
            let watch = {
                let health = Arc::clone(&health);
                tokio::spawn(async move { health.watch().await })
            };
            let until = async |live: bool| {
                while health.live().why_not().is_none() != live || health.live().0.is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let patience = Duration::from_secs(20);
            tokio::time::timeout(patience, until(true)).await.unwrap();
            tokio::time::timeout(patience, until(false)).await.unwrap();
            assert!(health.live().why_not().unwrap().starts_with("main: the main runtime has not moved for"));
            assert!(!health.is_ready());
            block.send(()).unwrap();
            tokio::time::timeout(patience, until(true)).await.unwrap();
            watch.abort();
        });
        main.join().unwrap();
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let beat = Beat {
            name: "main",
            count: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            is_there: AtomicBool::new(true),
        };
        beat.look();
        assert_eq!(beat.age(), Duration::ZERO);
        beat.look();
        beat.look();
        assert_eq!(beat.age(), BEAT * 2);
        beat.count.fetch_add(1, Ordering::SeqCst);
        beat.look();
        assert_eq!(beat.age(), Duration::ZERO);
    }
}
