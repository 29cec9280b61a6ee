//! What a pod runs before it is stopped, on a real node.

use std::process::Command;

use super::{documents, texts};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::node::sample_order;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_before_a_stop_moves_everything_away_from_the_node_that_answers() {
    let mut cluster = Cluster::start(Plan::of(2)).await;
    let deployment = documents("deploy/kubernetes/deployment.yaml").remove(0);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let command = texts(&container["lifecycle"]["preStop"]["exec"]["command"]);
    // In the pod the node answers where the command asks by default.
    let output = Command::new(env!("CARGO_BIN_EXE_order-service"))
        .args(&command[1..])
        .env_clear()
        .env("ORDER_OPS_SERVER", cluster.ops_url(1))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let life = cluster.life(1).await.unwrap();
    assert_eq!((life.state.as_str(), life.slots), ("LEAVING", 0));
    let other = cluster.life(0).await.unwrap();
    assert_eq!((other.state.as_str(), other.slots), ("ACTIVE", 4096));
    // It still forwards calls, until it is told to stop.
    let order = cluster.client(1).create_order(sample_order()).await.unwrap().into_inner();
    assert_eq!(cluster.owners(&[order.id]).await, [Some(0)]);
    cluster.stop(1).await;
}
