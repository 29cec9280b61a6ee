//! A node and its process.

use super::{Kind, Metric, Of, Values, Zeros};

/// A metric of every node without labels.
const fn plain(name: &'static str, kind: Kind, unit: &'static str, means: &'static str) -> Metric {
    Metric { name, kind, unit, labels: &[], of: Of::Node, zeros: Zeros::All, means }
}

/// A counter of time of every node, which [`super::super::Telemetry::count_time`] sets.
const fn time(name: &'static str, means: &'static str) -> Metric {
    Metric { zeros: Zeros::None, ..plain(name, Kind::Counter, "seconds", means) }
}

pub(super) const ACTORS: &[Metric] = &[
    plain("order_actors_live", Kind::Gauge, "orders", "Orders in memory, each with its actor"),
    plain("order_actors_live_limit", Kind::Gauge, "orders", "How many there may be: actor.max_live"),
    plain("order_actor_activations_total", Kind::Counter, "actors", "Actors started"),
    plain(
        "order_actor_passivations_total",
        Kind::Counter,
        "actors",
        "Actors that left memory since nobody asked for their order for actor.idle_after",
    ),
    plain(
        "order_actor_failures_total",
        Kind::Counter,
        "actors",
        "Actors that ended by a panic or an error of their own; the next one loads its order afresh",
    ),
    plain(
        "order_actors_refused_total",
        Kind::Counter,
        "commands",
        "Commands refused because as many orders are in memory as may be",
    ),
    plain(
        "order_commands_refused_total",
        Kind::Counter,
        "commands",
        "Commands refused because too many were in flight for their order",
    ),
    plain(
        "order_quarantined_total",
        Kind::Counter,
        "orders",
        "Times an order was left alone for a while because its actor kept failing",
    ),
    plain(
        "order_corrupt_reads_total",
        Kind::Counter,
        "reads",
        "Reads for callers that met rows which make no sense",
    ),
];

pub(super) const HEALTH: &[Metric] = &[
    plain("order_node_ready", Kind::Gauge, "0 or 1", "1 while /readyz answers 200"),
    plain("order_node_live", Kind::Gauge, "0 or 1", "1 while /healthz answers 200"),
    plain(
        "order_node_draining",
        Kind::Gauge,
        "0 or 1",
        "1 from the moment on at which the node stops or is drained",
    ),
    Metric {
        name: "order_runtime_beat_age_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        labels: &[("runtime", Values::Of(&["main", "cluster"]))],
        of: Of::Node,
        zeros: Zeros::All,
        means: "Since when a runtime has not moved, 0 of one that there is not; from ops.stalled_after on the node is not live",
    },
    Metric {
        name: "order_ops_connections_refused_total",
        kind: Kind::Counter,
        unit: "connections",
        labels: &[],
        of: Of::Node,
        zeros: Zeros::All,
        means: "Connections to the ops listener that found no place: ops.max_connections are open",
    },
    Metric {
        name: "order_ops_requests_total",
        kind: Kind::Counter,
        unit: "requests",
        labels: &[(
            "path",
            Values::Of(&[
                "/metrics",
                "/healthz",
                "/readyz",
                "/startupz",
                "/version",
                "/config",
                "/drain",
                "/debug",
                "grpc",
                "other",
            ]),
        )],
        of: Of::Node,
        zeros: Zeros::All,
        means: "Requests to the ops listener, by path; everything below /debug is one",
    },
];

pub(super) const PROCESS: &[Metric] = &[
    Metric {
        name: "order_build_info",
        kind: Kind::Gauge,
        unit: "1",
        labels: &[
            ("version", Values::Few("of the package")),
            ("build", Values::Few("what whoever built it calls it")),
            ("rustc", Values::Few("the compiler's version")),
        ],
        of: Of::Node,
        zeros: Zeros::None,
        means: "Always 1; the labels say which build runs",
    },
    plain(
        "process_start_time_seconds",
        Kind::Gauge,
        "seconds",
        "When the process was started, in seconds since 1970",
    ),
    time("process_cpu_seconds_total", "Time on processors, in user and system mode"),
    plain("process_resident_memory_bytes", Kind::Gauge, "bytes", "Memory that is resident"),
    plain("process_virtual_memory_bytes", Kind::Gauge, "bytes", "Address space that is in use"),
    plain("process_threads", Kind::Gauge, "threads", "Threads"),
    plain("process_open_fds", Kind::Gauge, "descriptors", "Open file descriptors"),
    plain("process_max_fds", Kind::Gauge, "descriptors", "File descriptors that may be open"),
    plain("order_runtime_workers", Kind::Gauge, "threads", "Worker threads of the main runtime"),
    plain("order_runtime_tasks", Kind::Gauge, "tasks", "Tasks of the main runtime that have not ended"),
    plain(
        "order_runtime_queue_depth",
        Kind::Gauge,
        "tasks",
        "Tasks that wait for any worker of the main runtime to be free",
    ),
    time(
        "order_runtime_busy_seconds_total",
        "Time in which workers of the main runtime were busy, all together",
    ),
];
