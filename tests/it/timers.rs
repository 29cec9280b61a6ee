//! What happens to orders as time passes: they expire, their stock is held on to or got anew, holds end. The machine's clock
//! is set, so nothing here waits for long.

use std::sync::Arc;

use order_service::clients::sim::{ChargeState, FaultSpec, FaultTarget, OrderLedger, ReservationState};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Pending, Processing};
use order_service::store::postgres::migrate;
use prost_types::Timestamp;
use tempfile::TempDir;

use crate::harness::api::{down, eventually, fault, no_faults, quick, returned, slow, taken, units_out};
use crate::harness::node::{MachineClock, TestNode, sample_order};
use crate::harness::postgres::shared_database;
use crate::store_suite::postgres::config_of;

const MINUTES: i64 = 60;

/// Every order in dollars is held before it is paid.
const HELD: (&str, &str) = ("ORDER__RISK__HOLD_FROM_AMOUNT", "0.01 USD");
const OFTEN: (&str, &str) = ("ORDER__SAGA__RESUME_EVERY", "10ms");
/// Nobody is called because of the number of tries.
const PATIENT: (&str, &str) = ("ORDER__SAGA__ATTENTION_AFTER_TRIES", "1000");
const NEVER: (&str, &str) = ("ORDER__SAGA__EXPIRE_AFTER", "0s");

/// A node on a machine whose clock can be set.
async fn node_with(more: &[(&str, &str)]) -> (TestNode, Arc<MachineClock>) {
    let clock = Arc::new(MachineClock::default());
    let settings = quick(&[&[OFTEN], more].concat());
    (TestNode::start_by(TempDir::new().unwrap(), &settings, Arc::clone(&clock)).await, clock)
}

fn faults(node: &TestNode, faults: &[(&str, FaultSpec)]) {
    let faults = faults.iter().map(|(method, spec)| (FaultTarget::parse(method).unwrap(), spec.clone()));
    node.simulator().set_faults(true, faults.collect()).unwrap();
}

/// Calls have their effect, or not, and their answer is lost.
fn unknown(executed: bool) -> FaultSpec {
    let rate = |yes| if yes { 1.0 } else { 0.0 };
    FaultSpec { lose_reply_rate: rate(executed), error_rate: rate(!executed), ..FaultSpec::default() }
}

fn nothing_left() -> FaultSpec {
    FaultSpec { out_of_stock_rate: 1.0, ..FaultSpec::default() }
}

fn states(ledger: &OrderLedger) -> Vec<ReservationState> {
    ledger.reservations.iter().map(|reservation| reservation.state).collect()
}

/// So many seconds after the order's last change.
fn after(order: &pb::Order, seconds: i64) -> Timestamp {
    let last = order.updated_at.unwrap();
    Timestamp { seconds: last.seconds + seconds, ..last }
}

async fn hold_until(node: &TestNode, order: &pb::Order, until: Timestamp) -> pb::Order {
    let request = pb::HoldOrderRequest {
        id: order.id.clone(),
        reason: "address?".into(),
        until: Some(until),
        ..Default::default()
    };
    node.client().hold_order(request).await.unwrap().into_inner()
}

async fn count(node: &TestNode, order: &pb::Order, kind: &str) -> usize {
    node.events(&order.id).await.iter().filter(|event| event.r#type == kind).count()
}

/// Waits until the order has so many events of this type.
async fn until_count(node: &TestNode, order: &pb::Order, kind: &str, wanted: usize) {
    eventually(kind, || async { (count(node, order, kind).await >= wanted).then_some(()) }).await;
}

#[tokio::test]
async fn an_order_that_is_not_paid_in_time_expires_and_gives_its_stock_back() {
    let (node, clock) = node_with(&[HELD]).await;
    let order = node.create(sample_order()).await;
    assert_eq!(order.status(), Pending);
    assert!(units_out(&node.ledger(&order)) > 0);
    clock.pass(29 * MINUTES);
    until_count(&node, &order, "stock_renewed", 1).await;
    assert_eq!(node.get(&order.id).await.status(), Pending);
    clock.pass(2 * MINUTES);
    let order = node.until(&order.id, Cancelled).await;
    assert_eq!(order.cancel_reason, "EXPIRED");
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), units_out(&ledger)), (0, 0));
    node.stop().await;
}

