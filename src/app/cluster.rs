//! The part of a node that makes it one of several.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;

use super::stores::Opened;
use crate::cluster::{Cluster, ClusterConfig, PeerTls};
use crate::config::Config;
use crate::ports::members::MemberStore;

/// Which build of the program this is, where whoever built it says so.
pub(super) const BUILD: &str = match option_env!("ORDER_SERVICE_BUILD") {
    Some(build) => build,
    None => "local",
};

/// Joins the cluster, if the configuration says so. `listens` is where other nodes are listened to.
pub(super) async fn join(
    config: &Config,
    opened: &Opened,
    listens: SocketAddr,
) -> anyhow::Result<Arc<Cluster>> {
    let postgres = opened.postgres.clone();
    let (store, settings) = postgres.ok_or_else(|| {
        anyhow!("cluster.enabled needs a store that nodes can share; set store.url to a Postgres database")
    })?;
    let open = async move {
        let members = store.members(&settings).await?;
        Ok::<_, anyhow::Error>(Arc::new(members) as Arc<dyn MemberStore>)
    };
    let tls = tls(config)?;
    if tls.is_none() && !listens.ip().is_loopback() {
        tracing::warn!(
            listens = %listens,
            "other nodes are listened to without TLS: whoever reaches that address is believed to be a node"
        );
    }
    let connect_timeout = config.cluster.probe_timeout;
    Cluster::join(cluster_config(config, listens), tls, connect_timeout, open)
        .await
        .context("cannot join the cluster")
}

/// What nodes prove to each other who they are with; none when they do not.
pub(super) fn tls(config: &Config) -> anyhow::Result<Option<PeerTls>> {
    let Some(tls) = &config.peer.tls else { return Ok(None) };
    let read = |path: &Path, key: &str| {
        std::fs::read_to_string(path)
            .map_err(|error| anyhow!("cannot read {} ({error}); check {key}", path.display()))
    };
    Ok(Some(PeerTls {
        cert: read(&tls.cert, "peer.tls_cert")?,
        key: read(&tls.key, "peer.tls_key")?,
        ca: read(&tls.ca, "peer.tls_ca")?,
        name: tls.name.clone(),
    }))
}

/// What the node is called, in its spans as well; one that is alone goes by its address for callers.
pub(super) fn name(config: &Config, peers: Option<&TcpListener>, grpc: SocketAddr) -> String {
    let address = peers.and_then(|peers| peers.local_addr().ok()).unwrap_or(grpc);
    let advertised = config.peer.advertise.clone().filter(|_| peers.is_some());
    config.cluster.name.clone().or(advertised).unwrap_or_else(|| address.to_string())
}

fn cluster_config(config: &Config, listens: SocketAddr) -> ClusterConfig {
    let cluster = &config.cluster;
    let address = config.peer.advertise.clone().unwrap_or_else(|| listens.to_string());
    ClusterConfig {
        name: cluster.name.clone().unwrap_or_else(|| address.clone()),
        address,
        weight: cluster.weight,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: BUILD.to_owned(),
        lease: cluster.lease,
        renew_every: cluster.renew_every,
        serve_for: cluster.serve_for,
        read_for: cluster.read_for,
        probe_every: cluster.probe_every,
        probe_timeout: cluster.probe_timeout,
        suspect_after: cluster.suspect_after,
        handover_batch: cluster.handover_batch,
        handover_rest: cluster.handover_rest,
        hold_calls: cluster.hold_calls,
        hold_for: cluster.hold_for,
    }
}
