//! Card numbers are sent wherever something can be sent, by callers and by the other services, to a node that logs all it
//! can; then they are looked for wherever something is kept or told.

mod leaky;

use std::fs;
use std::path::Path;

use order_service::domain::card::contains_card_number;
use order_service::proto::admin::RetryStepRequest;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use self::leaky::leak;
use crate::harness::api::{by_id, eventually, order_of};
use crate::harness::node::sample_order;
use crate::harness::postgres::PgServer;
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::stores::StoreKind;

/// Numbers of several brands, in several dresses.
const CARDS: [&str; 8] = [
    "4111111111111111",
    "5555 5555 5555 4444",
    "3782-822463-10005",
    "6011.1111.1111.1117",
    "3530\u{a0}1113\u{a0}3330\u{a0}0000",
    "４２４２４２４２４２４２４２４２",
    "2223\u{200b}0031\u{200b}2200\u{200b}3222",
    "٤٠١٢٨٨٨٨٨٨٨٨١٨٨١",
];
/// What a header can hold of them.
const PLAIN: [&str; 4] =
    ["4111111111111111", "5555 5555 5555 4444", "3782-822463-10005", "6011.1111.1111.1117"];
/// The digits of all of them.
const DIGITS: [&str; 8] = [
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "6011111111111117",
    "3530111333300000",
    "4242424242424242",
    "2223003122003222",
    "4012888888881881",
];
/// What is as secret, and may be on its way to the payment service only.
const TOKEN: &str = "tok_canary_7f3a9e";

/// The sample order with one of its texts replaced.
fn creations(text: &str) -> Vec<pb::CreateOrderRequest> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut pb::CreateOrderRequest)| {
        let mut request = order_of(&[(1, 1)]);
        change(&mut request);
        all.push(request);
    };
    let owned = || text.to_owned();
    with(&|request| request.request_id = owned());
    with(&|request| request.user_id = owned());
    with(&|request| request.payment_method = owned());
    with(&|request| request.payment_token = owned());
    with(&|request| request.shipping_method = owned());
    with(&|request| request.notes = format!("{text} please"));
    with(&|request| request.coupon_code = owned());
    with(&|request| request.currency = owned());
    with(&|request| request.expected_total = owned());
    with(&|request| request.items[0].product_id = owned());
    with(&|request| request.items[0].variant_id = owned());
    with(&|request| drop(request.metadata.insert(owned(), "x".into())));
    with(&|request| drop(request.metadata.insert("card".into(), owned())));
    let fields: [fn(&mut pb::OrderAddress) -> &mut String; 10] = [
        |address| &mut address.first_name,
        |address| &mut address.last_name,
        |address| &mut address.address_line1,
        |address| &mut address.address_line2,
        |address| &mut address.city,
        |address| &mut address.state,
        |address| &mut address.postal_code,
        |address| &mut address.country,
        |address| &mut address.phone,
        |address| &mut address.email,
    ];
    for field in fields {
        with(&|request| *field(request.shipping_address.as_mut().unwrap()) = owned());
        with(&|request| *field(request.billing_address.as_mut().unwrap()) = format!("a {text} b"));
    }
    all
}

/// Everything that the node answered.
#[derive(Default)]
struct Heard(Vec<String>);

impl Heard {
    /// A refusal, which it must be.
    #[track_caller]
    fn refused<T: std::fmt::Debug>(&mut self, answer: Result<Response<T>, Status>) {
        let status = answer.unwrap_err();
        assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{status:?}");
        self.told(Err::<Response<T>, _>(status));
    }

    /// Whatever it is.
    fn told<T: std::fmt::Debug>(&mut self, answer: Result<Response<T>, Status>) {
        self.0.push(match answer {
            Ok(answer) => format!("{answer:?}"),
            Err(status) => format!("{status:?} {}", String::from_utf8_lossy(status.details())),
        });
    }
}

