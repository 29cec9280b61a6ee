//! What a node of a cluster is told.

use std::time::Duration;

/// How a node takes part in its cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Its name, the same in every life.
    pub name: String,
    /// `HOST:PORT` at which other nodes reach it.
    pub address: String,
    /// Its share of the slots compared with others, 1 to 16.
    pub weight: u32,
    /// The program's version, and which build of it.
    pub version: String,
    /// Which build of it.
    pub build: String,
    /// How long its lease lasts without a renewal, by the store's clock.
    pub lease: Duration,
    /// How often the lease is renewed.
    pub renew_every: Duration,
    /// How long after the start of its last good renewal it serves what it owns; below `lease`.
    pub serve_for: Duration,
    /// As `serve_for`, for reads from memory.
    pub read_for: Duration,
    /// How often a peer is probed.
    pub probe_every: Duration,
    /// How long a probe may take.
    pub probe_timeout: Duration,
    /// How long a silent peer is waited for before it is voted out.
    pub suspect_after: Duration,
    /// Slots that are handed over at once.
    pub handover_batch: usize,
    /// How long a handover waits for calls and sagas under way.
    pub handover_rest: Duration,
    /// Calls that may wait for an owner.
    pub hold_calls: usize,
    /// How long such a call waits.
    pub hold_for: Duration,
}
