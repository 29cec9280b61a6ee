//! `ops trace`: one trace as a tree, from the span files of several nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chrono::DateTime;
use clap::Args;

use crate::cli::{Failure, print, tell};
use crate::domain::ids::OrderNumber;
use crate::telemetry::Line;

/// Most spans that are read.
const SPANS: usize = 1_000_000;
/// From this depth on, spans are not moved further to the right.
const DEPTH: usize = 24;

#[derive(Args, Debug)]
#[command(after_help = "\
Reads what nodes, and `order-service simulate`, write where tracing.print is a file. Without --of: the trace, if there is \
one only, else a list of them. A line is: milliseconds since the first span, milliseconds it lasted, what, where, and what \
is told of it. Machines whose clocks differ show in the first column.

Examples:
  order-service ops trace a.jsonl b.jsonl simulator.jsonl
  order-service ops trace a.jsonl b.jsonl --of ORD-7K3M9Q2XYZ
  order-service ops trace a.jsonl --of 0af7651916cd43dd8448eb211c80319c")]
pub(super) struct TraceArgs {
    /// A file of spans; may be repeated.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Which traces: a trace id, or the id or number of an order that they are about.
    #[arg(long, value_name = "TRACE|ORDER")]
    of: Option<String>,
}

pub(super) fn run(arguments: &TraceArgs) -> Result<(), Failure> {
    let (mut spans, mut odd) = (Vec::new(), 0usize);
    for file in &arguments.files {
        read(file, &mut spans, &mut odd).map_err(|error| {
            Failure::Sentence(format!(
                "cannot read {} ({error}); name files that tracing.print has made",
                file.display()
            ))
        })?;
    }
    if odd > 0 {
        tell(&format!("{odd} lines are no spans, or were one too many, and are left out"));
    }
    let mut traces: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for span in spans {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    if let Some(of) = &arguments.of {
        let of = OrderNumber::parse(of).map_or_else(|| of.to_ascii_lowercase(), |number| number.to_string());
        traces.retain(|id, spans| *id == of || spans.iter().any(|span| is_about(span, &of)));
        if traces.is_empty() {
            return Err(Failure::Sentence(format!(
                "no span in these files belongs to {of}; name the files of all nodes, or look whether it was sampled"
            )));
        }
    }
    let told = match (traces.len(), &arguments.of) {
        (0, _) => String::from("No spans."),
        (1, _) | (_, Some(_)) => traces.values().map(|spans| tree(spans)).collect::<Vec<_>>().join("\n\n"),
        _ => list(&traces),
    };
    print(&told)
}

fn read(path: &Path, spans: &mut Vec<Line>, odd: &mut usize) -> std::io::Result<()> {
    for line in BufReader::new(File::open(path)?).lines() {
        let line = line?;
        match serde_json::from_str(&line) {
            Ok(span) if spans.len() < SPANS => spans.push(span),
            // A node that was killed may have written half of one.
            _ => *odd = odd.saturating_add(1),
        }
    }
    Ok(())
}

fn is_about(span: &Line, order: &str) -> bool {
    ["order.id", "order.number"].iter().any(|key| span.attributes.get(*key).is_some_and(|of| of == order))
}

/// One line a trace, the oldest first.
fn list(traces: &BTreeMap<String, Vec<Line>>) -> String {
    let mut lines: Vec<(u64, String)> = traces
        .iter()
        .filter_map(|(id, spans)| {
            let first = spans.iter().min_by_key(|span| span.start)?;
            let count = spans.len();
            let line = format!(
                "{id}  {}  {:>12}  {count:>4} spans  {}{}",
                moment(start(first)),
                millis(end(spans).saturating_sub(start(first))),
                first.name,
                orders(spans)
            );
            Some((start(first), line))
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// The spans of one trace, each below the one that has brought it about.
fn tree(spans: &[Line]) -> String {
    let first = spans.iter().map(start).min().unwrap_or_default();
    let known: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut below: BTreeMap<Option<&str>, Vec<&Line>> = BTreeMap::new();
    for span in spans {
        let parent = span.parent_span_id.as_deref().filter(|parent| known.contains(parent));
        below.entry(parent).or_default().push(span);
    }
    // The last one is taken first.
    below.values_mut().for_each(|spans| spans.sort_by_key(|span| std::cmp::Reverse(span.start)));
    let nodes: BTreeSet<(&str, &str)> =
        spans.iter().map(|span| (span.service.as_str(), span.node.as_str())).collect();
    let id = spans.first().map(|span| span.trace_id.as_str()).unwrap_or_default();
    let lasted = millis(end(spans).saturating_sub(first));
    let mut text = format!(
        "trace {id}: {} spans of {} processes, {lasted}, from {}{}",
        spans.len(),
        nodes.len(),
        moment(first),
        orders(spans)
    );
    let mut open: Vec<(usize, &Line)> = Vec::new();
    open.extend(below.remove(&None).unwrap_or_default().into_iter().map(|span| (0, span)));
    while let Some((depth, span)) = open.pop() {
        // Writing to a text does not fail.
        let _ = write!(text, "\n{}", line(span, first, depth));
        let children = below.remove(&Some(span.span_id.as_str())).unwrap_or_default();
        open.extend(children.into_iter().map(|child| (depth.saturating_add(1), child)));
    }
    text
}

fn line(span: &Line, first: u64, depth: usize) -> String {
    let indent = "  ".repeat(depth.min(DEPTH));
    let name = format!("{indent}{}", span.name);
    let mut line = format!(
        "{:>12} {:>12}  {name:<58} {:<8} {} {}",
        millis(start(span).saturating_sub(first)),
        millis(span.duration_us),
        span.kind,
        span.service,
        span.node
    );
    // Of which order it is stands above.
    let told = span.attributes.iter().filter(|(key, _)| !matches!(key.as_str(), "order.id" | "order.number"));
    let told = told.map(|(key, value)| format!("{}={value}", key.rsplit('.').next().unwrap_or(key)));
    let events = span.events.iter().map(|(name, after)| format!("{name} at {}", millis(*after)));
    let all: Vec<String> = told.chain(events).collect();
    let parent = span.parent_span_id.as_deref().filter(|_| depth == 0);
    let told = [
        (!all.is_empty()).then(|| all.join(", ")),
        span.link_span_id.as_ref().map(|link| format!("goes on from {link}")),
        parent.map(|parent| format!("asked by {parent}, which stands in none of these files")),
        span.failed.then(|| String::from("FAILED")),
    ];
    for told in told.into_iter().flatten() {
        let _ = write!(line, "  {told}");
    }
    line.trim_end().to_owned()
}

/// When it began, in microseconds since 1970.
fn start(span: &Line) -> u64 {
    u64::try_from(span.start.timestamp_micros()).unwrap_or_default()
}

fn end(spans: &[Line]) -> u64 {
    spans.iter().map(|span| start(span).saturating_add(span.duration_us)).max().unwrap_or_default()
}

/// Which orders they are about.
fn orders(spans: &[Line]) -> String {
    let of = |key: &str| spans.iter().filter_map(|span| span.attributes.get(key)).collect::<BTreeSet<_>>();
    let names: Vec<&str> = of("order.number").into_iter().chain(of("order.id")).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(", order {}", names.join(" ")) }
}

fn moment(micros: u64) -> String {
    let moment = i64::try_from(micros).ok().and_then(DateTime::from_timestamp_micros);
    moment.map(|moment| moment.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()).unwrap_or_default()
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, name: &str, start: i64) -> Line {
        Line {
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            span_id: id.into(),
            parent_span_id: parent.map(str::to_owned),
            name: name.into(),
            kind: "internal".into(),
            service: "order-service".into(),
            node: "a".into(),
            start: DateTime::from_timestamp_micros(1_764_212_400_000_000 + start).unwrap(),
            duration_us: 1_500,
            attributes: BTreeMap::from([
                ("order.id".into(), "o-1".into()),
                ("order.attempt".into(), "2".into()),
            ]),
            events: vec![("retry".into(), 10)],
            link_span_id: None,
            failed: false,
        }
    }

    #[test]
    fn a_trace_is_a_tree() {
        let mut spans = vec![
            span("c", Some("b"), "second", 30),
            span("d", Some("b"), "first", 20),
            span("b", Some("a"), "served", 10),
            span("e", Some("e"), "its own parent", 0),
        ];
        spans.push(Line { failed: true, link_span_id: Some("c".into()), ..span("f", Some("c"), "deep", 40) });
        let text = tree(&spans);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with(
            "trace 0af7651916cd43dd8448eb211c80319c: 5 spans of 1 processes, 1.540 ms, from 2025-11-27"
        ));
        assert!(lines[0].ends_with(", order o-1"), "{text}");
        let names: Vec<&str> =
            lines[1..].iter().map(|line| line[27..].split("  int").next().unwrap().trim_end()).collect();
        assert_eq!(names, ["served", "  first", "  second", "    deep"]);
        assert!(lines[1].contains("asked by a, which stands in none of these files"), "{text}");
        assert!(lines[4].ends_with("attempt=2, retry at 0.010 ms  goes on from c  FAILED"), "{text}");
        assert!(lines[4].starts_with("    0.040 ms     1.500 ms"), "{text}");
    }

    #[test]
    fn several_traces_are_listed() {
        let other =
            Line { trace_id: "ff".into(), attributes: BTreeMap::new(), ..span("a", None, "older", 0) };
        let mut traces = BTreeMap::new();
        traces.insert("0a".to_owned(), vec![span("b", None, "newer", 10)]);
        traces.insert("ff".to_owned(), vec![other]);
        let text = list(&traces);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ff  2025-11-27") && lines[0].ends_with("1 spans  older"), "{text}");
        assert!(lines[1].starts_with("0a  ") && lines[1].ends_with("newer, order o-1"), "{text}");
    }
}
