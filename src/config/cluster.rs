//! `peer` and `cluster`: nodes that share a store.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::read::{HOUR, MINUTE, Reader, minutes, ms};
use super::sections::{CollaboratorUrl, Config, Profile, StoreUrl};
use super::values::host_port;

/// Longest name of a node, in bytes.
const NAME_BYTES: usize = 63;

/// `peer`. Used when `cluster.enabled`.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Where other nodes are listened to.
    pub listen: SocketAddr,
    /// `HOST:PORT` for other nodes; none = the address that is listened on.
    pub advertise: Option<String>,
    /// How nodes prove to each other who they are; none = they do not.
    pub tls: Option<PeerTls>,
}

/// PEM files for mutual TLS between nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerTls {
    /// This node's certificate, and those that lead to the authority.
    pub cert: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
    /// The authority that has signed the certificates of all nodes.
    pub ca: PathBuf,
    /// The name that stands in all of them.
    pub name: String,
}

/// `cluster`.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Whether this node shares the store with others.
    pub enabled: bool,
    /// The node's name, the same in every life; none = the address that other nodes use.
    pub name: Option<String>,
    /// Its share of the slots compared with other nodes.
    pub weight: u32,
    /// How long its lease lasts without a renewal.
    pub lease: Duration,
    /// How often the lease is renewed.
    pub renew_every: Duration,
    /// How long after the start of the last good renewal it serves what it owns.
    pub serve_for: Duration,
    /// As `serve_for`, for reads from memory.
    pub read_for: Duration,
    /// How often a peer is probed.
    pub probe_every: Duration,
    /// How long a probe may take.
    pub probe_timeout: Duration,
    /// How long a peer that says nothing is waited for before it is voted out.
    pub suspect_after: Duration,
    /// Slots that are handed over at once.
    pub handover_batch: usize,
    /// How long a handover waits for sagas to come to rest.
    pub handover_rest: Duration,
    /// How long a stopping node may take to hand over its slots.
    pub drain_timeout: Duration,
    /// Calls that may wait for a slot that has no owner for now.
    pub hold_calls: usize,
    /// How long such a call waits.
    pub hold_for: Duration,
}

pub(super) fn read_peer(r: &mut Reader<'_>) -> PeerConfig {
    let (listen, advertise) = (r.address("peer.listen"), r.optional("peer.advertise", host_port));
    let mut path = |key| r.optional(key, |text| Ok::<_, String>(PathBuf::from(text)));
    let files = (path("peer.tls_cert"), path("peer.tls_key"), path("peer.tls_ca"));
    let name = r.text("peer.tls_name").unwrap_or_default().to_owned();
    let tls = match files {
        (Some(cert), Some(key), Some(ca)) => Some(PeerTls { cert, key, ca, name }),
        (None, None, None) => None,
        (cert, key, _) => {
            let missing = match (cert, key) {
                (None, _) => "peer.tls_cert",
                (_, None) => "peer.tls_key",
                _ => "peer.tls_ca",
            };
            r.refuse(missing, "is empty while another file of peer.tls_* is set; set all three or none");
            None
        }
    };
    PeerConfig { listen, advertise, tls }
}

pub(super) fn read(r: &mut Reader<'_>) -> ClusterConfig {
    ClusterConfig {
        enabled: r.flag("cluster.enabled"),
        name: r.optional("cluster.name", node_name),
        weight: r.number("cluster.weight", 1..=16),
        lease: r.duration("cluster.lease", ms(500)..=minutes(10)),
        renew_every: r.duration("cluster.renew_every", ms(50)..=MINUTE),
        serve_for: r.duration("cluster.serve_for", ms(100)..=minutes(10)),
        read_for: r.duration("cluster.read_for", ms(50)..=minutes(10)),
        probe_every: r.duration("cluster.probe_every", ms(10)..=MINUTE),
        probe_timeout: r.duration("cluster.probe_timeout", ms(10)..=MINUTE),
        suspect_after: r.duration("cluster.suspect_after", ms(100)..=minutes(10)),
        handover_batch: r.number("cluster.handover_batch", 1..=4_096),
        handover_rest: r.duration("cluster.handover_rest", Duration::ZERO..=MINUTE),
        drain_timeout: r.duration("cluster.drain_timeout", Duration::ZERO..=HOUR),
        hold_calls: r.number("cluster.hold_calls", 1..=1_000_000),
        hold_for: r.duration("cluster.hold_for", Duration::ZERO..=minutes(10)),
    }
}

fn node_name(text: &str) -> Result<String, String> {
    let fits = text.len() <= NAME_BYTES
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
    let expected = "is not a name; write 1 to 63 letters, digits, dots, hyphens, underscores or colons";
    if fits { Ok(text.to_owned()) } else { Err(expected.to_owned()) }
}

/// What no key alone can tell.
pub(super) fn cross_check(config: &Config, r: &mut Reader<'_>) {
    let Config { cluster, peer, store, .. } = config;
    for (key, wrong, problem) in [
        (
            "cluster.renew_every",
            cluster.renew_every.saturating_mul(3) > cluster.lease,
            "is more than a third of cluster.lease; lower it or raise cluster.lease",
        ),
        (
            "cluster.serve_for",
            cluster.serve_for >= cluster.lease,
            "is not below cluster.lease; lower it or raise cluster.lease",
        ),
        (
            "cluster.read_for",
            cluster.read_for <= cluster.renew_every,
            "is not above cluster.renew_every; raise it or lower cluster.renew_every",
        ),
        (
            "cluster.read_for",
            cluster.read_for > cluster.serve_for,
            "is above cluster.serve_for; lower it or raise cluster.serve_for",
        ),
    ] {
        let keys = ["cluster.lease", "cluster.renew_every", "cluster.serve_for", "cluster.read_for"];
        if wrong && !keys.iter().any(|key| r.has_error(key)) {
            r.refuse(key, problem);
        }
    }
    if !cluster.enabled {
        return;
    }
    if matches!(store.url, StoreUrl::Sqlite(_)) && !r.has_error("store.url") {
        r.refuse(
            "cluster.enabled",
            "needs a store that nodes can share, and store.url is a SQLite file; use a Postgres database",
        );
    }
    if peer.listen.ip().is_unspecified() && peer.advertise.is_none() && !r.has_error("peer.advertise") {
        r.refuse(
            "peer.advertise",
            "is empty while peer.listen is no address that other nodes can reach; name this node's own",
        );
    }
    if config.profile == Profile::Production {
        if peer.tls.is_none() && !peer.listen.ip().is_loopback() {
            r.refuse(
                "peer.tls_cert",
                "is empty, and peer.listen is reached over a network, where whoever connects is believed to be a \
                 node; production needs peer.tls_cert, peer.tls_key and peer.tls_ca",
            );
        }
        let all = &config.collaborators;
        let is_simulated = [&all.inventory, &all.product, &all.user, &all.payment, &all.shipping]
            .contains(&&CollaboratorUrl::Simulated);
        if is_simulated {
            r.refuse(
                "cluster.enabled",
                "needs collaborators that all nodes share, and some are sim:, which each node has for itself; give \
                 their addresses in collaborators.*",
            );
        }
    }
}
