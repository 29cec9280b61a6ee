//! The command line against a scripted service: what it prints, where, and its exit codes.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Stdio};

use futures::Stream;
use futures::stream;
use order_service::proto::order::order_service_server::{OrderService, OrderServiceServer};
use order_service::proto::order::{
    AddOrderItemRequest, AddShipmentRequest, CancelOrderRequest, CreateOrderRequest, GetOrderRequest,
    GetOrderStatusRequest, GetOrderStatusResponse, Hold, HoldOrderRequest, ListOrderEventsRequest,
    ListOrderEventsResponse, ListOrdersRequest, ListOrdersResponse, ListPaymentTransactionsRequest,
    ListPaymentTransactionsResponse, Order, OrderEvent, OrderStatus, PaymentTransaction, RefundOrderRequest,
    ReleaseOrderRequest, RemoveOrderItemRequest, UpdateOrderItemRequest, UpdateOrderStatusRequest,
    WatchOrderRequest, WatchOrderResponse, get_order_request::Key,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

const ID: &str = "01900000-0000-7000-8000-000000000001";
const NUMBER: &str = "ORD-7K3M9Q2XYZ";

/// Answers from a script; its one order carries in its notes what was asked.
struct Scripted;

fn order(status: OrderStatus, notes: String) -> Order {
    Order {
        id: ID.into(),
        order_number: NUMBER.into(),
        status: status.into(),
        total_amount: "93.17".into(),
        currency: "USD".into(),
        version: 4,
        notes,
        ..Order::default()
    }
}

fn event(sequence: i64) -> OrderEvent {
    OrderEvent { order_id: ID.into(), sequence, r#type: "order_created".into(), ..OrderEvent::default() }
}

fn refusal(code: Code, reason: &str, facts: &[(&str, &str)]) -> Status {
    let facts: HashMap<String, String> =
        facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Status::with_error_details(
        code,
        "refused by the script",
        ErrorDetails::with_error_info(reason, "order.v1", facts),
    )
}

#[tonic::async_trait]
impl OrderService for Scripted {
    async fn create_order(&self, request: Request<CreateOrderRequest>) -> Result<Response<Order>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"), "every call brings a deadline");
        let request = request.into_inner();
        if request.payment_token == "tok_declined" {
            return Err(refusal(Code::FailedPrecondition, "PAYMENT_DECLINED", &[("order_id", ID)]));
        }
        if request.notes == "be slow" {
            std::future::pending::<()>().await;
        }
        let notes = format!("{} {} {}", request.request_id, request.validate_only, request.items.len());
        Ok(Response::new(order(OrderStatus::Confirmed, notes)))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        match request.into_inner().key {
            Some(Key::OrderNumber(number)) if number == "ORD-0000000000" => {
                Err(refusal(Code::NotFound, "ORDER_NOT_FOUND", &[]))
            }
            key => Ok(Response::new(order(OrderStatus::Pending, format!("{key:?}")))),
        }
    }

    async fn get_order_status(
        &self,
        _: Request<GetOrderStatusRequest>,
    ) -> Result<Response<GetOrderStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_order_status(
        &self,
        request: Request<UpdateOrderStatusRequest>,
    ) -> Result<Response<Order>, Status> {
        let request = request.into_inner();
        Ok(Response::new(order(request.status(), format!("{request:?}"))))
    }

    async fn cancel_order(&self, request: Request<CancelOrderRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Cancelled, format!("{:?}", request.into_inner()))))
    }

    async fn refund_order(&self, request: Request<RefundOrderRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Confirmed, format!("{:?}", request.into_inner()))))
    }

    async fn add_order_item(&self, request: Request<AddOrderItemRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Confirmed, format!("{:?}", request.into_inner()))))
    }

    async fn update_order_item(
        &self,
        request: Request<UpdateOrderItemRequest>,
    ) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Confirmed, format!("{:?}", request.into_inner()))))
    }

    async fn remove_order_item(
        &self,
        request: Request<RemoveOrderItemRequest>,
    ) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Confirmed, format!("{:?}", request.into_inner()))))
    }

    async fn add_shipment(&self, request: Request<AddShipmentRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Processing, format!("{:?}", request.into_inner()))))
    }

    async fn hold_order(&self, request: Request<HoldOrderRequest>) -> Result<Response<Order>, Status> {
        let request = request.into_inner();
        let (reason, until) = (request.reason.clone(), request.until);
        let hold = Hold { reason, by: "ann".into(), until, since: until };
        let held = Order { hold: Some(hold), ..order(OrderStatus::Pending, format!("{request:?}")) };
        Ok(Response::new(held))
    }

    async fn release_order(&self, request: Request<ReleaseOrderRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(OrderStatus::Pending, format!("{:?}", request.into_inner()))))
    }

    /// Five orders in pages of two.
    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let request = request.into_inner();
        let start: usize = request.page_token.parse().unwrap_or_default();
        let count = usize::try_from(request.page_size).unwrap().min(2).min(5 - start);
        let orders = (0..count).map(|_| order(OrderStatus::Pending, String::new())).collect();
        let end = start + count;
        let next_page_token = if end == 5 { String::new() } else { end.to_string() };
        Ok(Response::new(ListOrdersResponse { orders, next_page_token }))
    }

    async fn list_order_events(
        &self,
        request: Request<ListOrderEventsRequest>,
    ) -> Result<Response<ListOrderEventsResponse>, Status> {
        let after = request.into_inner().after_sequence;
        let events = (1..=5).filter(|sequence| *sequence > after).map(event).collect();
        Ok(Response::new(ListOrderEventsResponse { events, next_page_token: String::new() }))
    }

    async fn list_payment_transactions(
        &self,
        _: Request<ListPaymentTransactionsRequest>,
    ) -> Result<Response<ListPaymentTransactionsResponse>, Status> {
        let transaction =
            PaymentTransaction { kind: "CHARGE".into(), amount: "93.17".into(), ..Default::default() };
        Ok(Response::new(ListPaymentTransactionsResponse { transactions: vec![transaction] }))
    }

    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    /// Breaks after the second event, and after the third because the reader is slow; after the fourth the order is
    /// cancelled, with a fifth stored unsent.
    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let answer = |sequence, status| {
            let order = Some(order(status, String::new()));
            Ok(WatchOrderResponse { event: Some(event(sequence)), order })
        };
        let script = match request.into_inner().after_sequence {
            0 => vec![
                answer(1, OrderStatus::Pending),
                answer(2, OrderStatus::Pending),
                Err(refusal(Code::Unavailable, "SHUTTING_DOWN", &[])),
            ],
            2 => vec![
                answer(3, OrderStatus::Cancelling),
                Err(refusal(Code::ResourceExhausted, "OVERLOADED", &[("resume_after_sequence", "3")])),
            ],
            3 => vec![answer(4, OrderStatus::Cancelled)],
            other => panic!("watched behind {other}"),
        };
        Ok(Response::new(Box::pin(stream::iter(script))))
    }
}

