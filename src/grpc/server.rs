//! The gRPC listener: services, limits, health and reflection.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use super::admin_service::AdminApi;
use super::connection::TransportLimits;
use super::front::Front;
use super::known::Known;
use super::order_service::OrderApi;
use super::scope::Scoped;
use super::{accept, connection};
use crate::cluster::{Cluster, PeerApi, PeerTls};
use crate::proto::served::order_service_server::OrderServiceServer;
use crate::proto::{self};
use crate::tls::{HandshakeLimits, ServerTls, secured};

/// How often it is looked whether health has changed.
const LOOK: Duration = Duration::from_millis(250);
/// How much larger than a caller's request a forwarded one may be, in bytes.
const ADDED_BYTES: usize = 1_024;
/// What a node may send to another before that one has read it, in bytes: calls of many share a connection.
const PEER_WINDOW: u32 = 4 << 20;
/// Calls that another node may have given up before this one has looked at them: those of many callers come over one
/// connection, which would end for all of them.
const PEER_RESETS: usize = 16_384;

/// How long after the longest deadline a call is ended from outside.
const AFTERTHOUGHT: Duration = Duration::from_secs(1);

/// Limits of the listener.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Largest request, in bytes.
    pub max_message_bytes: usize,
    /// Streams at once on one connection.
    pub max_streams_per_connection: u32,
    /// Longest a request may take, its answer included.
    pub max_deadline: Duration,
    /// How often an idle connection is asked whether it lives; it is closed when it does not answer as long again.
    pub keepalive: Duration,
    /// Whether clients may ask for the protos.
    pub reflection: bool,
    /// Limits of the connections; the listener for other nodes has its own.
    pub transport: TransportLimits,
}

/// What other nodes are served.
pub struct PeerServices {
    /// Calls that are forwarded.
    pub orders: OrderApi,
    /// Calls of operators that are forwarded; none where this node takes no repairs.
    pub admin: Option<AdminApi>,
    /// What nodes say to each other.
    pub cluster: Arc<Cluster>,
}

/// Serves other nodes until `shutdown`, then finishes what runs.
///
/// # Errors
/// When the listener fails, or `tls` makes no sense.
pub async fn serve_peers(
    listener: TcpListener,
    services: PeerServices,
    config: &GrpcConfig,
    tls: Option<PeerTls>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), String> {
    let failed = |error: tonic::transport::Error| format!("the listener for other nodes failed: {error}");
    // What callers may send, and a request id that the other node has added.
    let max_bytes = config.max_message_bytes.saturating_add(ADDED_BYTES);
    let orders = Scoped(OrderServiceServer::new(services.orders).max_decoding_message_size(max_bytes));
    let mut others = RoutesBuilder::default();
    others.add_service(PeerApi::routes(services.cluster, max_bytes));
    if let Some(admin) = services.admin {
        others.add_service(admin.into_service(max_bytes));
    }
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls.server()).map_err(failed)?;
    }
    server
        .timeout(config.max_deadline.saturating_add(AFTERTHOUGHT))
        .http2_max_pending_accept_reset_streams(Some(PEER_RESETS))
        .initial_stream_window_size(PEER_WINDOW)
        .initial_connection_window_size(PEER_WINDOW)
        .http2_keepalive_interval(Some(config.keepalive))
        .http2_keepalive_timeout(Some(config.keepalive))
        .serve_with_incoming_shutdown(
            Front::new(orders, others.routes()),
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown,
        )
        .await
        .map_err(failed)
}

/// With what the public listener is secured.
#[derive(Clone, Debug)]
pub struct Secured {
    /// Its certificates.
    pub tls: Arc<ServerTls>,
    /// What handshakes may take.
    pub limits: HandshakeLimits,
}

/// Serves until `shutdown`, then finishes what runs. From `draining` on it says that it should not be sent more, and before
/// that whenever `serves` says so.
///
/// # Errors
/// When the descriptors for reflection cannot be read.
pub async fn serve(
    listener: TcpListener,
    api: OrderApi,
    config: &GrpcConfig,
    tls: Option<Secured>,
    serves: impl Fn() -> bool + Send,
    draining: impl Future<Output = ()> + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), String> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<OrderServiceServer<OrderApi>>().await;
    let mut others = RoutesBuilder::default();
    others.add_service(health_service);
    if config.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("order.v1.OrderService")
                .with_service_name("grpc.health.v1.Health")
        };
        let failed = |error| format!("reflection cannot be served: {error}");
        others.add_service(builder().build_v1().map_err(failed)?);
        // Many tools still ask by the older name.
        others.add_service(builder().build_v1alpha().map_err(failed)?);
    }
    let orders = Scoped(OrderServiceServer::new(api).max_decoding_message_size(config.max_message_bytes));
    let stopping = async {
        let mut was_serving = true;
        let follow = async {
            let mut look = tokio::time::interval(LOOK);
            loop {
                look.tick().await;
                let is_serving = serves();
                if is_serving != was_serving {
                    was_serving = is_serving;
                    let status = match is_serving {
                        true => ServingStatus::Serving,
                        false => ServingStatus::NotServing,
                    };
                    health.set_service_status(OrderServiceServer::<OrderApi>::NAME, status).await;
                    health.set_service_status("", status).await;
                }
            }
        };
        tokio::select! {
            () = draining => {}
            () = follow => {}
        }
        // Load balancers look away before the last requests are answered.
        health.set_not_serving::<OrderServiceServer<OrderApi>>().await;
        health.set_service_status("", ServingStatus::NotServing).await;
        shutdown.await;
    };
    let service = Known::new(Front::new(orders, others.routes()));
    let limits = &config.transport;
    let incoming = accept::accept(listener, limits.max_connections, limits.max_connections_per_address);
    match tls {
        None => connection::serve(incoming, service, config, stopping).await,
        Some(Secured { tls, limits }) => {
            let incoming = secured(Box::pin(incoming), tls, limits);
            connection::serve(incoming, service, config, stopping).await;
        }
    }
    Ok(())
}
