//! Reading: one order, lists, history, payments, and following along.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use order_service::domain::status::OrderStatus as Status;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Pending, Processing, Shipped};
use tonic::{Code, Streaming};

use crate::harness::api::{
    by_id, by_number, channel, down, eventually, fault, invalid, no_faults, quick, read_refusal, refused,
    slow,
};
use crate::harness::node::{TestNode, sample_order};

const NOBODY: &str = "018f3e1c-0000-7000-8000-000000000000";

#[tokio::test]
async fn an_order_reads_the_same_live_passive_and_after_a_restart() {
    let leave = &[("ORDER__ACTOR__IDLE_AFTER", "10ms"), ("ORDER__ACTOR__SWEEP_EVERY", "10ms")];
    let mut node = TestNode::start_with(leave).await;
    let rich = pb::CreateOrderRequest { metadata: [("a".into(), "b".into())].into(), ..sample_order() };
    let order = node.create(rich).await;
    let order = node.ask_status(&order.id, Processing).await.unwrap();
    assert_eq!(node.get(&order.id).await, order);
    eventually("rest", || async { (node.node().orders().counts().live == 0).then_some(()) }).await;
    assert_eq!(node.get(&order.id).await, order);
    let history = node.events(&order.id).await;
    for cache in ["memory:", "none:"] {
        node = TestNode::start_in(node.stop().await, &[("ORDER__CACHE__URL", cache)]).await;
        assert_eq!(node.get(&order.id).await, order);
        assert_eq!(
            node.client().get_order(by_number(&order.order_number)).await.unwrap().into_inner(),
            order
        );
        assert_eq!(node.events(&order.id).await, history);
    }
    // It goes on where it stood.
    assert_eq!(node.ask_status(&order.id, Shipped).await.unwrap().version, order.version + 1);
    assert_eq!(node.get(&order.id).await.status(), Shipped);
    node.stop().await;
}

#[tokio::test]
async fn the_short_status_agrees_with_the_order() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    use pb::get_order_status_request::Key;
    for key in [Key::Id(order.id.clone()), Key::OrderNumber(order.order_number.clone())] {
        let request = pb::GetOrderStatusRequest { key: Some(key) };
        let short = node.client().get_order_status(request).await.unwrap().into_inner();
        assert_eq!(
            (short.id.as_str(), short.order_number.as_str()),
            (order.id.as_str(), order.order_number.as_str())
        );
        assert_eq!((short.status(), short.payment_status()), (order.status(), order.payment_status()));
        assert_eq!((short.version, short.updated_at), (order.version, order.updated_at));
    }
    node.stop().await;
}

#[tokio::test]
async fn reads_do_not_wait_for_a_saga() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "10ms")])).await;
    fault(&node, "payment.Charge", slow(Duration::from_secs(2)));
    let order = node.create(sample_order()).await;
    let started = std::time::Instant::now();
    let [short, long] = [node.get(&order.id).await, node.orders().await.remove(0)];
    assert_eq!((short.status(), long.status()), (Pending, Pending));
    assert!(!node.events(&order.id).await.is_empty());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    node.until(&order.id, Confirmed).await;
    node.stop().await;
}

fn moment(time: Option<prost_types::Timestamp>) -> (i64, i32) {
    time.map(|time| (time.seconds, time.nanos)).unwrap()
}

async fn list(node: &TestNode, request: &pb::ListOrdersRequest) -> (Vec<String>, String) {
    let page = node.client().list_orders(request.clone()).await.unwrap().into_inner();
    (page.orders.into_iter().map(|order| order.id).collect(), page.next_page_token)
}

/// All pages, each but the last of full size.
async fn list_all(node: &TestNode, mut request: pb::ListOrdersRequest) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let (page, next) = list(node, &request).await;
        all.extend(page.iter().cloned());
        if next.is_empty() {
            return all;
        }
        assert_eq!(page.len(), request.page_size as usize);
        request.page_token = next;
    }
}

