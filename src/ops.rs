//! The listener for operators: health, metrics and pages over HTTP, and the service for operators over gRPC on the same port.
//! Loopback unless configured otherwise.
//!
//! It has threads of its own, so that it answers also while the node starts, and when the runtime of the orders is stuck.

mod drain;
mod health;
mod listener;
mod log;
mod notify;
mod pages;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

pub use self::drain::Drain;
pub use self::health::{Finding, Health, HealthConfig, Look, Report};
pub use self::listener::Limits;
pub use self::notify::Notifier;
use crate::grpc::{AdminRoutes, CERTIFICATE_HEADER, Peer};
use crate::telemetry::Telemetry;

/// Threads: one may be busy with metrics and one with a page, and health is answered all the same.
const WORKERS: usize = 3;
/// How long what runs may go on when the listener has stopped.
const GOODBYE: Duration = Duration::from_millis(100);

/// From where pages are shown that tell of orders and settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShownTo {
    /// This machine.
    Loopback,
    /// Whoever reaches the listener.
    Anybody,
    /// Nobody.
    Nobody,
}

/// What the listener needs from the start.
pub struct Parts {
    /// What it tells of the node's health.
    pub health: Arc<Health>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Limits of its connections.
    pub limits: Limits,
    /// From where `/config`, `/debug` and `/drain` are answered.
    pub shown_to: ShownTo,
    /// `/config`.
    pub config: Value,
    /// `/version` as JSON.
    pub build: Value,
    /// Whoever started the process and wants to know how it does.
    pub notifier: Option<Notifier>,
}

/// A page of `/debug`.
pub struct Page {
    /// Its last part.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub says: &'static str,
    /// Makes it, from what is in memory; must not wait for anything.
    pub make: Box<dyn Fn() -> Value + Send + Sync>,
}

/// What the listener has once the node has started.
pub struct Attached {
    /// The service for operators; none where no repairs are taken.
    pub admin: Option<AdminRoutes>,
    /// Where that service runs.
    pub main: Handle,
    /// Brings gauges up to date that are looked at only when they are asked for.
    pub sample: Box<dyn Fn() + Send + Sync>,
    /// The pages of `/debug`.
    pub pages: Vec<Page>,
    /// Moving the node's work away.
    pub drain: Drain,
}

/// What all requests share.
struct Surface {
    parts: Parts,
    attached: OnceLock<Attached>,
    admin: OnceLock<Router>,
    /// Metrics are told to one at a time, and so are pages: neither may take all threads.
    scrapes: Semaphore,
    debugging: Semaphore,
}

/// The running listener. Ends when dropped.
pub struct Ops {
    surface: Arc<Surface>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
}

impl Ops {
    /// Serves on threads of its own.
    ///
    /// # Errors
    /// When there are no such threads, or the listener cannot be used there.
    pub fn start(listener: TcpListener, parts: Parts) -> std::io::Result<Self> {
        let listener = listener.into_std()?;
        let runtime =
            Builder::new_multi_thread().worker_threads(WORKERS).thread_name("ops").enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let surface = Arc::new(Surface {
            parts,
            attached: OnceLock::new(),
            admin: OnceLock::new(),
            scrapes: Semaphore::new(1),
            debugging: Semaphore::new(1),
        });
        let (stop, (ending, ended)) = (CancellationToken::new(), watch::channel(false));
        let (shared, stopped) = (Arc::clone(&surface), stop.clone());
        std::thread::Builder::new().name(String::from("ops-listener")).spawn(move || {
            runtime.block_on(run(listener, shared, stopped));
            runtime.shutdown_timeout(GOODBYE);
            let _heard = ending.send(true);
        })?;
        Ok(Self { surface, stop, ended })
    }

    /// The node has started.
    pub fn attach(&self, mut attached: Attached) {
        if let Some(admin) = attached.admin.take() {
            // Without its answer to what it does not know: to HTTP that would be a success.
            let _once = self.surface.admin.set(admin.into_axum_router().reset_fallback());
        }
        let _once = self.surface.attached.set(attached);
    }

    /// Ends it without waiting for anything.
    pub fn abort(&self) {
        self.stop.cancel();
    }

