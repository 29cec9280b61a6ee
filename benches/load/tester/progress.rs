//! What is shown while it goes on: one line that is rewritten on a terminal, else a line now and then.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::check;
use super::record::millis;
use super::run::Load;
use super::text::{count, rate};

/// How often a line is rewritten on a terminal, and written elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(250);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Where progress is shown.
pub struct Screen {
    is_quiet: bool,
    is_terminal: bool,
    /// When something was last shown.
    last: Mutex<Option<Instant>>,
}

impl Screen {
    /// Standard error; nowhere when quiet.
    pub fn new(is_quiet: bool) -> Self {
        Self { is_quiet, is_terminal: stderr().is_terminal(), last: Mutex::default() }
    }

    /// How often it is worth to say something.
    pub fn every(&self) -> Duration {
        ON_TERMINAL
    }

    /// What goes on now, unless something was shown a moment ago.
    pub fn now(&self, text: impl FnOnce() -> String) {
        let every = if self.is_terminal { ON_TERMINAL / 2 } else { ELSEWHERE };
        let mut last = self.last.lock().unwrap();
        if self.is_quiet || last.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        *last = Some(Instant::now());
        self.write(&text(), false);
    }

    /// Something that stays.
    pub fn tell(&self, text: &str) {
        if !self.is_quiet {
            *self.last.lock().unwrap() = None;
            self.write(text, true);
        }
    }

    /// The line that is rewritten ends.
    pub fn clear(&self) {
        if !self.is_quiet && self.is_terminal {
            self.write("", false);
        }
    }

    fn write(&self, text: &str, stays: bool) {
        let mut error = stderr().lock();
        // Nobody can be told when standard error is gone.
        let _written = match (self.is_terminal, stays) {
            (true, true) => writeln!(error, "\r\x1b[2K{text}"),
            (true, false) => write!(error, "\r\x1b[2K{text}"),
            (false, _) => writeln!(error, "{text}"),
        };
        let _flushed = error.flush();
    }
}

/// How the run stands.
pub fn running(load: &Load) -> String {
    let elapsed = load.elapsed();
    let records = load.recorder.records();
    let (arrivals, dropped, failed) = (records.arrivals, records.dropped, records.all.failed);
    // The last two seconds that are over.
    let now = (elapsed.as_nanos() / records.width.as_nanos()) as usize;
    let back = (2.0 / records.width.as_secs_f64()).ceil() as usize;
    let latest = now.saturating_sub(back)..now.min(records.points.len());
    let answered: u64 =
        records.points.get(latest.clone()).unwrap_or_default().iter().map(|point| point.answered).sum();
    let seconds = latest.len() as f64 * records.width.as_secs_f64();
    let latency = records.latency_of(latest);
    let kills = records.marks.iter().filter(|mark| mark.what == "killed").count();
    drop(records);
    let mut text = format!(
        "{:>4.0}s of {:.0}s  {:>6}/s answered  p50 {:>6.1} ms  p99 {:>6.1} ms  {} under way  {} sent",
        elapsed.as_secs_f64(),
        load.args.length().as_secs_f64(),
        rate(answered as f64 / seconds.max(0.001)),
        millis(&latency, 50.0),
        millis(&latency, 99.0),
        load.in_flight.load(Ordering::Relaxed),
        count(arrivals - dropped),
    );
    for (number, what) in [(dropped, "dropped"), (failed, "failed"), (kills as u64, "kills")] {
        if number > 0 {
            text.push_str(&format!("  {what} {}", count(number)));
        }
    }
    text
}

/// How the check stands.
pub fn checking(progress: &check::Progress) -> String {
    let of = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let (orders, checked, waiting) = (of(&progress.orders), of(&progress.checked), of(&progress.waiting));
    let mut text = match orders {
        0 => "checking: clearing up what was not answered, listing orders".to_owned(),
        _ => format!("checking: {} of {} orders", count(checked), count(orders)),
    };
    if waiting > 0 {
        text.push_str(&format!(", {} of them were waited for to settle", count(waiting)));
    }
    text
}
