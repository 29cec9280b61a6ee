//! The report as one HTML page that needs nothing else.

use std::fmt::Write;

use super::plot::{Line, Plot, escape};
use super::record::{OfKind, Point, millis};
use super::report::{PERCENTILES, Report};
use super::text::{count, ms, percent, rate, time};

/// Broken orders that are listed.
const MOST_LISTED: usize = 200;

/// The page.
pub fn html(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _written = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let (style, script) = (include_str!("page.css"), include_str!("page.js"));
    writeln!(
        out,
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{} - load test</title><style>{style}</style></head><body><main>",
        escape(report.verdict.line.split(':').next().unwrap_or_default())
    )?;
    head(out, report)?;
    for plot in [latency_over_time(report), percentiles(report), throughput(report), in_flight(report)] {
        writeln!(out, "{}", plot.figure())?;
    }
    kinds(out, report)?;
    steps(out, report)?;
    errors(out, report)?;
    servers(out, report)?;
    foot(out, report)?;
    writeln!(out, "</main><script>{script}</script></body></html>")
}

fn head(out: &mut String, report: &Report) -> std::fmt::Result {
    let (first, rest) = report.verdict.line.split_once(':').unwrap_or((&report.verdict.line, ""));
    let class = if report.verdict.exit == 0 { "" } else { " fail" };
    let rest = if rest.is_empty() { String::new() } else { format!(":{}", escape(rest)) };
    write!(out, "<div class=\"verdict{class}\"><h1><b>{}</b>{rest}</h1>", escape(first))?;
    write!(out, "<p>{}</p>", escape(&report.what))?;
    for what in &report.found.unchecked {
        write!(out, "<p>Not checked: {}</p>", escape(what))?;
    }
    for warning in &report.warnings {
        write!(out, "<p>Warning: {}</p>", escape(warning))?;
    }
    writeln!(out, "</div><div class=tiles>")?;
    let (records, latency) = (&report.records, &report.records.all.latency);
    let tiles = [
        (rate(report.answered_per_second()), "calls answered / s"),
        (format!("{} ms", ms(millis(latency, 50.0))), "p50"),
        (format!("{} ms", ms(millis(latency, 99.0))), "p99"),
        (format!("{} ms", ms(millis(latency, 99.9))), "p99.9"),
        (percent(records.all.failed, records.all.calls()), "of calls failed"),
        (percent(records.dropped, records.arrivals), "of arrivals dropped"),
        (count(report.found.checked), "orders checked"),
    ];
    for (figure, what) in tiles {
        write!(out, "<div><b>{figure}</b><span>{what}</span></div>")?;
    }
    writeln!(out, "</div>")?;
    if !report.found.broken.is_empty() {
        let all = report.found.broken.iter().take(MOST_LISTED);
        let rows = all.map(|(whom, what)| vec![format!("<code>{}</code>", escape(whom)), escape(what)]);
        table(out, "What is broken", &["order", "law"], 2, rows.collect())?;
        let more = report.found.broken_count.saturating_sub(MOST_LISTED as u64);
        if more > 0 {
            writeln!(out, "<p>and {} more</p>", count(more))?;
        }
    }
    Ok(())
}

/// A line over time: a value for each stretch, at its middle.
fn over_time(
    report: &Report,
    name: &str,
    class: &'static str,
    value: impl Fn(&Point) -> Option<f64>,
) -> Line {
    let width = report.records.width.as_secs_f64();
    // A stretch that is cut off would look like a fall.
    let whole = (report.args.length().min(report.costs.wall).as_secs_f64() / width + 1e-6) as usize;
    let point = |(place, point): (usize, &Point)| ((place as f64 + 0.5) * width, value(point));
    let points = report.records.points.iter().take(whole.max(1)).enumerate().map(point).collect();
    Line { name: name.to_owned(), class, points }
}

fn marks(report: &Report) -> Vec<(f64, &'static str, String)> {
    let mark = |mark: &super::record::Mark| {
        let class = if mark.what == "killed" { "killed" } else { "back" };
        (mark.at.as_secs_f64(), class, format!("{} {}", mark.node, mark.what))
    };
    report.records.marks.iter().map(mark).collect()
}

fn latency_over_time(report: &Report) -> Plot {
    let line = |name: &str, class, percentile: f64| {
        over_time(report, name, class, |point| {
            (!point.latency.is_empty()).then(|| millis(&point.latency, percentile))
        })
    };
    Plot {
        title: "Latency over time",
        note: "Of the calls that were due in each stretch, from the moment they were due. Logarithmic.",
        axes: ("seconds since the first call", "ms"),
        lines: vec![
            line("p50", "p50", 50.0),
            line("p90", "p90", 90.0),
            line("p99", "p99", 99.0),
            line("max", "most", 100.0),
        ],
        is_log: true,
        places: None,
        marks: marks(report),
    }
}

