//! Connections to other nodes, and what is said over them.

mod calls;
mod server;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

pub(super) use self::calls::Calls;
pub use self::calls::{Failed, Outgoing, framed};
pub use self::server::{PeerApi, PeerRoutes};
use crate::domain::membership::{Incarnation, Member};
use crate::proto::peer as pb;
use crate::proto::peer::peer_service_client::PeerServiceClient;

/// How often a silent connection is checked, and how long an answer may take.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How much of one watch, whose reader may be slow for long, may be under way before it is read, in bytes.
const WATCH_WINDOW: u32 = 64 << 10;
/// As [`WATCH_WINDOW`], of all watches on one connection, the largest that there is: a reader that is slow must not hold up
/// others.
const WATCHES_WINDOW: u32 = (1 << 31) - 1;

/// What connections are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Windows {
    /// A few small answers.
    Few,
    /// Many streams that may stand still.
    Watches,
}

/// PEM texts for mutual TLS between nodes.
#[derive(Clone)]
pub struct PeerTls {
    /// This node's certificate chain.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// The authority of all nodes.
    pub ca: String,
    /// The name that stands in every node's certificate.
    pub name: String,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerTls({})", self.name)
    }
}

impl PeerTls {
    /// What the listener for other nodes needs: only who has a certificate of the authority gets in.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.cert, &self.key))
            .client_ca_root(Certificate::from_pem(&self.ca))
    }

    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.cert, &self.key))
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name(&self.name)
    }
}

/// What a probe found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// The life that was looked for, with the view it knows.
    Alive(i64),
    /// Another life at its address: the one looked for is over.
    Other,
    /// Nobody listens at its address.
    Nobody,
    /// No answer in time, or one that is none.
    Silence(String),
}

/// Connections by address, made when first used and again after they broke.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    tls: Option<PeerTls>,
    connect_timeout: Duration,
    windows: Windows,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Peers {
    pub(super) fn new(tls: Option<PeerTls>, connect_timeout: Duration, windows: Windows) -> Self {
        Self { tls, connect_timeout, windows, channels: Arc::default() }
    }

    /// The connection to an address. Needs the runtime that uses it.
    pub(super) fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let (stream, connection) = match self.windows {
            Windows::Few => (None, None),
            Windows::Watches => (Some(WATCH_WINDOW), Some(WATCHES_WINDOW)),
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|error| error.to_string())?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(stream)
            .initial_connection_window_size(connection)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.client()).map_err(|error| error.to_string())?;
        }
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Closes what leads to others than these.
    pub(super) fn keep(&self, addresses: &BTreeSet<&str>) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|address, _| addresses.contains(address.as_str()));
    }

    fn client(&self, address: &str) -> Result<PeerServiceClient<Channel>, String> {
        self.channel(address).map(PeerServiceClient::new)
    }

    /// Looks whether a life is there.
    pub(super) async fn probe(
        &self,
        address: &str,
        incarnation: Incarnation,
        view_version: i64,
        patience: Duration,
    ) -> Found {
        let mut client = match self.client(address) {
            Ok(client) => client,
            Err(why) => return Found::Silence(why),
        };
        let request = pb::ProbeRequest { incarnation: incarnation.0, view_version };
        let why = match timeout(patience, client.probe(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                return match answer.incarnation {
                    life if life == incarnation.0 => Found::Alive(answer.view_version),
                    // It is just starting, perhaps as the one that is looked for.
                    0 => Found::Silence(String::from("it has not joined yet")),
                    _ => Found::Other,
                };
            }
            Ok(Err(status)) => status.to_string(),
            Err(_elapsed) => return Found::Silence(String::from("no answer in time")),
        };
        // Whether somebody listens at all is told by the kernel of its machine, however busy the node is.
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Found::Nobody,
            _ => Found::Silence(why),
        }
    }

    /// Asks `helper` whether it reaches `other`.
    pub(super) async fn probe_by(&self, helper: &Member, other: &Member, patience: Duration) -> bool {
        let Ok(mut client) = self.client(&helper.address) else { return false };
        let request = pb::ProbeForRequest { incarnation: other.incarnation.0 };
        match timeout(patience, client.probe_for(request)).await {
            Ok(Ok(answer)) => answer.into_inner().reached,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Tells that there is a new view. Whoever does not hear it finds out with its next renewal.
    pub(super) async fn announce(&self, address: &str, view_version: i64, patience: Duration) {
        let Ok(mut client) = self.client(address) else { return };
        let told = timeout(patience, client.announce(pb::AnnounceRequest { view_version })).await;
        if !matches!(told, Ok(Ok(_))) {
            tracing::debug!(address, view_version, "a node was not told of a new view; it will ask");
        }
    }

    /// Asks a node to hand over all its slots.
    pub(super) async fn drain(
        &self,
        address: &str,
        node: Incarnation,
        patience: Duration,
    ) -> Result<tonic::Streaming<pb::DrainProgress>, String> {
        let mut client = self.client(address)?;
        let asked =
            timeout(patience, client.drain(Request::new(pb::DrainRequest { incarnation: node.0 }))).await;
        let answer = asked.map_err(|_elapsed| String::from("no answer in time"))?;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }
}
