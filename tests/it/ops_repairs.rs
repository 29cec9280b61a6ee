//! Repairs as operators make them: over the listener for operators, and by the command line.

use std::process::{Command, Stdio};

use order_service::clients::sim::{FaultSpec, LabelState};
use order_service::proto::admin as ops;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Cancelling, Confirmed, Pending, Processing};
use order_service::proto::order::PaymentStatus;
use order_service::proto::simulator as sim;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::api::{
    channel, down, eventually, fault, invalid, no_faults, quick, refused, returned, taken,
};
use crate::harness::node::{TestNode, sample_order};
use crate::harness::process::{NodeProcess, Simulate};

type Client = OrderAdminServiceClient<Channel>;

/// Whoever waits, waits for long; nothing but a repair brings it on.
const PATIENT: &[(&str, &str)] = &[
    ("ORDER__SAGA__RETRY_INITIAL", "10m"),
    ("ORDER__SAGA__RETRY_MAX", "10m"),
    ("ORDER__SAGA__FORWARD_TRIES", "1000"),
    ("ORDER__CREATE__WAIT", "10ms"),
    ("ORDER__SAGA__RUN_AHEAD", "0s"),
];

fn patient<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    PATIENT.iter().chain(more).copied().collect()
}

async fn operator(node: &TestNode) -> Client {
    Client::connect(format!("http://{}", node.node().ops_address())).await.unwrap()
}

async fn explain(client: &Client, order: &str) -> ops::OrderExplanation {
    let request = ops::ExplainOrderRequest { order: order.to_owned() };
    client.clone().explain_order(request).await.unwrap().into_inner()
}

/// Waits until the order waits for this.
async fn until(client: &Client, order: &str, waits_for: &str) -> ops::OrderExplanation {
    let look = || async { Some(explain(client, order).await).filter(|why| why.waits_for == waits_for) };
    eventually(waits_for, look).await
}

fn retry(order: &str) -> ops::RetryStepRequest {
    ops::RetryStepRequest {
        order: order.to_owned(),
        reason: "back".into(),
        by: "ada".into(),
        ..Default::default()
    }
}

fn resolve(order: &str, outcome: ops::PaymentOutcome, reference: &str) -> ops::ResolvePaymentRequest {
    ops::ResolvePaymentRequest {
        order: order.to_owned(),
        outcome: outcome.into(),
        evidence: "settlement file 17".into(),
        reference: reference.to_owned(),
        by: "ada".into(),
        ..Default::default()
    }
}

/// Stands still at a charge that was made or not, of which nobody knows.
async fn charge_in_doubt(node: &TestNode, made: bool) -> pb::Order {
    let lost = if made {
        FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() }
    } else {
        FaultSpec { error_rate: 1.0, ..FaultSpec::default() }
    };
    fault(node, "payment.Charge", lost);
    let order = node.create(sample_order()).await;
    let order = eventually("the doubt", || async {
        Some(node.get(&order.id).await).filter(|order| order.payment_status() == PaymentStatus::Unknown)
    })
    .await;
    no_faults(node);
    order
}

