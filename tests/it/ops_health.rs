//! Health of real nodes under faults: truthful, and at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use order_service::proto::admin::DrainNodeRequest;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::cluster::{Cluster, Plan, by_default};
use crate::harness::http::{Answer, address_of, ask, get};
use crate::harness::node::TestNode;
use crate::harness::place::free_port;
use crate::harness::postgres::{PgServer, Shutdown};
use crate::harness::process::{NodeProcess, Process, Simulate};
use crate::harness::proxy::Proxy;
use crate::harness::wait::eventually;

/// Settings under which a store counts as away soon.
const SOON: &[(&str, &str)] =
    &[("ORDER__OPS__STORE_PING_EVERY", "100ms"), ("ORDER__OPS__STORE_STALE_AFTER", "800ms")];

/// No probe takes longer, whatever is wrong.
const AT_ONCE: Duration = Duration::from_millis(1_500);

/// Asks a probe, which has to answer at once.
async fn probe(ops: SocketAddr, path: &str) -> Answer {
    let started = Instant::now();
    let answer = get(ops, path).await;
    assert!(started.elapsed() < AT_ONCE, "{path} took {:?}", started.elapsed());
    answer
}

/// Waits until the node is not ready for this reason.
async fn until_not_ready(ops: SocketAddr, why: &str) -> Answer {
    eventually(&format!("a node that is not ready: {why}"), async || {
        Some(probe(ops, "/readyz").await).filter(|answer| answer.status == 503 && answer.body.contains(why))
    })
    .await
}

async fn until_ready(ops: SocketAddr) {
    eventually("a node that is ready", async || {
        Some(probe(ops, "/readyz").await).filter(|answer| answer.status == 200)
    })
    .await;
}

/// What the node says of itself over gRPC, for the whole server and for the service.
async fn serving(url: &str) -> Vec<ServingStatus> {
    let mut health = HealthClient::new(Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy());
    let mut all = Vec::new();
    for service in ["", "order.v1.OrderService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        all.push(health.check(request).await.unwrap().into_inner().status());
    }
    all
}

