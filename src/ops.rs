//! The listener for operators: health, readiness, version and metrics over HTTP, and the service for operators over gRPC on
//! the same port. Loopback unless configured otherwise.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::grpc::AdminRoutes;
use crate::ports::store::OrderStore;
use crate::telemetry::Telemetry;

#[derive(Clone)]
struct Ops {
    store: Arc<dyn OrderStore>,
    telemetry: Telemetry,
    stopping: CancellationToken,
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn OrderStore>,
    admin: AdminRoutes,
    telemetry: Telemetry,
    stopping: CancellationToken,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let routes = Router::new()
        // Liveness never asks the store: a restart would not mend it.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(|| async { concat!(env!("CARGO_PKG_VERSION"), "\n") }))
        .route("/metrics", get(|State(ops): State<Ops>| async move { ops.telemetry.render() }))
        .with_state(Ops { store, telemetry, stopping })
        // Without its answer to what it does not know: to HTTP that would be a success.
        .merge(admin.into_axum_router().reset_fallback());
    axum::serve(listener, routes)
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(|error| format!("the ops listener failed: {error}"))
}

async fn ready(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    if ops.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match ops.store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the order store does not answer\n"),
    }
}
