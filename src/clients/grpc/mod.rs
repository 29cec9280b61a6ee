//! Clients of real collaborators (or of the simulator in another process).

mod breaker;
mod inventory;
mod payment;
mod product;
mod shipping;
#[cfg(test)]
mod tests;
mod user;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

pub use self::breaker::{Breaker, BreakerConfig, BreakerState, Permit};
pub use self::inventory::InventoryClient;
pub use self::payment::PaymentClient;
pub use self::product::ProductClient;
pub use self::shipping::ShippingClient;
pub use self::user::UserClient;

use super::status::{Kind, classify, timed_out};
use crate::domain::trace::TraceContext;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::trace::{self, Key, Span};

/// Pause before the first repeat of a read; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between repeats of a read.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a connection with calls in flight is asked whether its peer still lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long the peer may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A collaborator that was given less time than this and did not answer has not failed: its caller was late.
const FAIR_WAIT: Duration = Duration::from_millis(250);
/// Tells whether calls are held off.
const BREAKER_OPEN: &str = "order_collaborator_breaker_open";
/// Longest identifier that is accepted from a collaborator, in bytes: the width of its column.
const MAX_ID_LEN: usize = 255;

/// How to call one collaborator.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// `http://host:port` or `https://host:port`; the latter trusts the system's root certificates.
    pub url: String,
    /// Longest time to make a connection, and again for its TLS handshake.
    pub connect_timeout: Duration,
    /// Longest time of a call, repeats included, whatever the caller's patience.
    pub timeout: Duration,
    /// When to stop trying for a while.
    pub breaker: BreakerConfig,
    /// Largest message that is sent or accepted, in bytes.
    pub max_message_bytes: usize,
    /// How often a read is repeated when the collaborator is unavailable. Effects never are: only the saga
    /// knows whether it has noted its intent.
    pub read_retries: u32,
}

impl ClientConfig {
    /// The defaults for a URL: 1 s to connect, 5 s a call, 4 MiB a message, 2 repeats.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            breaker: BreakerConfig::default(),
            max_message_bytes: 4 * 1024 * 1024,
            read_retries: 2,
        }
    }
}

impl fmt::Debug for ClientConfig {
    /// Leaves the URL out: people put passwords there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("breaker", &self.breaker)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("read_retries", &self.read_retries)
            .finish_non_exhaustive()
    }
}

/// Why a client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be called.
    #[error("collaborators.{0}: expected http://host:port or https://host:port without user name or path")]
    Url(Collaborator),
    /// No TLS with this system's root certificates.
    #[error("collaborators.{0}: TLS cannot be set up from the system's root certificates")]
    Tls(Collaborator, #[source] tonic::transport::Error),
}

/// What the five clients share: the connection, deadlines, repeats of reads, and the breaker.
struct Caller<C> {
    service: Collaborator,
    client: C,
    timeout: Duration,
    read_retries: u32,
    breaker: Breaker,
    /// State of the dice for pauses.
    jitter: AtomicU64,
}

impl<C> fmt::Debug for Caller<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("service", &self.service)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

/// A channel that connects when first used. Must be called within a tokio runtime.
fn channel(service: Collaborator, config: &ClientConfig) -> Result<Channel, ClientError> {
    let bad = || ClientError::Url(service);
    let uri: http::Uri = config.url.parse().map_err(|_| bad())?;
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let path = uri.path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default();
    if authority.is_empty() || authority.contains('@') || !matches!(path, "" | "/") {
        return Err(bad());
    }
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let endpoint = match uri.scheme_str() {
        Some("http") => endpoint,
        Some("https") => {
            let tls = ClientTlsConfig::new().with_native_roots().timeout(config.connect_timeout);
            endpoint.tls_config(tls).map_err(|error| ClientError::Tls(service, error))?
        }
        _ => return Err(bad()),
    };
    Ok(endpoint.connect_lazy())
}

