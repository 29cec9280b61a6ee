//! The report for a terminal.

use std::fmt::Write;

use super::record::{OfKind, millis};
use super::report::Report;
use super::shape::Shape;
use super::text::{count, ms, percent, rate, time};

/// Broken orders that are listed.
const MOST_LISTED: usize = 20;

/// The report as text; the first line is the verdict.
pub fn table(report: &Report) -> String {
    let mut text = format!("{}\n", report.verdict.line);
    // Writing to a string does not fail.
    let _written = write(&mut text, report);
    text
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let records = &report.records;
    let found = &report.found;
    for what in &found.unchecked {
        writeln!(out, "      not checked: {what}")?;
    }
    if found.broken.len() > 3 {
        for (whom, what) in found.broken.iter().take(MOST_LISTED) {
            writeln!(out, "  {whom}  {what}")?;
        }
        if found.broken_count > MOST_LISTED as u64 {
            writeln!(
                out,
                "  and {} more; --json lists up to 1,000",
                count(found.broken_count - MOST_LISTED as u64)
            )?;
        }
    }
    writeln!(out, "\n{}", report.what)?;
    writeln!(
        out,
        "{} arrivals, {} dropped; {} calls answered a second for {}; {} sent again, {} moved to another server unsent",
        count(records.arrivals),
        count(records.dropped),
        rate(report.answered_per_second()),
        time(report.costs.wall),
        count(records.retries.values().sum()),
        count(records.moved),
    )?;
    writeln!(
        out,
        "check: {} acknowledgements of {} orders, {} orders read back, {} in doubt cleared up, settled {} after the last call, \
         took {}",
        count(report.acknowledgements),
        count(found.orders),
        count(found.checked),
        count(found.cleared),
        found.settled_after.map_or_else(|| "at once".to_owned(), time),
        time(found.took),
    )?;

    writeln!(
        out,
        "\nlatency in ms from the intended start\n{:<14}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "call", "done", "refused", "failed", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    )?;
    row(out, "all", &records.all)?;
    for (kind, of) in &records.kinds {
        row(out, kind.name(), of)?;
    }
    let steps = report.steps();
    if !steps.is_empty() {
        writeln!(
            out,
            "\nsteps\n{:<14}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "rate /s", "due", "dropped", "failed", "p50", "p90", "p99", "max"
        )?;
        for (per_second, due, dropped, step) in steps {
            let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|part| ms(millis(&step.latency, part)));
            let most = ms(millis(&step.latency, 100.0));
            let (name, due, dropped, failed) =
                (rate(per_second), count(due), count(dropped), count(step.failed));
            writeln!(out, "{name:<14}{due:>10}{dropped:>10}{failed:>9}{p50:>9}{p90:>9}{p99:>9}{most:>9}")?;
        }
    }
    if !records.errors.is_empty() {
        writeln!(out, "\n{:<9}{:<52}{:<12}{:>8}{:>10}{:>9}", "", "reason", "call", "count", "first", "last")?;
        for ((class, reason, kind), trouble) in &records.errors {
            let class = format!("{class:?}").to_lowercase();
            let (first, last) = (time(trouble.first), time(trouble.last));
            let (kind, number) = (kind.name(), count(trouble.count));
            writeln!(out, "{class:<9}{reason:<52}{kind:<12}{number:>8}{first:>10}{last:>9}")?;
        }
    }
    for (reason, number) in &records.retries {
        writeln!(out, "sent again {} times after {reason}", count(*number))?;
    }
    if !records.marks.is_empty() {
        let all: Vec<String> = records
            .marks
            .iter()
            .map(|mark| format!("{} {} at {}", mark.node, mark.what, time(mark.at)))
            .collect();
        writeln!(out, "\nchaos: {}", all.join(", "))?;
    }
    writeln!(out, "\n{:<30}{:>10}{:>9}{:>9}", "server", "answered", "share", "failed")?;
    let all: u64 = records.nodes.iter().map(|(answered, _)| answered).sum();
    for (name, (answered, failed)) in report.servers.iter().zip(&records.nodes) {
        let share = percent(*answered, all);
        writeln!(out, "{name:<30}{:>10}{share:>9}{:>9}", count(*answered), count(*failed))?;
    }
    costs(out, report)?;
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

fn row(out: &mut String, name: &str, of: &OfKind) -> std::fmt::Result {
    let latency = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0].map(|part| match of.latency.is_empty() {
        true => "-".to_owned(),
        false => ms(millis(&of.latency, part)),
    });
    write!(out, "{name:<14}{:>10}{:>10}{:>9}", count(of.done), count(of.refused), count(of.failed))?;
    for value in latency {
        write!(out, "{value:>9}")?;
    }
    writeln!(out)
}

fn costs(out: &mut String, report: &Report) -> std::fmt::Result {
    let machine = &report.machine;
    write!(out, "\nprocessors kept busy: tester {:.2}", report.cores(report.costs.tester))?;
    for (name, cpu) in &report.costs.others {
        write!(out, ", {name} {:.2}", report.cores(*cpu))?;
    }
    writeln!(out, " (of {})", machine.cores)?;
    let lag = &report.records.lag;
    writeln!(
        out,
        "the tester sent calls {} ms after they were due (p50), {} ms (p99), {} ms at most",
        ms(millis(lag, 50.0)),
        ms(millis(lag, 99.0)),
        ms(millis(lag, 100.0))
    )?;
    if report.args.shape == Shape::Soak {
        let [(p50, p99), (p50_last, p99_last)] = report.drift();
        writeln!(
            out,
            "soak: first tenth p50 {} ms, p99 {} ms; last tenth p50 {} ms, p99 {} ms",
            ms(p50),
            ms(p99),
            ms(p50_last),
            ms(p99_last)
        )?;
        for (name, (before, after)) in &report.costs.memory {
            let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
            writeln!(
                out,
                "soak: memory of {name} {:.1} MiB at the start, {:.1} MiB at the end",
                mib(before),
                mib(after)
            )?;
        }
    }
    writeln!(
        out,
        "{} cores, {}, {}, {} build, seed {}\n{}",
        machine.cores, machine.cpu, machine.kernel, machine.build, report.seed, report.command
    )
}
