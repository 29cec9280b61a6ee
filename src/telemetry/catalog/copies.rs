//! Copies of orders, and spans of calls.

use super::{Kind, Metric, Of, Values, Zeros};

pub(super) const CACHE: &[Metric] = &[
    Metric {
        name: "order_cache_reads_total",
        kind: Kind::Counter,
        unit: "looks",
        labels: &[
            ("tier", Values::Of(&["memory", "shared"])),
            ("kind", Values::Of(&["order", "status", "list"])),
            ("outcome", Values::Of(&["hit", "miss", "stale", "error"])),
        ],
        of: Of::Node,
        zeros: Zeros::These(&[&["memory", "order", "hit"], &["memory", "order", "miss"]]),
        means: "Looks for a copy, in the owner's memory or where copies are shared: answered by it, none there, one of another \
                state or too old, or Redis away or late",
    },
    Metric {
        name: "order_cache_warmed_total",
        kind: Kind::Counter,
        unit: "orders",
        labels: &[],
        of: Of::Cluster,
        zeros: Zeros::All,
        means: "Orders that this node began to load ahead when their slots came to it",
    },
    Metric {
        name: "order_cache_redis_is_there",
        kind: Kind::Gauge,
        unit: "0 or 1",
        labels: &[],
        of: Of::Copies,
        zeros: Zeros::All,
        means: "1 while Redis answers this node in time",
    },
    Metric {
        name: "order_cache_bypassed_total",
        kind: Kind::Counter,
        unit: "looks",
        labels: &[],
        of: Of::Copies,
        zeros: Zeros::All,
        means: "Looks that were not made, since Redis is away, late, or was not told of a change",
    },
    Metric {
        name: "order_cache_writes_total",
        kind: Kind::Counter,
        unit: "copies",
        labels: &[("outcome", Values::Of(&["stored", "older", "lost"]))],
        of: Of::Copies,
        zeros: Zeros::All,
        means: "Copies for Redis: stored, not needed since a newer one was there, or lost since Redis was away or the queue full",
    },
    Metric {
        name: "order_cache_namespace_changes_total",
        kind: Kind::Counter,
        unit: "changes",
        labels: &[],
        of: Of::Copies,
        zeros: Zeros::All,
        means: "Times all copies were given up since Redis could not be told of a change",
    },
];

pub(super) const SPANS: &[Metric] = &[
    Metric {
        name: "order_trace_spans_exported_total",
        kind: Kind::Counter,
        unit: "spans",
        labels: &[("to", Values::Of(&["otlp", "print"]))],
        of: Of::Spans,
        zeros: Zeros::All,
        means: "Spans that the collector took, or that were written to the file",
    },
    Metric {
        name: "order_trace_spans_dropped_total",
        kind: Kind::Counter,
        unit: "spans",
        labels: &[("why", Values::Of(&["queue", "otlp", "print"]))],
        of: Of::Spans,
        zeros: Zeros::All,
        means: "Spans that are lost since the queue was full, the collector did not take them in time, or the file could not be \
                written",
    },
];