impl<C: Clone> Caller<C> {
    fn new(service: Collaborator, config: &ClientConfig, client: C) -> Self {
        Self {
            service,
            client,
            timeout: config.timeout,
            read_retries: config.read_retries,
            breaker: Breaker::new(config.breaker),
            // Differs between nodes, or all would pause in step.
            jitter: AtomicU64::new(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), service)),
        }
    }

    /// Calls `method` (`payment.Charge`) until it answers, the deadline passes, or there is no use in going on.
    async fn call<Q, A, F, Fut>(
        &self,
        ctx: &CallContext,
        kind: Kind,
        method: &'static str,
        message: Q,
        send: F,
    ) -> Result<A, CallError>
    where
        Q: Clone,
        F: Fn(C, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let patience = ctx.timeout.min(self.timeout);
        let deadline = Instant::now().checked_add(patience).ok_or_else(|| timed_out(Kind::Read, method))?;
        let mut retries = if kind == Kind::Read { self.read_retries } else { 0 };
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.attempt(ctx, kind, method, deadline, message.clone(), &send).await;
            let Err(CallError::Unavailable(_)) = &outcome else {
                return outcome;
            };
            let wait = self.jittered(pause);
            let in_time = Instant::now().checked_add(wait).is_some_and(|then| then < deadline);
            if retries == 0 || !in_time {
                return outcome;
            }
            retries = retries.saturating_sub(1);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            sleep(wait).await;
        }
    }

    /// One try.
    async fn attempt<Q, A, F, Fut>(
        &self,
        ctx: &CallContext,
        kind: Kind,
        method: &'static str,
        deadline: Instant,
        message: Q,
        send: &F,
    ) -> Result<A, CallError>
    where
        F: Fn(C, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let Some(permit) = self.breaker.admit(Instant::now()) else {
            return Err(CallError::Unavailable(format!("{method}: not tried, {} is failing", self.service)));
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let (mut span, trace) = self.traced(ctx, method);
        let request = request(ctx, trace.as_ref(), remaining, message);
        let outcome = match timeout_at(deadline, send(self.client.clone(), request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(classify(&status, kind, method)),
            Err(_) => Err(timed_out(kind, method)),
        };
        tell(&mut span, outcome.as_ref().err());
        drop(span);
        match &outcome {
            Ok(_) | Err(CallError::Refused(_)) => {
                if permit.succeeded() {
                    metrics::gauge!(BREAKER_OPEN, "service" => self.service.as_str()).set(0.0);
                    tracing::info!(collaborator = %self.service, "collaborator answers again");
                }
            }
            Err(_) if remaining < FAIR_WAIT && Instant::now() >= deadline => drop(permit),
            Err(CallError::Unknown(_) | CallError::Unavailable(_)) => {
                if permit.failed(Instant::now()) {
                    let service = self.service.as_str();
                    metrics::gauge!(BREAKER_OPEN, "service" => service).set(1.0);
                    metrics::counter!("order_collaborator_breaker_opened_total", "service" => service)
                        .increment(1);
                    tracing::warn!(collaborator = %self.service, "collaborator fails; calls are held off");
                }
            }
        }
        outcome
    }

    /// The span of one call of `method`, and its place in the trace.
    fn traced(&self, ctx: &CallContext, method: &'static str) -> (Span, Option<TraceContext>) {
        let Some(trace) = &ctx.trace else { return (Span::none(), None) };
        let (mut span, trace) = trace::child(trace, trace::Kind::Client, || rpc(self.service, method));
        span.word(Key::Peer, self.service.as_str());
        (span, Some(trace))
    }

    /// Between half of `pause` and all of it, so that callers do not return in step.
    fn jittered(&self, pause: Duration) -> Duration {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut dice = self.jitter.fetch_add(STEP, Ordering::Relaxed);
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        dice ^= dice >> 31;
        let part = f64::from(dice as u32) / f64::from(u32::MAX);
        pause.mul_f64(0.5f64.mul_add(part, 0.5))
    }
}

/// The name of `method`, such as `payment.Charge`, as its proto has it.
fn rpc(service: Collaborator, method: &'static str) -> trace::Name {
    let name = match service {
        Collaborator::Inventory => "inventory.v1.InventoryService",
        Collaborator::Product => "product.v1.ProductService",
        Collaborator::User => "user.v1.UserService",
        Collaborator::Payment => "payment.v1.PaymentService",
        Collaborator::Shipping => "shipping.v1.ShippingService",
    };
    trace::Name::Rpc(name, method.split_once('.').map_or(method, |(_, method)| method))
}

/// Tells what came of a call: nothing that the collaborator has said.
fn tell(span: &mut Span, error: Option<&CallError>) {
    let outcome = match error {
        None => "answered",
        Some(CallError::Refused(_)) => "refused",
        Some(CallError::Unknown(_)) => "unknown",
        Some(CallError::Unavailable(_)) => "unavailable",
    };
    span.word(Key::Outcome, outcome);
    if error.is_some_and(|error| error.refusal().is_none()) {
        span.fail();
    }
}

/// A request with what travels beside its message. Texts that no header can hold are left out.
fn request<Q>(
    ctx: &CallContext,
    trace: Option<&TraceContext>,
    remaining: Duration,
    message: Q,
) -> Request<Q> {
    let mut request = Request::new(message);
    request.set_timeout(remaining);
    let metadata = request.metadata_mut();
    if let Ok(id) = MetadataValue::try_from(ctx.request_id.as_str()) {
        metadata.insert("x-request-id", id);
    }
    if let Some(Ok(parent)) = trace.map(|trace| MetadataValue::try_from(trace.parent())) {
        metadata.insert("traceparent", parent);
    }
    if let Some(Ok(state)) = trace.and_then(|trace| trace.state.as_deref()).map(MetadataValue::try_from) {
        metadata.insert("tracestate", state);
    }
    request
}

/// An answer that makes no sense. Its effect, if it has one, may well have happened.
fn unreadable(method: &str) -> CallError {
    CallError::Unknown(format!("{method} gave an answer that cannot be read"))
}

/// An identifier that can be kept.
fn bounded_id(id: String, method: &str) -> Result<String, CallError> {
    if (1..=MAX_ID_LEN).contains(&id.len()) && can_be_kept(&id) { Ok(id) } else { Err(unreadable(method)) }
}

/// Whether every store takes this text: Postgres knows no NUL in text.
fn can_be_kept(text: &str) -> bool {
    !text.contains('\0')
}

/// Builds a generated client with this configuration's limits.
macro_rules! build {
    ($client:ident, $service:expr, $config:expr) => {{
        let client = $client::new(channel($service, $config)?)
            .max_decoding_message_size($config.max_message_bytes)
            .max_encoding_message_size($config.max_message_bytes);
        Caller::new($service, $config, client)
    }};
}
use build;
