//! What a pod runs before it is stopped, on a real node.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Instant;

use order_service::domain::access::Role;

use super::{documents, option, texts};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::node::sample_order;
use crate::harness::tokens::Issuer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_before_a_stop_moves_everything_away_from_the_node_that_answers() {
    let mut cluster = Cluster::start(Plan::of(2)).await;
    let deployment = documents("deploy/kubernetes/deployment.yaml").remove(0);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let command = texts(&container["lifecycle"]["preStop"]["exec"]["command"]);
    // In the pod the node answers where the command asks by default.
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_order-service"))
        .args(&command[1..])
        .env_clear()
        .env("ORDER_OPS_SERVER", cluster.ops_url(1))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(began.elapsed() >= option(&command, "--at-least"), "callers may still ask the node");
    let life = cluster.life(1).await.unwrap();
    assert_eq!((life.state.as_str(), life.slots), ("LEAVING", 0));
    let other = cluster.life(0).await.unwrap();
    assert_eq!((other.state.as_str(), other.slots), ("ACTIVE", 4096));
    // It still forwards calls, until it is told to stop.
    let order = cluster.client(1).create_order(sample_order()).await.unwrap().into_inner();
    assert_eq!(cluster.owners(&[order.id]).await, [Some(0)]);
    cluster.stop(1).await;
}

/// Runs `cluster drain` of a node `a` against this listener for operators.
fn drain(ops: &str, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    command.args(["cluster", "drain", "a", "--server", ops]).args(options).env_clear();
    tokio::task::block_in_place(|| command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_does_not_end_is_given_up_after_its_time() {
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let began = Instant::now();
    let output = drain(&server, &["--at-most", "100ms", "--at-least", "300ms"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("has not done it within 100ms"), "{told}");
    assert!(began.elapsed() >= option(&["--at-least", "300ms"], "--at-least"), "a failure waits as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_brings_the_token_that_it_is_given() {
    let issuer = Issuer::new();
    let node = issuer.node(&[]).await;
    let ops = node.node().ops_address().to_string();
    let token = issuer.token("ada", &[Role::Support], None);
    // Without a token this machine is let in; one that is not good enough shows that it came.
    let output = drain(&ops, &["--token", &token]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("ROLE_FORBIDS"), "{told}");
    node.stop().await;
}
