//! What the benchmarks share: a node on free ports, an echo to compare with, and figures.

#![allow(dead_code, unused_imports, missing_docs, unreachable_pub)]

// Held to the lints where it belongs: in the tests.
#[allow(clippy::all, clippy::print_stderr, clippy::large_futures, unused)]
#[path = "../../tests/it/harness/mod.rs"]
pub mod harness;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Latencies and rate of one run.
#[derive(Clone, Debug)]
pub struct Run {
    pub done: usize,
    pub wall: Duration,
    pub latencies: Vec<Duration>,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.wall.as_secs_f64()
    }

    pub fn percentile(&self, percent: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * percent / 100.0).round() as usize]
    }
}

/// Runs `call` `total` times, `in_flight` at once, spread over the given clients.
pub async fn drive<C, F, Fut>(clients: &[C], in_flight: usize, total: usize, call: F) -> Run
where
    C: Clone + Send + 'static,
    F: Fn(C, usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut workers = Vec::new();
    for worker in 0..in_flight {
        let (client, call, next) = (clients[worker % clients.len()].clone(), call.clone(), Arc::clone(&next));
        workers.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return latencies;
                }
                let begun = Instant::now();
                call(client.clone(), number).await;
                latencies.push(begun.elapsed());
            }
        }));
    }
    let mut latencies = Vec::with_capacity(total);
    for worker in workers {
        latencies.extend(worker.await.unwrap());
    }
    let wall = start.elapsed();
    latencies.sort_unstable();
    Run { done: latencies.len(), wall, latencies }
}

/// The middle of some figures; of an even number of them the mean of the two in the middle.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    f64::midpoint(low, high)
}

/// Resident memory of this process, in bytes.
pub fn resident() -> u64 {
    resident_of(std::process::id())
}

/// Bytes of memory that a process has.
pub fn resident_of(process: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A bare tonic service: one unary method whose answer is the same bytes each time.
#[derive(Clone)]
pub struct Echo(pub Arc<Vec<u8>>);

pub const ECHO_PATH: &str = "/bench.v1.Echo/Get";

impl NamedService for Echo {
    const NAME: &'static str = "bench.v1.Echo";
}

impl UnaryService<String> for Echo {
    type Response = Vec<u8>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, Status>> + Send>>;

    fn call(&mut self, _request: Request<String>) -> Self::Future {
        let answer = self.0.as_ref().clone();
        Box::pin(async move { Ok(Response::new(answer)) })
    }
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Vec<u8>, String>::default());
            Ok(grpc.unary(echo, request).await)
        })
    }
}

/// Serves the echo on a free port, in this process.
pub async fn serve_echo(answer: Vec<u8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(
        tonic::transport::Server::builder().add_service(Echo(Arc::new(answer))).serve_with_incoming(incoming),
    );
    address
}

/// Calls the echo.
pub async fn call_echo(channel: tonic::transport::Channel, key: String) -> usize {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(ECHO_PATH);
    let codec = ProstCodec::<String, Vec<u8>>::default();
    let answer: Response<Vec<u8>> = grpc.unary(Request::new(key), path, codec).await.unwrap();
    answer.into_inner().len()
}
