//! What is measured: histograms of latency, counts over time, errors by reason, shares of the nodes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::calls::Class;
use super::mix::Kind;

/// Points of a plot over time, about.
const POINTS: u32 = 240;
/// The longest latency that is told apart from longer ones, in microseconds.
const LONGEST: u64 = 3_600_000_000;

fn histogram<C: hdrhistogram::Counter>(digits: u8) -> Histogram<C> {
    Histogram::new_with_bounds(1, LONGEST, digits).unwrap()
}

/// Adds a duration.
fn add<C: hdrhistogram::Counter>(to: &mut Histogram<C>, time: Duration) {
    to.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST).max(1));
}

/// What happened in one stretch of time.
#[derive(Clone)]
pub struct Point {
    /// Calls that were due in it.
    pub due: u64,
    /// Calls that were answered in it: done, refused.
    pub answered: u64,
    /// Calls that failed in it.
    pub failed: u64,
    /// Arrivals that were due in it and not sent.
    pub dropped: u64,
    /// The most calls under way.
    pub in_flight: u64,
    /// Latency of the answered calls that were due in it.
    pub latency: Histogram<u32>,
}

impl Point {
    fn new() -> Self {
        Self { due: 0, answered: 0, failed: 0, dropped: 0, in_flight: 0, latency: histogram(2) }
    }
}

/// Counts of one kind of call.
#[derive(Clone)]
pub struct OfKind {
    /// Done, refused, failed.
    pub done: u64,
    /// The service said no.
    pub refused: u64,
    /// The service could not, or did not answer.
    pub failed: u64,
    /// Latency of those that were answered.
    pub latency: Histogram<u64>,
}

impl OfKind {
    fn new() -> Self {
        Self { done: 0, refused: 0, failed: 0, latency: histogram(3) }
    }

    fn note(&mut self, class: Class, took: Duration) {
        match class {
            Class::Done => self.done += 1,
            Class::Refused => self.refused += 1,
            Class::Failed => self.failed += 1,
        }
        if class != Class::Failed {
            add(&mut self.latency, took);
        }
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.done + self.refused + self.failed
    }
}

/// How often something went wrong, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// How often.
    pub count: u64,
    /// First, since the start.
    pub first: Duration,
    /// Last, since the start.
    pub last: Duration,
}

/// Something that was done to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Since the start.
    pub at: Duration,
    /// Which.
    pub node: String,
    /// `killed` or `serves again`.
    pub what: &'static str,
}

/// A call that has ended.
pub struct Ended {
    /// What it was.
    pub kind: Kind,
    /// When it was due, since the start.
    pub due: Duration,
    /// When it ended, since the start.
    pub at: Duration,
    /// What became of it.
    pub class: Class,
    /// Why, when it was not done.
    pub reason: Option<String>,
    /// Who answered.
    pub node: Option<usize>,
    /// How often it went to another node because it surely had not reached the one before.
    pub moved: u32,
}

/// Everything that was measured.
#[derive(Clone)]
pub struct Records {
    /// Length of a stretch.
    pub width: Duration,
    /// One stretch after the other.
    pub points: Vec<Point>,
    /// Of the steps of a stepped rate, if it has steps.
    pub steps: Vec<OfKind>,
    /// Arrivals due and dropped, of each step.
    pub step_due: Vec<(u64, u64)>,
    step_length: Duration,
    /// All calls.
    pub all: OfKind,
    /// How long all calls took at least: answered ones until their answer, failed ones until they failed.
    pub at_least: Histogram<u64>,
    /// By kind.
    pub kinds: BTreeMap<Kind, OfKind>,
    /// By kind, class and reason.
    pub errors: BTreeMap<(Class, String, Kind), Trouble>,
    /// Why calls were sent again.
    pub retries: BTreeMap<String, u64>,
    /// Answered and failed calls of each server.
    pub nodes: Vec<(u64, u64)>,
    /// Calls that went to another node because they surely had not reached the one before.
    pub moved: u64,
    /// Arrivals: all that were due, and those that were not sent.
    pub arrivals: u64,
    /// Arrivals that were not sent because too many calls were under way.
    pub dropped: u64,
    /// From when an arrival was due to when it was sent: what the tester itself is late.
    pub lag: Histogram<u64>,
    /// What was done to nodes.
    pub marks: Vec<Mark>,
}

/// Takes notes from many tasks.
pub struct Recorder(Mutex<Records>);

impl Recorder {
    /// For a run of this length, with so many steps (0 for none) and servers.
    pub fn new(length: Duration, steps: u32, servers: usize) -> Self {
        let least = Duration::from_millis(if length < Duration::from_secs(60) { 500 } else { 1_000 });
        let width = (length / POINTS).max(least);
        Self(Mutex::new(Records {
            width,
            points: Vec::new(),
            steps: (0..steps).map(|_| OfKind::new()).collect(),
            step_due: vec![(0, 0); steps as usize],
            step_length: length / steps.max(1),
            all: OfKind::new(),
            at_least: histogram(3),
            kinds: BTreeMap::new(),
            errors: BTreeMap::new(),
            retries: BTreeMap::new(),
            nodes: vec![(0, 0); servers],
            moved: 0,
            arrivals: 0,
            dropped: 0,
            lag: histogram(3),
            marks: Vec::new(),
        }))
    }

