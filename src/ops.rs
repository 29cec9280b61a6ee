//! The listener for operators: health, readiness, version and metrics over HTTP, and the service for operators over gRPC on
//! the same port. Loopback unless configured otherwise.

mod log;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use tokio::net::TcpListener;
use tower::util::MapRequestLayer;

use crate::grpc::{AdminRoutes, Peer};
use crate::ports::store::OrderStore;
use crate::telemetry::Telemetry;

/// Tells whether the node should be sent calls, as far as that is not up to the store; or why not, as one line.
pub type Readiness = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

#[derive(Clone)]
struct Ops {
    store: Arc<dyn OrderStore>,
    telemetry: Telemetry,
    readiness: Readiness,
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn OrderStore>,
    admin: Option<AdminRoutes>,
    telemetry: Telemetry,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let levels = telemetry.clone();
    let routes = Router::new()
        // Liveness never asks the store: a restart would not mend it.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(|| async { concat!(env!("CARGO_PKG_VERSION"), "\n") }))
        .route("/metrics", get(|State(ops): State<Ops>| async move { ops.telemetry.render() }))
        .with_state(Ops { store, telemetry, readiness });
    let routes = routes.merge(log::routes(&levels));
    let routes = match admin {
        // Without its answer to what it does not know: to HTTP that would be a success.
        Some(admin) => routes
            .merge(admin.into_axum_router().reset_fallback().layer(MapRequestLayer::new(note_peer::<Body>))),
        None => routes,
    };
    axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(|error| format!("the ops listener failed: {error}"))
}

/// Notes where a request comes from, for those who take it from some places only.
fn note_peer<B>(mut request: Request<B>) -> Request<B> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| Peer(peer.0.ip()));
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    request
}

async fn ready(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    if let Err(why) = (ops.readiness)() {
        return (StatusCode::SERVICE_UNAVAILABLE, why);
    }
    match ops.store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the order store does not answer\n"),
    }
}