/// What a run of the program left behind.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(OrderServiceServer::new(Scripted));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// Runs `order-service` with `line`, split at blanks, and `input` on standard input.
async fn run(line: String, input: &'static str) -> Run {
    let work = move || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_order-service"))
            .args(line.split_whitespace())
            .env_remove("ORDER_SERVER")
            .env_remove("ORDER_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    };
    #[expect(clippy::disallowed_methods, reason = "the scripted service answers while the program runs")]
    let run = tokio::task::spawn_blocking(work);
    run.await.unwrap()
}

async fn order_cli(line: &str, input: &'static str) -> Run {
    let address = service().await;
    run(format!("order --server {address} {line}"), input).await
}

#[tokio::test]
async fn create_reads_a_file_and_prints_the_order() {
    let done = order_cli("create examples/create-order.json --request-id r1", "").await;
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let order = done.json();
    assert_eq!(order["status"], "CONFIRMED");
    assert_eq!(order["total_amount"], "93.17");
    assert_eq!(order["notes"], "r1 false 1");

    let done = order_cli("create - --validate-only -o table", r#"{"request_id": "from-file"}"#).await;
    assert_eq!(done.code, Some(0));
    assert!(done.out.contains(&format!("Order {NUMBER}  CONFIRMED")), "{}", done.out);
    assert!(done.out.contains("from-file true 0"), "{}", done.out);
}

#[tokio::test]
async fn refusals_go_to_standard_error() {
    let done = order_cli("create examples/declined-payment.json", "").await;
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    let body: Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(body["error"]["code"], "PAYMENT_DECLINED");
    assert_eq!(body["error"]["details"][0]["order_id"], ID);

    let done = order_cli("get ORD-OOOOOOOOOO -o table", "").await;
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert_eq!(done.err, "error: refused by the script (ORDER_NOT_FOUND)\n");

    let done = order_cli("create - -o table", r#"{"itmes": []}"#).await;
    assert_eq!(done.code, Some(1));
    assert!(
        done.err.starts_with("error: standard input: ") && done.err.contains("unknown field `itmes`"),
        "{}",
        done.err
    );

    let done = order_cli("get nonsense", "").await;
    assert_eq!(done.code, Some(2));
}

#[tokio::test]
async fn no_answer_in_time_tells_how_to_repeat_safely() {
    let done =
        order_cli("--timeout 300ms -o table create - --request-id r2", r#"{"notes": "be slow"}"#).await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("gave no answer within 300ms"), "{}", done.err);
    assert!(done.err.contains("--request-id r2"), "{}", done.err);
}

#[tokio::test]
async fn orders_are_named_by_number_too() {
    let asked = |done: &Run| done.json()["notes"].as_str().unwrap().to_owned();
    let done = order_cli("get ord-7k3m9q2xyz", "").await;
    assert!(asked(&done).contains("OrderNumber(\"ORD-7K3M9Q2XYZ\")"), "{}", done.out);
    let done =
        order_cli(&format!("cancel {NUMBER} --reason twice --expected-version 3 --request-id r"), "").await;
    for expected in [ID, "reason: \"twice\"", "expected_version: 3", "request_id: \"r\""] {
        assert!(asked(&done).contains(expected), "{}", done.out);
    }
    let line = format!("status {ID} shipped --carrier UPS --tracking-number 1Z --note gone");
    let done = order_cli(&line, "").await;
    assert_eq!(done.json()["status"], "SHIPPED");
    for expected in ["carrier: \"UPS\"", "tracking_number: \"1Z\"", "notes: \"gone\"", "expected_version: 0"]
    {
        assert!(asked(&done).contains(expected), "{}", done.out);
    }
}

#[tokio::test]
async fn a_hold_is_set_shown_and_released() {
    let until = "2030-01-02T03:04:05Z";
    let line = format!("hold {NUMBER} --reason fraud --until {until} --expected-version 3 --request-id r");
    let done = order_cli(&line, "").await;
    let shown = done.json();
    assert_eq!(
        (shown["hold"]["reason"].as_str(), shown["hold"]["until"].as_str()),
        (Some("fraud"), Some(until))
    );
    let notes = shown["notes"].as_str().unwrap().to_owned();
    for expected in [ID, "expected_version: 3", "request_id: \"r\""] {
        assert!(notes.contains(expected), "{notes}");
    }
    let done = order_cli(&format!("{line} -o table"), "").await;
    assert!(done.out.contains(&format!("fraud (by ann, until {until})")), "{}", done.out);
    let done = order_cli(&format!("release {NUMBER} --note checked"), "").await;
    assert!(done.out.contains("notes: \\\"checked\\\""), "{}", done.out);
    for line in [format!("hold {NUMBER}"), format!("hold {NUMBER} --reason x --until tomorrow")] {
        assert_eq!(order_cli(&line, "").await.code, Some(2), "{line}");
    }
}

#[tokio::test]
async fn a_refund_is_of_an_amount_of_items_or_of_all() {
    for (line, expected) in [
        ("", &["amount: \"\"", "items: []"][..]),
        ("--amount 1.50 --reason late", &["amount: \"1.50\"", "reason: \"late\""]),
        ("--item a:2 --item b:1", &["item_id: \"a\", quantity: 2", "item_id: \"b\", quantity: 1"]),
        ("--expected-version 3 --request-id r", &["expected_version: 3", "request_id: \"r\"", ID]),
    ] {
        let done = order_cli(&format!("refund {NUMBER} {line}"), "").await;
        let asked = done.json()["notes"].as_str().unwrap().to_owned();
        assert!(expected.iter().all(|part| asked.contains(part)), "{asked}");
    }
    for line in ["--amount 1 --item a:1", "--item a", "--item a:0", "--amount"] {
        assert_eq!(order_cli(&format!("refund {NUMBER} {line}"), "").await.code, Some(2), "{line}");
    }
}

#[tokio::test]
async fn items_are_added_changed_and_removed() {
    let repeat = "--expected-version 3 --request-id r";
    for (line, expected) in [
        (
            format!("add-item {NUMBER} p"),
            &[
                "AddOrderItemRequest",
                "product_id: \"p\"",
                "variant_id: \"\"",
                "quantity: 1",
                "validate_only: false",
            ][..],
        ),
        (
            format!("add-item {ID} p --variant v --quantity 3 {repeat}"),
            &["variant_id: \"v\"", "quantity: 3", "expected_version: 3", "request_id: \"r\""],
        ),
        (
            format!("update-item {NUMBER} i --quantity 5 {repeat} --validate-only"),
            &[
                "UpdateOrderItemRequest",
                "item_id: \"i\"",
                "quantity: 5",
                "request_id: \"r\"",
                "validate_only: true",
            ],
        ),
        (
            format!("remove-item {NUMBER} i {repeat} --validate-only"),
            &["RemoveOrderItemRequest", "item_id: \"i\"", "expected_version: 3", "validate_only: true"],
        ),
    ] {
        let done = order_cli(&line, "").await;
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{line}");
        let asked = done.json()["notes"].as_str().unwrap().to_owned();
        assert!(asked.contains(ID) && expected.iter().all(|part| asked.contains(part)), "{asked}");
    }
    for line in ["add-item", "update-item i", "remove-item", "add-item p --quantity x"] {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        assert_eq!(order_cli(&format!("{command} {NUMBER} {rest}"), "").await.code, Some(2), "{line}");
    }
}

#[tokio::test]
async fn lists_are_limited_or_whole() {
    for (line, count, token) in [
        ("list --limit 3", 3, "3"),
        ("list --limit 3 --page-token 3", 2, ""),
        ("list --all", 5, ""),
        ("list", 5, ""),
    ] {
        let list = order_cli(line, "").await.json();
        assert_eq!(
            (list["orders"].as_array().unwrap().len(), &list["next_page_token"]),
            (count, &token.into())
        );
    }
    let done = order_cli("list --limit 1 -o table", "").await;
    assert!(done.out.contains("--page-token 1"), "{}", done.out);
    let done = order_cli("list --all -o table", "").await;
    assert_eq!(done.out.matches(NUMBER).count(), 5);
}

#[tokio::test]
async fn watch_survives_a_broken_stream_and_shows_everything_once() {
    let done = order_cli(&format!("watch {NUMBER}"), "").await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let lines: Vec<Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<i64> = lines.iter().map(|line| line["event"]["sequence"].as_i64().unwrap()).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!(lines[4]["order"]["status"], "CANCELLED");
}

#[tokio::test]
async fn history_and_payments() {
    let history = order_cli(&format!("history {ID} --after-sequence 3"), "").await.json();
    assert_eq!(history["events"].as_array().unwrap().len(), 2);
    let payments = order_cli(&format!("payments {ID}"), "").await.json();
    assert_eq!(payments["transactions"][0]["amount"], "93.17");
}

#[tokio::test]
async fn config_check_tells_everything_or_what_is_wrong() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&key, "ids: {key: a secret of our own}\npricing: {file: config/pricing.yaml}").unwrap();
    let files = format!("--config config/production.yaml --config {}", key.path().display());
    let done = run(format!("config check {files}"), "").await;
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(done.out.contains("ids.key = ***"), "{}", done.out);
    assert!(done.out.contains("# config/production.yaml") && done.out.contains("# default"), "{}", done.out);
    let done =
        run("--config /no/such.yaml config check --config examples/eur-order.json".to_owned(), "").await;
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert!(
        done.err.contains("/no/such.yaml cannot be read") && done.err.contains("is not a key"),
        "{}",
        done.err
    );
}

#[tokio::test]
async fn config_check_never_prints_the_password_of_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.yaml");
    for (store, code, expected) in [
        (
            "{url: 'postgres://u:hush@h/d', read_url: 'postgres://h/d?user=u&password=hush'}",
            0,
            ["\"postgres://u:***@h/d\"", "\"postgres://h/d?user=u&password=***\""],
        ),
        // Wrong ones, of which the value is told with what is wrong.
        (
            "{url: 'postgres://h/d?password=a@hush&b', read_url: 'postgres://u:a@hush@h/d'}",
            1,
            ["store.url = \"postgres://***\"", "\"postgres://u:***@h/d\""],
        ),
        (
            "{url: 'postgres:u:hush@h/d', read_url: 'host=h password=hush'}",
            1,
            ["\"postgres:***@h/d\"", "\"host=h password=***\""],
        ),
    ] {
        std::fs::write(&file, format!("store: {store}")).unwrap();
        let done = run(format!("config check --config {}", file.display()), "").await;
        let all = done.out + &done.err;
        assert_eq!(done.code, Some(code), "{all}");
        assert!(!all.contains("hush"), "{all}");
        assert!(expected.iter().all(|part| all.contains(part)), "{all}");
    }
}

#[tokio::test]
async fn wrong_usage_and_help_have_their_codes() {
    for (line, code) in
        [("", 2), ("--help", 0), ("order watch --help", 0), ("--version", 0), ("frobnicate", 2)]
    {
        assert_eq!(run(line.to_owned(), "").await.code, Some(code), "{line}");
    }
}
