//! The report: the verdict and everything it and the figures rest on.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::args::{Args, Check, Mode};
use super::check::Found;
use super::machine::Machine;
use super::record::{OfKind, Records, millis};
use super::shape::Shape;
use super::text::{count, ms, percent, short};

/// A tester that is later than this with one call in a hundred has fallen behind its schedule, in milliseconds.
const BEHIND: f64 = 20.0;
/// A larger share of failed calls and dropped arrivals makes percentiles of the answered ones look too good.
const MANY_BAD: f64 = 0.01;
/// Orders that the verdict names.
const NAMED: usize = 3;
/// Percentiles that are told.
pub const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99];

/// What the run cost.
pub struct Costs {
    /// CPU time of the tester during the load.
    pub tester: Duration,
    /// CPU time of its own nodes, database and simulator.
    pub others: BTreeMap<String, Duration>,
    /// Their resident bytes at the start and at the end.
    pub memory: BTreeMap<String, (u64, u64)>,
    /// How long the load took.
    pub wall: Duration,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// `PASS`, `FAIL`, `INCOMPLETE` or `NOT RUN`, and why, on one line.
    pub line: String,
    /// 0, 1 or 2.
    pub exit: u8,
}

/// Everything there is to tell.
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// The command line.
    pub command: String,
    /// What was done, in one line.
    pub what: String,
    /// What it was done with.
    pub args: Args,
    /// The seed.
    pub seed: u64,
    /// When it ended.
    pub at: String,
    /// The machine.
    pub machine: Machine,
    /// Names of the servers.
    pub servers: Vec<String>,
    /// Everything that was measured.
    pub records: Records,
    /// What the check found.
    pub found: Found,
    /// What it cost.
    pub costs: Costs,
    /// Answers that acknowledged something.
    pub acknowledgements: u64,
    /// What a reader should know before believing the figures.
    pub warnings: Vec<String>,
}

impl Report {
    /// Puts it together.
    #[allow(clippy::too_many_arguments, reason = "each is there once")]
    pub fn new(
        args: &Args,
        seed: u64,
        servers: Vec<String>,
        is_own: bool,
        records: Records,
        found: Found,
        costs: Costs,
        acknowledgements: u64,
        interrupted: bool,
    ) -> Self {
        let command: Vec<String> =
            std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        #[expect(clippy::disallowed_methods, reason = "when a report was made stands in it")]
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        Self {
            verdict: verdict(args, &records, &found),
            command: format!("cargo bench --bench load -- {}", command.join(" ")),
            what: what(args, &servers, is_own),
            warnings: warnings(args, &records, &costs, interrupted),
            args: args.clone(),
            seed,
            at,
            machine: Machine::this(),
            servers,
            records,
            found,
            costs,
            acknowledgements,
        }
    }

    /// Calls answered in a second.
    pub fn answered_per_second(&self) -> f64 {
        (self.records.all.done + self.records.all.refused) as f64 / self.costs.wall.as_secs_f64().max(0.001)
    }

    /// Processors that were kept busy on average.
    pub fn cores(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() / self.costs.wall.as_secs_f64().max(0.001)
    }

    /// Median and 99th percentile, in milliseconds, of the first and the last tenth of the run.
    pub fn drift(&self) -> [(f64, f64); 2] {
        let width = self.records.width.as_secs_f64();
        let points = ((self.args.length().as_secs_f64() / width) as usize).min(self.records.points.len());
        let tenth = (points / 10).max(1);
        [0..tenth.min(points), points.saturating_sub(tenth)..points].map(|part| {
            let latency = self.records.latency_of(part);
            (millis(&latency, 50.0), millis(&latency, 99.0))
        })
    }

