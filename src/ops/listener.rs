//! Connections of the ops listener, within limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};

use crate::grpc::Peer;

/// Calls at once on one connection.
const STREAMS: u32 = 32;
/// Headers of one request.
const HEADERS: usize = 64;
/// The pause after a connection that could not be taken: descriptors are short, and asking at once again would not help.
const PAUSE: Duration = Duration::from_millis(50);
/// How long connections may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Headers of a request, in bytes; at least 8192.
    pub header_bytes: u32,
    /// Time for the headers of a request.
    pub request_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
}

/// Serves until `stop`, then ends what runs, soon.
pub(super) async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let taking = async {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection of an operator could not be taken");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                metrics::counter!("order_ops_connections_refused_total").increment(1);
                continue;
            };
            // One that is gone already fails later as well.
            let _gone = stream.set_nodelay(true);
            connections.spawn(connection(stream, from, routes.clone(), limits, stop.clone(), place));
        }
    };
    stop.run_until_cancelled(taking).await;
    connections.close();
    // Whoever does not go by then is cut off with the runtime.
    let _late = tokio::time::timeout(GOODBYE, connections.wait()).await;
}

/// A request that is being answered, its body included.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer, which is open until it is sent.
struct Whole {
    body: Body,
    _open: Open,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    routes: Router,
    limits: Limits,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let (open, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, count) = (Arc::clone(&open), Arc::clone(&begun));
    let service = service_fn(move |request: Request<Incoming>| {
        opened.fetch_add(1, Ordering::AcqRel);
        count.fetch_add(1, Ordering::AcqRel);
        let routes = routes.clone();
        let open = Open(Arc::clone(&opened));
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(from.ip()));
        async move {
            let answer: Response<Body> = routes.oneshot(request).await?;
            Ok::<_, Infallible>(answer.map(|body| Whole { body, _open: open }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_timeout)
        .max_headers(HEADERS)
        .max_buf_size(usize::try_from(limits.header_bytes).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.request_timeout);
    let service = TowerToHyperService::new(service);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut look = tokio::time::interval(limits.idle_timeout);
    // The first tick comes at once.
    look.tick().await;
    let (mut seen, mut is_leaving) = (0, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection of an operator ended");
                }
                return;
            }
            () = stop.cancelled(), if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                let count = begun.load(Ordering::Acquire);
                let is_idle = open.load(Ordering::Acquire) == 0 && count == seen;
                // Nothing was asked for since the last look; a client that does not go when told is cut off with the next.
                match (is_idle, is_leaving) {
                    (true, true) => return,
                    (true, false) => {
                        is_leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    (false, _) => seen = count,
                }
            }
        }
    }
}
