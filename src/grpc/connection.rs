//! Serves connections, each for as long as it behaves: what the protocol's implementation does not limit is limited here.

mod meter;
mod others;
mod unread;
mod watched;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};

use self::meter::Meter;
use self::others::{OtherStream, OtherStreams, OthersOfOne};
use self::unread::{Piece, Unread};
use self::watched::{OpenCall, Vitals, Watched};
use super::server::GrpcConfig;
use super::status::unreadable;
use super::{auth, headers};

/// Limits of the connections of the public listener.
#[derive(Clone, Debug)]
pub struct TransportLimits {
    /// Largest headers of a call, in bytes.
    pub max_header_bytes: u32,
    /// Connections.
    pub max_connections: usize,
    /// Connections from one address.
    pub max_connections_per_address: usize,
    /// Longest time for the beginning of a connection, for a frame, and for the headers of a call.
    pub handshake_timeout: Duration,
    /// Longest time that a message of an answer may wait for its client to read it.
    pub write_timeout: Duration,
    /// Streams of services other than the one of orders: health and reflection, which ask for no token.
    pub max_other_streams: usize,
    /// Such streams of one connection.
    pub max_other_streams_per_connection: usize,
    /// A connection without calls is told to go after this; none = never.
    pub idle_timeout: Option<Duration>,
    /// Every connection is told to go after this, give or take a tenth; none = never.
    pub max_age: Option<Duration>,
    /// How long calls go on on a connection of that age, before it is closed.
    pub age_grace: Duration,
    /// Calls that were given up before they were begun.
    pub max_pending_resets: usize,
    /// Calls that were given up because of the client's mistakes.
    pub max_local_resets: usize,
    /// Calls that a client may give up in a second, for long.
    pub max_resets_per_second: u32,
    /// Frames that belong to no call in a second, for long.
    pub max_control_frames_per_second: u32,
}

/// How late after the longest deadline a call is ended from outside: our own refusals say more.
const AFTERTHOUGHT: Duration = Duration::from_secs(1);
/// How often a connection is looked at, unless its limits are shorter.
const LOOK: Duration = Duration::from_secs(2);
const SHORTEST_LOOK: Duration = Duration::from_millis(20);

/// Serves what comes in until `stopping`; then takes no more, and waits until every client has its answers.
pub(super) async fn serve<S, I, IO>(
    incoming: I,
    service: S,
    config: &GrpcConfig,
    stopping: impl Future<Output = ()>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
    // However this ends, the clients are told to go.
    let _ends = stop.clone().drop_guard();
    let config = Arc::new(config.clone());
    let others = Arc::new(OtherStreams::new(&config.transport));
    {
        let (mut incoming, mut stopping) = (pin!(incoming), pin!(stopping));
        loop {
            let io = tokio::select! {
                io = incoming.next() => io,
                () = &mut stopping => break,
            };
            match io {
                Some(Ok(io)) => {
                    let told = stop.clone();
                    let others = OthersOfOne::new(&others);
                    connections.spawn(one(io, service.clone(), Arc::clone(&config), others, told));
                }
                Some(Err(error)) => tracing::debug!(%error, "a connection failed at its beginning"),
                None => break,
            }
        }
    }
    stop.cancel();
    connections.close();
    connections.wait().await;
}

/// One connection.
async fn one<S, IO>(io: IO, service: S, config: Arc<GrpcConfig>, others: OthersOfOne, stop: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let limits = &config.transport;
    let info = io.connect_info();
    let vitals = Arc::new(Vitals::new(Instant::now()));
    let meter = Meter::new(limits, config.max_streams_per_connection, Instant::now());
    let io = TokioIo::new(Watched::new(io, meter, Arc::clone(&vitals)));
    let (longest, calls) = (config.max_deadline.saturating_add(AFTERTHOUGHT), Arc::clone(&vitals));
    let unread = Arc::new(Unread::default());
    let waiting = Arc::clone(&unread);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, call) = (service.clone(), OpenCall::begin(&calls));
        let (unread, other) = (Arc::clone(&unread), others.take(request.uri().path()));
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        async move {
            let (answer, other) = match other {
                Ok(other) => (answer(service, request, longest).await, other),
                Err(refused) => (refused.into_http(), None),
            };
            Ok::<_, Infallible>(answer.map(|body| Open { body, unread, _call: call, _other: other }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams_per_connection)
        .max_header_list_size(limits.max_header_bytes)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_local_resets)
        .keep_alive_interval(config.keepalive)
        .keep_alive_timeout(config.keepalive);
    let mut connection = pin!(builder.serve_connection(io, answer));
    let mut life =
        Life { limits, began: Instant::now(), max_age: limits.max_age.map(about), told_to_go: None };
    let mut look = interval(life.look());
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    // Clients that go away without a word are the rule.
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => match life.verdict(&vitals, waiting.oldest(), Instant::now()) {
                Verdict::GoOn => {}
                Verdict::Go => connection.as_mut().graceful_shutdown(),
                Verdict::Close(why) => {
                    closed(why);
                    return;
                }
            }
        }
    }
}

/// Counts a connection that is closed because of its client.
fn closed(why: &'static str) {
    metrics::counter!("order_grpc_connections_closed_total", "why" => why).increment(1);
    tracing::debug!(why, "a connection is closed");
}

/// Answers one call, in time.
async fn answer<S>(service: S, request: Request<Body>, longest: Duration) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let told = request.headers().get(&headers::TIMEOUT).and_then(|told| auth::time_of(told.to_str().ok()?));
    let time = told.unwrap_or(longest).min(longest);
    match timeout(time, service.oneshot(request)).await {
        Ok(Ok(response)) => unreadable(response),
        Ok(Err(never)) => match never {},
        Err(_elapsed) => Status::deadline_exceeded("the deadline passed; what is stored goes on").into_http(),
    }
}