#[tokio::test]
async fn what_came_due_while_the_node_was_down_expires_at_its_start() {
    let (node, clock) = node_with(&[HELD]).await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(node.create(sample_order()).await);
    }
    let folder = node.stop().await;
    clock.pass(31 * MINUTES);
    let few = [OFTEN, ("ORDER__SAGA__RESUME_BATCH", "2"), ("ORDER__SAGA__RESUME_CONCURRENCY", "1")];
    let node = TestNode::start_by(folder, &quick(&few), clock).await;
    for order in &orders {
        assert_eq!(node.until(&order.id, Cancelled).await.cancel_reason, "EXPIRED");
        assert_eq!(units_out(&node.ledger(order)), 0);
    }
    node.stop().await;
}

#[tokio::test]
async fn stock_is_held_on_to_for_as_long_as_an_order_waits() {
    let (node, clock) = node_with(&[HELD, NEVER]).await;
    let order = node.create(sample_order()).await;
    for renewals in 1..=4 {
        clock.pass(20 * MINUTES);
        until_count(&node, &order, "stock_renewed", renewals).await;
    }
    assert_eq!(node.release(&order.id).await.unwrap().hold, None);
    let order = node.until(&order.id, Confirmed).await;
    node.until_event(&order.id, "saga_settled").await;
    assert_eq!(states(&node.ledger(&order)), [ReservationState::Committed]);
    assert_eq!(count(&node, &order, "stock_lapsed").await, 0);
    node.stop().await;
}

#[tokio::test]
async fn stock_that_lapsed_before_the_charge_is_reserved_anew() {
    let (node, clock) = node_with(&[HELD, NEVER]).await;
    let order = node.create(sample_order()).await;
    let folder = node.stop().await;
    clock.pass(40 * MINUTES);
    let node = TestNode::start_by(folder, &quick(&[OFTEN, NEVER]), clock).await;
    until_count(&node, &order, "stock_reserved", 2).await;
    assert_eq!(node.ledger(&order).charges.len(), 0);
    node.release(&order.id).await.unwrap();
    let order = node.until(&order.id, Confirmed).await;
    node.until_event(&order.id, "saga_settled").await;
    let ledger = node.ledger(&order);
    assert_eq!(states(&ledger), [ReservationState::Expired, ReservationState::Committed]);
    assert_eq!(ledger.charges.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn stock_that_lapsed_and_is_gone_ends_the_order_before_it_is_charged() {
    let (node, clock) = node_with(&[HELD, NEVER]).await;
    let order = node.create(sample_order()).await;
    faults(&node, &[("inventory.Reserve", nothing_left())]);
    clock.pass(40 * MINUTES);
    let order = node.until(&order.id, Cancelled).await;
    assert_eq!(order.cancel_reason, "OUT_OF_STOCK");
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), units_out(&ledger)), (0, 0));
    node.stop().await;
}

#[tokio::test]
async fn stock_that_lapses_between_charge_and_commit_is_reserved_anew_or_the_money_goes_back() {
    for is_gone in [false, true] {
        let (node, clock) = node_with(&[("ORDER__CREATE__WAIT", "10ms")]).await;
        fault(&node, "inventory.Commit", down());
        let order = node.create(sample_order()).await;
        node.until(&order.id, Confirmed).await;
        if is_gone {
            faults(&node, &[("inventory.Commit", down()), ("inventory.Reserve", nothing_left())]);
        }
        clock.pass(40 * MINUTES);
        if is_gone {
            let order = node.until(&order.id, Cancelled).await;
            assert_eq!(order.cancel_reason, "OUT_OF_STOCK");
            assert_eq!(order.payment_status(), pb::PaymentStatus::Refunded);
            node.assert_unwound(&order);
        } else {
            until_count(&node, &order, "stock_reserved", 2).await;
            no_faults(&node);
            node.until_event(&order.id, "saga_settled").await;
            assert_eq!(node.get(&order.id).await.status(), Confirmed);
            let ledger = node.ledger(&order);
            assert_eq!(states(&ledger), [ReservationState::Expired, ReservationState::Committed]);
            assert_eq!((ledger.charges.len(), ledger.refunds.len()), (1, 0));
        }
        node.stop().await;
    }
}

