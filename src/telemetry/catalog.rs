//! Every metric there is: what it is called, what it counts, and which labels it has. A metric that is not here does not
//! exist: a test compares this with what nodes tell, and `docs/metrics.md` is made of it.
//!
//! Names are an interface, as those of the API are: alerts and dashboards of others are written against them. Labels hold
//! nothing that tells orders, users or requests apart.

mod business;
mod copies;
mod node;
mod store;

use std::fmt::Write;

use metrics::{Label, Unit};

/// What a metric is to Prometheus.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// Only grows; starts at 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets with these upper bounds, and their sum.
    Histogram(&'static [f64]),
    /// Count and sum, and quantiles of about the last minute.
    Summary,
}

/// Where there is such a metric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Of {
    /// On every node.
    Node,
    /// On nodes with a Postgres store.
    Postgres,
    /// On nodes of a cluster.
    Cluster,
    /// On nodes whose limits of callers are counted in Redis.
    Redis,
    /// On nodes that keep copies of orders in Redis.
    Copies,
    /// On nodes that record spans.
    Spans,
}

/// The values that a label may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// These.
    Of(&'static [&'static str]),
    /// Others, of which there are few; what they are.
    Few(&'static str),
}

/// Which series are there from the start, with 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zeros {
    /// One for each combination of values.
    All,
    /// Those with these values, in the order of the labels.
    These(&'static [&'static [&'static str]]),
    /// None: there is nothing to tell before it happens, or the values are not known before.
    None,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Of what its value is a number.
    pub unit: &'static str,
    /// Its labels.
    pub labels: &'static [(&'static str, Values)],
    /// Where it is.
    pub of: Of,
    /// What it says from the start.
    pub zeros: Zeros,
    /// One sentence.
    pub means: &'static str,
}

/// Upper bounds for what takes time, in seconds: from a cached read to the longest deadline.
pub(super) const SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Upper bounds for how many there are in a batch; the largest that can be set is 4096.
pub(super) const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Groups of metrics, each with its title.
pub fn groups() -> [(&'static str, &'static [Metric]); 10] {
    [
        ("Orders", business::ORDERS),
        ("Sagas and other services", business::SAGAS),
        ("Calls", business::CALLS),
        ("Actors", node::ACTORS),
        ("The store", store::STORE),
        ("Copies of orders", copies::CACHE),
        ("The cluster", store::CLUSTER),
        ("Health and operators", node::HEALTH),
        ("Traces", copies::SPANS),
        ("The process", node::PROCESS),
    ]
}

/// All metrics.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    groups().into_iter().flat_map(|(_, metrics)| metrics)
}

impl Metric {
    /// Tells the recorder what the metric means.
    pub(super) fn describe(&self) {
        let (name, means) = (self.name, self.means);
        match self.kind {
            Kind::Counter => metrics::describe_counter!(name, Unit::Count, means),
            Kind::Gauge => metrics::describe_gauge!(name, Unit::Count, means),
            Kind::Histogram(_) | Kind::Summary => metrics::describe_histogram!(name, Unit::Count, means),
        }
    }

    /// Begins the series that are there from the start.
    pub(super) fn begin(&self) {
        for values in self.first() {
            let names = self.labels.iter().map(|(name, _)| *name);
            let labels: Vec<Label> =
                names.zip(values).map(|(name, value)| Label::from_static_parts(name, value)).collect();
            match self.kind {
                Kind::Counter => metrics::counter!(self.name, labels).increment(0),
                Kind::Gauge => metrics::gauge!(self.name, labels).increment(0.0),
                Kind::Histogram(_) | Kind::Summary => drop(metrics::histogram!(self.name, labels)),
            }
        }
    }

    /// The label values of the series that are there from the start.
    fn first(&self) -> Vec<Vec<&'static str>> {
        match self.zeros {
            Zeros::None => Vec::new(),
            Zeros::These(series) => series.iter().map(|values| values.to_vec()).collect(),
            Zeros::All => self.labels.iter().fold(vec![Vec::new()], |series, (_, values)| {
                let Values::Of(values) = values else { return Vec::new() };
                let with =
                    |before: &Vec<&'static str>, value| before.iter().copied().chain([value]).collect();
                series
                    .iter()
                    .flat_map(|before| values.iter().map(move |value| with(before, *value)))
                    .collect()
            }),
        }
    }
}

/// The catalog as a page of Markdown: `docs/metrics.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for (title, metrics) in groups() {
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {title}\n\n{COLUMNS}");
        for metric in metrics {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
                Kind::Summary => "summary",
            };
            let on = match metric.of {
                Of::Node => "",
                Of::Postgres => " Only with Postgres.",
                Of::Cluster => " Only in a cluster.",
                Of::Redis => " Only where Redis counts the limits.",
                Of::Copies => " Only where copies are kept in Redis.",
                Of::Spans => " Only where spans are recorded.",
            };
            let labels: Vec<String> =
                metric.labels.iter().map(|(name, values)| label(name, *values)).collect();
            let labels = if labels.is_empty() { String::from("–") } else { labels.join("; ") };
            let Metric { name, unit, means, .. } = metric;
            let _ = writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {means}.{on} |");
        }
    }
    page.push_str(TAIL);
    page
}