/// An answer on its way; its call is open until it is out.
struct Open {
    body: Body,
    unread: Arc<Unread>,
    _call: OpenCall,
    _other: Option<OtherStream>,
}

impl hyper::body::Body for Open {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        Poll::Ready(frame.map(|read| read.map(|frame| frame.map_data(|data| this.unread.piece(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A tenth more or less, so that connections that began together do not end together.
fn about(time: Duration) -> Duration {
    let chance = u32::from(uuid::Uuid::new_v4().as_bytes().first().copied().unwrap_or_default());
    // 0.9 to 1.1 of it.
    let fifth = time.checked_div(5).unwrap_or_default().saturating_mul(chance).checked_div(255);
    time.saturating_sub(time.checked_div(10).unwrap_or_default()).saturating_add(fifth.unwrap_or_default())
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    GoOn,
    /// Its client is told to make another one; its calls go on.
    Go,
    /// It is closed.
    Close(&'static str),
}

/// How long a connection lives.
struct Life<'a> {
    limits: &'a TransportLimits,
    began: Instant,
    max_age: Option<Duration>,
    /// When its client was told to go because of its age, or because it is idle.
    told_to_go: Option<(Instant, Duration)>,
}

impl Life<'_> {
    /// How often to look.
    fn look(&self) -> Duration {
        let timeouts = [self.limits.handshake_timeout, self.limits.write_timeout].map(Some);
        let all = timeouts.into_iter().chain([self.limits.idle_timeout, self.max_age]);
        let shortest = all.flatten().chain([self.limits.age_grace]).min().unwrap_or(LOOK);
        shortest.checked_div(4).unwrap_or(LOOK).clamp(SHORTEST_LOOK, LOOK)
    }

    /// `unread` is since when the oldest message waits for its client; none = none waits.
    fn verdict(&mut self, vitals: &Vitals, unread: Option<Instant>, now: Instant) -> Verdict {
        if vitals.stuck_for(now) > self.limits.handshake_timeout {
            return Verdict::Close("slow");
        }
        if unread.is_some_and(|since| now.saturating_duration_since(since) > self.limits.write_timeout) {
            return Verdict::Close("slow_reader");
        }
        if let Some((since, grace)) = self.told_to_go {
            let passed = now.saturating_duration_since(since);
            return if passed > grace { Verdict::Close("told to go") } else { Verdict::GoOn };
        }
        let is_old = self.max_age.is_some_and(|most| now.saturating_duration_since(self.began) > most);
        let is_idle = self.limits.idle_timeout.is_some_and(|most| vitals.idle_for(now) > most);
        if is_old || is_idle {
            // A client that is idle has nothing to finish but what it has just begun.
            self.told_to_go = Some((now, self.limits.age_grace));
            return Verdict::Go;
        }
        Verdict::GoOn
    }
}

#[cfg(test)]
mod tests_support {
    use super::{Duration, TransportLimits};

    pub(super) fn limits() -> TransportLimits {
        TransportLimits {
            max_header_bytes: 1_024,
            max_connections: 1,
            max_connections_per_address: 1,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            max_other_streams: 3,
            max_other_streams_per_connection: 2,
            idle_timeout: Some(Duration::from_secs(60)),
            max_age: Some(Duration::from_secs(600)),
            age_grace: Duration::from_secs(30),
            max_pending_resets: 1,
            max_local_resets: 1,
            max_resets_per_second: 10,
            max_control_frames_per_second: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::tests_support::limits;
    use super::*;

    #[test]
    fn a_connection_goes_when_it_is_idle_or_old_and_is_closed_after_the_grace() {
        let (limits, start) = (limits(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let life = || Life { limits: &limits, began: start, max_age: limits.max_age, told_to_go: None };

        let (mut idle, vitals) = (life(), Vitals::new(start));
        vitals.at_rest();
        assert_eq!(idle.verdict(&vitals, None, after(60)), Verdict::GoOn);
        assert_eq!(idle.verdict(&vitals, None, after(61)), Verdict::Go);
        assert_eq!(idle.verdict(&vitals, None, after(91)), Verdict::GoOn);
        assert_eq!(idle.verdict(&vitals, None, after(92)), Verdict::Close("told to go"));

        let (mut busy, vitals) = (life(), Arc::new(Vitals::new(start)));
        vitals.at_rest();
        let _call = OpenCall::begin(&vitals);
        assert_eq!(busy.verdict(&vitals, None, after(600)), Verdict::GoOn);
        assert_eq!(busy.verdict(&vitals, None, after(601)), Verdict::Go);
        assert_eq!(busy.verdict(&vitals, None, after(632)), Verdict::Close("told to go"));

        let (mut slow, vitals) = (life(), Vitals::new(start));
        assert_eq!(slow.verdict(&vitals, None, after(10)), Verdict::GoOn);
        assert_eq!(slow.verdict(&vitals, None, after(11)), Verdict::Close("slow"));

        let (mut reader, vitals) = (life(), Vitals::new(start));
        vitals.at_rest();
        assert_eq!(reader.verdict(&vitals, Some(after(5)), after(35)), Verdict::GoOn);
        assert_eq!(reader.verdict(&vitals, Some(after(5)), after(36)), Verdict::Close("slow_reader"));
    }

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        for _ in 0..1_000 {
            let age = about(Duration::from_secs(100)).as_millis();
            assert!((90_000..=110_000).contains(&age), "{age}");
        }
    }
}
