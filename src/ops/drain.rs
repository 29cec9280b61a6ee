//! Moving a node's work away before it is stopped: for hooks that run before a stop.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::Instant;

use super::pages::{json, parameter};
use super::{Attached, Surface};

/// How often it is looked whether everything is handed over.
const LOOK: Duration = Duration::from_millis(50);
/// The longest wait that can be asked for, in seconds.
const LONGEST: u64 = 600;

/// How a node's work is moved away.
pub struct Drain {
    /// Begins to hand over what other nodes can take; does nothing where there are none.
    pub begin: Box<dyn Fn() + Send + Sync>,
    /// Slots that are still to be handed over.
    pub left: Box<dyn Fn() -> usize + Send + Sync>,
    /// Whether what was begun cannot be taken back.
    pub is_final: bool,
}

type Shared = State<Arc<Surface>>;

pub(super) async fn look(State(surface): Shared) -> Response {
    match surface.attached.get() {
        Some(attached) => answer(&surface, attached, StatusCode::OK),
        None => not_started(),
    }
}

/// The node is not ready from here on; in a cluster it hands its slots over, for good. It goes on to serve until it is told
/// to stop.
pub(super) async fn begin(State(surface): Shared, uri: Uri) -> Response {
    let Some(attached) = surface.attached.get() else { return not_started() };
    let seconds = match parameter(&uri, "wait") {
        None => 0,
        Some(text) => match text.parse() {
            Ok(seconds) if seconds <= LONGEST => seconds,
            _ => {
                return (StatusCode::BAD_REQUEST, "wait is a whole number of seconds, 0 to 600\n")
                    .into_response();
            }
        },
    };
    if !surface.parts.health.is_draining() {
        tracing::info!("the node was told to drain");
    }
    surface.parts.health.drain();
    (attached.drain.begin)();
    let started = Instant::now();
    while (attached.drain.left)() > 0 && started.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(LOOK).await;
    }
    let is_done = (attached.drain.left)() == 0;
    answer(&surface, attached, if is_done { StatusCode::OK } else { StatusCode::ACCEPTED })
}

pub(super) async fn take_back(State(surface): Shared) -> Response {
    let Some(attached) = surface.attached.get() else { return not_started() };
    let health = &surface.parts.health;
    if attached.drain.is_final && health.is_draining() {
        let why = "a node of a cluster that has begun to hand over does not take part again; start it anew\n";
        return (StatusCode::CONFLICT, why).into_response();
    }
    if !health.undrain() {
        return (StatusCode::CONFLICT, "the node is stopping\n").into_response();
    }
    answer(&surface, attached, StatusCode::OK)
}

fn answer(surface: &Surface, attached: &Attached, status: StatusCode) -> Response {
    let (left, draining) = ((attached.drain.left)(), surface.parts.health.is_draining());
    let told = json!({ "draining": draining, "slots_left": left, "done": draining && left == 0 });
    json(status, &told)
}

fn not_started() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the node has not started yet\n").into_response()
}
