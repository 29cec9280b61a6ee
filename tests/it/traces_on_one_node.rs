//! Traces that begin here, that go nowhere, and as people read them.

use std::process::Command;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::Request;

use crate::harness::api::{by_id, order_of};
use crate::harness::collector::Collector;
use crate::harness::node::sample_order;
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::wait::eventually;
use crate::log_lines::http;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_begin_here_for_calls_that_bring_none_or_a_bad_one() {
    let (collector, simulate) = (Collector::start().await, Simulate::start().await);
    let settings =
        [("ORDER__TRACING__OTLP_ENDPOINT", collector.url()), ("ORDER__TRACING__SAMPLE_RATIO", "1")];
    let mut node = NodeProcess::start(&simulate, &settings).await;
    let bad = [
        None,
        Some("nonsense"),
        Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        Some("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        Some("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
    ];
    let mut traces = Vec::new();
    for parent in bad {
        let mut request = Request::new(by_id("01900000-0000-7000-8000-000000000001"));
        if let Some(parent) = parent {
            request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        }
        let refused = node.client().get_order(request).await.unwrap_err();
        let response = refused.metadata().get("traceresponse").unwrap().to_str().unwrap().to_owned();
        let (trace, span) = (response[3..35].to_owned(), response[36..52].to_owned());
        let seen = collector.span(&trace, "order.v1.OrderService/GetOrder", |_| true).await;
        assert_eq!((seen.id, seen.parent), (span, String::new()), "{parent:?}");
        assert_eq!(seen.attributes["rpc.response.status_code"], "NOT_FOUND");
        // The caller's own fault is no failure.
        assert!(!seen.failed);
        traces.push(trace);
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), bad.len());
    node.process().signal(rustix::process::Signal::TERM);
    assert!(node.process().ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_have_so_many_traces_recorded_and_no_more() {
    let (collector, simulate) = (Collector::start().await, Simulate::start().await);
    for most in [0, 3] {
        let text = most.to_string();
        let settings = [
            ("ORDER__TRACING__OTLP_ENDPOINT", collector.url()),
            ("ORDER__TRACING__SAMPLE_RATIO", "0"),
            ("ORDER__TRACING__FORCED_PER_SECOND", &text),
        ];
        let node = NodeProcess::start(&simulate, &settings).await;
        let (began, mut recorded) = (std::time::Instant::now(), 0);
        for number in 1..=60 {
            let mut request = Request::new(by_id("01900000-0000-7000-8000-000000000001"));
            let parent = format!("00-0af7651916cd43dd8448eb21a{most:03x}a{number:03x}-b7ad6b7169203331-01");
            request.metadata_mut().insert("traceparent", parent.parse().unwrap());
            let refused = node.client().get_order(request).await.unwrap_err();
            recorded += u64::from(refused.metadata().get("traceresponse").is_some());
        }
        let took = began.elapsed();
        assert!(recorded >= most && recorded <= most * (2 + took.as_secs()), "{recorded} in {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_says_nothing_or_is_away_holds_nothing_up() {
    let simulate = Simulate::start().await;
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    for (url, queue, why) in [(silent_url.as_str(), "1", "queue"), ("http://127.0.0.1:1", "4096", "otlp")] {
        let settings = [
            ("ORDER__TRACING__OTLP_ENDPOINT", url),
            ("ORDER__TRACING__SAMPLE_RATIO", "1"),
            ("ORDER__TRACING__QUEUE", queue),
            ("ORDER__TRACING__TIMEOUT", "2s"),
        ];
        let mut node = NodeProcess::start(&simulate, &settings).await;
        let mut client = node.client();
        let started = std::time::Instant::now();
        let order = client.create_order(order_of(&[(4, 1)])).await.unwrap().into_inner();
        for _ in 0..200 {
            client.get_order(by_id(&order.id)).await.unwrap();
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}: each of 200 calls waited");
        let counted = format!("order_trace_spans_dropped_total{{why=\"{why}\"}} ");
        eventually("what was dropped", async || {
            let metrics = http(&node.ops_url(), "GET", "/metrics", "").await.1;
            let line = metrics.lines().find_map(|line| line.strip_prefix(&counted).map(str::to_owned))?;
            (line.parse::<f64>().unwrap() > 0.0).then_some(())
        })
        .await;
        // Its last spans are not waited for longer than the collector has time.
        node.process().signal(rustix::process::Signal::TERM);
        assert!(node.process().ended().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_printed_as_a_tree() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (theirs, ours) = (path("simulator.jsonl"), path("node.jsonl"));
    let mut simulate = Simulate::start_with(&[("ORDER__TRACING__PRINT", &theirs)]).await;
    let settings = [("ORDER__TRACING__PRINT", ours.as_str()), ("ORDER__TRACING__SAMPLE_RATIO", "1")];
    let mut node = NodeProcess::start(&simulate, &settings).await;
    let order = node.client().create_order(sample_order()).await.unwrap().into_inner();
    // A person's call belongs to the trace that their environment names.
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut get = Command::new(env!("CARGO_BIN_EXE_order-service"));
    get.args(["order", "--server", node.url(), "get", &order.id]).env("TRACEPARENT", parent);
    assert!(get.output().unwrap().status.success());
    // What is there when they end is written.
    for process in [node.process(), simulate.process()] {
        process.signal(rustix::process::Signal::TERM);
        assert!(process.ended().await.success());
    }
    let trace = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["ops", "trace", &ours, &theirs]).args(arguments).output().unwrap()
    };
    let listed = String::from_utf8(trace(&[]).stdout).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(
        listed.contains("order.v1.OrderService/GetOrder") && listed.contains(&order.order_number),
        "{listed}"
    );

    let told = trace(&["--of", &order.order_number.to_lowercase()]);
    let told = String::from_utf8(told.stdout).unwrap();
    println!("{told}");
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].contains(" of 2 processes, ") && lines[0].contains(&order.order_number), "{told}");
    let depth = |what: &str, kind: &str, service: &str| {
        let line = lines.iter().find(|line| {
            line.contains(&format!("{what} "))
                && line.contains(&format!(" {kind} "))
                && line.contains(&format!(" {service} "))
        });
        let line = line.unwrap_or_else(|| panic!("{what} {kind} {service}: {told}"));
        (line[27..].len() - line[27..].trim_start().len()) / 2
    };
    assert_eq!(depth("order.v1.OrderService/CreateOrder", "server", "order-service"), 0);
    assert_eq!(depth("actor create", "internal", "order-service"), 1);
    assert_eq!(depth("saga charge", "internal", "order-service"), 2);
    assert_eq!(depth("payment.v1.PaymentService/Charge", "client", "order-service"), 3);
    assert_eq!(depth("payment.v1.PaymentService/Charge", "server", "simulator"), 4);
    assert!(!told.contains("John") && !told.contains("Main St"), "{told}");

    let asked = String::from_utf8(trace(&["--of", &parent[3..35]]).stdout).unwrap();
    assert!(asked.contains("asked by b7ad6b7169203331, which stands in none of these files"), "{asked}");
    let nothing = trace(&["--of", "0bf7651916cd43dd8448eb211c80319c"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("name the files of all nodes"));
}
