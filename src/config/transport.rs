//! `grpc`, as far as it is about connections: what those may do who have not been told apart yet.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::{HOUR, Reader, SECOND, minutes, ms};

/// The connections of the public API.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Largest headers of a call, in bytes.
    pub max_header_bytes: u32,
    /// Connections on this node.
    pub max_connections: usize,
    /// Connections from one address.
    pub max_connections_per_address: usize,
    /// Longest time until a connection says that it speaks HTTP/2, and for any frame or list of headers that was begun.
    pub handshake_timeout: Duration,
    /// Longest time that a message of an answer may wait for its client to read it.
    pub write_timeout: Duration,
    /// Streams of health checks and reflection on this node.
    pub max_other_streams: usize,
    /// Streams of health checks and reflection on one connection.
    pub max_other_streams_per_connection: usize,
    /// A connection without calls is ended after this; zero = never.
    pub idle_timeout: Duration,
    /// A connection takes no more calls after this, give or take a tenth; zero = never.
    pub max_connection_age: Duration,
    /// How long its calls may go on then.
    pub max_connection_age_grace: Duration,
    /// Calls that a client has given up before they were begun.
    pub max_pending_resets: usize,
    /// Calls that the service has given up because of a client's mistakes.
    pub max_local_resets: usize,
    /// Calls given up in a second, for long.
    pub max_resets_per_second: u32,
    /// Frames that carry nothing of a call in a second, for long.
    pub max_control_frames_per_second: u32,
    /// How long the oldest change may wait, and for how long it must have been more, until changes are refused; zero = however long.
    pub shed_after: Duration,
}

const PER_SECOND: RangeInclusive<u32> = 1..=1_000_000;

pub(super) fn read(r: &mut Reader<'_>) -> TransportConfig {
    TransportConfig {
        max_header_bytes: r.number("grpc.max_header_bytes", 1_024..=1_048_576),
        max_connections: r.number("grpc.max_connections", 1..=1_000_000),
        max_connections_per_address: r.number("grpc.max_connections_per_address", 1..=1_000_000),
        handshake_timeout: r.duration("grpc.handshake_timeout", ms(100)..=minutes(2)),
        write_timeout: r.duration("grpc.write_timeout", ms(100)..=minutes(10)),
        max_other_streams: r.number("grpc.max_other_streams", 1..=1_000_000),
        max_other_streams_per_connection: r.number("grpc.max_other_streams_per_connection", 1..=100_000),
        idle_timeout: r.duration("grpc.idle_timeout", Duration::ZERO..=HOUR.saturating_mul(24)),
        max_connection_age: r.duration("grpc.max_connection_age", Duration::ZERO..=HOUR.saturating_mul(168)),
        max_connection_age_grace: r.duration("grpc.max_connection_age_grace", SECOND..=HOUR),
        max_pending_resets: r.number("grpc.max_pending_resets", 1..=100_000),
        max_local_resets: r.number("grpc.max_local_resets", 1..=100_000),
        max_resets_per_second: r.number("grpc.max_resets_per_second", PER_SECOND),
        max_control_frames_per_second: r.number("grpc.max_control_frames_per_second", PER_SECOND),
        shed_after: r.duration("grpc.shed_after", Duration::ZERO..=minutes(5)),
    }
}