fn percentiles(report: &Report) -> Plot {
    let latency = &report.records.all.latency;
    // Nines: 0 is the minimum, 1 is 90%, 2 is 99%.
    let calls = latency.len() as f64;
    let most = calls.max(1.0).log10().min(6.0);
    let points = (0..=120).map(|step| f64::from(step) / 120.0 * most);
    let value =
        |nines: f64| (!latency.is_empty()).then(|| millis(latency, 100.0 * (1.0 - 10f64.powf(-nines))));
    let places = ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%"];
    Plot {
        title: "Latency by percentile",
        note: "How long the slowest calls took: each step to the right leaves a tenth of the calls. All answered calls.",
        axes: ("share of calls that took no longer", "ms"),
        lines: vec![Line {
            name: "all calls".to_owned(),
            class: "good",
            points: points.map(|nines| (nines, value(nines))).collect(),
        }],
        is_log: true,
        places: Some((0..).zip(places).map(|(nines, name)| (f64::from(nines), name.to_owned())).collect()),
        marks: Vec::new(),
    }
}

fn throughput(report: &Report) -> Plot {
    let width = report.records.width.as_secs_f64();
    let mut lines = vec![
        over_time(report, "due", "due", |point| Some(point.due as f64 / width)),
        over_time(report, "answered", "good", |point| Some(point.answered as f64 / width)),
        over_time(report, "failed", "bad", |point| Some(point.failed as f64 / width)),
    ];
    if report.records.dropped > 0 {
        lines.push(over_time(report, "dropped", "drop", |point| Some(point.dropped as f64 / width)));
    }
    Plot {
        title: "Throughput over time",
        note: "Calls that were due, were answered (also with a refusal), and failed, in each stretch.",
        axes: ("seconds since the first call", "calls / s"),
        lines,
        is_log: false,
        places: None,
        marks: marks(report),
    }
}

fn in_flight(report: &Report) -> Plot {
    Plot {
        title: "Calls under way",
        note: "The most at any moment in each stretch.",
        axes: ("seconds since the first call", "calls"),
        lines: vec![over_time(report, "under way", "busy", |point| Some(point.in_flight as f64))],
        is_log: false,
        places: None,
        marks: marks(report),
    }
}

/// A table; the first `texts` columns hold text. Cells are HTML.
fn table(
    out: &mut String,
    title: &str,
    names: &[&str],
    texts: usize,
    rows: Vec<Vec<String>>,
) -> std::fmt::Result {
    write!(out, "<h2>{title}</h2><div class=wide><table><tr>")?;
    let class = |column: usize| if column < texts { " class=text" } else { "" };
    for (column, name) in names.iter().enumerate() {
        write!(out, "<th{}>{name}</th>", class(column))?;
    }
    write!(out, "</tr>")?;
    for row in rows {
        write!(out, "<tr>")?;
        for (column, cell) in row.iter().enumerate() {
            write!(out, "<td{}>{cell}</td>", class(column))?;
        }
        write!(out, "</tr>")?;
    }
    writeln!(out, "</table></div>")
}

fn cells(of: &OfKind) -> Vec<String> {
    let mut row = vec![count(of.done), count(of.refused), count(of.failed)];
    let latency = &of.latency;
    let figure =
        |percentile: f64| if latency.is_empty() { "-".to_owned() } else { ms(millis(latency, percentile)) };
    row.extend(PERCENTILES.iter().map(|percentile| figure(*percentile)));
    row.push(figure(100.0));
    row
}

fn kinds(out: &mut String, report: &Report) -> std::fmt::Result {
    let names =
        ["call", "done", "refused", "failed", "p50 ms", "p75", "p90", "p99", "p99.9", "p99.99", "max"];
    let all = std::iter::once(("all", &report.records.all));
    let all = all.chain(report.records.kinds.iter().map(|(kind, of)| (kind.name(), of)));
    let rows = all.map(|(name, of)| [vec![name.to_owned()], cells(of)].concat());
    table(out, "By call", &names, 1, rows.collect())
}

