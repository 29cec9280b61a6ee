//! The load tester of `benches/load`: when calls are due, what it measures, and that its check is worth something.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser;
use order_service::domain::access::Role;
use order_service::proto::order as pb;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use crate::harness::Chance;
use crate::harness::fleet::Fleet;
use crate::harness::invariants::Heard;
use crate::harness::node::sample_order;
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::tokens::Issuer;

#[allow(dead_code, reason = "the bench target uses all of it")]
#[path = "../../benches/load/tester/mod.rs"]
mod tester;

use tester::args::{Args, Check};
use tester::book::{Book, Changes, Told};
use tester::calls::{Class, NewOrder, is_not_made};
use tester::check::{self, Found, Progress, Sources};
use tester::html::html;
use tester::mix::{Keys, Kind, Mix};
use tester::own::{Guard, Own};
use tester::progress::Screen;
use tester::record::{Ended, Recorder, millis};
use tester::report::Report;
use tester::session::{self, Stops};
use tester::shape::{Arrivals, Schedule, Shape};
use tester::table::table;

fn args(line: &str) -> Args {
    let words = ["load", "--quiet"].into_iter().chain(line.split_whitespace());
    let mut args = Args::try_parse_from(words).unwrap();
    // One in the environment is not of the test.
    args.token = args.token.filter(|_| line.contains("--token"));
    args
}

async fn run(line: &str) -> Report {
    session::run(args(line), &Stops::default(), &Screen::new(true)).await.unwrap()
}

fn due(shape: &str, rate: f64, seconds: u64, arrivals: Arrivals) -> Vec<f64> {
    let pieces = Shape::parse(shape).unwrap().pieces(rate, Duration::from_secs(seconds));
    Schedule::new(pieces, arrivals, 7).map(|due| due.as_secs_f64()).collect()
}

#[test]
fn calls_are_due_when_the_integral_of_the_rate_says() {
    let steady = due("steady", 100.0, 2, Arrivals::Even);
    assert_eq!(steady.len(), 200);
    assert!((steady[50] - 0.5).abs() < 1e-6 && steady[0] == 0.0);
    // From 0 to 100 a second within 2 s: half of the calls, and a quarter of them in the first half.
    let ramp = due("ramp", 100.0, 2, Arrivals::Even);
    assert_eq!(ramp.len(), 100);
    assert!((ramp[25] - 1.0).abs() < 1e-6, "{}", ramp[25]);
    let step = due("step:4", 100.0, 4, Arrivals::Even);
    let in_second = |second: f64| step.iter().filter(|due| (second..second + 1.0).contains(*due)).count();
    assert_eq!([0.0, 1.0, 2.0, 3.0].map(in_second), [25, 50, 75, 100]);
    let by_chance = due("steady", 100.0, 100, Arrivals::Poisson);
    assert!((9_500..10_500).contains(&by_chance.len()), "{}", by_chance.len());
    assert_eq!(by_chance, due("steady", 100.0, 100, Arrivals::Poisson), "the same seed, the same moments");
    let close = by_chance.windows(2).filter(|pair| pair[1] - pair[0] < 0.001).count();
    assert!((700..1_300).contains(&close), "a tenth of them within a tenth of the mean distance: {close}");
}