#[tokio::test]
async fn lists_filter_and_page_in_both_directions() {
    let node = TestNode::start().await;
    let user = |n: u32| format!("20000000-0000-4000-8000-{n:012}");
    let mut orders = Vec::new();
    for n in 0..9 {
        let order = node.create(pb::CreateOrderRequest { user_id: user(1 + n % 3), ..sample_order() }).await;
        let order = if n % 2 == 0 { node.cancel(&order.id).await.unwrap() } else { order };
        orders.push(order);
    }
    let ids = |keep: &dyn Fn(&pb::Order) -> bool| -> Vec<String> {
        orders.iter().filter(|order| keep(order)).map(|order| order.id.clone()).collect()
    };
    let middle = orders[4].created_at;
    let all = pb::ListOrdersRequest { order_by: "created_at".into(), ..Default::default() };
    let cases = [
        (all.clone(), ids(&|_| true)),
        (pb::ListOrdersRequest { user_id: user(2), ..all.clone() }, ids(&|order| order.user_id == user(2))),
        (pb::ListOrdersRequest { user_id: user(9), ..all.clone() }, Vec::new()),
        (
            pb::ListOrdersRequest { statuses: vec![Cancelled.into()], ..all.clone() },
            ids(&|order| order.status() == Cancelled),
        ),
        (
            pb::ListOrdersRequest {
                statuses: vec![Confirmed.into(), Cancelled.into(), Confirmed.into()],
                user_id: user(3),
                ..all.clone()
            },
            ids(&|order| order.user_id == user(3)),
        ),
        (pb::ListOrdersRequest { statuses: vec![Pending.into()], ..all.clone() }, Vec::new()),
        // From a time on, it included; before a time, it excluded.
        (
            pb::ListOrdersRequest { created_after: middle, ..all.clone() },
            ids(&|order| moment(order.created_at) >= moment(middle)),
        ),
        (
            pb::ListOrdersRequest { created_before: middle, ..all.clone() },
            ids(&|order| moment(order.created_at) < moment(middle)),
        ),
        (pb::ListOrdersRequest { created_before: middle, created_after: middle, ..all }, Vec::new()),
    ];
    for (request, expected) in cases {
        for page_size in [1, 2, 3, 200] {
            let request = pb::ListOrdersRequest { page_size, ..request.clone() };
            assert_eq!(list_all(&node, request.clone()).await, expected, "{request:?}");
            for order_by in ["", "created_at desc"] {
                let request = pb::ListOrdersRequest { order_by: order_by.into(), ..request.clone() };
                let expected: Vec<_> = expected.iter().rev().cloned().collect();
                assert_eq!(list_all(&node, request.clone()).await, expected, "{request:?}");
            }
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn page_sizes_have_a_default_and_a_most() {
    let node = TestNode::start().await;
    let made: Vec<_> = join_all((0..203).map(|_| node.create(sample_order()))).await;
    let size = |page_size| pb::ListOrdersRequest { page_size, ..Default::default() };
    for (asked, given) in [(0, 50), (1, 1), (200, 200), (201, 200), (i32::MAX, 200)] {
        let (page, next) = list(&node, &size(asked)).await;
        assert_eq!((page.len(), next.is_empty()), (given, false), "{asked}");
    }
    // A token goes on at another size, and orders that come meanwhile do not shift the pages.
    let (first, token) = list(&node, &size(3)).await;
    node.create(sample_order()).await;
    let (rest, next) = list(&node, &pb::ListOrdersRequest { page_token: token.clone(), ..size(200) }).await;
    assert!(next.is_empty());
    let listed: BTreeSet<_> = first.iter().chain(&rest).cloned().collect();
    assert_eq!(listed, made.iter().map(|order| order.id.clone()).collect());
    // It is bound to its filter and order, and cannot be made up.
    let mut forged = token.clone();
    forged.replace_range(15..16, if &token[15..16] == "0" { "1" } else { "0" });
    let pending = vec![Pending.into()];
    for request in [
        pb::ListOrdersRequest { page_token: "garbage".into(), ..size(1) },
        pb::ListOrdersRequest { page_token: forged, ..size(1) },
        pb::ListOrdersRequest { page_token: token.clone(), statuses: pending, ..size(1) },
        pb::ListOrdersRequest { page_token: token.clone(), user_id: NOBODY.into(), ..size(1) },
        pb::ListOrdersRequest { page_token: token.clone(), order_by: "created_at".into(), ..size(1) },
        pb::ListOrdersRequest { page_token: token.clone(), created_after: made[0].created_at, ..size(1) },
    ] {
        invalid(node.client().list_orders(request).await, "INVALID_FIELD", &["page_token"]);
    }
    let request =
        pb::ListOrderEventsRequest { order_id: made[0].id.clone(), page_token: token, ..Default::default() };
    invalid(node.client().list_order_events(request).await, "INVALID_FIELD", &["page_token"]);
    node.stop().await;
}

#[tokio::test]
async fn the_history_has_no_gap_on_any_page() {
    let node = TestNode::start().await;
    let order = node.order_at(Shipped).await;
    let all = node.events(&order.id).await;
    assert_eq!(all[0].r#type, "order_created");
    for (event, sequence) in all.iter().zip(1..) {
        assert_eq!((event.sequence, event.order_id.as_str()), (sequence, order.id.as_str()));
        assert!((1..=order.version).contains(&event.version) && !event.principal.is_empty());
        let fact: serde_json::Value = serde_json::from_str(&event.payload_json).unwrap();
        assert_eq!(fact["type"], event.r#type.as_str());
        // Whom it is about stands in the order alone.
        for private in ["John", "Doe", "Main St", "555-123", "doe@", "leave package"] {
            assert!(!event.payload_json.contains(private), "{}", event.payload_json);
        }
    }
    assert!(
        all.windows(2)
            .all(|pair| pair[0].version <= pair[1].version && moment(pair[0].at) <= moment(pair[1].at))
    );
    for (page_size, after_sequence) in [(1, 0), (2, 3), (3, 0), (200, 5), (0, 0)] {
        let mut paged = Vec::new();
        let mut request = pb::ListOrderEventsRequest {
            order_id: order.id.clone(),
            page_size,
            after_sequence,
            ..Default::default()
        };
        loop {
            let page = node.client().list_order_events(request.clone()).await.unwrap().into_inner();
            paged.extend(page.events);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(paged, all[after_sequence as usize..]);
    }
    node.stop().await;
}

#[tokio::test]
async fn payments_are_listed_one_a_call() {
    let node = TestNode::start().await;
    let order = node.order_at(Cancelled).await;
    let request = pb::ListPaymentTransactionsRequest { order_id: order.id.clone() };
    let shown = node.client().list_payment_transactions(request).await.unwrap().into_inner().transactions;
    let ledger = node.ledger(&order);
    let rows: Vec<_> =
        shown.iter().map(|one| (one.kind.as_str(), one.status.as_str(), one.amount.as_str())).collect();
    assert_eq!(rows, [("CHARGE", "SUCCEEDED", "93.17"), ("REFUND", "SUCCEEDED", "93.17")]);
    assert_eq!(shown[0].transaction_id, ledger.charges[0].transaction_id);
    assert_eq!(shown[1].transaction_id, ledger.refunds[0].refund_id);
    assert_eq!((shown[0].currency.as_str(), shown[0].payment_method.as_str()), ("USD", "CREDIT_CARD"));
    let facts: serde_json::Value = serde_json::from_str(&shown[0].gateway_response).unwrap();
    assert_eq!(facts["last4"], "4242");
    node.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found_by_any_read() {
    let node = TestNode::start().await;
    let id = NOBODY.to_owned();
    let resource = ("order.v1.Order".to_owned(), NOBODY.to_owned());
    let mut client = node.client();
    let not_found = "ORDER_NOT_FOUND";
    let events = pb::ListOrderEventsRequest { order_id: id.clone(), ..Default::default() };
    let payments = pb::ListPaymentTransactionsRequest { order_id: id.clone() };
    let short = pb::GetOrderStatusRequest { key: Some(pb::get_order_status_request::Key::Id(id.clone())) };
    let watch = pb::WatchOrderRequest { order_id: id, after_sequence: 0 };
    for refusal in [
        refused(client.get_order(by_id(NOBODY)).await, Code::NotFound, not_found),
        refused(client.get_order_status(short).await, Code::NotFound, not_found),
        refused(client.list_order_events(events).await, Code::NotFound, not_found),
        refused(client.list_payment_transactions(payments).await, Code::NotFound, not_found),
        read_refusal(&client.watch_order(watch).await.map(drop).unwrap_err(), Code::NotFound, not_found),
    ] {
        assert_eq!(refusal.resource.as_ref(), Some(&resource));
    }
    let number = "ORD-0000000000";
    let refusal = refused(client.get_order(by_number(number)).await, Code::NotFound, not_found);
    assert_eq!(refusal.resource.unwrap().1, number);
    node.stop().await;
}

async fn watch(node: &TestNode, id: &str, after_sequence: i64) -> Streaming<pb::WatchOrderResponse> {
    let request = pb::WatchOrderRequest { order_id: id.to_owned(), after_sequence };
    node.client().watch_order(request).await.unwrap().into_inner()
}

/// The next event of a stream; the order beside it must be at least as new.
async fn next(stream: &mut Streaming<pb::WatchOrderResponse>) -> pb::OrderEvent {
    let response = stream.message().await.unwrap().unwrap();
    let (event, order) = (response.event.unwrap(), response.order.unwrap());
    assert!(order.version >= event.version && order.id == event.order_id);
    event
}

#[tokio::test]
async fn a_watcher_sees_everything_once_and_in_order_and_can_resume() {
    let node = TestNode::start_with(&quick(&[("ORDER__CREATE__WAIT", "10ms")])).await;
    fault(&node, "inventory.Reserve", down());
    let order = node.create(sample_order()).await;
    let mut live = watch(&node, &order.id, 0).await;
    assert_eq!(next(&mut live).await.r#type, "order_created");
    no_faults(&node);
    let mut seen = 1;
    loop {
        let event = next(&mut live).await;
        seen += 1;
        assert_eq!(event.sequence, seen);
        if event.r#type == "saga_settled" {
            break;
        }
    }
    // Nothing more comes until something happens.
    let quiet = tokio::time::timeout(Duration::from_millis(100), live.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    drop(live);
    let mut resumed = watch(&node, &order.id, seen).await;
    node.ask_status(&order.id, Processing).await.unwrap();
    let mut statuses = Vec::new();
    while statuses.last() != Some(&Processing) {
        let event = next(&mut resumed).await;
        seen += 1;
        assert_eq!(event.sequence, seen);
        statuses.push(event.status());
    }
    // From the start again: the same as the history.
    let history = node.events(&order.id).await;
    let mut again = watch(&node, &order.id, 0).await;
    for event in history {
        assert_eq!(next(&mut again).await, event);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_stopping_node_ends_its_watchers_and_takes_nothing_more() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let last = node.events(&order.id).await.len() as i64;
    let mut stream = watch(&node, &order.id, last).await;
    let mut client = node.client();
    let stopped = tokio::spawn(node.stop());
    let error = stream.message().await.unwrap_err();
    assert!(read_refusal(&error, Code::Unavailable, "SHUTTING_DOWN").retry);
    drop(stream);
    let _folder = stopped.await.unwrap();
    assert_eq!(client.get_order(by_id(&order.id)).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let node = TestNode::start().await;
    let channel = channel(&node).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "order.v1.OrderService"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let unknown = health.check(HealthCheckRequest { service: "order.v1.Nothing".into() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let ask = async |message| -> ServerReflectionResponse {
        let mut client = ServerReflectionClient::new(channel.clone());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let mut answers =
            client.server_reflection_info(futures::stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap()
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(services)) = listed.message_response else { panic!() };
    let names: BTreeSet<_> = services.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains("order.v1.OrderService") && names.contains("grpc.health.v1.Health"), "{names:?}");
    let file = ask(MessageRequest::FileContainingSymbol("order.v1.OrderService".into())).await;
    assert!(matches!(file.message_response, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
    drop((health, channel));
    node.stop().await;
}

#[test]
fn the_wire_knows_every_status() {
    let wire: Vec<_> = (1..=8).map(|n| pb::OrderStatus::try_from(n).unwrap().as_str_name()).collect();
    let domain: Vec<_> = Status::ALL.iter().map(|status| format!("ORDER_STATUS_{status}")).collect();
    assert_eq!(wire, domain);
}
