//! The load and the audit that the tests of clusters are made of, on a node that shares with nobody.

use std::time::Duration;

use crate::harness::cluster::{Cluster, Plan};
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
