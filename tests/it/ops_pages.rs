//! The pages of the ops listener, to whom they are shown, and what a client may take of it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use order_service::proto::admin::ListStuckOrdersRequest;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use crate::harness::cluster::{Cluster, Plan, by_default};
use crate::harness::http::{address_of, ask, get};
use crate::harness::node::{TestNode, sample_order};
use crate::harness::wait::{PATIENCE, eventually};

#[tokio::test]
async fn the_first_page_lists_all_and_each_is_there() {
    let node = TestNode::start().await;
    let ops = node.node().ops_address();
    let index = get(ops, "/").await;
    assert_eq!(index.status, 200);
    let paths: Vec<&str> = index.body.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    for page in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/startupz",
        "/version",
        "/config",
        "/debug/actors",
        "/debug/store",
    ] {
        assert!(paths.contains(&page), "{page}: {}", index.body);
    }
    for path in paths.into_iter().filter(|path| !path.starts_with("/order.admin")) {
        let (answer, head) = (get(ops, path).await, ask(ops, "HEAD", path, &[]).await);
        assert_eq!((answer.status, head.status), (200, 200), "{path}: {answer:?}");
        assert!(head.body.is_empty(), "{path}");
    }
    let unknown = get(ops, "/nothing").await;
    assert_eq!((unknown.status, unknown.body.as_str()), (404, "there is no such page; / lists them all\n"));
    assert_eq!(get(ops, "/debug/nothing").await.status, 404);
    assert_eq!(ask(ops, "POST", "/metrics", &[]).await.status, 405);

    let version = get(ops, "/version").await;
    assert_eq!(version.body, concat!(env!("CARGO_PKG_VERSION"), "\n"));
    for (path, headers) in
        [("/version?format=json", [].as_slice()), ("/version", &[("accept", "application/json")])]
    {
        let json = ask(ops, "GET", path, headers).await.json();
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert!(["build", "rustc", "target", "profile"].iter().all(|key| json[key].is_string()), "{json}");
    }
    node.stop().await;
}

#[tokio::test]
async fn settings_are_shown_with_their_source_and_without_secrets() {
    let secret = "Zm9yIHRlc3RzIG9ubHksIG5vdCBhIHNlY3JldCE=";
    let node = TestNode::start_with(&[("ORDER__IDS__KEY", secret), ("ORDER__ACTOR__MAX_LIVE", "777")]).await;
    let answer = get(node.node().ops_address(), "/config").await;
    let config = answer.json();
    assert_eq!(config["actor.max_live"]["value"], "777", "{config}");
    assert_eq!(config["actor.max_live"]["from"], "ORDER__ACTOR__MAX_LIVE");
    assert_eq!(config["grpc.max_watchers"]["value"].as_u64(), Some(10_000), "{config}");
    assert_eq!(config["ids.key"]["value"], "***");
    assert_eq!(config["ops.debug"]["from"], "default");
    assert!(!answer.body.contains(secret));
    node.stop().await;
}