/// Every field of every request that changes something or asks for something.
async fn ask(client: &mut OrderServiceClient<Channel>, order: &pb::Order, card: &str, heard: &mut Heard) {
    let (id, text) = (|| order.id.clone(), || card.to_owned());
    for request in creations(card) {
        heard.refused(client.create_order(request).await);
    }
    heard.refused(client.get_order(by_id(card)).await);
    let number = Some(pb::get_order_request::Key::OrderNumber(text()));
    heard.refused(client.get_order(pb::GetOrderRequest { key: number, allow_stale: false }).await);
    let key = Some(pb::get_order_status_request::Key::Id(text()));
    heard.refused(client.get_order_status(pb::GetOrderStatusRequest { key }).await);
    for (user_id, page_token, order_by) in
        [(text(), "".into(), "".into()), ("".into(), text(), "".into()), ("".into(), "".into(), text())]
    {
        let request = pb::ListOrdersRequest { user_id, page_token, order_by, ..Default::default() };
        heard.refused(client.list_orders(request).await);
    }
    for (order_id, page_token) in [(text(), String::new()), (id(), text())] {
        let request = pb::ListOrderEventsRequest { order_id, page_token, ..Default::default() };
        heard.refused(client.list_order_events(request).await);
    }
    heard.refused(
        client.list_payment_transactions(pb::ListPaymentTransactionsRequest { order_id: text() }).await,
    );
    for (id, reason, request_id) in
        [(text(), "".into(), "".into()), (id(), text(), "".into()), (id(), "".into(), text())]
    {
        let request = pb::CancelOrderRequest { id, reason, request_id, ..Default::default() };
        heard.refused(client.cancel_order(request).await);
    }
    let tracking = |carrier: String, tracking_number: String| Some(pb::Tracking { carrier, tracking_number });
    for (notes, tracking) in [
        (text(), None),
        ("".into(), tracking(text(), "1".into())),
        ("".into(), tracking("UPS".into(), text())),
    ] {
        let status = pb::OrderStatus::Shipped.into();
        let request =
            pb::UpdateOrderStatusRequest { id: id(), status, notes, tracking, ..Default::default() };
        heard.refused(client.update_order_status(request).await);
    }
    for (amount, reason) in [(text(), "".into()), ("".into(), text())] {
        let request = pb::RefundOrderRequest { id: id(), amount, reason, ..Default::default() };
        heard.refused(client.refund_order(request).await);
    }
    let items = vec![pb::RefundItem { item_id: text(), quantity: 1 }];
    heard
        .refused(client.refund_order(pb::RefundOrderRequest { id: id(), items, ..Default::default() }).await);
    heard.refused(
        client.hold_order(pb::HoldOrderRequest { id: id(), reason: text(), ..Default::default() }).await,
    );
    let release = pb::ReleaseOrderRequest { id: id(), notes: text(), ..Default::default() };
    heard.refused(client.release_order(release).await);
    let item = Some(pb::NewOrderItem { product_id: text(), quantity: 1, ..Default::default() });
    heard.refused(
        client.add_order_item(pb::AddOrderItemRequest { order_id: id(), item, ..Default::default() }).await,
    );
    let change =
        pb::UpdateOrderItemRequest { order_id: id(), item_id: text(), quantity: 1, ..Default::default() };
    heard.refused(client.update_order_item(change).await);
    let remove = pb::RemoveOrderItemRequest { order_id: id(), item_id: text(), ..Default::default() };
    heard.refused(client.remove_order_item(remove).await);
    let watch = pb::WatchOrderRequest { order_id: text(), ..Default::default() };
    let watching = client.watch_order(watch).await.map(|_| Response::new(()));
    heard.refused(watching);
}

