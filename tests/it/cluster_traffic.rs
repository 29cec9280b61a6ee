//! The load and the audit that the tests of clusters are made of, on a node that shares with nobody.

use std::time::Duration;

use crate::harness::cluster::{Cluster, Plan, wished};
use crate::harness::cluster_audit::audit;
use crate::harness::traffic::{Mode, Rate, Traffic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_under_load_keeps_every_law() {
    let plan = Plan { settings: &[("ORDER__CLUSTER__ENABLED", "false")], ..Plan::of(1) };
    let mut cluster = Cluster::start(plan).await;
    let traffic = Traffic::start(cluster.fleet(), Rate::new(Mode::Tolerant), 1);
    traffic.calls_of(Duration::from_secs(3)).await;
    cluster.kill9(0).await;
    cluster.start_node(0).await;
    traffic.calls_of(Duration::from_secs(2)).await;
    let report = traffic.stop().await;
    println!("{report}");
    report.assert_clean();
    audit(&cluster, 0, &report.acknowledged).await;
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_that_is_restarted_fails_no_call_of_those_who_wait() {
    let plan = Plan { settings: &[("ORDER__CLUSTER__ENABLED", "false")], ..Plan::of(1) };
    let mut cluster = Cluster::start(plan).await;
    let fleet = cluster.fleet();
    fleet.reaches(&[0]).await;
    let traffic = Traffic::start(fleet, Rate::new(Mode::Strict), 1);
    for _ in 0..wished("ORDER_CLUSTER_ROUNDS", 2) {
        traffic.calls_of(Duration::from_secs(1)).await;
        cluster.stop(0).await;
        cluster.start_node(0).await;
    }
    traffic.calls_of(Duration::from_secs(1)).await;
    let report = traffic.stop().await;
    println!("{report}");
    report.assert_clean();
    audit(&cluster, 0, &report.acknowledged).await;
}