    /// The whole of it as JSON.
    pub fn json(&self) -> Value {
        let records = &self.records;
        let of_kind = |kind: &OfKind| json!({"done": kind.done, "refused": kind.refused, "failed": kind.failed, "latency_ms": latency(&kind.latency)});
        let kinds: serde_json::Map<String, Value> =
            records.kinds.iter().map(|(kind, of)| (kind.name().to_owned(), of_kind(of))).collect();
        let points: Vec<Value> = records
            .points
            .iter()
            .enumerate()
            .map(|(place, point)| {
                json!({
                    "at_s": place as f64 * records.width.as_secs_f64(),
                    "due": point.due, "answered": point.answered, "failed": point.failed, "dropped": point.dropped,
                    "in_flight": point.in_flight, "latency_ms": latency(&point.latency),
                })
            })
            .collect();
        let errors: Vec<Value> = records
            .errors
            .iter()
            .map(|((class, reason, kind), trouble)| {
                json!({
                    "class": format!("{class:?}").to_lowercase(), "reason": reason, "call": kind.name(),
                    "count": trouble.count, "first_s": trouble.first.as_secs_f64(), "last_s": trouble.last.as_secs_f64(),
                })
            })
            .collect();
        let steps: Vec<Value> = self
            .steps()
            .into_iter()
            .map(|(rate, due, dropped, step)| json!({"rate": rate, "due": due, "dropped": dropped, "calls": of_kind(step)}))
            .collect();
        let servers: Vec<Value> = self
            .servers
            .iter()
            .zip(&records.nodes)
            .map(|(name, (answered, failed))| json!({"name": name, "answered": answered, "failed": failed}))
            .collect();
        let broken: Vec<Value> =
            self.found.broken.iter().map(|(whom, what)| json!({"order": whom, "law": what})).collect();
        let cpu: serde_json::Map<String, Value> =
            self.costs.others.iter().map(|(name, cpu)| (name.clone(), json!(cpu.as_secs_f64()))).collect();
        let marks: Vec<Value> = records
            .marks
            .iter()
            .map(|mark| json!({"at_s": mark.at.as_secs_f64(), "node": mark.node, "what": mark.what}))
            .collect();
        json!({
            "verdict": self.verdict.line, "exit_code": self.verdict.exit,
            "command": self.command, "what": self.what, "seed": self.seed, "ended_at": self.at,
            "machine": {
                "cores": self.machine.cores, "cpu": self.machine.cpu, "kernel": self.machine.kernel,
                "memory_bytes": self.machine.memory, "build": self.machine.build,
            },
            "load": {
                "mode": format!("{:?}", self.args.mode).to_lowercase(), "rate_per_s": self.args.rate,
                "in_flight": self.args.places(), "mix": self.args.mix.to_string(), "wall_s": self.costs.wall.as_secs_f64(),
            },
            "arrivals": records.arrivals, "dropped": records.dropped, "moved": records.moved,
            "answered_per_s": self.answered_per_second(), "retries": records.retries,
            "all": of_kind(&records.all), "p99_of_arrivals_ms": records.p99_of_arrivals(), "calls": kinds, "steps": steps, "errors": errors, "servers": servers,
            "chaos": marks, "points": {"width_s": records.width.as_secs_f64(), "list": points},
            "tester": {
                "cpu_s": self.costs.tester.as_secs_f64(), "cores": self.cores(self.costs.tester),
                "lag_ms": latency(&records.lag),
            },
            "cpu_s": cpu,
            "memory_bytes": self.costs.memory,
            "check": {
                "orders": self.found.orders, "checked": self.found.checked, "cleared_up": self.found.cleared,
                "acknowledgements": self.acknowledgements, "broken": self.found.broken_count, "list": broken,
                "not_checked": self.found.unchecked, "took_s": self.found.took.as_secs_f64(),
                "settled_after_s": self.found.settled_after.map(|time| time.as_secs_f64()),
            },
            "warnings": self.warnings,
        })
    }

    /// The steps of a stepped rate: rate, due, dropped, calls.
    pub fn steps(&self) -> Vec<(f64, u64, u64, &OfKind)> {
        let pieces = self.args.shape.pieces(self.args.rate, self.args.length());
        let steps = self.records.steps.iter().zip(&self.records.step_due).zip(pieces);
        steps.map(|((step, (due, dropped)), piece)| (piece.to, *due, *dropped, step)).collect()
    }
}

fn latency<C: hdrhistogram::Counter>(of: &Histogram<C>) -> Value {
    if of.is_empty() {
        return Value::Null;
    }
    let mut all = serde_json::Map::new();
    for percentile in PERCENTILES {
        all.insert(format!("p{percentile}"), json!(millis(of, percentile)));
    }
    all.insert("mean".to_owned(), json!(of.mean() / 1_000.0));
    all.insert("max".to_owned(), json!(of.max() as f64 / 1_000.0));
    Value::Object(all)
}

/// What was done, in one line.
fn what(args: &Args, servers: &[String], is_own: bool) -> String {
    let load = match (args.mode, args.shape) {
        (Mode::Closed, _) => format!("closed loop, {} callers", args.places()),
        (Mode::Open, Shape::Steady | Shape::Soak) => format!("open loop, {}/s", args.rate),
        (Mode::Open, Shape::Ramp(part)) => {
            format!("open loop, ramp from {}/s to {}/s", args.rate * part, args.rate)
        }
        (Mode::Open, Shape::Step(steps)) => format!("open loop, {steps} steps up to {}/s", args.rate),
    };
    let target = if is_own {
        let store = format!("{:?}", args.own_store());
        let s = if servers.len() == 1 { "" } else { "s" };
        format!("{} own node{s} on {store}", servers.len())
    } else {
        servers.join(", ")
    };
    let broken =
        args.broken.as_ref().map(|station| format!(", BROKEN ON PURPOSE: undo of {station} is skipped"));
    format!(
        "{load} for {}, {}; {target}{}",
        super::text::time(args.length()),
        args.mix,
        broken.unwrap_or_default()
    )
}

