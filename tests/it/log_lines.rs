//! Log lines: whose they are, which of them are written, and the last one.

use std::collections::BTreeSet;
use std::net::TcpListener as Port;
use std::process::{Command, Output};

use order_service::proto::simulator::Faults;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Request;

use crate::harness::api::{by_id, order_of};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::wait::eventually;

/// Status and text of an answer of the listener for operators.
pub async fn http(url: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let address = url.replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

fn lines(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_call_and_its_saga_names_it() {
    let simulate = Simulate::start().await;
    // Traced or not: no span is recorded here.
    let settings = [
        ("ORDER__LOG__LEVEL", "info,order_service=debug"),
        ("ORDER__SAGA__RETRY_INITIAL", "10ms"),
        ("ORDER__CREATE__WAIT", "20s"),
        ("ORDER__GRPC__DEFAULT_DEADLINE", "25s"),
    ];
    let mut node = NodeProcess::start(&simulate, &settings).await;
    // The first charge fails after it was asked for.
    let twice =
        Faults { method: "payment.Charge".into(), error_rate: 1.0, max_count: Some(1), ..Default::default() };
    simulate.set_faults(vec![twice]).await;
    let mut request = Request::new(order_of(&[(4, 1)]));
    request.metadata_mut().insert("x-request-id", "caller-7".parse().unwrap());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    let order = node.client().create_order(request).await.unwrap().into_inner();
    node.client().get_order(by_id(&order.id)).await.unwrap();
    let ours = |lines: &[Value]| -> Vec<Value> {
        lines.iter().filter(|line| line["request_id"] == "caller-7").cloned().collect()
    };
    eventually("the lines", async || {
        let lines = ours(&lines(&node.process().log()));
        let has = |what: &str| lines.iter().any(|line| line["message"] == what);
        (has("answered") && has("a step's call did not succeed")).then_some(())
    })
    .await;
    node.kill9().await;
    let all = lines(&node.process().log());
    for line in &all {
        let ids = ["request_id", "trace_id", "span_id"].map(|key| line[key].is_string());
        assert!(ids == [true; 3] || ids == [false; 3], "{line}");
        // Whatever is told of an order is told for somebody.
        assert!(line["order_id"].is_null() || ids[0], "{line}");
    }
    let ours = ours(&all);
    assert!(ours.len() >= 2, "{ours:?}");
    for line in &ours {
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line}");
        assert_ne!(line["span_id"], "b7ad6b7169203331", "the caller's span is the caller's: {line}");
    }
    // A call without a trace has one, too.
    let read = all.iter().find(|line| line["method"] == "GetOrder").unwrap();
    assert_eq!(read["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_are_changed_while_a_node_runs() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &[]).await;
    let ops = node.ops_url();
    let answered = async |node: &mut NodeProcess| {
        node.client().get_order(by_id("01900000-0000-7000-8000-000000000001")).await.unwrap_err();
        lines(&node.process().log()).iter().filter(|line| line["message"] == "answered").count()
    };
    assert_eq!(http(&ops, "GET", "/debug/log", "").await, (200, "info\n".to_owned()));
    assert_eq!(answered(&mut node).await, 0);
    let told = http(&ops, "PUT", "/debug/log", "info,order_service::grpc=debug").await;
    assert_eq!(told, (200, "info,order_service::grpc=debug (before: info)\n".to_owned()));
    eventually("a line of that level", async || (answered(&mut node).await > 0).then_some(())).await;
    for bad in ["", "info,order_service=loud", &"a".repeat(2_000)] {
        let (status, why) = http(&ops, "PUT", "/debug/log", bad).await;
        assert!(matches!(status, 400 | 413), "{status} {why}");
    }
    assert_eq!(http(&ops, "PUT", "/debug/log?for=long", "info").await.0, 400);

    // By the command, for a while.
    let server = ops.clone();
    let command = move |arguments: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["ops", "log-level", "--server", &server]).args(arguments).output().unwrap()
    };
    let told = command(&["warn", "--for", "1s"]);
    assert_eq!(
        String::from_utf8(told.stdout).unwrap(),
        "warn (before: info,order_service::grpc=debug), for 1 s\n"
    );
    eventually("the end of it", async || {
        let shown = String::from_utf8(command(&[]).stdout).unwrap();
        (shown == "info,order_service::grpc=debug\n").then_some(())
    })
    .await;
    let refused = command(&["loud,,="]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("error: "));
    let changes: BTreeSet<String> = lines(&node.process().log())
        .iter()
        .filter(|line| line["message"] == "the filter of log lines was changed")
        .map(|line| line["filter"].as_str().unwrap().to_owned())
        .collect();
    assert!(changes.contains("info,order_service::grpc=debug") && changes.contains("warn"), "{changes:?}");
}

#[test]
fn the_last_line_of_a_node_that_cannot_start_is_fatal() {
    let folder = tempfile::tempdir().unwrap();
    let taken = Port::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let no_store = folder.path().join("text.db");
    std::fs::write(
        &no_store,
        "this is no database, but a text that is long enough to be looked at as one. ".repeat(20),
    )
    .unwrap();
    let (no_store, store) = (
        format!("sqlite:{}", no_store.display()),
        format!("sqlite:{}", folder.path().join("orders.db").display()),
    );
    let end = |arguments: &[&str], settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(arguments).env_clear().envs(settings.iter().copied()).current_dir(folder.path());
        let ended = command.output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let told = String::from_utf8(ended.stderr).unwrap();
        told.lines().last().unwrap_or_default().to_owned()
    };
    let base = [
        ("ORDER__GRPC__LISTEN", "127.0.0.1:0"),
        ("ORDER__OPS__LISTEN", "127.0.0.1:0"),
        ("ORDER__STORE__URL", store.as_str()),
    ];
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        base.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let spans = folder.path().join("no/such/folder.jsonl").display().to_string();
    for (arguments, more, says) in [
        (
            &["serve"][..],
            vec![("ORDER__GRPC__LISTEN", taken.as_str())],
            "free the port or set another grpc.listen",
        ),
        (&["serve"], vec![("ORDER__STORE__URL", no_store.as_str())], "store.url"),
        (&["serve"], vec![("ORDER__TRACING__PRINT", spans.as_str())], "set another tracing.print"),
        (&["serve"], vec![("ORDER__ACTOR__MAX_LIVE", "none")], "correct it and start again"),
        (&["simulate", "--listen", &taken], vec![], "free the port or set another simulator.listen"),
    ] {
        for level in ["info", "off"] {
            let settings =
                with(&[&more[..], &[("ORDER__LOG__LEVEL", level), ("ORDER__LOG__FORMAT", "json")]].concat());
            let settings: Vec<(&str, &str)> =
                settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let last = end(arguments, &settings);
            let line: Value = serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error}: {last}"));
            assert_eq!(line["level"], "FATAL", "{last}");
            assert!(line["message"].as_str().unwrap().contains(says), "{says}: {last}");
        }
    }
    let settings = with(&[("ORDER__GRPC__LISTEN", &taken), ("ORDER__LOG__FORMAT", "pretty")]);
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let last = end(&["serve"], &settings);
    assert!(
        last.contains(" FATAL order_service: cannot listen on ") && last.ends_with("set another grpc.listen"),
        "{last}"
    );
}