fn label(name: &str, values: Values) -> String {
    match values {
        Values::Few(what) => format!("`{name}`: {what}"),
        Values::Of(values) => {
            let values: Vec<String> = values
                .iter()
                .map(|value| if value.is_empty() { "empty".into() } else { format!("`{value}`") })
                .collect();
            format!("`{name}`: {}", values.join(", "))
        }
    }
}

const COLUMNS: &str = "| name | kind | unit | labels and their values | meaning |\n|---|---|---|---|---|\n";

const HEAD: &str = "\
# Metrics

Every node tells its metrics at `/metrics` of the ops listener (`ops.listen`, 127.0.0.1:9464 by default), in the text form of
Prometheus. This page is made of `src/telemetry/catalog`; a test fails when the two differ, or when a node tells a metric that
is not here. To make it anew: `ORDER_SERVICE_WRITE=1 cargo test --locked --lib the_page_of_metrics`.

Names, labels and their values are an interface: they change only with a note in the release. Counters start at 0 with the
process. No label holds anything that tells orders, users, callers or requests apart. Series whose label values are few are
there from the start with 0, so `rate()` sees their first event.

A histogram `x` has `x_bucket`, `x_sum` and `x_count`. Upper bounds of buckets, where the unit is seconds: 0.0005, 0.001,
0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30; where it is jobs: 1, 2, 4, … 1024, 4096.

## Questions

| question | query |
|---|---|
| orders created a minute | `sum(rate(orders_created_total[5m])) * 60` |
| orders fulfilled a minute | `sum(rate(orders_fulfilled_total[5m])) * 60` |
| orders cancelled a minute, by reason | `sum by (reason) (rate(orders_cancelled_total[5m])) * 60` |
| average order value, by currency | `sum by (currency) (rate(order_value_sum[1h])) / sum by (currency) (rate(order_value_count[1h]))` |
| latency of a method, 99th percentile | `histogram_quantile(0.99, sum by (le, method) (rate(order_grpc_seconds_bucket[5m])))` |
| share of calls that failed by our fault | `sum(rate(order_grpc_seconds_count{code=~\"UNAVAILABLE\\|INTERNAL\\|UNKNOWN\\|DATA_LOSS\"}[5m])) / sum(rate(order_grpc_seconds_count[5m]))` |
| orders that call for a person | `max(orders_awaiting_attention)` |
";

const TAIL: &str = "\n\
In a cluster only the node that owns slot 0 reads `order_sagas_unfinished`, `order_sagas_stuck`, `orders_awaiting_attention` and
`orders_quarantined` from the store; the others tell 0, so take `max()`. They are counted up to 10 000.
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_page_of_metrics_is_the_catalog() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("ORDER_SERVICE_WRITE").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let told = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            told == page(),
            "docs/metrics.md is not the catalog; make it anew: \
             ORDER_SERVICE_WRITE=1 cargo test --locked --lib the_page_of_metrics"
        );
    }

    #[test]
    fn names_are_those_of_prometheus_and_no_label_names_an_order_or_a_person() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let Metric { name, kind, unit, labels, means, .. } = metric;
            assert!(names.insert(name), "{name} is there twice");
            let is_ours = ["order_", "orders_", "process_"].iter().any(|start| name.starts_with(start));
            assert!(is_ours && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')), "{name}");
            assert_eq!(matches!(kind, Kind::Counter), name.ends_with("_total"), "{name}");
            if !matches!(*kind, Kind::Counter) && *unit == "seconds" {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(!means.ends_with('.') && !means.contains('|') && !unit.is_empty(), "{name}: {means}");
            for (label, values) in *labels {
                assert!(LABELS.contains(label), "{name}: {label} is not a label that a metric may have");
                if let Values::Of(values) = values {
                    assert_eq!(values.len(), values.iter().collect::<BTreeSet<_>>().len(), "{name}: {label}");
                    assert!(values.len() <= 40, "{name}: {label}");
                }
            }
            for series in metric.first() {
                assert_eq!(series.len(), labels.len(), "{name}: {series:?}");
                for ((label, values), value) in labels.iter().zip(&series) {
                    let Values::Of(values) = values else {
                        panic!("{name}: {label} has no values to begin with")
                    };
                    assert!(values.contains(value), "{name}: {label} is never {value:?}");
                }
            }
        }
    }

    /// The labels that a metric may have: none of them is of an order, a user, a caller or a request.
    const LABELS: [&str; 25] = [
        "build",
        "code",
        "currency",
        "direction",
        "kind",
        "limit",
        "method",
        "name",
        "outcome",
        "page",
        "path",
        "pool",
        "reason",
        "repair",
        "runtime",
        "rustc",
        "saga",
        "service",
        "state",
        "step",
        "tier",
        "to",
        "value",
        "version",
        "why",
    ];
}