fn verdict(args: &Args, records: &Records, found: &Found) -> Verdict {
    let failed = |line: String| Verdict { line: format!("FAIL: {line}"), exit: 1 };
    if found.broken_count > 0 {
        let named: Vec<String> = found
            .broken
            .iter()
            .take(NAMED)
            .map(|(whom, what)| format!("{whom} ({})", short(what, 120)))
            .collect();
        let more = found.broken_count - named.len() as u64;
        let more = if more > 0 { format!("; and {} more", count(more)) } else { String::new() };
        return failed(format!("{} broken: {}{more}", count(found.broken_count), named.join("; ")));
    }
    if found.is_cut_off {
        let (checked, orders) = (count(found.checked), count(found.orders));
        let line = format!(
            "INCOMPLETE: stopped when {checked} of {orders} orders were checked, none of them broken"
        );
        return Verdict { line, exit: 2 };
    }
    if records.all.done + records.all.refused == 0 {
        let first = records.errors.keys().next().map(|(_, reason, _)| format!(" ({reason})"));
        let line = format!("NOT RUN: not one call was answered{}", first.unwrap_or_default());
        return Verdict { line, exit: 2 };
    }
    let p99 = records.p99_of_arrivals();
    if let Some(most) = args.max_p99.filter(|most| p99 > most.as_secs_f64() * 1_000.0) {
        let p99 = if p99.is_finite() {
            format!("{} ms, failed calls included", ms(p99))
        } else {
            "endless: more than one in a hundred arrivals was dropped".to_owned()
        };
        return failed(format!("the p99 of all calls is {p99}; --max-p99 is {most:?}"));
    }
    let (bad, all) = records.bad();
    if let Some(most) = args.max_failed.filter(|most| bad as f64 > most * all as f64) {
        let share = percent(bad, all);
        return failed(format!("{share} of calls failed or were dropped, --max-failed is {}%", most * 100.0));
    }
    let due = match args.check {
        Check::None => 0,
        Check::Sample(sample) => found.orders.min(sample),
        Check::All => found.orders,
    };
    if args.check != Check::None && found.checked == 0 {
        let line = format!("INCOMPLETE: not one of {} orders was checked", count(found.orders));
        return Verdict { line, exit: 2 };
    }
    if found.checked < due {
        let line = format!("INCOMPLETE: {} orders were checked, not {}", count(found.checked), count(due));
        return Verdict { line, exit: 2 };
    }
    let by = if args.simulator.is_some() || args.server.is_empty() {
        "by service, history, and the books of payment and inventory"
    } else {
        "by service and history alone"
    };
    let line = match args.check {
        Check::None => "PASS, but no order was checked (--check none)".to_owned(),
        Check::Sample(_) => {
            format!(
                "PASS: a sample of {} of {} orders keeps every law, {by}",
                count(found.checked),
                count(found.orders)
            )
        }
        Check::All => format!("PASS: all {} orders keep every law, {by}", count(found.checked)),
    };
    Verdict { line, exit: 0 }
}

fn warnings(args: &Args, records: &Records, costs: &Costs, interrupted: bool) -> Vec<String> {
    let mut all = Vec::new();
    if cfg!(debug_assertions) {
        all.push("this is a debug build: the figures say nothing about a release build".to_owned());
    }
    if interrupted {
        all.push("the run was ended before its time".to_owned());
    }
    if records.dropped > 0 {
        all.push(format!(
            "{} of {} arrivals were dropped: {} calls were under way already (--in-flight)",
            count(records.dropped),
            count(records.arrivals),
            args.places()
        ));
    }
    let (bad, calls) = records.bad();
    if bad as f64 > calls as f64 * MANY_BAD {
        all.push(format!(
            "{} of calls failed or were dropped: percentiles are those of the answered ones and look better than what callers \
             saw; --max-p99 counts all",
            percent(bad, calls)
        ));
    }
    let lag = millis(&records.lag, 99.0);
    if args.mode == Mode::Open && lag > BEHIND {
        all.push(format!(
            "the tester fell behind its schedule: one call in a hundred left more than {} ms after it was due, which stands in \
             its latency; give it more of the machine, or a lower rate",
            ms(lag)
        ));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let busy = costs.tester.as_secs_f64() / costs.wall.as_secs_f64().max(0.001);
    if busy > cores / 4.0 {
        all.push(format!(
            "the tester itself kept {busy:.2} of {cores} processors busy, which the servers did not have"
        ));
    }
    all
}
