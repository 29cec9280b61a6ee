//! A process that dies at every point where it can hurt most, and what its next life makes of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;

use futures::StreamExt;
use futures::stream;
use order_service::actor::CrashPoint;
use order_service::domain::saga::{SagaKind, StepName};
use order_service::proto::simulator::Faults;
use tonic::Code;

use crate::harness::invariants::{acknowledged, check, discreet, gather};
use crate::harness::process::{NodeProcess, Simulate, was_killed};
use crate::harness::scenarios::{Customer, Heard, SCENARIOS, Scenario};
use crate::harness::stores::{StoreKind, verified};

/// Nodes that live and die side by side.
const SIDE_BY_SIDE: usize = 4;

/// What a slow method takes: time enough to send a cancel.
const SLOW_MS: u32 = 700;

const RUN_AHEAD: &str = "ORDER__SAGA__RUN_AHEAD";
/// Every step is stored before the next.
const AT_ONCE: &str = "0s";
/// Until a slow call.
const BRIEFLY: &str = "100ms";
/// Longer than a creation takes.
const FOR_LONG: &str = "10s";

const PATIENT: &[(&str, &str)] = &[
    ("ORDER__LOG__LEVEL", "info,order_service=debug"),
    ("ORDER__CREATE__WAIT", "20s"),
    ("ORDER__GRPC__DEFAULT_DEADLINE", "30s"),
    ("ORDER__SAGA__RETRY_INITIAL", "10ms"),
    ("ORDER__SAGA__RETRY_MAX", "200ms"),
    ("ORDER__SAGA__CHARGE_SETTLE_LAG", "3s"),
    ("ORDER__COLLABORATORS__BREAKER_OPEN_FOR", "100ms"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_any_point_of_any_saga_goes_on_where_it_was() {
    every_point(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_any_point_of_any_saga_goes_on_where_it_was_on_postgres() {
    every_point(StoreKind::Postgres).await;
}

async fn every_point(store: StoreKind) {
    let mut simulators = BTreeMap::new();
    for slow in SCENARIOS.iter().map(|scenario| scenario.slow) {
        if let Entry::Vacant(place) = simulators.entry(slow) {
            let simulate = place.insert(Simulate::start().await);
            let delay =
                |method: &str| Faults { method: method.into(), delay_ms: SLOW_MS, ..Default::default() };
            simulate.set_faults(slow.map(delay).into_iter().collect()).await;
        }
    }
    let mut lives: Vec<(CrashPoint, &Scenario, &str)> = Vec::new();
    for point in CrashPoint::all() {
        let reaches = |scenario: &&Scenario| {
            scenario.saga == point.saga() && scenario.stations.contains(&point.station())
        };
        for scenario in SCENARIOS.iter().filter(reaches) {
            let ways: &[&str] = match (scenario.saga, scenario.slow) {
                (SagaKind::Create, None) => &[AT_ONCE, FOR_LONG],
                (SagaKind::Create, Some(_)) => &[BRIEFLY],
                _ => &[AT_ONCE],
            };
            lives.extend(ways.iter().map(|run_ahead| (point, scenario, *run_ahead)));
        }
    }
    // Making a database takes longer than a life in it, so the next order moves in where the last one has settled.
    let settled = Mutex::new(Vec::new());
    let numbered = lives.iter().zip(1..).map(|((point, scenario, run_ahead), number)| {
        let simulate = &simulators[&scenario.slow];
        let settled = &settled;
        async move {
            let free = settled.lock().unwrap().pop();
            let (url, orders) = match free {
                Some(used) => used,
                None => (store.fresh_url().await, 0),
            };
            let customer = Customer::new(**scenario, number);
            let mut node = two_lives(url.clone(), (*point, run_ahead), scenario, customer, simulate).await;
            verified(&node, orders + 1).await;
            if url.is_some() {
                node.kill9().await;
                settled.lock().unwrap().push((url, orders + 1));
            }
            *point
        }
    });
    let hit: Vec<CrashPoint> = stream::iter(numbered).buffer_unordered(SIDE_BY_SIDE).collect().await;
    let missed: Vec<_> = CrashPoint::all().into_iter().filter(|point| !hit.contains(point)).collect();
    assert!(missed.is_empty(), "no scenario comes by {missed:?}");
    let all = CrashPoint::all().len();
    println!("crash points on {store:?}: {} of {all} hit, in {} lives", all - missed.len(), hit.len());
}

/// A node that kills itself at `point` in the middle of a scenario, and its successor on the same store, which is
/// returned. Without a URL the store is a file of their own.
async fn two_lives(
    url: Option<String>,
    (point, run_ahead): (CrashPoint, &str),
    scenario: &Scenario,
    mut customer: Customer,
    simulate: &Simulate,
) -> NodeProcess {
    let what = format!("{point} in \"{}\", running ahead for {run_ahead}", scenario.name);
    let armed = point.to_string();
    let crash = [("ORDER__TESTING__CRASH_AT", armed.as_str()), (RUN_AHEAD, run_ahead)];
    let mut node = NodeProcess::start_on(url, simulate, PATIENT, &crash).await;
    let client = node.client();
    let status = tokio::select! {
        status = node.process().ended() => status,
        () = async {
            customer.live(&client).await;
            std::future::pending().await
        } => unreachable!("it never ends"),
    };
    assert!(was_killed(status), "{what}: {status}");
    assert_eq!(discreet(&node.process().log()), Ok(()), "{what}");
    drop(client);

    let mut node = node;
    // Doubt about money is the worst to be in: there the successor may die of the same, or get past it.
    if point.station().0 == StepName::Charge {
        node = node.restart(&crash).await;
        let client = node.client();
        tokio::select! {
            status = node.process().ended() => assert!(was_killed(status), "{what}, twice: {status}"),
            () = async {
                if let Some(order) = customer.order(&client).await {
                    customer.order_id = Some(order.id);
                    customer.settled(&client).await;
                }
            } => {}
        }
    }
    let mut node = node.restart(&[]).await;
    let client = node.client();
    // Nobody has to come back for the order to go on.
    match customer.order(&client).await {
        Some(order) => {
            customer.order_id = Some(order.id);
            customer.settled(&client).await;
        }
        None => assert!(customer.acknowledged.is_empty(), "{what}: I1: an acknowledged order is gone"),
    }
    // Whoever was not answered asks again, and what was not taken is taken now.
    let before = std::mem::take(&mut customer.acknowledged);
    customer.repeat(&client).await;
    customer.settled(&client).await;
    let first = customer.repeat(&client).await;
    let second = customer.repeat(&client).await;
    assert_eq!(tell(&first), tell(&second), "{what}: I2: the same was asked");
    assert!(first == second, "{what}: I2: a repeat changed the order");

    let misused = customer.misuse(&client).await;
    assert_eq!(misused, Err((Code::InvalidArgument, "REQUEST_ID_REUSED".to_owned())), "{what}: I2");

    let id = customer.order(&client).await.unwrap().id;
    let truth = (&simulate.ledger(&id).await).into();
    let evidence = gather(&client, &id, truth).await;
    let mut law = check(&evidence);
    for order in &before {
        law = law.and_then(|()| acknowledged(order, &evidence));
    }
    assert_eq!(law, Ok(()), "{what}: {evidence:#?}");
    assert_eq!(evidence.order.status(), scenario.ends, "{what}: {evidence:#?}");
    assert_eq!(discreet(&node.process().log()), Ok(()), "{what}");
    node
}

/// Answers in short.
fn tell(heard: &[Heard]) -> Vec<String> {
    heard
        .iter()
        .map(|heard| match heard {
            Ok(order) => format!("{:?} {} at {}", order.status(), order.id, order.version),
            Err((code, reason)) => format!("{code:?} {reason}"),
        })
        .collect()
}