    /// Takes no more requests and waits until what runs has ended, for at most `patience`.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.cancel();
        let _late = tokio::time::timeout(patience, self.ended.wait_for(|ended| *ended)).await;
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(listener: TcpListener, surface: Arc<Surface>, stop: CancellationToken) {
    let health = Arc::clone(&surface.parts.health);
    let limits = surface.parts.limits;
    let notifying = async {
        if let Some(notifier) = &surface.parts.notifier {
            notifier.run(&health, &stop).await;
        }
    };
    // Both end when it is stopped, each in its own way.
    let serving =
        async { tokio::join!(listener::serve(listener, routes(&surface), limits, stop.clone()), notifying) };
    tokio::select! {
        ((), ()) = serving => {}
        () = health.watch() => {}
    }
}

fn routes(surface: &Arc<Surface>) -> Router {
    Router::new()
        .route("/", get(pages::index))
        .route("/healthz", get(pages::live))
        .route("/readyz", get(pages::ready))
        .route("/startupz", get(pages::startup))
        .route("/version", get(pages::version))
        .route("/metrics", get(pages::metrics))
        .route("/config", get(pages::config))
        .route("/debug", get(pages::index))
        .route("/debug/{name}", get(pages::debug))
        .route("/drain", get(drain::look).post(drain::begin).delete(drain::take_back))
        .route("/order.admin.v1.OrderAdminService/{method}", any(admin))
        .fallback(unknown)
        .with_state(Arc::clone(surface))
        .merge(log::routes(&surface.parts.telemetry))
        .layer(from_fn_with_state(Arc::clone(surface), guard))
}

/// What every request goes by: who may ask, and how long the answer may take.
async fn guard(State(surface): State<Arc<Surface>>, mut request: Request, next: Next) -> Response {
    // Only the public listener sees certificates, and it says so under this name.
    request.headers_mut().remove(&CERTIFICATE_HEADER);
    let path = request.uri().path();
    let known = ["/metrics", "/healthz", "/readyz", "/startupz", "/version", "/config", "/drain"];
    let is_call = path.starts_with("/order.admin.v1.");
    let counted = match known.into_iter().find(|known| *known == path) {
        Some(known) => known,
        None if path.starts_with("/debug") => "/debug",
        None if is_call => "grpc",
        None => "other",
    };
    metrics::counter!("order_ops_requests_total", "path" => counted).increment(1);
    let is_restricted = matches!(counted, "/config" | "/drain" | "/debug") && path != "/debug";
    if is_restricted && let Err(why) = may_see(&surface, &request) {
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    if is_call && let Err(why) = may_call(&request) {
        return match request.version() {
            Version::HTTP_2 => refusal(PERMISSION_DENIED, why),
            _ => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
        };
    }
    // Calls bring deadlines of their own, and whoever drains says how long to wait.
    if is_call || counted == "/drain" {
        return next.run(request).await;
    }
    let answered = tokio::time::timeout(surface.parts.limits.request_timeout, next.run(request)).await;
    answered.unwrap_or_else(|_late| {
        (StatusCode::SERVICE_UNAVAILABLE, "this took longer than ops.request_timeout\n").into_response()
    })
}

/// Whether pages that tell of orders and settings are shown to whoever asks.
fn may_see(surface: &Surface, request: &Request) -> Result<(), &'static str> {
    match surface.parts.shown_to {
        ShownTo::Anybody => return Ok(()),
        ShownTo::Loopback if is_here(request) => {}
        ShownTo::Loopback => {
            return Err("this is shown on the node's own machine only; ask from there, or set ops.debug\n");
        }
        ShownTo::Nobody => return Err("this is not shown, since ops.debug is none\n"),
    }
    // A web page that an operator's browser shows comes from this machine, too.
    if is_of_web_page(request) || !names_this_machine(request) {
        return Err("this is not for web pages; use curl with the address of the listener\n");
    }
    Ok(())
}

/// Whether calls of operators are taken that come in such a request; whose they are is checked later. From this machine they
/// need no token, and a web page that an operator's browser shows there must get nothing done by that.
fn may_call(request: &Request) -> Result<(), &'static str> {
    // Without TLS no browser speaks it.
    if request.version() != Version::HTTP_2 {
        return Err(
            "calls of operators are taken over HTTP/2 only; use order-service ops or a client of gRPC",
        );
    }
    if is_of_web_page(request) {
        return Err("this is not for web pages; use order-service ops or a client of gRPC");
    }
    if is_here(request) && !names_this_machine(request) {
        return Err("from the node's own machine name the listener by an address or as localhost");
    }
    Ok(())
}

/// Whether it comes from the node's own machine.
fn is_here(request: &Request) -> bool {
    request.extensions().get::<Peer>().is_some_and(|peer| peer.is_here())
}

/// Whether a browser says which page it asks for.
fn is_of_web_page(request: &Request) -> bool {
    request.headers().contains_key(header::ORIGIN)
}

/// Whether the request names the listener by an address, or as the machine it is on: a name that somebody else has made
/// point here is none of ours. HTTP/2 names it in its target, and may do so in a header as well.
fn names_this_machine(request: &Request) -> bool {
    let target = request.uri().authority().is_none_or(|named| is_of_this_machine(named.as_str()));
    let mut headers = request.headers().get_all(header::HOST).into_iter();
    target && headers.all(|host| host.to_str().is_ok_and(is_of_this_machine))
}