#[tokio::test]
async fn the_debug_pages_tell_of_orders_and_of_nobody() {
    let node = TestNode::start().await;
    let ops = node.node().ops_address();
    let order = node.create(sample_order()).await;
    let mut bodies = String::new();
    for page in ["actors", "store", "limits", "runtime"] {
        let answer = get(ops, &format!("/debug/{page}")).await;
        assert_eq!(answer.status, 200, "{page}");
        answer.json();
        bodies.push_str(&answer.body);
    }
    let actors = get(ops, "/debug/actors").await.json();
    assert_eq!(actors["live"], 1, "{actors}");
    let store = get(ops, "/debug/store").await.json();
    assert_eq!(store["connections"]["write"]["limit"], 1, "{store}");
    assert!(store["last_answer"]["seconds_ago"].is_number(), "{store}");
    for personal in [order.user_id.as_str(), "Doe", "Main St", "john.doe", "555-123"] {
        assert!(!bodies.contains(personal), "{personal}: {bodies}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_the_cluster_tells_who_owns_how_much() {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(2) }).await;
    cluster.balanced(&[0, 1]).await;
    let page = get(address_of(&cluster.ops_url(0)), "/debug/cluster").await.json();
    let members = page["members"].as_array().unwrap();
    assert_eq!(members.len(), 2, "{page}");
    assert_eq!(members.iter().map(|member| member["slots"].as_u64().unwrap()).sum::<u64>(), 4096);
    assert_eq!((page["is_in"].as_bool(), page["slots"]["unowned"].as_u64()), (Some(true), Some(0)), "{page}");
    cluster.stop(0).await;
    cluster.stop(1).await;
}

/// An address of this machine that is not loopback; nothing is sent to find it.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

#[tokio::test]
async fn pages_that_tell_of_orders_and_settings_are_shown_here_only_unless_it_is_wished() {
    // On a machine without any network there is no elsewhere.
    let elsewhere = own_address();
    for (setting, here, from_elsewhere) in [("loopback", 200, 403), ("any", 200, 200), ("none", 403, 403)] {
        let settings = [("ORDER__OPS__LISTEN", "0.0.0.0:0"), ("ORDER__OPS__DEBUG", setting)];
        let node = TestNode::start_with(&settings).await;
        let port = node.node().ops_address().port();
        let near = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let far = elsewhere.map(|address| SocketAddr::from((address, port)));
        for path in ["/config", "/debug/actors", "/drain"] {
            assert_eq!(get(near, path).await.status, here, "ops.debug {setting}: {path}");
            if let Some(far) = far {
                assert_eq!(
                    get(far, path).await.status,
                    from_elsewhere,
                    "ops.debug {setting}: {path} from {far}"
                );
            }
        }
        for path in ["/", "/healthz", "/readyz", "/startupz", "/version", "/metrics"] {
            assert_eq!(get(far.unwrap_or(near), path).await.status, 200, "ops.debug {setting}: {path}");
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn web_pages_in_an_operators_browser_get_at_nothing() {
    let node = TestNode::start().await;
    let ops = node.node().ops_address();
    for headers in [[("origin", "http://evil.example")], [("host", "evil.example:9464")]] {
        assert_eq!(ask(ops, "GET", "/config", &headers).await.status, 403, "{headers:?}");
        assert_eq!(ask(ops, "POST", "/drain", &headers).await.status, 403, "{headers:?}");
    }
    assert_eq!(get(ops, "/readyz").await.status, 200);
    node.stop().await;
}

/// What comes of a call of an operator that names the listener so, with this header besides its own.
async fn call(ops: SocketAddr, authority: &str, header: Option<(&'static str, &str)>) -> Result<(), Status> {
    let named = format!("http://{authority}").parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{ops}")).unwrap().origin(named);
    let mut client = OrderAdminServiceClient::new(endpoint.connect().await.unwrap());
    let mut request = Request::new(ListStuckOrdersRequest::default());
    if let Some((name, value)) = header {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    client.list_stuck_orders(request).await.map(drop)
}

#[tokio::test]
async fn web_pages_in_an_operators_browser_make_no_calls_of_operators() {
    for setting in ["loopback", "all"] {
        let node = TestNode::start_with(&[("ORDER__OPS__REPAIRS", setting)]).await;
        let ops = node.node().ops_address();
        let evil = "evil.example:9464";
        // Browsers speak HTTP/1.1 without TLS, and no client of gRPC does.
        let method = "/order.admin.v1.OrderAdminService/ListStuckOrders";
        let calls = [("content-type", "application/grpc"), ("te", "trailers"), ("content-length", "0")];
        let web = [("content-type", "application/grpc-web+proto"), ("content-length", "0")];
        for headers in [calls.as_slice(), web.as_slice()] {
            let answer = ask(ops, "POST", method, headers).await;
            assert_eq!(answer.status, 403, "{setting}: {answer:?}");
            assert!(answer.body.contains("HTTP/2"), "{answer:?}");
        }
        for (authority, header) in
            [(ops.to_string().as_str(), Some(("origin", "http://evil.example"))), (evil, None)]
        {
            let refused = call(ops, authority, header).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{setting}: {authority} {header:?}");
        }
        for authority in [ops.to_string(), format!("localhost:{}", ops.port())] {
            call(ops, &authority, None).await.unwrap_or_else(|status| panic!("{authority}: {status:?}"));
        }
        node.stop().await;
    }
}

/// Sends this and waits until the node ends the connection.
async fn until_closed(mut stream: TcpStream, sent: &[u8]) -> String {
    // Whoever is cut off while it sends has been cut off as well.
    let _sent = stream.write_all(sent).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is still there");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_listener_has_limits() {
    let node = TestNode::start_with(&[
        ("ORDER__OPS__MAX_CONNECTIONS", "3"),
        ("ORDER__OPS__REQUEST_TIMEOUT", "300ms"),
        ("ORDER__OPS__IDLE_TIMEOUT", "2s"),
        ("ORDER__OPS__MAX_HEADER_BYTES", "8192"),
    ])
    .await;
    let ops = node.node().ops_address();
    let connect = async || TcpStream::connect(ops).await.unwrap();
    // Headers without end, in time and in size, and a connection that says nothing.
    until_closed(connect().await, b"GET /metrics HTTP/1.1\r\nhost: x\r\n").await;
    let large = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "a".repeat(20_000));
    let answer = until_closed(connect().await, large.as_bytes()).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    until_closed(connect().await, b"").await;
    until_closed(connect().await, b"PRI * HTTP/2.0\r\n").await;

    // Three at once; a fourth is closed, and there is room again when one has gone.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = connect().await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held.push(stream);
    }
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(until_closed(connect().await, request).await, "", "there is no place for a fourth");
    held.clear();
    eventually("a place", async || {
        let answered = tokio::time::timeout(Duration::from_secs(5), async {
            let mut stream = TcpStream::connect(ops).await.ok()?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer).filter(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        answered.await.ok().flatten()
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_for_checks_of_containers_tells_by_its_exit_code() {
    let node = TestNode::start().await;
    let ops = node.node().ops_address();
    let url = format!("http://{ops}");
    let check = async |arguments: &[&str], settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["ops", "health"]).args(arguments).env_clear().envs(settings.iter().copied());
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let told = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), told)
    };
    assert_eq!(check(&["--url", &url], &[]).await, (0, String::from("ok\n")));
    assert_eq!(check(&["--ready", "--url", &url], &[]).await, (0, String::from("ready\n")));
    // Without a URL it asks where its configuration says that the node listens.
    let listen = format!("0.0.0.0:{}", ops.port());
    assert_eq!(check(&["--live"], &[("ORDER__OPS__LISTEN", &listen)]).await.0, 0);
    ask(ops, "POST", "/drain", &[]).await;
    let (code, told) = check(&["--ready", "--url", &url], &[]).await;
    assert_eq!(code, 1);
    assert!(told.contains("drain: the node was drained"), "{told}");
    assert_eq!(check(&["--url", &url], &[]).await.0, 0);
    node.stop().await;
    let (code, told) = check(&["--url", &url, "--timeout", "500ms"], &[]).await;
    assert_eq!(code, 1);
    assert!(told.contains("does not answer"), "{told}");
}