/// Expiry against success: a charge that may have happened is made certain first, and then counts.
#[tokio::test]
async fn a_charge_that_may_have_happened_does_not_expire() {
    let (node, clock) = node_with(&[("ORDER__CREATE__WAIT", "10ms"), PATIENT]).await;
    faults(&node, &[("payment.Charge", unknown(true)), ("payment.GetTransaction", down())]);
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "charge_unknown").await;
    clock.pass(4 * MINUTES);
    until_count(&node, &order, "step_delayed", 5).await;
    assert_eq!(node.get(&order.id).await.attention_reason, "");
    clock.pass(41 * MINUTES);
    // Somebody is called meanwhile, and the questions go on.
    let flagged = node.until_event(&order.id, "attention_needed").await;
    assert!(flagged.payload_json.contains("CHARGE"), "{}", flagged.payload_json);
    let flagged =
        || async { Some(node.get(&order.id).await).filter(|order| !order.attention_reason.is_empty()) };
    let waiting = eventually("a flag", flagged).await;
    assert_eq!((waiting.status(), waiting.payment_status()), (Pending, pb::PaymentStatus::Unknown));
    no_faults(&node);
    let order = node.until(&order.id, Confirmed).await;
    assert_eq!(order.attention_reason, "");
    let ledger = node.ledger(&order);
    assert_eq!((taken(&ledger) > returned(&ledger), ledger.charges.len()), (true, 1));
    node.stop().await;
}

#[tokio::test]
async fn a_charge_that_never_arrived_expires_once_that_is_certain() {
    let (node, clock) = node_with(&[("ORDER__CREATE__WAIT", "10ms"), PATIENT]).await;
    faults(&node, &[("payment.Charge", unknown(false)), ("payment.GetTransaction", down())]);
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "charge_unknown").await;
    clock.pass(45 * MINUTES);
    node.until_event(&order.id, "attention_needed").await;
    assert_eq!(node.get(&order.id).await.status(), Pending);
    no_faults(&node);
    let order = node.until(&order.id, Cancelled).await;
    assert_eq!(order.cancel_reason, "EXPIRED");
    let failed = node.until_event(&order.id, "charge_failed").await;
    assert!(failed.payload_json.contains("NEVER_ARRIVED"), "{}", failed.payload_json);
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), units_out(&ledger)), (0, 0));
    node.stop().await;
}

/// A counter of this process; other tests may count it up as well.
async fn counted(node: &TestNode, name: &str) -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(node.node().ops_address()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let value =
        text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.trim().parse().ok()));
    value.unwrap_or(0)
}

#[tokio::test]
async fn a_charge_that_succeeds_after_the_cancel_is_given_back_and_counted() {
    let (node, _clock) = node_with(&[("ORDER__CREATE__WAIT", "10ms")]).await;
    let before = counted(&node, "order_late_charges_total").await;
    fault(&node, "payment.Charge", slow(std::time::Duration::from_millis(300)));
    let order = node.create(sample_order()).await;
    node.until_event(&order.id, "charge_requested").await;
    node.cancel(&order.id).await.unwrap();
    let order = node.until(&order.id, Cancelled).await;
    let ledger = node.ledger(&order);
    assert!(ledger.charges.iter().all(|charge| charge.state == ChargeState::Succeeded));
    assert!(!ledger.charges.is_empty());
    node.assert_unwound(&order);
    assert!(counted(&node, "order_late_charges_total").await > before);
    node.stop().await;
}

