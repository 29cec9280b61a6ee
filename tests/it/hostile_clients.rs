//! Clients that mean no good: their connections are closed, and meanwhile everybody else is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use order_service::proto::order::OrderStatus::Confirmed;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::transport::Channel;

use crate::harness::api::{by_id, channel, eventually};
use crate::harness::fleet::Fleet;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, Said,
    WINDOW_UPDATE, call_headers, frame, header,
};

/// The deadline of every call that means well.
const DEADLINE: Duration = Duration::from_secs(5);
const GET: &str = "/order.v1.OrderService/GetOrder";

/// Calls that mean well, one after the other, until told to stop.
struct Good {
    done: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Good {
    fn start(channel: Channel) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let task = tokio::spawn(async move {
            let mut client = OrderServiceClient::new(channel);
            let mut took = Vec::new();
            while !stop.load(Ordering::Relaxed) || took.len() < 20 {
                let began = Instant::now();
                let created = timeout(DEADLINE, client.create_order(sample_order())).await;
                let order = created.expect("an answer in time").unwrap().into_inner();
                assert_eq!(order.status(), Confirmed);
                took.push(began.elapsed());
                for _ in 0..10 {
                    let began = Instant::now();
                    let read = timeout(DEADLINE, client.get_order(by_id(&order.id))).await;
                    assert_eq!(read.expect("an answer in time").unwrap().into_inner().id, order.id);
                    took.push(began.elapsed());
                }
            }
            took
        });
        Self { done, task }
    }

    /// Every call was answered well; says how long that took.
    async fn stop(self, beside: &str) {
        self.done.store(true, Ordering::Relaxed);
        let mut took = self.task.await.unwrap();
        took.sort_unstable();
        let p99 = took[took.len() * 99 / 100];
        println!("beside {beside}: {} calls, p99 {p99:?}, slowest {:?}", took.len(), took[took.len() - 1]);
    }
}

const SWIFT: &[(&str, &str)] =
    &[("ORDER__GRPC__HANDSHAKE_TIMEOUT", "500ms"), ("ORDER__GRPC__MAX_STREAMS_PER_CONNECTION", "64")];

/// Runs an attack beside calls that mean well.
async fn attacked(name: &str, settings: &[(&str, &str)], attack: impl AsyncFn(SocketAddr)) {
    let node = TestNode::start_with(&[SWIFT, settings].concat()).await;
    let good = Good::start(channel(&node).await);
    attack(node.node().grpc_address()).await;
    good.stop(name).await;
    node.stop().await;
}

