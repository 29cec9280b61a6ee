//! Every saga against collaborators that fail in every way, at every station, and against cancels at every moment.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use order_service::clients::sim::{FaultSpec, FaultTarget};
use order_service::domain::ids::{CallKey, OrderId};
use order_service::domain::saga::{Direction, SagaKind, StepName};
use order_service::ports::call::CallContext;
use order_service::ports::inventory::ReleaseTarget;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus;
use tokio_util::sync::CancellationToken;

use crate::harness::invariants::{Evidence, acknowledged, check, gather, history, kinds};
use crate::harness::node::{TestNode, sample_order};
use crate::harness::scenarios::{Customer, SCENARIOS, Scenario};
use crate::harness::wait::eventually;

/// Nodes that work side by side.
const NODES: usize = 4;

/// How long a step waits for its answer.
const STEP_TIMEOUT: &str = "250ms";
/// Takes longer than a step waits: the effect comes when nobody expects an answer any more.
const LATE: Duration = Duration::from_millis(400);
/// Takes long enough to send a cancel meanwhile.
const SLOW: Duration = Duration::from_millis(120);
/// What every call takes where a cancel has to find its moment.
const BRISK: Duration = Duration::from_millis(15);

const IMPATIENT: &[(&str, &str)] = &[
    ("ORDER__CREATE__WAIT", "20s"),
    ("ORDER__GRPC__DEFAULT_DEADLINE", "30s"),
    ("ORDER__SAGA__STEP_TIMEOUT", STEP_TIMEOUT),
    ("ORDER__SAGA__RETRY_INITIAL", "5ms"),
    ("ORDER__SAGA__RETRY_MAX", "50ms"),
    ("ORDER__SAGA__FORWARD_TRIES", "4"),
    ("ORDER__SAGA__ATTENTION_AFTER_TRIES", "4"),
    ("ORDER__SAGA__CHARGE_SETTLE_LAG", "1s"),
];

/// How a method fails.
#[derive(Clone, Copy, Debug)]
struct Failing {
    name: &'static str,
    fault: fn() -> FaultSpec,
    /// The fault ends by itself after one call, or after this many struck calls, when the test ends it.
    ends_after: u64,
    /// Methods that can fail so; empty for all.
    only: &'static [&'static str],
}

fn once(fault: FaultSpec) -> FaultSpec {
    FaultSpec { max_count: Some(1), ..fault }
}

/// Calls that a fault strikes before the test ends it: more than a saga's patience.
const OUTAGE: u64 = 6;

const FAILURES: &[Failing] = {
    const UNTIL_ENDED: Failing =
        Failing { name: "", fault: FaultSpec::default, ends_after: OUTAGE, only: &[] };
    &[
        Failing {
            name: "unavailable once",
            fault: || once(FaultSpec { unavailable: true, ..FaultSpec::default() }),
            ends_after: u64::MAX,
            ..UNTIL_ENDED
        },
        Failing {
            name: "unavailable for long",
            fault: || FaultSpec { unavailable: true, ..FaultSpec::default() },
            ..UNTIL_ENDED
        },
        Failing {
            name: "error before the effect, once",
            fault: || once(FaultSpec { error_rate: 1.0, ..FaultSpec::default() }),
            ends_after: u64::MAX,
            ..UNTIL_ENDED
        },
        Failing {
            name: "error before the effect, for long",
            fault: || FaultSpec { error_rate: 1.0, ..FaultSpec::default() },
            ..UNTIL_ENDED
        },
        Failing {
            name: "answer lost once",
            fault: || once(FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() }),
            ends_after: u64::MAX,
            ..UNTIL_ENDED
        },
        Failing {
            name: "answers lost for long",
            fault: || FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() },
            ..UNTIL_ENDED
        },
        Failing {
            name: "carried out twice",
            fault: || FaultSpec { duplicate_rate: 1.0, ..FaultSpec::default() },
            ends_after: u64::MAX,
            ..UNTIL_ENDED
        },
        Failing {
            name: "late effect, once",
            fault: || once(FaultSpec { delay: LATE, ..FaultSpec::default() }),
            ends_after: u64::MAX,
            ..UNTIL_ENDED
        },
        Failing {
            name: "late effect and answer lost, twice",
            fault: || FaultSpec {
                delay: LATE,
                lose_reply_rate: 1.0,
                max_count: Some(2),
                ..FaultSpec::default()
            },
            ends_after: u64::MAX,
            ..UNTIL_ENDED
        },
        Failing {
            name: "refused",
            fault: || FaultSpec { decline_rate: 1.0, out_of_stock_rate: 1.0, ..FaultSpec::default() },
            ends_after: 3,
            only: &["inventory.Reserve", "payment.Charge", "payment.Refund"],
        },
    ]
};