async fn until_serving(url: &str, expected: ServingStatus) {
    eventually("that over gRPC", async || {
        serving(url).await.iter().all(|status| *status == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_starts_says_what_it_waits_for() {
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    let proxy = Proxy::start(server.address()).await;
    proxy.hang(true);
    let port = free_port();
    let settings = [
        ("ORDER__OPS__LISTEN", format!("127.0.0.1:{port}")),
        ("ORDER__GRPC__LISTEN", String::from("127.0.0.1:0")),
        ("ORDER__STORE__URL", proxy.url_of(&url)),
        ("ORDER__STORE__CONNECT_TIMEOUT", String::from("60s")),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value));
    let _node = Process::spawn("node", &["serve"], &settings);
    let ops = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("a listener for operators", async || TcpStream::connect(ops).await.ok()).await;
    let starting = eventually("a node that opens its store", async || {
        Some(probe(ops, "/startupz").await).filter(|answer| answer.body.contains("opening the store"))
    })
    .await;
    assert_eq!((starting.status, starting.body.as_str()), (503, "start: not yet, opening the store\n"));
    let ready = probe(ops, "/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "start: not yet, opening the store\n"));
    assert_eq!(probe(ops, "/healthz").await.status, 200);
    assert_eq!(probe(ops, "/metrics").await.status, 200);
    for path in ["/debug/actors", "/drain"] {
        assert_eq!(probe(ops, path).await.status, 503, "{path}");
    }
    proxy.hang(false);
    until_ready(ops).await;
    assert_eq!(probe(ops, "/startupz").await.status, 200);
}

#[tokio::test]
async fn a_store_that_is_stopped_costs_readiness_and_nothing_else() {
    let server = PgServer::start(&[]).await;
    let simulate = Simulate::start().await;
    let url = server.create_database().await;
    let node = NodeProcess::start_on(Some(url), &simulate, SOON, &[]).await;
    let ops = address_of(&node.ops_url());
    for (path, said) in [("/startupz", "started\n"), ("/readyz", "ready\n"), ("/healthz", "ok\n")] {
        let answer = probe(ops, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, said), "{path}");
    }
    until_serving(node.url(), ServingStatus::Serving).await;

    server.stop(Shutdown::Immediate).await;
    let answer = until_not_ready(ops, "the order store has not answered for").await;
    assert_eq!(answer.body.lines().count(), 1, "{answer:?}");
    assert_eq!(probe(ops, "/healthz").await.status, 200, "a restart would not mend it");
    assert_eq!(probe(ops, "/startupz").await.status, 200);
    until_serving(node.url(), ServingStatus::NotServing).await;
    let verbose = probe(ops, "/readyz?verbose").await;
    assert_eq!(verbose.status, 503);
    assert!(verbose.body.contains("ok     start: started\n"), "{}", verbose.body);
    assert!(verbose.body.contains("WRONG  store: "), "{}", verbose.body);
    let json = probe(ops, "/readyz?format=json").await.json();
    assert_eq!(json["ok"], false);
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "store" && check["ok"] == false), "{json}");

    server.start_again().await;
    until_ready(ops).await;
    until_serving(node.url(), ServingStatus::Serving).await;
}

#[tokio::test]
async fn a_store_that_hangs_hangs_no_probe() {
    let server = PgServer::start(&[]).await;
    let simulate = Simulate::start().await;
    let url = server.create_database().await;
    let proxy = Proxy::start(server.address()).await;
    let node = NodeProcess::start_on(Some(proxy.url_of(&url)), &simulate, SOON, &[]).await;
    let ops = address_of(&node.ops_url());
    until_ready(ops).await;
    proxy.hang(true);
    until_not_ready(ops, "the order store has not answered for").await;
    // Nor do many of them make anything of it.
    for _ in 0..50 {
        assert_eq!(probe(ops, "/readyz").await.status, 503);
        assert_eq!(probe(ops, "/healthz").await.status, 200);
    }
    proxy.hang(false);
    until_ready(ops).await;
}

#[tokio::test]
async fn a_node_that_stands_still_says_nothing_and_is_well_when_it_goes_on() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &[("ORDER__OPS__STALLED_AFTER", "1s")]).await;
    let ops = address_of(&node.ops_url());
    assert_eq!(probe(ops, "/healthz").await.status, 200);
    node.process().freeze().await;
    assert!(timeout(Duration::from_secs(2), get(ops, "/healthz")).await.is_err(), "who answered?");
    node.process().signal(Signal::CONT);
    // It did not move, and neither did who watches it: nothing is to blame on anybody.
    assert_eq!(get(ops, "/healthz").await.status, 200);
    until_ready(ops).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_lease_is_over_is_not_ready() {
    let plan = Plan { breakable: true, settings: by_default(), ..Plan::of(2) };
    let mut cluster = Cluster::start(plan).await;
    cluster.balanced(&[0, 1]).await;
    let ops = address_of(&cluster.ops_url(0));
    until_ready(ops).await;
    // From both, so that neither is declared dead by the other.
    cluster.cut_from_database(0, true);
    cluster.cut_from_database(1, true);
    until_not_ready(ops, "lease: the node's lease in the cluster is over").await;
    assert_eq!(probe(ops, "/healthz").await.status, 200);
    cluster.cut_from_database(0, false);
    cluster.cut_from_database(1, false);
    until_ready(ops).await;
    until_ready(address_of(&cluster.ops_url(1))).await;
    cluster.stop(0).await;
    cluster.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_moves_everything_away_while_the_node_goes_on() {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(2) }).await;
    cluster.balanced(&[0, 1]).await;
    let ops = address_of(&cluster.ops_url(0));
    assert_eq!(get(ops, "/drain").await.json()["draining"], false);
    let drained = ask(ops, "POST", "/drain?wait=25", &[]).await;
    assert_eq!(drained.status, 200, "{drained:?}");
    assert_eq!(drained.json(), serde_json::json!({ "draining": true, "slots_left": 0, "done": true }));
    assert_eq!(until_not_ready(ops, "drain: the node was drained").await.body.lines().count(), 1);
    until_serving(&cluster.node_url(0), ServingStatus::NotServing).await;
    assert_eq!(cluster.life(0).await.unwrap().slots, 0);
    // What still comes here is sent on.
    let order =
        cluster.client(0).create_order(crate::harness::node::sample_order()).await.unwrap().into_inner();
    assert_eq!(cluster.owners(&[order.id]).await, [Some(1)]);
    let refused = ask(ops, "DELETE", "/drain", &[]).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(probe(ops, "/healthz").await.status, 200);
    cluster.stop(0).await;
    cluster.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_another_one_was_told_to_drain_is_not_ready() {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(2) }).await;
    cluster.balanced(&[0, 1]).await;
    let (stays, leaves) = (cluster.ops_url(0), address_of(&cluster.ops_url(1)));
    until_ready(leaves).await;
    let node = cluster.life(1).await.unwrap().name;
    let mut admin = OrderAdminServiceClient::connect(stays.clone()).await.unwrap();
    let mut progress = admin.drain_node(DrainNodeRequest { node }).await.unwrap().into_inner();
    while progress.message().await.unwrap().is_some() {}
    until_not_ready(leaves, "lease: the node was told to leave the cluster").await;
    assert_eq!(probe(leaves, "/healthz").await.status, 200);
    until_ready(address_of(&stays)).await;
    cluster.stop(0).await;
    cluster.stop(1).await;
}

#[tokio::test]
async fn a_drain_of_a_node_alone_can_be_taken_back() {
    let node = TestNode::start().await;
    let ops = node.node().ops_address();
    assert_eq!(ask(ops, "POST", "/drain?wait=x", &[]).await.status, 400);
    assert_eq!(ask(ops, "POST", "/drain", &[]).await.json()["done"], true);
    until_not_ready(ops, "drain: the node was drained").await;
    assert_eq!(ask(ops, "DELETE", "/drain", &[]).await.status, 200);
    until_ready(ops).await;
    node.stop().await;
}

#[tokio::test]
async fn systemd_hears_when_a_node_has_started_lives_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let simulate = Simulate::start().await;
    let settings = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let mut node = NodeProcess::start(&simulate, &settings).await;
    let hear = async |wanted: &str| {
        let mut bytes = [0; 512];
        eventually(wanted, async || {
            let length = socket.recv(&mut bytes).await.unwrap();
            (bytes[..length] == *wanted.as_bytes()).then_some(())
        })
        .await;
    };
    hear("READY=1").await;
    hear("STATUS=ready").await;
    hear("WATCHDOG=1").await;
    node.process().signal(Signal::TERM);
    hear("STOPPING=1").await;
    assert!(node.process().ended().await.success());
}
