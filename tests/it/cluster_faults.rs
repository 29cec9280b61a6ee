//! Nodes of a cluster that die, freeze, or are cut off, under load: every order goes on elsewhere, and whoever was given
//! up writes no more.
//!
//! How long a takeover takes is printed. By default nodes are quicker to give each other up than in production;
//! `ORDER_CLUSTER_DEFAULTS=1` takes the defaults.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::Duration;

use order_service::proto::order as pb;
use order_service::proto::simulator::Faults;
use rustix::process::Signal;
use tokio::time::{Instant, interval};

use crate::harness::cluster::{Cluster, Plan, by_default, wished};
use crate::harness::cluster_audit::{audit, settled};
use crate::harness::links::Link;
use crate::harness::postgres::{Shutdown, query};
use crate::harness::takeover::Witnesses;
use crate::harness::traffic::{Mode, Rate, Report, Traffic};

/// Users of witnesses, apart from those of the traffic.
const WITNESSES: u64 = 1_000_000;

/// Orders of each node that are looked at.
const LEAST: usize = 12;

/// How long a node may take to end that has been given up and hears of it.
const HEARS: Duration = Duration::from_secs(30);

/// A node that is not the first: the audit asks that one.
const VICTIM: usize = 1;

fn tolerant(cluster: &Cluster) -> Traffic {
    Traffic::start(cluster.fleet(), Rate::new(Mode::Tolerant), 1)
}

/// Whether a process gave itself up.
fn gave_up(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code != 0)
}

async fn end(cluster: &Cluster, traffic: Traffic, mut acknowledged: Vec<pb::Order>) {
    let report: Report = traffic.stop().await;
    println!("{report}");
    report.assert_clean();
    acknowledged.extend(report.acknowledged);
    audit(cluster, 0, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_taken_over_under_load() {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(3) }).await;
    let fleet = cluster.fleet();
    let traffic = tolerant(&cluster);
    let mut acknowledged = Vec::new();
    for round in 0..wished("ORDER_CLUSTER_ROUNDS", 1) {
        let first = WITNESSES * (round + 1);
        let (witnesses, made) = Witnesses::make(&cluster, &fleet, first, LEAST).await;
        traffic.more(50).await;
        cluster.kill9(VICTIM).await;
        let takeover = witnesses[VICTIM].change(&fleet).await;
        println!("kill -9: {takeover}");
        cluster.balanced(&[0, 2]).await;
        assert_eq!(cluster.life(VICTIM).await.unwrap().state, "DEAD");
        cluster.start_node(VICTIM).await;
        cluster.balanced(&[0, 1, 2]).await;
        acknowledged.extend(made);
        acknowledged.extend(takeover.acknowledged);
    }
    traffic.more(50).await;
    end(&cluster, traffic, acknowledged).await;
}

/// Orders that a life has written last, with their versions.
async fn written_by(cluster: &Cluster, incarnation: i64) -> BTreeMap<String, i64> {
    let sql = format!("SELECT id, version FROM orders WHERE owner_incarnation = {incarnation}");
    let rows = query(cluster.url(), &sql).await.unwrap();
    rows.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_is_taken_over_and_ends_when_it_wakes_up() {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(3) }).await;
    let fleet = cluster.fleet();
    let traffic = tolerant(&cluster);
    let (witnesses, mut acknowledged) = Witnesses::make(&cluster, &fleet, WITNESSES, LEAST).await;
    let frozen = cluster.life(VICTIM).await.unwrap().incarnation;
    let seconds = if by_default().is_empty() { 20 } else { 8 };
    let started = Instant::now();
    cluster.signal(VICTIM, Signal::STOP);
    let takeover = witnesses[VICTIM].change(&fleet).await;
    println!("frozen: {takeover}");
    cluster.balanced(&[0, 2]).await;
    traffic.calls_of(Duration::from_secs(seconds).saturating_sub(started.elapsed())).await;

    let before = written_by(&cluster, frozen).await;
    cluster.signal(VICTIM, Signal::CONT);
    let woken = Instant::now();
    let status = cluster.ended(VICTIM, HEARS).await;
    println!("it ended with {status}, {:.1?} after it woke up", woken.elapsed());
    assert!(gave_up(status), "{status}");
    let after = written_by(&cluster, frozen).await;
    let written: Vec<_> = after.iter().filter(|(id, version)| before.get(*id) != Some(version)).collect();
    assert!(written.is_empty(), "I12: written by a node that was given up: {written:?}");

    cluster.start_node(VICTIM).await;
    cluster.balanced(&[0, 1, 2]).await;
    traffic.more(50).await;
    acknowledged.extend(takeover.acknowledged);
    end(&cluster, traffic, acknowledged).await;
}

