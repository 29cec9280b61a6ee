//! `ops`: the listener for operators, and what it tells of the node's health.

use std::net::SocketAddr;
use std::time::Duration;

use super::read::{HOUR, MINUTE, Reader, SECOND, hours, minutes, ms};
use super::sections::{Config, Repairs};

/// From where pages are shown that tell of orders and settings, and drains are taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DebugFrom {
    /// From this machine.
    #[default]
    Loopback,
    /// From wherever the listener is reached.
    Any,
    /// From nowhere.
    None,
}

/// The listener for operators.
#[derive(Clone, Debug)]
pub struct OpsConfig {
    /// Where it listens; port 0 takes a free port.
    pub listen: SocketAddr,
    /// From where repairs are taken.
    pub repairs: Repairs,
    /// From where `/config`, `/debug` and `/drain` are answered.
    pub debug: DebugFrom,
    /// Connections at once.
    pub max_connections: usize,
    /// Largest headers of a request, in bytes.
    pub max_header_bytes: u32,
    /// Longest time for the headers of a request, and again until its answer begins.
    pub request_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// How often the store is asked whether it is there.
    pub store_ping_every: Duration,
    /// The node is not ready when the store has not answered for so long; above `store_ping_every`.
    pub store_stale_after: Duration,
    /// The node is not live when its runtime has not moved for so long.
    pub stalled_after: Duration,
    /// How often what is unfinished is counted in the store.
    pub backlog_every: Duration,
    /// Sagas that began longer ago count as stuck.
    pub stuck_after: Duration,
}

pub(super) fn read(r: &mut Reader<'_>) -> OpsConfig {
    OpsConfig {
        listen: r.address("ops.listen"),
        repairs: r.choice(
            "ops.repairs",
            &[("loopback", Repairs::Loopback), ("all", Repairs::All), ("none", Repairs::None)],
        ),
        debug: r.choice(
            "ops.debug",
            &[("loopback", DebugFrom::Loopback), ("any", DebugFrom::Any), ("none", DebugFrom::None)],
        ),
        max_connections: r.number("ops.max_connections", 1..=10_000),
        max_header_bytes: r.number("ops.max_header_bytes", 8_192..=1_048_576),
        request_timeout: r.duration("ops.request_timeout", ms(100)..=minutes(5)),
        idle_timeout: r.duration("ops.idle_timeout", ms(100)..=HOUR),
        store_ping_every: r.duration("ops.store_ping_every", ms(50)..=MINUTE),
        store_stale_after: r.duration("ops.store_stale_after", ms(100)..=minutes(10)),
        stalled_after: r.duration("ops.stalled_after", SECOND..=minutes(10)),
        backlog_every: r.duration("ops.backlog_every", ms(100)..=HOUR),
        stuck_after: r.duration("ops.stuck_after", SECOND..=hours(8_760)),
    }
}

pub(super) fn cross_check(config: &Config, r: &mut Reader<'_>) {
    let (ping, stale) = ("ops.store_ping_every", "ops.store_stale_after");
    let is_wrong = config.ops.store_stale_after <= config.ops.store_ping_every;
    if is_wrong && !r.has_error(ping) && !r.has_error(stale) {
        r.refuse(stale, format!("is not above {ping}; raise it or lower {ping}"));
    }
}