/// Whether that is an address or localhost, with a port or without.
fn is_of_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// Calls of operators run where the orders do.
async fn admin(State(surface): State<Arc<Surface>>, request: Request) -> Response {
    let Some(attached) = surface.attached.get() else {
        return refusal(UNAVAILABLE, "the node has not started yet");
    };
    let Some(routes) = surface.admin.get().cloned() else {
        return refusal(UNIMPLEMENTED, "no repairs are taken here, since ops.repairs is none");
    };
    // It ends with whoever asked.
    match AbortOnDropHandle::new(attached.main.spawn(routes.oneshot(request))).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(never)) => match never {},
        Err(_stopped) => refusal(UNAVAILABLE, "the node is stopping"),
    }
}

/// The codes of gRPC that are answered here.
const PERMISSION_DENIED: &str = "7";
const UNIMPLEMENTED: &str = "12";
const UNAVAILABLE: &str = "14";

/// How gRPC is told that a call was not even begun.
fn refusal(code: &'static str, why: &'static str) -> Response {
    let told = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (HeaderName::from_static("grpc-status"), HeaderValue::from_static(code)),
        (HeaderName::from_static("grpc-message"), HeaderValue::from_static(why)),
    ];
    (StatusCode::OK, told).into_response()
}

async fn unknown(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    match kind.starts_with(b"application/grpc") {
        true => refusal(UNIMPLEMENTED, "this listener serves order.admin.v1 alone"),
        false => (StatusCode::NOT_FOUND, "there is no such page; / lists them all\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};

    use super::*;
    use crate::config::Config;
    use crate::telemetry;

    fn surface(request_timeout: Duration) -> Arc<Surface> {
        let quiet = [(String::from("ORDER__LOG__LEVEL"), String::from("off"))];
        let log = Config::load(&[], quiet.into_iter()).unwrap().log;
        let patience = Duration::from_secs(60);
        let health = HealthConfig { ping_every: patience, stale_after: patience, stalled_after: patience };
        let parts = Parts {
            health: Health::new(health),
            telemetry: telemetry::init(&log).unwrap(),
            limits: Limits { connections: 1, header_bytes: 8_192, request_timeout, idle_timeout: patience },
            shown_to: ShownTo::Anybody,
            config: Value::Null,
            build: Value::Null,
            notifier: None,
        };
        let (scrapes, debugging) = (Semaphore::new(1), Semaphore::new(1));
        let surface =
            Surface { parts, attached: OnceLock::new(), admin: OnceLock::new(), scrapes, debugging };
        let drain = Drain { begin: Box::new(|| {}), left: Box::new(|| 0), is_final: false };
        let page = Page { name: "some", says: "something", make: Box::new(|| Value::Null) };
        let attached = Attached {
            admin: None,
            main: Handle::current(),
            sample: Box::new(|| {}),
            pages: vec![page],
            drain,
        };
        assert!(surface.attached.set(attached).is_ok());
        Arc::new(surface)
    }

    async fn get(surface: &Arc<Surface>, path: &str) -> (StatusCode, String) {
        let request =
            Request::builder().version(Version::HTTP_2).uri(path).header(CERTIFICATE_HEADER, "billing");
        let answer = routes(surface).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn nobody_passes_for_the_holder_of_a_certificate() {
        let surface = surface(Duration::from_secs(60));
        let told = |headers: HeaderMap| async move { headers.contains_key(CERTIFICATE_HEADER).to_string() };
        let service = Router::new().route("/order.admin.v1.OrderAdminService/{method}", any(told));
        assert!(surface.admin.set(service).is_ok());
        let (status, is_there) = get(&surface, "/order.admin.v1.OrderAdminService/ExplainOrder").await;
        assert_eq!((status, is_there.as_str()), (StatusCode::OK, "false"));
    }

    #[tokio::test]
    async fn pages_are_made_one_at_a_time_and_nobody_waits_for_long() {
        let surface = surface(Duration::from_millis(20));
        assert_eq!(get(&surface, "/debug/some").await.0, StatusCode::OK);
        let turn = surface.debugging.acquire().await.unwrap();
        let (status, why) = get(&surface, "/debug/some").await;
        assert_eq!(
            (status, why.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "this took longer than ops.request_timeout\n")
        );
        // Others do not wait for it.
        assert_eq!(get(&surface, "/healthz").await.0, StatusCode::OK);
        drop(turn);
        assert_eq!(get(&surface, "/debug/some").await.0, StatusCode::OK);
    }

    #[test]
    fn only_addresses_and_localhost_name_this_machine() {
        for (host, expected) in [
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("10.0.0.7:9464", true),
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            let request = Request::builder().uri("/").header(header::HOST, host).body(Body::empty()).unwrap();
            assert_eq!(names_this_machine(&request), expected, "{host}");
        }
    }
}