    /// What was noted so far.
    pub fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap()
    }

    /// Something arrives, or would have.
    pub fn arrived(&self, due: Duration, is_dropped: bool) {
        let mut records = self.records();
        records.arrivals += 1;
        records.dropped += u64::from(is_dropped);
        if let Some(step) = records.step(due) {
            records.step_due[step].0 += 1;
            records.step_due[step].1 += u64::from(is_dropped);
        }
        let point = records.point(due);
        point.due += 1;
        point.dropped += u64::from(is_dropped);
    }

    /// A further call of something that arrived before is due.
    pub fn follows(&self, due: Duration) {
        self.records().point(due).due += 1;
    }

    /// Something arrives so much later than it was due.
    pub fn late(&self, lag: Duration) {
        add(&mut self.records().lag, lag);
    }

    /// A call is sent, and so many are under way.
    pub fn sent(&self, at: Duration, in_flight: u64) {
        let mut records = self.records();
        let point = records.point(at);
        point.in_flight = point.in_flight.max(in_flight);
    }

    /// A call is sent again.
    pub fn retried(&self, reason: String) {
        *self.records().retries.entry(reason).or_default() += 1;
    }

    /// A call has ended.
    pub fn ended(&self, ended: Ended) {
        let mut records = self.records();
        let took = ended.at.saturating_sub(ended.due);
        records.all.note(ended.class, took);
        add(&mut records.at_least, took);
        records.kinds.entry(ended.kind).or_insert_with(OfKind::new).note(ended.class, took);
        if let Some(step) = records.step(ended.due) {
            records.steps[step].note(ended.class, took);
        }
        let is_answered = ended.class != Class::Failed;
        if let Some(node) = ended.node {
            let (answered, failed) = &mut records.nodes[node];
            *(if is_answered { answered } else { failed }) += 1;
        }
        records.moved += u64::from(ended.moved);
        let point = records.point(ended.at);
        point.answered += u64::from(is_answered);
        point.failed += u64::from(!is_answered);
        if is_answered {
            add(&mut records.point(ended.due).latency, took);
        }
        if let Some(reason) = ended.reason {
            let first = Trouble { count: 0, first: ended.at, last: ended.at };
            let trouble = records.errors.entry((ended.class, reason, ended.kind)).or_insert(first);
            trouble.count += 1;
            trouble.last = ended.at;
        }
    }

    /// Something was done to a node.
    pub fn mark(&self, mark: Mark) {
        self.records().marks.push(mark);
    }
}

impl Records {
    fn point(&mut self, at: Duration) -> &mut Point {
        let place = (at.as_nanos() / self.width.as_nanos()) as usize;
        // What comes after the end of the arrivals is bounded by the timeout of the calls.
        while self.points.len() <= place {
            self.points.push(Point::new());
        }
        &mut self.points[place]
    }

    fn step(&self, due: Duration) -> Option<usize> {
        let place = (due.as_nanos() / self.step_length.as_nanos().max(1)) as usize;
        (!self.steps.is_empty()).then(|| place.min(self.steps.len() - 1))
    }

    /// The time within which 99 of 100 calls and dropped arrivals were over, in milliseconds: failed ones count with the
    /// time until they failed, dropped ones as endless.
    pub fn p99_of_arrivals(&self) -> f64 {
        let mut all = self.at_least.clone();
        all.saturating_record_n(LONGEST, self.dropped);
        let p99 = all.value_at_percentile(99.0);
        let endless = self.dropped > 0 && all.equivalent(p99, LONGEST);
        if endless { f64::INFINITY } else { p99 as f64 / 1_000.0 }
    }

    /// Calls that failed and arrivals that were dropped, and all of both kinds.
    pub fn bad(&self) -> (u64, u64) {
        (self.all.failed + self.dropped, self.all.calls() + self.dropped)
    }

    /// Latency of the points from one place to another.
    pub fn latency_of(&self, points: std::ops::Range<usize>) -> Histogram<u64> {
        let mut all = histogram(2);
        for point in self.points.get(points).unwrap_or_default() {
            for step in point.latency.iter_recorded() {
                all.saturating_record_n(step.value_iterated_to(), u64::from(step.count_at_value()));
            }
        }
        all
    }
}

/// A percentile of a histogram, in milliseconds.
pub fn millis<C: hdrhistogram::Counter>(of: &Histogram<C>, percentile: f64) -> f64 {
    of.value_at_percentile(percentile) as f64 / 1_000.0
}