/// Headers, paths and what stands beside a request.
async fn whisper(node: &NodeProcess, order: &pb::Order, card: &str, heard: &mut Heard) {
    let endpoint = Endpoint::from_shared(node.url().to_owned()).unwrap();
    let channel = endpoint.user_agent(format!("shop/1.0 ({card})")).unwrap().connect().await.unwrap();
    let mut client = OrderServiceClient::new(channel.clone());
    let digits: String = card.chars().filter(char::is_ascii_digit).collect();
    for (name, value) in [
        ("x-request-id", card.replace(' ', "-")),
        ("x-card", card.to_owned()),
        ("authorization", format!("Bearer {card}")),
        ("traceparent", format!("00-{digits:a<32}-{:a<16}-01", &digits[..digits.len().min(16)])),
        ("tracestate", format!("shop={card}")),
    ] {
        let mut request = Request::new(by_id(&order.id));
        request.metadata_mut().insert(name, value.parse().unwrap());
        heard.told(client.get_order(request).await);
        let mut request = Request::new(order_of(&[(1, 1)]));
        request.metadata_mut().insert(name, value.parse().unwrap());
        heard.told(client.create_order(request).await);
    }
    let path = format!("/order.v1.OrderService/{}", card.replace(' ', "%20")).parse().unwrap();
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<pb::GetOrderRequest, pb::Order>::default();
    heard.told(raw.unary(Request::new(by_id(card)), path, codec).await);
    let mut admin = OrderAdminServiceClient::connect(node.ops_url()).await.unwrap();
    for (order, reason, by) in [(card, "x", "x"), (&order.id, card, "x"), (&order.id, "x", card)] {
        let (order, reason, by) = (order.to_owned(), reason.to_owned(), by.to_owned());
        heard.told(admin.retry_step(RetryStepRequest { order, reason, by, ..Default::default() }).await);
    }
    for path in [format!("/{}", card.replace(' ', "%20")), format!("/readyz?card={}", card.replace(' ', "+"))]
    {
        heard.0.push(get(node, &path, card).await);
    }
}

/// What the listener for operators answers.
async fn get(node: &NodeProcess, path: &str, card: &str) -> String {
    let address = node.ops_url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nX-Card: {card}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Metrics without their values: a sum of seconds with all of its digits passes for a card number now and then.
fn names_and_labels(metrics: &str) -> String {
    metrics
        .lines()
        .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether a card number is in a text, however it is dressed.
fn is_told(text: &str) -> Option<&'static str> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    DIGITS
        .into_iter()
        .find(|card| digits.contains(card))
        .or_else(|| contains_card_number(text).then_some("some card"))
}

/// Which of these texts are in files of a folder, and where.
fn kept(folder: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(kept(&path, texts));
            continue;
        }
        // Files of a database server come and go.
        let Ok(bytes) = fs::read(&path) else { continue };
        for (place, byte) in bytes.iter().enumerate() {
            let starts =
                |text: &&&str| text.as_bytes()[0] == *byte && bytes[place..].starts_with(text.as_bytes());
            found.extend(texts.iter().filter(starts).map(|text| format!("{text} in {}", path.display())));
        }
    }
    found
}