#[tokio::test]
async fn the_service_for_operators_is_on_their_listener_alone() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    let public = Client::new(channel(&node).await);
    let request = ops::ExplainOrderRequest { order: order.id.clone() };
    let status = public.clone().explain_order(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    let status = public.clone().retry_step(retry(&order.id)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");

    assert_eq!(explain(&operator(&node).await, &order.id).await.status, "CONFIRMED");
    // Beside it, plain HTTP goes on: what is not there is not there.
    for (path, expected) in
        [("/readyz", "HTTP/1.1 200"), ("/metrics", "HTTP/1.1 200"), ("/none", "HTTP/1.1 404")]
    {
        let mut stream = TcpStream::connect(node.node().ops_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(expected), "{path}: {answer}");
    }
    // Where they are turned off, that listener does not know them either.
    let node = TestNode::start_in(node.stop().await, &[("ORDER__OPS__REPAIRS", "none")]).await;
    let status = operator(&node).await.retry_step(retry(&order.id)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_retry_makes_a_call_with_a_long_backoff_now() {
    let node = TestNode::start_with(&patient(&[])).await;
    let client = operator(&node).await;
    let order = node.create(sample_order()).await;
    let order = node.until(&order.id, Confirmed).await;
    node.until_event(&order.id, "saga_settled").await;
    fault(&node, "payment.Refund", down());
    node.cancel(&order.id).await.unwrap();
    let why = until(&client, &order.order_number, "RETRY").await;
    assert_eq!((why.order_id.as_str(), why.status.as_str()), (order.id.as_str(), "CANCELLING"));
    assert_eq!((why.call.as_str(), why.payment_status.as_str()), ("payment.Refund", "REFUND_PENDING"));
    let saga = why.saga.clone().unwrap();
    assert_eq!(
        (saga.kind.as_str(), saga.direction.as_str(), saga.step.as_str()),
        ("CANCEL", "BACKWARD", "CHARGE")
    );
    assert_eq!(saga.tries, 1);
    assert!(why.next_at.unwrap().seconds - why.since.unwrap().seconds > 200, "{why:?}");
    let last = why.attempts.last().unwrap();
    assert_eq!((last.what.as_str(), &last.key), ("step_delayed", &why.call_key));
    assert!(!last.error.is_empty());
    let node_told = why.node.unwrap();
    assert!(node_told.order_is_live && node_told.incarnation > 0);

    // In vain at first; then the service is back.
    let repaired = client.clone().retry_step(retry(&order.order_number)).await.unwrap().into_inner();
    assert_eq!((repaired.order_id.as_str(), repaired.status.as_str()), (order.id.as_str(), "CANCELLING"));
    let look = || async {
        let events = node.events(&order.id).await;
        (events.iter().filter(|event| event.r#type == "step_delayed").count() == 2).then_some(())
    };
    eventually("the second try", look).await;
    no_faults(&node);
    let request_id = "once".to_owned();
    let again = ops::RetryStepRequest { request_id, ..retry(&order.id) };
    client.clone().retry_step(again.clone()).await.unwrap();
    let cancelled = node.until(&order.id, Cancelled).await;
    // A repeat is no second repair.
    client.clone().retry_step(again.clone()).await.unwrap();
    let other = ops::RetryStepRequest { reason: "another".into(), ..again };
    invalid(client.clone().retry_step(other).await, "REQUEST_ID_REUSED", &["request_id"]);
    assert_eq!(taken(&node.ledger(&cancelled)), returned(&node.ledger(&cancelled)));

    let events = node.events(&order.id).await;
    let told: Vec<_> = events.iter().filter(|event| event.r#type == "repaired").collect();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].principal, "dev");
    let payload: Value = serde_json::from_str(&told[0].payload_json).unwrap();
    for (name, expected) in [
        ("repair", "RETRY_STEP"),
        ("step", "CHARGE"),
        ("by", "ada"),
        ("reason", "back"),
        ("direction", "BACKWARD"),
    ] {
        assert_eq!(payload[name], expected, "{payload}");
    }
    // Nothing is left to repair.
    let refusal = refused(
        client.clone().retry_step(retry(&order.id)).await,
        Code::FailedPrecondition,
        "REPAIR_REFUSED",
    );
    assert_eq!(refusal.metadata["current_status"], "CANCELLED");
    node.stop().await;
}

#[tokio::test]
async fn an_order_that_is_not_in_memory_is_explained_and_asked_all_the_same() {
    let node = TestNode::start_with(&patient(&[])).await;
    let order = node.create(sample_order()).await;
    node.until(&order.id, Confirmed).await;
    node.until_event(&order.id, "saga_settled").await;
    let node = TestNode::start_in(node.stop().await, &patient(&[])).await;
    let client = operator(&node).await;
    let why = explain(&client, &order.order_number).await;
    assert_eq!((why.waits_for.as_str(), why.node.unwrap().order_is_live), ("NOTHING", false));
    assert!(why.attempts.iter().any(|attempt| attempt.what == "charged"), "{why:?}");
    assert_eq!(node.node().orders().counts().live, 0, "to explain starts nothing");
    refused(client.clone().retry_step(retry(&order.id)).await, Code::FailedPrecondition, "REPAIR_REFUSED");
    assert_eq!(node.node().orders().counts().live, 1);

    // One that waits is resumed, waits again, and is repaired.
    fault(&node, "shipping.CreateLabel", down());
    assert_eq!(node.ask_status(&order.id, Processing).await.unwrap().status(), Confirmed);
    until(&client, &order.id, "RETRY").await;
    let node = TestNode::start_in(node.stop().await, &patient(&[])).await;
    let client = operator(&node).await;
    client.clone().retry_step(retry(&order.id)).await.unwrap();
    node.until(&order.id, Processing).await;
    node.stop().await;
}

#[tokio::test]
async fn a_charge_that_was_made_is_told_with_its_reference() {
    let node = TestNode::start_with(&patient(&[])).await;
    let client = operator(&node).await;
    let order = charge_in_doubt(&node, true).await;
    let why = until(&client, &order.id, "RETRY").await;
    assert_eq!(why.call, "payment.GetTransaction");
    let doubt = &why.payments_in_doubt[0];
    assert_eq!((doubt.kind.as_str(), doubt.status.as_str()), ("CHARGE", "UNKNOWN"));
    assert_eq!(
        (doubt.amount.as_str(), doubt.key.as_str()),
        (order.total_amount.as_str(), why.call_key.as_str())
    );
    let charge = node.ledger(&order).charges[0].clone();

    let no_reference = resolve(&order.id, ops::PaymentOutcome::Charged, "");
    invalid(client.clone().resolve_payment(no_reference).await, "INVALID_FIELD", &["reference"]);
    let long = ops::ResolvePaymentRequest {
        evidence: "x".repeat(501),
        by: "y".repeat(101),
        ..resolve(&order.id, ops::PaymentOutcome::Unspecified, "")
    };
    invalid(client.clone().resolve_payment(long).await, "INVALID_FIELD", &["by", "evidence", "outcome"]);
    let wrong = resolve(&order.id, ops::PaymentOutcome::Refunded, "re-1");
    refused(client.clone().resolve_payment(wrong).await, Code::FailedPrecondition, "REPAIR_REFUSED");
    let stale = ops::ResolvePaymentRequest {
        expected_version: why.version - 1,
        ..resolve(&order.id, ops::PaymentOutcome::Charged, &charge.transaction_id)
    };
    refused(client.clone().resolve_payment(stale.clone()).await, Code::Aborted, "VERSION_MISMATCH");
    let good = ops::ResolvePaymentRequest { expected_version: why.version, ..stale };
    client.clone().resolve_payment(good).await.unwrap();
    let confirmed = node.until(&order.id, Confirmed).await;
    assert_eq!(confirmed.payment_status(), PaymentStatus::Paid);
    node.until_event(&order.id, "saga_settled").await;
    let told = node.until_event(&order.id, "repaired").await;
    let payload: Value = serde_json::from_str(&told.payload_json).unwrap();
    assert_eq!(
        (payload["outcome"].as_str(), payload["reason"].as_str()),
        (Some("CHARGED"), Some("settlement file 17"))
    );
    // It can be given back by that reference, and there was one charge.
    node.cancel(&order.id).await.unwrap();
    let cancelled = node.until(&order.id, Cancelled).await;
    node.assert_unwound(&cancelled);
    assert_eq!(node.ledger(&cancelled).charges.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_charge_that_was_not_made_ends_the_order_once_that_is_certain() {
    let node = TestNode::start_with(&patient(&[("ORDER__SAGA__CHARGE_SETTLE_LAG", "1h")])).await;
    let client = operator(&node).await;
    let order = charge_in_doubt(&node, false).await;
    until(&client, &order.id, "RETRY").await;
    let early = client.clone().resolve_payment(resolve(&order.id, ops::PaymentOutcome::NotCharged, "")).await;
    assert!(early.as_ref().unwrap_err().message().contains("may still arrive until"), "{early:?}");
    refused(early, Code::FailedPrecondition, "REPAIR_REFUSED");
    assert_eq!(node.get(&order.id).await.status(), Pending);

    let node =
        TestNode::start_in(node.stop().await, &patient(&[("ORDER__SAGA__CHARGE_SETTLE_LAG", "0s")])).await;
    let client = operator(&node).await;
    let told = resolve(&order.id, ops::PaymentOutcome::NotCharged, "");
    client.clone().resolve_payment(told).await.unwrap();
    let cancelled = node.until(&order.id, Cancelled).await;
    assert_eq!(cancelled.payment_status(), PaymentStatus::Failed);
    assert_eq!(cancelled.cancel_reason, "PAYMENT_DECLINED");
    node.assert_unwound(&cancelled);
    node.stop().await;
}

#[tokio::test]
async fn only_what_leaves_nothing_behind_is_skipped() {
    let node = TestNode::start_with(&patient(&[])).await;
    let client = operator(&node).await;
    let order = node.create(sample_order()).await;
    node.until(&order.id, Confirmed).await;
    node.until_event(&order.id, "saga_settled").await;
    node.ask_status(&order.id, Processing).await.unwrap();
    let order = node.until(&order.id, Processing).await;
    let skip = ops::SkipStepRequest {
        order: order.id.clone(),
        reason: "voided at the carrier".into(),
        ..Default::default()
    };
    fault(&node, "shipping.VoidLabel", down());
    node.cancel(&order.id).await.unwrap();
    let why = until(&client, &order.id, "RETRY").await;
    let allowed: Vec<_> =
        why.choices.iter().filter(|choice| choice.allowed).map(|choice| &choice.what).collect();
    assert_eq!(allowed, ["retry-step", "skip-step", "cancel"]);
    let silent = ops::SkipStepRequest { reason: " ".into(), ..skip.clone() };
    invalid(client.clone().skip_step(silent).await, "INVALID_FIELD", &["reason"]);
    // Somewhere else by now.
    let elsewhere = ops::SkipStepRequest { step: "CHARGE".into(), ..skip.clone() };
    refused(client.clone().skip_step(elsewhere).await, Code::FailedPrecondition, "REPAIR_REFUSED");
    let forward = ops::SkipStepRequest { direction: "FORWARD".into(), ..skip.clone() };
    refused(client.clone().skip_step(forward).await, Code::FailedPrecondition, "REPAIR_REFUSED");
    let nowhere = ops::SkipStepRequest { direction: "UP".into(), step: "JUMP".into(), ..skip.clone() };
    invalid(client.clone().skip_step(nowhere).await, "INVALID_FIELD", &["direction", "step"]);

    // The refund behind it is not skipped.
    fault(&node, "payment.Refund", down());
    client.clone().skip_step(skip.clone()).await.unwrap();
    let look =
        || async { Some(explain(&client, &order.id).await).filter(|why| why.call == "payment.Refund") };
    eventually("the refund", look).await;
    until(&client, &order.id, "RETRY").await;
    let refusal = client.clone().skip_step(skip.clone()).await;
    assert!(refusal.as_ref().unwrap_err().message().contains("moves money"), "{refusal:?}");
    refused(refusal, Code::FailedPrecondition, "REPAIR_REFUSED");
    assert_eq!(node.get(&order.id).await.status(), Cancelling);
    no_faults(&node);
    client.clone().retry_step(retry(&order.id)).await.unwrap();
    let cancelled = node.until(&order.id, Cancelled).await;
    let ledger = node.ledger(&cancelled);
    assert_eq!(taken(&ledger), returned(&ledger));
    // By hand means that our call never came.
    assert_eq!(ledger.labels[0].state, LabelState::Created);
    node.stop().await;
}

#[tokio::test]
async fn what_is_stuck_is_listed_in_pages() {
    let node = TestNode::start_with(&patient(&[("ORDER__SAGA__ATTENTION_AFTER_TRIES", "1")])).await;
    let client = operator(&node).await;
    let list = |older_than: i64, page_size, page_token: &str| {
        let older_than = Some(prost_types::Duration { seconds: older_than, nanos: 0 });
        let request =
            ops::ListStuckOrdersRequest { older_than, page_size, page_token: page_token.to_owned() };
        let mut client = client.clone();
        async move { client.list_stuck_orders(request).await.map(tonic::Response::into_inner) }
    };
    let fine = node.create(sample_order()).await;
    node.until(&fine.id, Confirmed).await;
    node.until_event(&fine.id, "saga_settled").await;
    assert_eq!(list(0, 0, "").await.unwrap().orders, []);
    // One that was refused a refund, two whose saga calls for a person.
    fault(&node, "payment.Refund", FaultSpec { decline_rate: 1.0, ..FaultSpec::default() });
    node.refund(&fine.id, "1.00").await.ok();
    node.until_event(&fine.id, "attention_needed").await;
    fault(&node, "inventory.Commit", down());
    let mut expected = vec![fine.id.clone()];
    for _ in 0..2 {
        let order = node.create(sample_order()).await;
        node.until_event(&order.id, "attention_needed").await;
        expected.push(order.id);
    }
    expected.sort();
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(3_600, 2, &token).await.unwrap();
        assert!(page.orders.len() <= 2);
        found.extend(page.orders);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found.iter().map(|order| order.order_id.clone()).collect::<Vec<_>>(), expected);
    for order in &found {
        assert!(order.needs_attention && !order.reason.is_empty() && order.since.is_some(), "{order:?}");
        let refund = order.order_id == fine.id;
        assert_eq!((order.saga_kind.as_str(), order.tries), if refund { ("", 0) } else { ("CREATE", 1) });
        assert_eq!(order.next_at.is_some(), !refund);
    }
    let page = list(3_600, 2, "").await.unwrap();
    let foreign = list(60, 2, &page.next_page_token).await.unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument);
    assert_eq!(list(-1, 0, "").await.unwrap_err().code(), Code::InvalidArgument);
    node.stop().await;
}

/// What the command line said.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn cli(server: &str, line: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    let words = line.split(' ').map(|word| word.replace('_', " "));
    command.args(words).args(["--server", server]).env_clear().stdin(Stdio::null());
    // Blocks: nothing that it waits for runs on this thread.
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_repairs_an_order_of_a_node() {
    let simulate = Simulate::start().await;
    let settings = quick(&[("ORDER__SAGA__RETRY_INITIAL", "10m"), ("ORDER__SAGA__RETRY_MAX", "10m")]);
    let node = NodeProcess::start(&simulate, &settings).await;
    let server = node.ops_url();
    let order = node.client().create_order(sample_order()).await.unwrap().into_inner();
    let away = sim::Faults { method: "payment.Refund".into(), unavailable: true, ..Default::default() };
    simulate.set_faults(vec![away]).await;
    let cancel = pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() };
    let asked = tokio::spawn({
        let mut client = node.client();
        async move { client.cancel_order(cancel).await }
    });
    let number = order.order_number.clone();
    let why: Value = eventually("the wait", || async {
        let done = cli(&server, &format!("ops explain {number} -o json"));
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
        let why: Value = serde_json::from_str(&done.out).unwrap();
        (why["waits_for"] == "RETRY").then_some(why)
    })
    .await;
    assert_eq!(
        (&why["saga"]["step"], &why["call"]),
        (&Value::from("CHARGE"), &Value::from("payment.Refund"))
    );
    let done = cli(&server, &format!("ops explain {number} -o table"));
    assert!(done.out.contains("Waits for the next try of payment.Refund"), "{}", done.out);

    let done = cli(&server, "ops stuck --older-than 0s -o json");
    let stuck: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(stuck["orders"][0]["order_number"], number.as_str());
    let done = cli(&server, "ops stuck --older-than 0s -o table");
    assert!(done.out.contains("CANCEL CHARGE BACKWARD"), "{}", done.out);

    let done = cli(&server, &format!("ops skip-step {number} --reason done_by_hand -o table"));
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert!(done.err.starts_with("error: a step that moves money is never skipped"), "{}", done.err);
    assert!(done.err.contains("(REPAIR_REFUSED)"), "{}", done.err);
    let line = format!("ops resolve-payment {number} --outcome charged --reference ch --evidence e -o json");
    let done = cli(&server, &line);
    let body: Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!((done.code, &body["error"]["code"]), (Some(1), &Value::from("REPAIR_REFUSED")));
    assert_eq!(cli(&server, &format!("ops skip-step {number}")).code, Some(2));
    let done = cli(&server, &format!("ops unquarantine {} --reason r -o table", order.id));
    assert!(done.code == Some(1) && done.err.contains("not quarantined"), "{}", done.err);
    let done = cli(&server, "ops explain ORD-0000000000 -o table");
    assert!(done.code == Some(1) && done.err.contains("(ORDER_NOT_FOUND)"), "{}", done.err);

    simulate.set_faults(Vec::new()).await;
    let done = cli(&server, &format!("ops retry-step {number} --by ada --reason gateway_is_back -o table"));
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(done.out.starts_with(&format!("Order {number}  CANCELLING")), "{}", done.out);
    assert_eq!(asked.await.unwrap().unwrap().into_inner().status(), Cancelled);
    let events = crate::harness::invariants::history(&node.client(), &order.id).await;
    let told = events.iter().find(|event| event.r#type == "repaired").unwrap();
    assert!(told.payload_json.contains("\"gateway is back\"") && told.payload_json.contains("\"ada\""));

    // The public port does not know these calls, and the message says which does.
    let done = cli(node.url(), &format!("ops explain {number} -o table"));
    assert!(done.code == Some(1) && done.err.contains("ops.listen"), "{}", done.err);
}