/// Cuts a node off in this way and back: its orders are taken over, and it ends when it hears of that, which is at the
/// latest when the cut is over.
async fn cut_off(what: &str, cut: impl Fn(&Cluster), heal: impl Fn(&Cluster)) {
    let mut cluster = Cluster::start(Plan { breakable: true, settings: by_default(), ..Plan::of(3) }).await;
    let fleet = cluster.fleet();
    let traffic = tolerant(&cluster);
    let (witnesses, mut acknowledged) = Witnesses::make(&cluster, &fleet, WITNESSES, LEAST).await;
    cut(&cluster);
    let takeover = witnesses[VICTIM].change(&fleet).await;
    println!("{what}: {takeover}");
    cluster.balanced(&[0, 2]).await;
    traffic.more(50).await;
    heal(&cluster);
    let status = cluster.ended(VICTIM, HEARS).await;
    println!("{what}: it ended with {status}");
    assert!(gave_up(status), "{status}");
    cluster.start_node(VICTIM).await;
    cluster.balanced(&[0, 1, 2]).await;
    traffic.more(50).await;
    acknowledged.extend(takeover.acknowledged);
    end(&cluster, traffic, acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_from_the_database_is_taken_over() {
    let cut = |cluster: &Cluster| cluster.cut_from_database(VICTIM, true);
    cut_off("cut from the database", cut, |cluster| cluster.cut_from_database(VICTIM, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_from_the_others_is_taken_over() {
    let cut = |cluster: &Cluster| cluster.between(VICTIM, Link::Hung);
    cut_off("cut from the others", cut, |cluster| cluster.between(VICTIM, Link::Open)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_others_cannot_reach_is_taken_over() {
    let cut = |cluster: &Cluster| cluster.toward(VICTIM, Link::Reset);
    cut_off("not reached by the others", cut, |cluster| cluster.toward(VICTIM, Link::Open)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_at_once_go_on_with_every_saga() {
    /// As the service promises.
    const GOES_ON: Duration = Duration::from_secs(30);
    const SLOW_MS: u32 = 400;
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(3) }).await;
    let slow = Faults { method: "payment.Charge".into(), delay_ms: SLOW_MS, ..Default::default() };
    cluster.simulate().set_faults(vec![slow]).await;
    let traffic = tolerant(&cluster);
    traffic.more(200).await;
    for node in 0..3 {
        cluster.signal(node, Signal::KILL);
    }
    for node in 0..3 {
        cluster.ended(node, HEARS).await;
    }
    let open = query(cluster.url(), "SELECT count(*) FROM sagas WHERE NOT settled").await.unwrap();
    assert_ne!(open[0][0], "0", "there is nothing to go on with");
    // From here on nothing comes from outside.
    let stopping = tokio::spawn(traffic.stop());
    let started = Instant::now();
    cluster.start_nodes(&[0, 1, 2]).await;
    let served = started.elapsed();
    settled(&cluster).await;
    let took = started.elapsed();
    println!("cold start: serving after {served:.1?}, {} sagas settled after {took:.1?}", open[0][0]);
    assert!(took < GOES_ON, "{took:?}");
    cluster.balanced(&[0, 1, 2]).await;
    let report = stopping.await.unwrap();
    println!("{report}");
    report.assert_clean();
    audit(&cluster, 0, &report.acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_for_longer_than_any_lease_costs_no_node() {
    // The default, or that of these tests.
    let lease = if by_default().is_empty() { 6 } else { 3 };
    let cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(3) }).await;
    let traffic = tolerant(&cluster);
    traffic.more(50).await;
    let before = cluster.lives().await;
    cluster.server().stop(Shutdown::Immediate).await;
    let mut tick = interval(Duration::from_secs(1));
    for _ in 0..=lease + 2 {
        tick.tick().await;
    }
    cluster.server().start_again().await;
    let back = Instant::now();
    traffic.more(50).await;
    println!("50 more answers {:.1?} after the database was back", back.elapsed());
    // Nobody is to blame.
    assert_eq!(cluster.lives().await, before);
    end(&cluster, traffic, Vec::new()).await;
}