fn steps(out: &mut String, report: &Report) -> std::fmt::Result {
    let steps = report.steps();
    if steps.is_empty() {
        return Ok(());
    }
    let names = [
        "rate / s", "due", "dropped", "done", "refused", "failed", "p50 ms", "p75", "p90", "p99", "p99.9",
        "p99.99", "max",
    ];
    let rows = steps.into_iter().map(|(per_second, due, dropped, step)| {
        [vec![rate(per_second), count(due), count(dropped)], cells(step)].concat()
    });
    table(out, "By step", &names, 1, rows.collect())
}

/// A bar as long as its part of the most.
fn bar(part: u64, most: u64, class: &str) -> String {
    let width = 180.0 * part as f64 / most.max(1) as f64;
    format!("<span class=\"bar {class}\" style=\"width:{:.0}px\"></span>", width.max(2.0))
}

fn errors(out: &mut String, report: &Report) -> std::fmt::Result {
    let all = &report.records.errors;
    if all.is_empty() {
        return writeln!(out, "<h2>Errors by reason</h2><p class=none>None.</p>");
    }
    let most = all.values().map(|trouble| trouble.count).max().unwrap_or_default();
    let rows = all.iter().map(|((class, reason, kind), trouble)| {
        let look = if *class == super::calls::Class::Failed { "bad" } else { "" };
        vec![
            escape(reason),
            kind.name().to_owned(),
            format!("{class:?}").to_lowercase(),
            bar(trouble.count, most, look),
            count(trouble.count),
            time(trouble.first),
            time(trouble.last),
        ]
    });
    table(
        out,
        "Errors by reason",
        &["reason", "call", "class", "", "count", "first", "last"],
        4,
        rows.collect(),
    )?;
    if !report.records.retries.is_empty() {
        let rows = report.records.retries.iter().map(|(reason, number)| vec![escape(reason), count(*number)]);
        table(out, "Sent again after", &["reason", "count"], 1, rows.collect())?;
    }
    Ok(())
}

fn servers(out: &mut String, report: &Report) -> std::fmt::Result {
    let nodes = &report.records.nodes;
    let (all, most) =
        (nodes.iter().map(|node| node.0).sum(), nodes.iter().map(|node| node.0).max().unwrap_or_default());
    let rows = report.servers.iter().zip(nodes).map(|(name, (answered, failed))| {
        vec![
            escape(name),
            bar(*answered, most, ""),
            count(*answered),
            percent(*answered, all),
            count(*failed),
        ]
    });
    table(out, "By server", &["server", "", "answered", "share", "failed"], 2, rows.collect())?;
    let tester = ("tester".to_owned(), report.costs.tester);
    let all: Vec<_> = std::iter::once(tester).chain(report.costs.others.clone()).collect();
    let most = all.iter().map(|(_, cpu)| cpu.as_millis() as u64).max().unwrap_or_default();
    let rows = all.iter().map(|(name, cpu)| {
        let memory = report.costs.memory.get(name).map_or_else(
            || "-".to_owned(),
            |(before, after)| {
                let mib = |bytes: &u64| format!("{:.1}", *bytes as f64 / f64::from(1 << 20));
                format!("{} to {}", mib(before), mib(after))
            },
        );
        let busy = format!("{:.2} of {}", report.cores(*cpu), report.machine.cores);
        vec![escape(name), bar(cpu.as_millis() as u64, most, ""), busy, memory]
    });
    table(out, "What it cost", &["process", "", "processors busy", "resident MiB"], 2, rows.collect())
}

fn foot(out: &mut String, report: &Report) -> std::fmt::Result {
    let (machine, lag, found) = (&report.machine, &report.records.lag, &report.found);
    writeln!(out, "<h2>How it was taken</h2><ul>")?;
    let facts = [
        format!("<code>{}</code>", escape(&report.command)),
        format!("Seed {}, ended {}, {} of load.", report.seed, report.at, time(report.costs.wall)),
        format!(
            "{} cores, {}, {:.1} GiB, {}, {} build.",
            machine.cores,
            escape(&machine.cpu),
            machine.memory as f64 / f64::from(1 << 30),
            escape(&machine.kernel),
            machine.build
        ),
        format!(
            "The tester shares the machine with its own nodes. It sent calls {} ms after they were due (p50), {} ms (p99), {} \
             ms at most.",
            ms(millis(lag, 50.0)),
            ms(millis(lag, 99.0)),
            ms(millis(lag, 100.0))
        ),
        format!(
            "Checked {} of {} orders with {} acknowledgements in {}; {} calls without an answer were cleared up.",
            count(found.checked),
            count(found.orders),
            count(report.acknowledgements),
            time(found.took),
            count(found.cleared)
        ),
    ];
    for fact in facts {
        write!(out, "<li>{fact}</li>")?;
    }
    writeln!(out, "</ul>")
}
