//! How many instructions a call takes, counted by callgrind: `cargo bench --bench instructions`.
//!
//! A count hardly depends on what else the machine does, so a regression shows where a time would hide it. Each path
//! runs in a process of its own under `valgrind --tool=callgrind`, once with a few calls and once with more; the
//! difference is what the calls took, in all threads. The service is called without a network; answers are encoded.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::large_futures,
    clippy::disallowed_methods
)]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use order_service::grpc::WatchLimits;
use order_service::proto::order as pb;
use order_service::proto::served::order_service_server::OrderService;
use order_service::trace::{self, Sampling};
use prost::Message;
use support::harness::api_in_process::Service;
use support::harness::node::{MachineClock, sample_order};
use tonic::Request;

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The paths, how many calls are made first, and how many more are counted. Spans are recorded of all calls where a path ends
/// with `+sampled`, and of none, though some might be, where it ends with `+unsampled`; elsewhere tracing is off.
const PATHS: &[(&str, usize, usize)] = &[
    ("create", 50, 200),
    ("create+unsampled", 50, 200),
    ("create+sampled", 50, 200),
    ("get", 200, 2_000),
    ("get+unsampled", 200, 2_000),
    ("get+sampled", 200, 2_000),
    ("get-status", 200, 2_000),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let [path, calls] = words.as_slice() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(run(path, calls.parse().unwrap()));
    }
    println!("instructions of a call, by callgrind");
    for (path, first, more) in PATHS {
        let each = (counted(path, first + more) - counted(path, *first)) / *more as f64;
        println!("{path:<18} {each:>10.0}");
    }
}

/// Instructions of a process that makes so many calls.
fn counted(path: &str, calls: usize) -> f64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe().unwrap()).args([path, &calls.to_string()]);
    let output =
        command.output().expect("valgrind is missing; install it, such as: apt-get install -y valgrind");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let line = told.lines().find_map(|line| line.split_once("Collected : ")).expect("a count");
    line.1.trim().parse().unwrap()
}

/// Spans end where they would be exported: in a task beside the calls.
fn record(ratio: f64) {
    let (queue, mut spans) = tokio::sync::mpsc::channel(4_096);
    assert!(trace::install(queue, Sampling::of(ratio), 0, Arc::new(MachineClock::default())));
    tokio::spawn(async move { while spans.recv().await.is_some() {} });
}

async fn run(path: &str, calls: usize) {
    let (path, recorded) = path.split_once('+').unwrap_or((path, ""));
    match recorded {
        "" => {}
        "unsampled" => record(0.0),
        "sampled" => record(1.0),
        other => panic!("{other}: neither sampled nor unsampled"),
    }
    let limits = WatchLimits { buffer: 16, slow_after: Duration::from_secs(10) };
    let service = Service::start(1, limits).await;
    let order = service.api.create_order(Request::new(sample_order())).await.unwrap();
    let id = order.into_inner().read().unwrap().id;
    for _ in 0..calls {
        let length = match path {
            "create" => {
                let answer = service.api.create_order(Request::new(sample_order())).await.unwrap();
                answer.into_inner().encode_to_vec().len()
            }
            "get" => {
                let key = Some(pb::get_order_request::Key::Id(id.clone()));
                let request = pb::GetOrderRequest { key, allow_stale: false };
                service.api.get_order(Request::new(request)).await.unwrap().into_inner().encode_to_vec().len()
            }
            "get-status" => {
                let key = Some(pb::get_order_status_request::Key::Id(id.clone()));
                let request = pb::GetOrderStatusRequest { key };
                let answer = service.api.get_order_status(Request::new(request)).await.unwrap();
                answer.into_inner().encode_to_vec().len()
            }
            other => panic!("{other}: no such path"),
        };
        assert!(length > 0);
    }
    service.stop().await;
}