/// Sends the same again and again until the connection is closed; fails the test when it never is.
async fn flood(raw: &mut Raw, most: u32, mut piece: impl FnMut(u32) -> Vec<u8>) -> Said {
    for number in 0..most {
        if !raw.send(&piece(number)).await {
            return raw.closed().await;
        }
        // So that others have a turn on this thread, as they had over a network.
        tokio::task::yield_now().await;
    }
    raw.closed_within(Duration::from_secs(10)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_headers() {
    attacked("slow headers", &[], async |server| {
        let slow = (0..20).map(async |number: usize| {
            let mut raw = Raw::connect(server).await;
            // Half say who they are and no more, half a little of it again and again.
            let headers = call_headers(GET);
            raw.send(&frame(HEADERS, 0, 1, &headers[..20])).await;
            let mut tick = interval(Duration::from_millis(100));
            let began = Instant::now();
            for byte in headers[20..].iter().cycle() {
                tick.tick().await;
                assert!(began.elapsed() < Duration::from_secs(20), "it goes on and on");
                let more = frame(CONTINUATION, 0, 1, &[*byte]);
                let some = if number.is_multiple_of(2) { more } else { Vec::new() };
                if !raw.send(&some).await || raw.said().closed {
                    break;
                }
            }
            raw.closed().await;
        });
        join_all(slow).await;
        // As well a frame that never ends, and one who never says hello.
        let mut raw = Raw::connect(server).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(GET))).await;
        raw.send(&frame(DATA, 0, 1, &[0; 100])[..50]).await;
        raw.closed().await;
        let mut raw = Raw::silent(Ipv4Addr::LOCALHOST, server).await;
        raw.send(b"PRI * HTTP").await;
        raw.closed().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets() {
    attacked("rapid resets", &[], async |server| {
        let mut raw = Raw::connect(server).await;
        let call = |number: u32| {
            let stream = number * 2 + 1;
            [
                frame(HEADERS, END_HEADERS, stream, &call_headers(GET)),
                frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
            ]
            .concat()
        };
        flood(&mut raw, 100_000, call).await;
        // And hundreds at once.
        let mut raw = Raw::connect(server).await;
        flood(&mut raw, 1_000, |round| (0..100).flat_map(|n| call(round * 100 + n)).collect()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation_flood() {
    attacked("a flood of CONTINUATION", &[], async |server| {
        let mut raw = Raw::connect(server).await;
        raw.send(&frame(HEADERS, 0, 1, &call_headers(GET))).await;
        let pieces = header("x-more", &"m".repeat(1_000));
        let said = flood(&mut raw, 100_000, |_| frame(CONTINUATION, 0, 1, &pieces)).await;
        println!("it says {:?}", said.goaways());
        // Empty ones, which make no headers longer.
        let mut raw = Raw::connect(server).await;
        raw.send(&frame(HEADERS, 0, 1, &call_headers(GET))).await;
        flood(&mut raw, 1_000_000, |_| frame(CONTINUATION, 0, 1, &[]).repeat(50)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_pings_settings_and_nothing() {
    attacked("floods of PING, SETTINGS and empty DATA", &[], async |server| {
        for (kind, payload) in
            [(PING, vec![7; 8]), (SETTINGS, Vec::new()), (SETTINGS, vec![0, 4, 0, 1, 0, 0])]
        {
            let mut raw = Raw::connect(server).await;
            flood(&mut raw, 100_000, |_| frame(kind, 0, 0, &payload).repeat(20)).await;
        }
        let mut raw = Raw::connect(server).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(GET))).await;
        flood(&mut raw, 100_000, |_| frame(DATA, 0, 1, &[]).repeat(20)).await;
        // Kinds that do not exist.
        let mut raw = Raw::connect(server).await;
        flood(&mut raw, 100_000, |_| frame(0xEE, 0, 0, &[]).repeat(20)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_too_large() {
    attacked("headers that are too large", &[], async |server| {
        let mut raw = Raw::connect(server).await;
        let large: Vec<u8> = (0..20).flat_map(|_| header("x-large", &"l".repeat(1_000))).collect();
        let headers = [call_headers(GET), large].concat();
        let (first, rest) = headers.split_at(10_000);
        raw.send(&frame(HEADERS, END_STREAM, 1, first)).await;
        raw.send(&frame(CONTINUATION, END_HEADERS, 1, rest)).await;
        // Refused as that, or reset.
        let refused =
            |said: &Said| said.frames().iter().any(|(kind, _)| [HEADERS, RST_STREAM].contains(kind));
        raw.hears("a refusal", |said| refused(said) || said.closed).await;
        let mut raw = Raw::connect(server).await;
        raw.send(&frame(HEADERS, 0, 1, &call_headers(GET))).await;
        let more: Vec<u8> = (0..15).flat_map(|_| header("x-large", &"l".repeat(1_000))).collect();
        flood(&mut raw, 10_000, |_| frame(CONTINUATION, 0, 1, &more)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_up_to_the_cap() {
    let caps = [
        ("ORDER__GRPC__MAX_CONNECTIONS_PER_ADDRESS", "50"),
        ("ORDER__GRPC__MAX_CONNECTIONS", "80"),
        ("ORDER__GRPC__HANDSHAKE_TIMEOUT", "5s"),
    ];
    attacked("half-open connections", &caps, async |server| {
        let other = Ipv4Addr::new(127, 0, 0, 2);
        let mut held = join_all((0..50).map(|_| Raw::silent(other, server))).await;
        // Those above the cap are closed at once, and those below stay.
        let mut above = join_all((0..30).map(|_| Raw::silent(other, server))).await;
        join_all(above.iter_mut().map(|raw| raw.closed_within(Duration::from_secs(3)))).await;
        assert!(held.iter().all(|raw| !raw.said().closed));
        // The cap of all holds as well, and leaves the calls that are there alone.
        let third = Ipv4Addr::new(127, 0, 0, 3);
        let mut more = join_all((0..50).map(|_| Raw::silent(third, server))).await;
        let closed = eventually("the last ones to be closed", async || {
            let closed = more.iter().filter(|raw| raw.said().closed).count();
            (closed >= 20).then_some(closed)
        })
        .await;
        assert!(closed < 30, "{closed}");
        // In the end all are closed that never say hello, and there is room again.
        join_all(held.iter_mut().chain(&mut more).map(|raw| raw.closed())).await;
        let again = Raw::silent(other, server).await;
        let mut hello = Raw::connect(server).await;
        hello.hears("hello", |said| !said.bytes.is_empty()).await;
        assert!(!again.said().closed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http2_is_closed() {
    attacked("what is no HTTP/2", &[], async |server| {
        for words in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "\u{16}\u{3}\u{1}\u{2}",
            "hello\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
        ] {
            let mut raw = Raw::silent(Ipv4Addr::LOCALHOST, server).await;
            raw.send(words.as_bytes()).await;
            raw.closed().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_idle_connections_are_told_to_go_and_no_call_fails() {
    let settings =
        [("ORDER__GRPC__MAX_CONNECTION_AGE", "300ms"), ("ORDER__GRPC__MAX_CONNECTION_AGE_GRACE", "2s")];
    let node = TestNode::start_with(&settings).await;
    let url = format!("http://{}", node.node().grpc_address());
    let mut old = Raw::connect(node.node().grpc_address()).await;
    let fleet = Fleet::of([url].into_iter());
    fleet.reaches(&[0]).await;
    let began = Instant::now();
    let mut tick = interval(Duration::from_millis(2));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(3) {
        tick.tick().await;
        let deadline = Instant::now() + DEADLINE;
        let sent =
            fleet.send(deadline, |mut client| async move { client.create_order(sample_order()).await });
        assert_eq!(sent.await.answer.unwrap().into_inner().status(), Confirmed);
        calls += 1;
    }
    println!("{calls} calls over connections that end again and again");
    // One that does not go is closed.
    assert!(!old.closed().await.goaways().is_empty());
    drop(fleet);
    node.stop().await;

    let node = TestNode::start_with(&[("ORDER__GRPC__IDLE_TIMEOUT", "200ms")]).await;
    let mut idle = Raw::connect(node.node().grpc_address()).await;
    let goes = idle.hears("that it should go", |said| !said.goaways().is_empty()).await;
    assert_eq!(goes.goaways()[0], 0, "without an error");
    node.stop().await;
}

/// A call with a request that is empty.
fn ask(path: &str, stream: u32) -> Vec<u8> {
    let headers = frame(HEADERS, END_HEADERS, stream, &call_headers(path));
    [headers, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// Says that answers may have so many bytes until more are allowed.
fn window(bytes: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 4], bytes.to_be_bytes().as_slice()].concat())
}

const LIST: &str = "/order.v1.OrderService/ListOrders";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads() {
    let node = TestNode::start_with(&[SWIFT, &[("ORDER__GRPC__WRITE_TIMEOUT", "700ms")]].concat()).await;
    let server = node.node().grpc_address();
    let good = Good::start(channel(&node).await);
    let mut slow = Vec::new();
    for (path, bytes) in [(LIST, 0), (LIST, 1), (CHECK, 0), (WATCH, 3)] {
        let mut raw = Raw::connect(server).await;
        raw.send(&window(bytes)).await;
        raw.send(&ask(path, 1)).await;
        slow.push(raw);
    }
    // Many at once, and one that reads a little now and then: the next answer it begins does not pay for the last.
    let mut many = Raw::connect(server).await;
    many.send(&window(0)).await;
    many.send(&(0..60).flat_map(|call| ask(LIST, call * 2 + 1)).collect::<Vec<u8>>()).await;
    slow.push(many);
    let mut drops = Raw::connect(server).await;
    drops.send(&[window(0), ask(LIST, 1)].concat()).await;
    let (began, mut tick) = (Instant::now(), interval(Duration::from_millis(100)));
    for call in 1.. {
        let update = frame(WINDOW_UPDATE, 0, call * 2 + 1, &64_000u32.to_be_bytes());
        if !drops.send(&[ask(LIST, call * 2 + 1), update].concat()).await || drops.said().closed {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it goes on and on");
        tick.tick().await;
    }
    for raw in &mut slow {
        raw.closed().await;
    }
    good.stop("answers that nobody reads").await;
    // One that reads what it asked for, and then nothing for long, stays; so does a stream with nothing to say.
    let mut idle = Raw::connect(server).await;
    idle.send(&[ask(LIST, 1), ask(WATCH, 3)].concat()).await;
    idle.hears("an answer", |said| said.frames().iter().filter(|(kind, _)| *kind == DATA).count() >= 2).await;
    let closed = timeout(Duration::from_millis(1_500), idle.closed_within(Duration::from_secs(60))).await;
    assert!(closed.is_err(), "whoever has read all is no slow reader");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_need_no_token_are_few_and_checks_are_answered_beside_them() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let caps =
        [("ORDER__GRPC__MAX_OTHER_STREAMS", "6"), ("ORDER__GRPC__MAX_OTHER_STREAMS_PER_CONNECTION", "4")];
    let node = TestNode::start_with(&caps).await;
    let (mut one, mut other) =
        (HealthClient::new(channel(&node).await), HealthClient::new(channel(&node).await));
    let asked = HealthCheckRequest::default;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(one.watch(asked()).await.unwrap().into_inner());
    }
    assert_eq!(one.watch(asked()).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    one.check(asked()).await.unwrap();
    for _ in 0..2 {
        open.push(other.watch(asked()).await.unwrap().into_inner());
    }
    let refused = other.watch(asked()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "six in all");
    other.check(asked()).await.unwrap();
    let mut orders = OrderServiceClient::new(channel(&node).await);
    orders.create_order(sample_order()).await.unwrap();
    open.pop();
    eventually("there is room again", async || other.watch(asked()).await.ok().map(drop)).await;
    node.stop().await;
}
