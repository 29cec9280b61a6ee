//! Nodes that come and go as planned, under load: no call fails.

use std::time::Duration;

use crate::harness::cluster::{Cluster, Plan, wished};
use crate::harness::cluster_audit::audit;
use crate::harness::traffic::{Mode, Rate, Traffic, at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_call() {
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let fleet = cluster.fleet();
    fleet.reaches(&[0, 1, 2]).await;
    let traffic = Traffic::start(fleet.clone(), Rate::new(Mode::Strict), 1);
    traffic.calls_of(Duration::from_secs(2)).await;
    let quiet = traffic.elapsed();
    let rounds = wished("ORDER_CLUSTER_ROUNDS", 1);
    for _ in 0..rounds {
        for node in 0..3 {
            let took = cluster.stop(node).await;
            println!("{} ended after {took:.1?}", cluster.name(node));
            let life = cluster.life(node).await.unwrap();
            assert_eq!((life.state.as_str(), life.slots), ("LEFT", 0));
            cluster.start_node(node).await;
            cluster.balanced(&[0, 1, 2]).await;
            fleet.reaches(&[node]).await;
        }
    }
    let restless = traffic.elapsed();
    traffic.calls_of(Duration::from_secs(1)).await;
    let report = traffic.stop().await;
    println!("before any restart: {}", report.between(Duration::ZERO, quiet));
    println!("{rounds} rolling restarts: {}", report.between(quiet, restless));
    let pauses = cluster.pauses();
    let [p50, p99, max] = [500, 990, 1_000].map(|permille| at(&pauses, permille));
    println!("{} handovers: p50 {p50:?}  p99 {p99:?}  max {max:?}", pauses.len());
    report.assert_clean();
    audit(&cluster, 0, &report.acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_and_shrinks_under_load() {
    let plan = Plan { running: 1, ..Plan::of(5) };
    let mut cluster = Cluster::start(plan).await;
    let fleet = cluster.fleet();
    fleet.reaches(&[0]).await;
    let traffic = Traffic::start(fleet.clone(), Rate::new(Mode::Strict), 1);
    traffic.calls_of(Duration::from_secs(1)).await;
    let mut phases = vec![("one", Duration::ZERO)];
    let mut phase = |name| phases.push((name, traffic.elapsed()));
    phase("1 to 5");
    for node in 1..5 {
        cluster.start_node(node).await;
        cluster.balanced(&(0..=node).collect::<Vec<_>>()).await;
        fleet.reaches(&[node]).await;
    }
    phase("five");
    traffic.calls_of(Duration::from_secs(1)).await;
    phase("5 to 2");
    for node in [4, 0, 2] {
        cluster.stop(node).await;
        cluster.balanced(&cluster.running()).await;
    }
    phase("two");
    traffic.calls_of(Duration::from_secs(1)).await;
    phase("end");
    let report = traffic.stop().await;
    for pair in phases.windows(2) {
        println!("{}: {}", pair[0].0, report.between(pair[0].1, pair[1].1));
    }
    report.assert_clean();
    assert_eq!(cluster.running(), [1, 3]);
    audit(&cluster, 1, &report.acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_that_start_at_once_share_the_slots() {
    let mut cluster = Cluster::start(Plan { running: 1, ..Plan::of(5) }).await;
    cluster.start_nodes(&[1, 2, 3, 4]).await;
    cluster.balanced(&[0, 1, 2, 3, 4]).await;
    let traffic = Traffic::start(cluster.fleet(), Rate::new(Mode::Strict), 1);
    traffic.more(100).await;
    let report = traffic.stop().await;
    report.assert_clean();
    // All leave at once; the last one keeps what nobody can take.
    let ended = [0, 1, 2, 3, 4];
    for node in ended {
        cluster.signal(node, rustix::process::Signal::TERM);
    }
    for node in ended {
        let status = cluster.ended(node, Duration::from_secs(60)).await;
        assert!(status.success(), "{} ended with {status}", cluster.name(node));
    }
    cluster.start_node(2).await;
    cluster.balanced(&[2]).await;
    audit(&cluster, 2, &report.acknowledged).await;
}