#[test]
fn keys_are_drawn_as_they_are_asked_for() {
    let drawn = |keys: &str| {
        let (keys, mut chance, mut counts) = (Keys::parse(keys).unwrap(), Chance::new(3), vec![0u32; 1_000]);
        (0..100_000).for_each(|_| counts[keys.pick(1_000, &mut chance) as usize] += 1);
        counts
    };
    let (uniform, hot, zipf) = (drawn("uniform"), drawn("hot:3"), drawn("zipf:1"));
    assert!(uniform.iter().all(|count| (40..180).contains(count)));
    assert_eq!(hot[3..].iter().sum::<u32>(), 0);
    assert!(hot[..3].iter().all(|count| (32_000..35_000).contains(count)));
    // 1 / n: the first ten as often as the next ninety, about.
    let (head, body) = (zipf[..10].iter().sum::<u32>(), zipf[10..100].iter().sum::<u32>());
    assert!(head.abs_diff(body) < 6_000 && zipf[0] > zipf[9] * 5, "{head} and {body}");
    for wrong in ["hot:0", "zipf:0", "zipf:x", "cold"] {
        assert!(Keys::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_mix_is_read_and_drawn_by_weight() {
    let mix = Mix::parse("create=3, get=1,cancel=0").unwrap();
    assert_eq!(mix.to_string(), "create=3,get=1");
    let mut chance = Chance::new(1);
    let creates = (0..10_000).filter(|_| mix.pick(&mut chance).name() == "create").count();
    assert!((7_300..7_700).contains(&creates), "{creates}");
    for wrong in ["", "get=0", "buy=1", "get=1,get=2", "get=-1"] {
        assert!(Mix::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn percentiles_are_those_of_what_was_answered() {
    let recorder = Recorder::new(Duration::from_secs(10), 0, 1);
    let ended = |at: u64, class| {
        let (due, at) = (Duration::from_secs(1), Duration::from_secs(1) + Duration::from_millis(at));
        let reason = (class != Class::Done).then(|| "UNAVAILABLE".to_owned());
        recorder.ended(Ended { kind: Kind::Get, due, at, class, reason, node: Some(0), moved: 0 });
    };
    (1..=1_000).for_each(|time| ended(time, Class::Done));
    ended(9_000, Class::Failed);
    let records = recorder.records();
    for (percentile, expected) in [(50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (100.0, 1_000.0)] {
        let found = millis(&records.all.latency, percentile);
        assert!((found - expected).abs() <= expected / 500.0, "p{percentile} is {found}");
    }
    assert_eq!((records.all.done, records.all.failed, records.nodes[0]), (1_000, 1, (1_000, 1)));
    assert!((millis(&records.at_least, 100.0) - 9_000.0).abs() < 50.0);
    assert!((980.0..1_010.0).contains(&records.p99_of_arrivals()), "{}", records.p99_of_arrivals());
    // The latency belongs to when a call was due, the answer to when it came.
    let [due, end] = [2, 20].map(|place| &records.points[place]);
    assert_eq!((due.latency.len(), due.answered, end.failed), (1_000, 499, 1));
    drop(records);
    (0..20).for_each(|_| recorder.arrived(Duration::from_secs(1), true));
    let records = recorder.records();
    assert!(records.p99_of_arrivals().is_infinite() && records.bad() == (21, 1_021));
}

#[test]
fn what_is_not_on_this_machine_is_refused() {
    for server in ["10.1.2.3:50051", "http://192.0.2.7:1", "[2001:db8::1]:50051"] {
        let refusal = args(&format!("--server {server}")).validate().unwrap_err();
        assert!(refusal.contains("--allow-remote") && refusal.contains(server), "{refusal}");
        assert_eq!(args(&format!("--server {server} --allow-remote")).validate(), Ok(()));
    }
    let refusal = args("--server 10.1.2.3:1 --allow-remote --token x").validate().unwrap_err();
    assert!(refusal.contains("in the clear"), "{refusal}");
    assert_eq!(args("--server 127.0.0.1:1 --token x").validate(), Ok(()));
    let refusal = args("--server 127.0.0.1:1 --simulator 10.1.2.3:1").validate().unwrap_err();
    assert!(refusal.contains("10.1.2.3:1"), "{refusal}");
    assert_eq!(args("--server 127.0.0.1:1,http://[::1]:2 --simulator 127.0.0.1:3").validate(), Ok(()));
    for wrong in [
        "--duration 200h",
        "--requests 0",
        "--nodes 2 --store sqlite",
        "--rate 0",
        "--mode closed --shape ramp",
    ] {
        assert!(args(wrong).validate().is_err(), "{wrong}");
    }
    assert_eq!(args("--set saga.run_ahead=0s").validate(), Ok(()));
    for wrong in [
        "--chaos kill:every=1x",
        "--break skip-undo:create.label",
        "--server 127.0.0.1:1 --nodes 3",
        "--mix x=1",
        "--duration 99999999999999999999h",
        "--set store.url=postgres://db.example/orders",
        "--set STORE__URL=postgres://db.example/orders",
        "--set grpc.listen=0.0.0.0:1",
        "--set collaborators.payment=http://payment.example:1",
        "--set cluster.advertise=192.0.2.7:1",
    ] {
        let words = ["load"].into_iter().chain(wrong.split(' '));
        assert!(Args::try_parse_from(words).is_err(), "{wrong}");
    }
}

#[test]
fn the_guard_removes_its_own_folder_and_no_other() {
    let place = tempfile::TempDir::new().unwrap();
    let at = |name: &str| place.path().join(name);
    let (ours, inner) = (at("a b/c *"), at("a b/d/e"));
    let others = [at("a"), at("b"), at("a b/c"), at("other"), inner];
    others.iter().chain([&ours]).for_each(|folder| std::fs::create_dir_all(folder.join("file")).unwrap());
    let guard = Guard::start(&at("a b/"));
    for folder in [ours.clone(), at("other"), at("a b"), at("a b/d/e"), at("a b/../other")] {
        guard.knows_folder(&folder);
    }
    drop(guard);
    assert!(!ours.exists());
    others.iter().for_each(|folder| assert!(folder.join("file").exists(), "{}", folder.display()));
}

#[test]
fn only_a_refusal_of_the_service_says_that_an_order_was_not_made() {
    use tonic::Code;
    let told = |code: Code, reason: &str| {
        let details = ErrorDetails::with_error_info(reason, "order", HashMap::new());
        is_not_made(&Status::with_error_details(code, "", details))
    };
    assert!(
        told(Code::FailedPrecondition, "INVENTORY_UNAVAILABLE") && told(Code::NotFound, "USER_NOT_FOUND")
    );
    assert!(!told(Code::InvalidArgument, "REQUEST_ID_REUSED"));
    assert!(!is_not_made(&Status::failed_precondition("says a proxy")));
    use Code::{Aborted, Internal, PermissionDenied, ResourceExhausted, Unavailable, Unknown};
    for code in [Aborted, Internal, PermissionDenied, ResourceExhausted, Unavailable, Unknown] {
        assert!(!told(code, "WHATEVER"), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_by_itself_is_noticed_and_one_that_was_killed_is_not() {
    let mut own = Own::start(&args("--rate 1")).await;
    assert_eq!(own.fallen(), Vec::new());
    own.kill9(0).await;
    assert_eq!(own.fallen(), Vec::new(), "that was meant");
    own.start_again(0).await;
    let (_, process) = own.processes().iter().find(|(name, _)| name == "node-1").unwrap();
    let process = Pid::from_raw(i32::try_from(*process).unwrap()).unwrap();
    kill_process(process, Signal::KILL).unwrap();
    let mut tick = interval(Duration::from_millis(10));
    let noticed = async {
        loop {
            tick.tick().await;
            if let [one] = &own.fallen()[..] {
                break one.clone();
            }
        }
    };
    let fallen = timeout(Duration::from_secs(30), noticed).await.unwrap();
    assert!(fallen.name == "node-1" && fallen.how.contains("signal: 9"), "{fallen:?}");
    assert!(fallen.last.contains("serving"), "{fallen:?}");
    assert!(own.fallen().is_empty() && own.is_down(0), "told once");
}

/// Answers every call with an empty message, one after the other, each when the next tick comes.
#[derive(Clone)]
struct Slow(Arc<Mutex<Interval>>);

impl NamedService for Slow {
    const NAME: &'static str = "order.v1.OrderService";
}

type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl UnaryService<pb::ListOrdersRequest> for Slow {
    type Response = pb::ListOrdersResponse;
    type Future = Pending<Response<Self::Response>, Status>;

    fn call(&mut self, _: Request<pb::ListOrdersRequest>) -> Self::Future {
        let ticks = Arc::clone(&self.0);
        Box::pin(async move {
            ticks.lock().await.tick().await;
            Ok(Response::new(pb::ListOrdersResponse::default()))
        })
    }
}

impl tower::Service<http::Request<Body>> for Slow {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pending<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let slow = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<pb::ListOrdersResponse, pb::ListOrdersRequest>::default();
            Ok(Grpc::new(codec).unary(slow, request).await)
        })
    }
}

/// A server that gets fifty calls a second done and not one more.
async fn slow() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut ticks = interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(health).add_service(Slow(Arc::new(Mutex::new(ticks))));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_does_not_wait_for_a_slow_server_and_a_closed_one_does() {
    let server = format!("--server {} --mix list=1 --duration 1s", slow().await);
    let open = run(&format!("{server} --rate 100")).await;
    assert_eq!((open.records.arrivals, open.records.dropped), (100, 0));
    assert_eq!((open.records.all.done, open.records.all.failed), (100, 0));
    assert_eq!(open.verdict.exit, 2, "there was no order to check: {}", open.verdict.line);
    // The last of a hundred calls has fifty before it.
    let p90 = millis(&open.records.all.latency, 90.0);
    assert!((600.0..8_000.0).contains(&p90), "{p90}");
    let closed = run(&format!("{server} --mode closed --in-flight 1")).await;
    assert!((5..=60).contains(&closed.records.arrivals), "{}", closed.records.arrivals);
    let p50 = millis(&closed.records.all.latency, 50.0);
    assert!(p50 < 200.0, "{p50}");
    // What comes on top of those under way is told, not delayed.
    let full = run(&format!("{server} --rate 100 --in-flight 5")).await;
    assert_eq!(full.records.arrivals, 100);
    assert_eq!(full.records.dropped + full.records.all.done, 100);
    assert!((10..95).contains(&full.records.dropped), "{}", full.records.dropped);
    assert!(full.warnings.iter().any(|warning| warning.contains("dropped")), "{:?}", full.warnings);
    let limited = run(&format!("{server} --rate 100 --max-p99 100ms")).await;
    assert_eq!(limited.verdict.exit, 1);
    assert!(limited.verdict.line.starts_with("FAIL: the p99"), "{}", limited.verdict.line);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_node_passes_and_the_report_is_whole() {
    let report = run("--rate 60 --duration 2s --prepare 20 --declined 10% --seed 4").await;
    let text = table(&report);
    assert_eq!(report.verdict.exit, 0, "{text}");
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("PASS: all ") && first.contains("books of payment"), "{first}");
    assert_eq!(
        (report.records.arrivals, report.records.dropped, report.records.all.failed),
        (120, 0, 0),
        "{text}"
    );
    assert!(report.found.checked > 40 && report.found.checked == report.found.orders, "{text}");
    assert!(text.contains("FAILED_PRECONDITION PAYMENT_DECLINED"), "{text}");
    assert!(report.found.unchecked.is_empty() && report.acknowledgements > 60);
    let json: serde_json::Value = serde_json::from_str(&report.json().to_string()).unwrap();
    assert_eq!(json["exit_code"], 0);
    assert!(json["all"]["latency_ms"]["p99"].as_f64().unwrap() > 0.0);
    let page = html(&report);
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("NaN"),
        "needs nothing else"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_give_stock_back_fails() {
    let report =
        run("--rate 40 --duration 1s --mix create=1 --declined 50% --break skip-undo:create.reserve").await;
    assert_eq!(report.verdict.exit, 1);
    let (order, law) = &report.found.broken[0];
    assert!(order.parse::<Uuid>().is_ok(), "{order}");
    assert!(law.starts_with("I5: stock is held for an order that is Cancelled"), "{law}");
    let first = table(&report).lines().next().unwrap().to_owned();
    assert!(first.starts_with("FAIL: ") && first.contains(order), "{first}");
    let declined = report.records.all.refused;
    let orders = report.found.broken.iter().filter(|(whom, _)| whom.parse::<Uuid>().is_ok()).count() as u64;
    assert_eq!(orders, declined, "each of them, and no other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_wants_tokens_is_tested_and_checked_with_one() {
    let (simulate, issuer) = (Simulate::start().await, Issuer::new());
    let settings = issuer.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let node = NodeProcess::start(&simulate, &settings).await;
    let target = format!(
        "--server {} --simulator {} --rate 30 --duration 1s --prepare 5 --mix create=2,get=1,cancel=1",
        node.url(),
        simulate.url()
    );
    let without = session::run(args(&target), &Stops::default(), &Screen::new(true)).await;
    let why = without.err().unwrap();
    assert!(why.contains("UNAUTHENTICATED"), "{why}");
    let token = issuer.token("load", &[Role::Service], None);
    let report = run(&format!("{target} --token {token}")).await;
    assert_eq!((report.verdict.exit, &report.found.broken), (0, &Vec::new()), "{}", table(&report));
    assert!(report.records.all.done > 10 && report.records.all.failed == 0, "{}", table(&report));
    assert!(report.found.checked > 5, "{}", report.found.checked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_and_is_not_so_is_named() {
    let simulate = Simulate::start().await;
    let place = tempfile::TempDir::new().unwrap();
    let store = format!("sqlite:{}", place.path().join("orders.db").display());
    let node = NodeProcess::start_in(place, &simulate, &[]).await;
    let order = node.client().create_order(sample_order()).await.unwrap().into_inner();
    let id: Uuid = order.id.parse().unwrap();
    let told = |order: &pb::Order, id: Uuid| {
        let mut told = Told::default();
        told.orders.insert(id, Some(Heard::of(order)));
        told
    };
    let sources = Sources {
        fleet: Fleet::of([node.url().to_owned()].into_iter()),
        simulator: Some(simulate.url().to_owned()),
        own_store: None,
        which: Check::All,
        settle: Duration::from_secs(20),
        seed: 1,
    };
    let found = async |told| -> Found {
        check::run(&sources, told, &Progress::default(), &CancellationToken::new()).await
    };
    let sound = found(told(&order, id)).await;
    assert_eq!((sound.broken, sound.checked), (Vec::new(), 1));
    let blamed = async |told| found(told).await.broken.remove(0);
    let (whom, what) = blamed(told(&order, Uuid::from_u128(5))).await;
    assert!(whom.starts_with("00000000-") && what.contains("not there"), "{whom} {what}");
    let newer = pb::Order { version: order.version + 1, ..order.clone() };
    let (whom, what) = blamed(told(&newer, id)).await;
    assert!(whom == order.id && what.contains("was acknowledged, found"), "{whom} {what}");
    let richer = pb::Order { total_amount: "1.00".into(), ..order.clone() };
    assert!(blamed(told(&richer, id)).await.1.contains("another total"));
    let shipped = pb::Order { status: pb::OrderStatus::Shipped.into(), ..order.clone() };
    assert!(blamed(told(&shipped, id)).await.1.contains("Shipped was acknowledged and never was"));

    // Another order was the answer before, so this one is a second.
    let request = NewOrder { user: 7, request_id: Uuid::now_v7(), lines: 1, declined: false };
    let mut twice = told(&order, id);
    twice.made.insert(request.request_id, id);
    twice.in_doubt.push(request);
    let (whom, what) = blamed(twice).await;
    assert!(whom != order.id && what.contains(&format!("for which {id} was made before")), "{whom} {what}");
    // Two are there now; what was asked for is one.
    let sole = Sources {
        own_store: Some(store),
        fleet: sources.fleet.clone(),
        simulator: sources.simulator.clone(),
        ..sources
    };
    let mut once = told(&order, id);
    once.requests = 1;
    once.made.insert(Uuid::now_v7(), id);
    let found = check::run(&sole, once, &Progress::default(), &CancellationToken::new()).await;
    assert_eq!(found.broken.len(), 1, "{:?}", found.broken);
    let (other, what) = &found.broken[0];
    assert!(*other == whom && what.contains("1 more orders than the 1 that were asked for"), "{what}");
    let mut both = told(&order, id);
    both.requests = 2;
    let found = check::run(&sole, both, &Progress::default(), &CancellationToken::new()).await;
    assert_eq!((found.broken, found.checked), (Vec::new(), 2));

    // Done once, whether it was asked for or not.
    let add = pb::AddOrderItemRequest {
        order_id: order.id.clone(),
        item: sample_order().items.pop(),
        request_id: Uuid::now_v7().to_string(),
        ..Default::default()
    };
    let changed = node.client().add_order_item(add).await.unwrap().into_inner();
    let (whom, what) = blamed(told(&changed, id)).await;
    assert!(whom == order.id && what.contains("items_changed 1 times, asked for 0 times"), "{what}");
    let mut asked = told(&changed, id);
    asked.changes.insert(id, Changes { edits: 1, refunds: 0 });
    let found = check::run(&sources, asked, &Progress::default(), &CancellationToken::new()).await;
    assert_eq!((found.broken, found.checked), (Vec::new(), 1));
}

#[test]
fn answers_are_held_against_earlier_ones() {
    let order = pb::Order { id: Uuid::from_u128(3).to_string(), version: 4, ..Default::default() };
    let status = |version| pb::GetOrderStatusResponse { id: order.id.clone(), version, ..Default::default() };
    let blamed = |note: &dyn Fn(&Book)| {
        let book = Book::default();
        book.heard(&order, None);
        note(&book);
        book.close().stale.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; ")
    };
    let sound = blamed(&|book| {
        book.heard(&order, Some(4));
        book.heard_status(&status(5), Some(4));
    });
    assert_eq!(sound, "");
    let richer = pb::Order { total_amount: "1.00".into(), ..order.clone() };
    let other = blamed(&|book| book.heard(&richer, None));
    assert!(other.contains("different content of version 4"), "{other}");
    let older = blamed(&|book| {
        book.heard_status(&status(6), Some(4));
        book.heard_status(&status(5), book.version(Uuid::from_u128(3)));
    });
    assert!(older.contains("shown at version 5, told to be at 6"), "{older}");
}
