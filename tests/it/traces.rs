//! One order's trace: from the client over two nodes to the payment call, and on when a node dies.

use std::collections::BTreeSet;

use order_service::proto::order as pb;
use tonic::Request;

use crate::harness::cluster::{Cluster, Plan};
use crate::harness::collector::{Collector, Payments, Seen};
use crate::harness::traffic::Call;
use crate::harness::wait::eventually;

/// The span of the client.
const CLIENT: &str = "b7ad6b7169203331";

/// A trace by its number; its text holds a letter wherever a card number could begin.
fn trace(number: u64) -> String {
    format!("0af7651916cd43dd8448eb21{:08x}", 0xa000_0000 | number)
}

/// A creation in a trace of its own.
fn creation(number: u64, flags: &str) -> Request<pb::CreateOrderRequest> {
    let Call::Create(request) = Call::create(number) else { unreachable!() };
    let mut request = Request::new(*request);
    let parent = format!("00-{}-{CLIENT}-{flags}", trace(number));
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn is_below(child: &Seen, parent: &Seen) {
    assert_eq!((&child.trace, &child.parent), (&parent.trace, &parent.id), "{child:?} below {parent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_from_the_client_over_two_nodes_to_the_payment_call() {
    let (collector, payments) = (Collector::start().await, Payments::start(false).await);
    // What is recorded is what the client wants recorded.
    let settings = [
        ("ORDER__TRACING__OTLP_ENDPOINT", collector.url()),
        ("ORDER__TRACING__SAMPLE_RATIO", "0"),
        ("ORDER__TRACING__FORCED_PER_SECOND", "1000"),
        ("ORDER__COLLABORATORS__PAYMENT", payments.url()),
    ];
    let cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await;
    let (mut number, mut unsampled) = (0, Vec::new());
    // Until the other node owns one.
    let (order, response) = loop {
        number += 2;
        unsampled.push(number + 1);
        let quiet = cluster.client(0).create_order(creation(number + 1, "00")).await.unwrap();
        assert!(quiet.metadata().get("traceresponse").is_none());
        let answer = cluster.client(0).create_order(creation(number, "01")).await.unwrap();
        let response = answer.metadata().get("traceresponse").unwrap().to_str().unwrap().to_owned();
        let order = answer.into_inner();
        if cluster.owners(std::slice::from_ref(&order.id)).await[0] == Some(1) {
            break (order, response);
        }
    };
    let trace_id = trace(number);
    let (first, second) = (cluster.name(0).to_owned(), cluster.name(1).to_owned());
    let create = "order.v1.OrderService/CreateOrder";
    let asked = collector.span(&trace_id, create, |span| span.kind == 2 && span.node == first).await;
    assert_eq!((asked.parent.as_str(), asked.service.as_str()), (CLIENT, "order-service"));
    assert_eq!(response, format!("00-{trace_id}-{}-01", asked.id));
    assert_eq!(asked.attributes["rpc.response.status_code"], "OK");
    let forwarded = collector.span(&trace_id, create, |span| span.kind == 3 && span.node == first).await;
    is_below(&forwarded, &asked);
    assert_eq!(forwarded.attributes["order.node"], second);
    let executed = collector.span(&trace_id, create, |span| span.kind == 2 && span.node == second).await;
    is_below(&executed, &forwarded);
    let product = "product.v1.ProductService/BatchGetProducts";
    is_below(&collector.span(&trace_id, product, |span| span.kind == 3).await, &executed);
    let actor = collector.span(&trace_id, "actor create", |span| span.node == second).await;
    is_below(&actor, &executed);
    assert_eq!(actor.attributes["order.id"], order.id);
    let commit = collector.span(&trace_id, "store commit", |span| span.parent == actor.id).await;
    assert!(commit.nanos > 0 && commit.nanos <= actor.nanos, "{commit:?}");
    let charge = collector.span(&trace_id, "saga charge", |_| true).await;
    is_below(&charge, &actor);
    let told = |key: &str| charge.attributes[key].as_str();
    assert_eq!((told("order.saga"), told("order.step"), told("order.attempt")), ("CREATE", "CHARGE", "1"));
    assert_eq!((told("order.direction"), told("order.outcome")), ("FORWARD", "done"));
    let paid = collector.span(&trace_id, "payment.v1.PaymentService/Charge", |span| span.kind == 3).await;
    is_below(&paid, &charge);
    assert_eq!(paid.attributes["rpc.system"], "grpc");
    let parent = format!("00-{trace_id}-{}-01", paid.id);
    assert!(payments.asked("Charge").contains(&parent), "{parent}: {:?}", payments.asked("Charge"));

    // It is one tree.
    let all = collector.of(&trace_id);
    let ids: BTreeSet<&str> = all.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), all.len());
    let roots: Vec<&Seen> = all.iter().filter(|span| !ids.contains(span.parent.as_str())).collect();
    assert!(roots.len() == 1 && roots[0].id == asked.id, "{roots:?}");
    // Calls that are not to be recorded are passed on as such, and nothing is told of them.
    let quiet: Vec<String> =
        payments.asked("Charge").into_iter().filter(|asked| asked.ends_with("-00")).collect();
    assert_eq!(quiet.len(), unsampled.len());
    for number in unsampled {
        assert!(quiet.iter().any(|asked| asked.contains(&trace(number)) && !asked.contains(CLIENT)));
        assert!(collector.of(&trace(number)).is_empty());
    }
    // What is undone says so.
    let Call::Cancel(cancel) = Call::cancel(&order.id) else { unreachable!() };
    let mut cancel = Request::new(cancel);
    let parent = format!("00-{}-{CLIENT}-01", trace(0));
    cancel.metadata_mut().insert("traceparent", parent.parse().unwrap());
    cluster.client(0).cancel_order(cancel).await.unwrap();
    let refund = collector.span(&trace(0), "saga refund", |_| true).await;
    assert_eq!(refund.events, ["compensation"]);
    assert_eq!(refund.attributes["order.direction"], "BACKWARD");
    is_below(&refund, &collector.span(&trace(0), "actor cancel", |_| true).await);
    discreet(&collector.all(), &order);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_forwards_is_recorded_whatever_callers_have_used_up() {
    let collector = Collector::start().await;
    let settings = [
        ("ORDER__TRACING__OTLP_ENDPOINT", collector.url()),
        ("ORDER__TRACING__SAMPLE_RATIO", "0"),
        ("ORDER__TRACING__FORCED_PER_SECOND", "1"),
    ];
    let cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await;
    let mut number = 0;
    // Until the other node owns one.
    let order = loop {
        number += 1;
        let order = cluster.client(0).create_order(creation(number, "00")).await.unwrap().into_inner();
        if cluster.owners(std::slice::from_ref(&order.id)).await[0] == Some(1) {
            break order;
        }
    };
    let forced = |number: u64| format!("00-{}-{CLIENT}-01", trace(number)).parse().unwrap();
    let mut used_up = false;
    for _ in 0..1_000 {
        let mut look = Request::new(crate::harness::api::by_id(&order.id));
        look.metadata_mut().insert("traceparent", forced(9_000));
        let seen = cluster.client(1).get_order(look).await.unwrap();
        used_up = seen.metadata().get("traceresponse").is_none();
        if used_up {
            break;
        }
    }
    assert!(used_up, "callers have no more recorded than one a second");
    let mut hold =
        Request::new(pb::HoldOrderRequest { id: order.id, reason: "look".into(), ..Default::default() });
    hold.metadata_mut().insert("traceparent", forced(9_001));
    let held = cluster.client(0).hold_order(hold).await.unwrap();
    assert!(held.metadata().get("traceresponse").is_some());
    let owner = cluster.name(1).to_owned();
    let at_the_owner = |span: &Seen| span.kind == 2 && span.node == owner;
    collector.span(&trace(9_001), "order.v1.OrderService/HoldOrder", at_the_owner).await;
}

/// Nothing is told but what is on the list, and nothing of a person.
fn discreet(spans: &[Seen], order: &pb::Order) {
    let allowed: BTreeSet<&str> = [
        "order.attempt",
        "order.direction",
        "order.events",
        "order.id",
        "order.node",
        "order.number",
        "order.outcome",
        "order.saga",
        "order.saga_no",
        "order.step",
        "order.version",
        "peer.service",
        "rpc.method",
        "rpc.response.status_code",
        "rpc.service",
        "rpc.system",
    ]
    .into();
    let address = order.addresses.first().unwrap();
    let secret =
        [&order.user_id, &address.first_name, &address.last_name, &address.address_line1, &address.email];
    for span in spans {
        for key in span.attributes.keys() {
            assert!(allowed.contains(key.as_str()), "{key}: {span:?}");
        }
        let text = format!("{span:?}");
        for secret in secret.iter().filter(|secret| secret.len() > 3) {
            assert!(!text.contains(secret.as_str()), "{secret}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_that_another_node_takes_over_stays_in_its_trace() {
    let (collector, payments) = (Collector::start().await, Payments::start(true).await);
    let settings = [
        ("ORDER__TRACING__OTLP_ENDPOINT", collector.url()),
        ("ORDER__TRACING__SAMPLE_RATIO", "0"),
        ("ORDER__COLLABORATORS__PAYMENT", payments.url()),
        // The intent of the charge is stored before it is made.
        ("ORDER__SAGA__RUN_AHEAD", "0s"),
        ("ORDER__CREATE__WAIT", "100ms"),
    ];
    let settings: Vec<(&str, &str)> = [&settings, crate::harness::cluster::SWIFT].concat();
    let mut cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(3) }).await;
    let order = cluster.client(0).create_order(creation(1, "01")).await.unwrap().into_inner();
    let trace_id = trace(1);
    // The charge is under way, and what was before it is told.
    let asked = eventually("the charge", async || payments.asked("Charge").first().cloned()).await;
    assert!(asked.contains(&trace_id), "{asked}");
    let actor = collector.span(&trace_id, "actor create", |_| true).await;
    let owner = cluster.owners(std::slice::from_ref(&order.id)).await[0].unwrap();
    assert_eq!(actor.node, cluster.name(owner));
    cluster.kill9(owner).await;
    let other = (0..3).find(|node| *node != owner).unwrap();

    let resumed = collector.span(&trace_id, "actor resume", |_| true).await;
    assert_ne!(resumed.node, actor.node);
    is_below(&resumed, &actor);
    assert_eq!(resumed.links, [actor.id.as_str()]);
    let query = collector.span(&trace_id, "saga query charge", |_| true).await;
    is_below(&query, &resumed);
    cluster
        .until("the order", async || {
            let read = cluster.client(other).get_order(crate::harness::api::by_id(&order.id)).await.ok()?;
            (read.get_ref().status() == pb::OrderStatus::Confirmed).then_some(())
        })
        .await;
    let paid =
        collector.span(&trace_id, "payment.v1.PaymentService/Charge", |span| span.node == resumed.node).await;
    // The payment service was asked twice, and is told the same trace by both.
    let all = [payments.asked("GetTransaction"), payments.asked("Charge")].concat();
    assert!(all.len() >= 3 && all.iter().all(|asked| asked.contains(&trace_id)), "{all:?}");
    assert!(all.iter().any(|asked| asked.contains(&paid.id)), "{all:?}");
}