async fn no_card_number_is_kept_or_told(kind: StoreKind) {
    let server = match kind {
        StoreKind::Postgres => Some(PgServer::start(&[]).await),
        StoreKind::Sqlite => None,
    };
    let url = match &server {
        Some(server) => Some(server.create_database().await),
        None => None,
    };
    let books = tempfile::tempdir().unwrap();
    let journal = books.path().join("simulator.jsonl").display().to_string();
    let simulate = Simulate::start_with(&[("ORDER__SIMULATOR__JOURNAL", journal.as_str())]).await;
    let (others, leaky) = leak(simulate.url()).await;
    let spans = tempfile::tempdir().unwrap();
    let printed = spans.path().join("spans.jsonl").display().to_string();
    let settings = [
        ("ORDER__TRACING__PRINT", printed.as_str()),
        ("ORDER__TRACING__SAMPLE_RATIO", "1"),
        ("ORDER__COLLABORATORS__PAYMENT", leaky.as_str()),
        ("ORDER__COLLABORATORS__PRODUCT", leaky.as_str()),
        ("ORDER__COLLABORATORS__SHIPPING", leaky.as_str()),
        ("ORDER__LOG__LEVEL", "trace"),
        ("ORDER__SAGA__RETRY_INITIAL", "5ms"),
    ];
    let mut node = NodeProcess::start_on(url, &simulate, &settings, &[]).await;
    let (mut client, mut heard) = (node.client(), Heard::default());

    // What the others say: products, gateway, label, a refund that fails at first, and a refusal.
    let token = |token: &str| pb::CreateOrderRequest { payment_token: token.into(), ..sample_order() };
    let order = client.create_order(token(TOKEN)).await.unwrap().into_inner();
    assert_eq!(order.status(), pb::OrderStatus::Confirmed);
    assert_eq!(order.items[0].name, "Gift card ****************");
    let processing = pb::UpdateOrderStatusRequest {
        id: order.id.clone(),
        status: pb::OrderStatus::Processing.into(),
        ..Default::default()
    };
    let packed = client.update_order_status(processing).await.unwrap().into_inner();
    assert!(packed.shipments[0].label_url.starts_with("https://labels.example/****"), "{packed:?}");
    let cancel = pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() };
    heard.told(client.cancel_order(cancel).await);
    let id = order.id.clone();
    eventually("the end", async || {
        let order = node.client().get_order(by_id(&id)).await.unwrap().into_inner();
        (order.status() == pb::OrderStatus::Cancelled).then_some(())
    })
    .await;
    let declined = client.create_order(token(&format!("{TOKEN}_bad"))).await.unwrap_err();
    assert_eq!(declined.code(), Code::FailedPrecondition, "{declined:?}");
    heard.told(Err::<Response<()>, _>(declined));
    let all = client.list_orders(pb::ListOrdersRequest::default()).await.unwrap().into_inner().orders;
    for order in &all {
        let order_id = order.id.clone();
        let events = pb::ListOrderEventsRequest { order_id: order_id.clone(), ..Default::default() };
        heard.told(client.list_order_events(events).await);
        heard.told(client.list_payment_transactions(pb::ListPaymentTransactionsRequest { order_id }).await);
    }
    heard.0.push(format!("{all:?}"));

    // What callers say.
    let calm = client.create_order(order_of(&[(4, 1)])).await.unwrap().into_inner();
    for card in CARDS {
        ask(&mut client, &calm, card, &mut heard).await;
    }
    for card in PLAIN {
        whisper(&node, &calm, card, &mut heard).await;
    }
    heard.0.push(names_and_labels(&get(&node, "/metrics", "none").await));
    assert!(heard.0.len() > 400 && heard.0.last().unwrap().contains("orders_created_total"));
    for answer in &heard.0 {
        assert!(!answer.contains(TOKEN), "the token: {answer}");
        assert!(
            DIGITS.iter().all(|card| !answer.contains(card)) && is_told(answer).is_none(),
            "{:?}: {answer}",
            is_told(answer)
        );
    }

    node.kill9().await;
    let log = node.process().log();
    assert!(log.lines().count() > 1_000, "{} lines", log.lines().count());
    assert!(log.contains("****"), "what is masked was there to be masked");
    for line in log.lines() {
        assert!(is_told(line).is_none(), "{:?}: {line}", is_told(line));
        assert!(!line.contains(TOKEN), "the token: {line}");
    }
    let spans = fs::read_to_string(printed).unwrap();
    assert!(spans.lines().count() > 300, "{} spans", spans.lines().count());
    for line in spans.lines() {
        assert!(is_told(line).is_none() && !line.contains(TOKEN), "{:?}: {line}", is_told(line));
        assert!(!line.contains("John") && !line.contains("Main St"), "{line}");
    }
    // What the other services were sent, and what they booked of it. The token is on its way to its service there.
    let asked = others.asked.lock().unwrap().clone();
    for there in [TOKEN, &order.id, "Main St"] {
        assert!(asked.iter().any(|asked| asked.contains(there)), "what is asked is not looked at: {asked:?}");
    }
    let journal = fs::read_to_string(&journal).unwrap();
    assert!(journal.contains(&order.id), "nothing is booked: {journal}");
    assert_eq!(kept(books.path(), &[TOKEN, "John", "Main St"]), Vec::<String>::new());
    let has_card = |text: &str| {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        CARDS.iter().chain(&DIGITS).any(|card| text.contains(card) || digits.contains(card))
    };
    let told: Vec<&str> = asked.iter().map(String::as_str).chain(journal.lines()).collect();
    let told: Vec<&str> = told.into_iter().filter(|text| has_card(text)).collect();
    assert_eq!(told, Vec::<&str>::new());
    let folder = match &server {
        Some(server) => server.data_dir(),
        None => node.folder().to_owned(),
    };
    assert_ne!(kept(&folder, &["Gift card"]), Vec::<String>::new(), "what is kept is not found");
    assert_eq!(kept(&folder, &[CARDS.as_slice(), &DIGITS].concat()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_card_number_is_kept_or_told_on_sqlite() {
    no_card_number_is_kept_or_told(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_card_number_is_kept_or_told_on_postgres() {
    no_card_number_is_kept_or_told(StoreKind::Postgres).await;
}