#[tokio::test]
async fn holds_end_by_themselves_also_those_that_were_due_while_the_node_was_down() {
    let (node, clock) = node_with(&[("ORDER__CREATE__WAIT", "10s")]).await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        let order = node.create(sample_order()).await;
        assert_eq!(order.status(), Confirmed);
        orders.push(hold_until(&node, &order, after(&order, 10 * MINUTES)).await);
    }
    let later = node.create(sample_order()).await;
    let later = hold_until(&node, &later, after(&later, 60 * MINUTES)).await;
    let folder = node.stop().await;
    clock.pass(11 * MINUTES);
    let few = [OFTEN, ("ORDER__SAGA__TIMERS_BATCH", "2")];
    let node = TestNode::start_by(folder, &quick(&few), Arc::clone(&clock)).await;
    for order in &orders {
        let released = node.until_event(&order.id, "order_released").await;
        assert_eq!(released.principal, "timer");
        eventually("no hold", || async { node.get(&order.id).await.hold.is_none().then_some(()) }).await;
    }
    assert_eq!(node.get(&later.id).await, later);
    clock.pass(60 * MINUTES);
    node.until_event(&later.id, "order_released").await;
    assert_eq!(node.ask_status(&later.id, Processing).await.unwrap().status(), Processing);
    node.stop().await;
}

#[tokio::test]
async fn a_creation_goes_on_when_its_hold_ends() {
    let (node, clock) = node_with(&[HELD]).await;
    let order = node.create(sample_order()).await;
    let held = hold_until(&node, &order, after(&order, 10 * MINUTES)).await;
    assert_eq!((held.status(), held.hold.as_ref().map(|hold| hold.by.as_str())), (Pending, Some("dev")));
    clock.pass(11 * MINUTES);
    let order = node.until(&order.id, Confirmed).await;
    assert_eq!(order.hold, None);
    assert_eq!(node.ledger(&order).charges.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_creation_that_is_held_needs_no_memory_and_goes_on_all_the_same() {
    let idle = [HELD, ("ORDER__ACTOR__IDLE_AFTER", "10ms"), ("ORDER__ACTOR__SWEEP_EVERY", "10ms")];
    let (node, clock) = node_with(&idle).await;
    let (first, second) = (node.create(sample_order()).await, node.create(sample_order()).await);
    hold_until(&node, &first, after(&first, 10 * MINUTES)).await;
    let live = || async { (node.node().orders().counts().live == 0).then_some(()) };
    eventually("an empty memory", live).await;
    clock.pass(11 * MINUTES);
    node.until(&first.id, Confirmed).await;
    eventually("an empty memory", live).await;
    node.release(&second.id).await.unwrap();
    node.until(&second.id, Confirmed).await;
    node.stop().await;
}

/// The server's clock counts: neither does anything end an hour early, nor is anything put off.
#[tokio::test]
async fn a_machine_whose_clock_is_an_hour_ahead_ends_nothing_early() {
    let url = shared_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let clock = Arc::new(MachineClock::default());
    clock.pass(60 * MINUTES);
    let settings = [OFTEN, HELD, ("ORDER__STORE__URL", &url), ("ORDER__SIMULATOR__JOURNAL", "")];
    let node = TestNode::start_by(TempDir::new().unwrap(), &quick(&settings), Arc::clone(&clock)).await;
    let server = || async {
        let now =
            crate::harness::pg_store::value(&url, "SELECT extract(epoch FROM clock_timestamp())::bigint")
                .await;
        now.parse::<i64>().unwrap()
    };
    let order = node.create(sample_order()).await;
    let created = order.created_at.unwrap().seconds;
    assert!((server().await - created).abs() <= 5, "created at {created}");
    let early = Timestamp { seconds: server().await + 30 * MINUTES, nanos: 0 };
    let held = hold_until(&node, &order, early).await;
    // One whose time comes is ended by the same sweeps.
    let other = node.create(sample_order()).await;
    hold_until(&node, &other, Timestamp { seconds: server().await + 2, nanos: 0 }).await;
    node.until(&other.id, Confirmed).await;
    assert_eq!(node.get(&order.id).await, held);
    assert_eq!(node.cancel(&order.id).await.unwrap().status(), Cancelled);
    node.stop().await;
}