/// The methods that a station calls, and those that it only calls in doubt.
fn methods(station: (StepName, Direction)) -> &'static [&'static [&'static str]] {
    match station {
        (StepName::Reserve, Direction::Forward) => &[&["inventory.Reserve"]],
        (StepName::Charge, Direction::Forward) => {
            &[&["payment.Charge"], &["payment.Charge", "payment.GetTransaction"]]
        }
        (StepName::CommitStock, _) => &[&["inventory.Commit"]],
        (StepName::Label, Direction::Forward) => &[&["shipping.CreateLabel"]],
        (StepName::Charge, Direction::Backward) => &[&["payment.Refund"]],
        (StepName::Reserve, Direction::Backward) => &[&["inventory.Release", "inventory.Restock"]],
        (StepName::Label, Direction::Backward) => &[&["shipping.VoidLabel"]],
    }
}

/// A customer nobody else is.
fn customer(scenario: &Scenario) -> Customer {
    static NUMBER: AtomicU64 = AtomicU64::new(1_000_000);
    Customer::new(*scenario, NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn target(method: &str) -> FaultTarget {
    FaultTarget::parse(method).unwrap()
}

fn set_faults(node: &TestNode, faults: impl IntoIterator<Item = (FaultTarget, FaultSpec)>) {
    node.simulator().set_faults(true, faults.into_iter().collect()).unwrap();
}

/// Everything about the order, once its sagas have ended.
async fn evidence(node: &TestNode, customer: &Customer) -> Evidence {
    let client = node.client();
    customer.settled(&client).await;
    let id = customer.order_id.clone().unwrap();
    let order: OrderId = id.parse().unwrap();
    // A late effect is part of the truth.
    let rest = async || {
        let ledger = node.simulator().order_ledger(order);
        let pending = |charge: &order_service::clients::sim::Charge| {
            charge.state == order_service::clients::sim::ChargeState::Pending
        };
        (!ledger.charges.iter().any(pending)).then_some(ledger)
    };
    let ledger = eventually("the last charge", rest).await;
    gather(&client, &id, (&ledger).into()).await
}

/// Runs the cases on a few nodes side by side, whose sagas run ahead of what is stored for so long.
async fn on_nodes<C>(run_ahead: &str, cases: Vec<C>, run: impl AsyncFn(&TestNode, C)) {
    let count = cases.len();
    let cases = std::sync::Mutex::new(cases.into_iter());
    let work = async |_| {
        let settings = [IMPATIENT, &[("ORDER__SAGA__RUN_AHEAD", run_ahead)]].concat();
        let node = TestNode::start_with(&settings).await;
        loop {
            let next = cases.lock().unwrap().next();
            let Some(case) = next else { break };
            run(&node, case).await;
        }
        node.stop().await;
    };
    stream::iter(0..NODES.min(count)).for_each_concurrent(None, work).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_station_of_every_saga_gets_over_every_failure() {
    let mut cases = Vec::new();
    let mut reached = BTreeSet::new();
    for scenario in SCENARIOS {
        for station in scenario.stations {
            reached.insert((scenario.saga, *station));
            for methods in methods(*station) {
                for failing in FAILURES {
                    let can = |method: &&&str| failing.only.is_empty() || failing.only.contains(*method);
                    let methods: Vec<&str> = methods.iter().filter(can).copied().collect();
                    if !methods.is_empty() {
                        cases.push((scenario, methods, failing));
                    }
                }
            }
        }
    }
    let all =
        SagaKind::ALL.iter().flat_map(|saga| saga.stations().into_iter().map(|station| (*saga, station)));
    assert_eq!(reached, all.collect(), "a station without a scenario");
    // What is slow lets nobody run ahead for long.
    let creations =
        |case: &&(&Scenario, Vec<&str>, &Failing)| case.0.saga == SagaKind::Create && case.0.slow.is_none();
    let ahead: Vec<_> = cases.iter().filter(creations).cloned().collect();
    println!("{} cases, and {} while the saga runs ahead", cases.len(), ahead.len());
    for (run_ahead, cases) in [("0s", cases), ("10s", ahead)] {
        on_nodes(run_ahead, cases, async |node, (scenario, methods, failing)| {
            fails_at(node, scenario, &methods, failing).await;
        })
        .await;
    }
}

async fn fails_at(node: &TestNode, scenario: &Scenario, methods: &[&str], failing: &Failing) {
    let what = format!("\"{}\" with {methods:?} {}", scenario.name, failing.name);
    let client = node.client();
    let slow = |method: &str| (target(method), FaultSpec { delay: SLOW, ..FaultSpec::default() });
    let faults = methods.iter().map(|method| (target(method), (failing.fault)()));
    set_faults(node, scenario.slow.map(slow).into_iter().chain(faults));
    let struck = || -> u64 {
        let faults = node.simulator().faults();
        faults
            .iter()
            .filter(|(at, ..)| methods.iter().any(|method| target(method) == *at))
            .map(|one| one.2)
            .sum()
    };
    let mut customer = customer(scenario);
    let over = CancellationToken::new();
    let most = AtomicU64::new(0);
    let live = async {
        customer.live(&client).await;
        over.cancel();
    };
    let outage = async {
        let enough = async || {
            most.fetch_max(struck(), Ordering::Relaxed);
            (struck() >= failing.ends_after).then_some(())
        };
        tokio::select! {
            () = eventually("the end of the outage", enough) => set_faults(node, []),
            () = over.cancelled() => { most.fetch_max(struck(), Ordering::Relaxed); }
        }
    };
    tokio::join!(live, outage);
    set_faults(node, []);
    assert!(most.load(Ordering::Relaxed) > 0, "{what}: the fault struck nothing");
    let evidence = evidence(node, &customer).await;
    let mut law = check(&evidence);
    for order in &customer.acknowledged {
        law = law.and_then(|()| acknowledged(order, &evidence));
    }
    assert_eq!(law, Ok(()), "{what}: {evidence:#?}");
    // What surely did not happen, or can be undone unseen, is given up after a while; a charge in doubt never is.
    let may_give_up = match methods[0] {
        "inventory.Reserve" | "shipping.CreateLabel" => failing.ends_after < u64::MAX,
        "payment.Charge" => matches!(failing.name, "unavailable for long" | "refused"),
        _ => false,
    };
    let given_up = match scenario.saga {
        SagaKind::Fulfil => OrderStatus::Confirmed,
        _ => OrderStatus::Cancelled,
    };
    let status = evidence.order.status();
    let led = status == scenario.ends || may_give_up && status == given_up;
    assert!(led, "{what}: {status:?}: {}", kinds(&evidence));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_is_safe_at_every_moment() {
    let lives = |scenario: &&Scenario| scenario.cancel_at.is_none();
    let mut cases = Vec::new();
    for scenario in SCENARIOS.iter().filter(lives) {
        let settings = [IMPATIENT, &[("ORDER__SAGA__RUN_AHEAD", "0s")]].concat();
        let node = TestNode::start_with(&settings).await;
        let mut customer = customer(scenario);
        customer.live(&node.client()).await;
        let events = evidence(&node, &customer).await.events.len();
        node.stop().await;
        cases.extend((1..=events).map(|moment| (scenario, moment)));
    }
    println!("{} moments", cases.len());
    on_nodes("0s", cases, async |node, (scenario, moment)| {
        let what = format!("\"{}\" cancelled at event {moment}", scenario.name);
        set_faults(node, [(FaultTarget::All, FaultSpec { delay: BRISK, ..FaultSpec::default() })]);
        let mut customer = customer(scenario);
        let heard = customer.live_and_cancel(&node.client(), moment).await;
        set_faults(node, []);
        let evidence = evidence(node, &customer).await;
        assert_eq!(check(&evidence), Ok(()), "{what}: {evidence:#?}");
        let status = evidence.order.status();
        let (shipped, cancelled) = (status == OrderStatus::Returned, status == OrderStatus::Cancelled);
        let kept = match heard {
            Ok(order) => order.status() == OrderStatus::Cancelled && cancelled,
            Err((code, reason)) => {
                let refused =
                    (code, reason.as_str()) == (tonic::Code::FailedPrecondition, "ILLEGAL_TRANSITION");
                refused && shipped || cancelled && scenario.ends == OrderStatus::Cancelled
            }
        };
        assert!(kept, "{what}: {status:?}: {}", kinds(&evidence));
    })
    .await;
}

#[tokio::test]
async fn a_refund_that_is_refused_calls_for_a_person_and_is_paid_in_the_end() {
    let node = TestNode::start_with(IMPATIENT).await;
    let client = node.client();
    let refused =
        FaultSpec { decline_rate: 1.0, decline_code: "ACCOUNT_CLOSED".to_owned(), ..FaultSpec::default() };
    set_faults(&node, [(target("payment.Refund"), refused)]);
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == "cancel when confirmed").unwrap();
    let mut customer = customer(scenario);
    let looking = customer.clone();
    let flagged = async {
        let order = eventually("a call for a person", async || {
            let id = looking.order(&client).await?.id;
            let events = history(&client, &id).await;
            let call = events.into_iter().find(|event| event.r#type == "attention_needed")?;
            assert!(call.payload_json.contains("ACCOUNT_CLOSED"), "{}", call.payload_json);
            looking.order(&client).await
        })
        .await;
        assert_eq!(order.status(), OrderStatus::Cancelling, "never silently at its end");
        // The flag and the money are one commit: whoever sees one sees the other.
        assert_eq!(order.payment_status(), pb::PaymentStatus::RefundFailed);
        set_faults(&node, []);
    };
    tokio::join!(customer.live(&client), flagged);
    let evidence = evidence(&node, &customer).await;
    assert_eq!(check(&evidence), Ok(()), "{evidence:#?}");
    assert_eq!(evidence.order.status(), OrderStatus::Cancelled);
    let calls = evidence.events.iter().filter(|event| event.r#type == "attention_needed").count();
    assert_eq!(calls, 1, "one call for one trouble: {}", kinds(&evidence));
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_while_nobody_knows_of_the_charge_waits_for_the_truth() {
    let node = TestNode::start_with(IMPATIENT).await;
    let client = node.client();
    let lost = FaultSpec { lose_reply_rate: 1.0, ..FaultSpec::default() };
    let away = FaultSpec { unavailable: true, ..FaultSpec::default() };
    set_faults(&node, [(target("payment.Charge"), lost), (target("payment.GetTransaction"), away)]);
    let scenario =
        Scenario { cancel_at: Some("charge_unknown"), ends: OrderStatus::Cancelled, ..SCENARIOS[0] };
    let mut customer = customer(&scenario);
    let looking = customer.clone();
    let truth = async {
        let doubtful = async || {
            let order = looking.order(&client).await?;
            let turned = order.status() == OrderStatus::Cancelling;
            (turned && order.payment_status() == pb::PaymentStatus::Unknown).then_some(())
        };
        eventually("an order in doubt that is being cancelled", doubtful).await;
        // Any number of tries does not make a charge undone.
        let tries = async || {
            let faults = node.simulator().faults();
            faults
                .iter()
                .any(|(at, _, struck)| *at == target("payment.GetTransaction") && *struck >= 8)
                .then_some(())
        };
        eventually("a few questions", tries).await;
        let order = looking.order(&client).await.unwrap();
        assert_eq!(order.status(), OrderStatus::Cancelling);
        set_faults(&node, []);
    };
    tokio::join!(customer.live(&client), truth);
    let evidence = evidence(&node, &customer).await;
    assert_eq!(check(&evidence), Ok(()), "{evidence:#?}");
    assert_eq!(evidence.order.status(), OrderStatus::Cancelled);
    assert_eq!(evidence.truth.refunds.len(), 1, "{:?}", evidence.truth);
    node.stop().await;
}

fn context() -> CallContext {
    CallContext { request_id: String::new(), trace: None, caller: None, timeout: Duration::from_secs(5) }
}

#[tokio::test]
async fn stock_that_is_lost_after_the_charge_is_got_anew_or_paid_back() {
    for is_gone in [false, true] {
        // It has to be seen between the two.
        let node = TestNode::start_with(&[IMPATIENT, &[("ORDER__SAGA__RUN_AHEAD", "0s")]].concat()).await;
        let client = node.client();
        set_faults(&node, [(target("inventory.Commit"), FaultSpec { delay: SLOW, ..FaultSpec::default() })]);
        let mut customer = customer(&SCENARIOS[0]);
        let looking = customer.clone();
        let thief = async {
            let paid = async || {
                let order = looking.order(&client).await?;
                (order.payment_status() == pb::PaymentStatus::Paid).then_some(order.inventory_reservation_id)
            };
            let reservation = ReleaseTarget::Reservation(eventually("a paid order", paid).await);
            let inventory = node.simulator().collaborators().inventory;
            inventory.release(&context(), &CallKey::from_text("thief"), &reservation).await.unwrap();
            if is_gone {
                let none = FaultSpec { out_of_stock_rate: 1.0, ..FaultSpec::default() };
                set_faults(&node, [(target("inventory.Reserve"), none)]);
            }
        };
        tokio::join!(customer.live(&client), thief);
        let evidence = evidence(&node, &customer).await;
        assert_eq!(check(&evidence), Ok(()), "{evidence:#?}");
        if is_gone {
            assert_eq!(evidence.order.status(), OrderStatus::Cancelled);
            assert_eq!(evidence.order.cancel_reason, "OUT_OF_STOCK");
        } else {
            assert_eq!(evidence.truth.reservations.len(), 2, "{evidence:#?}");
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn a_label_that_is_refused_leaves_the_order_confirmed_and_may_be_asked_for_again() {
    let node = TestNode::start_with(IMPATIENT).await;
    let mut client = node.client();
    let order = client.create_order(sample_order()).await.unwrap().into_inner();
    // The key of the label that the order's second saga will ask for is spent.
    let key = CallKey::new(order.id.parse().unwrap(), 2, "label", 1);
    node.simulator().collaborators().shipping.void_label(&context(), &key).await.unwrap();
    let request = || pb::UpdateOrderStatusRequest {
        id: order.id.clone(),
        status: OrderStatus::Processing.into(),
        ..Default::default()
    };
    let refused = client.update_order_status(request()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    let key = Some(pb::get_order_request::Key::Id(order.id.clone()));
    let seen = client.get_order(pb::GetOrderRequest { key, allow_stale: false }).await.unwrap().into_inner();
    assert_eq!(seen.status(), OrderStatus::Confirmed);
    let packed = client.update_order_status(request()).await.unwrap().into_inner();
    assert_eq!(packed.status(), OrderStatus::Processing);
    let truth = (&node.simulator().order_ledger(order.id.parse().unwrap())).into();
    assert_eq!(check(&gather(&client, &order.id, truth).await), Ok(()));
    node.stop().await;
}
