//! `cluster nodes`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::ops::session::{self, ServerArgs};
use crate::cli::ops::told::{full, time};
use crate::cli::order::table::{clean, grid};
use crate::cli::order::{print, print_json};
use crate::proto::admin as pb;

#[derive(Args, Debug)]
#[command(after_help = "\
Any node answers. Slots are what a node owns, wanted what it should own by the ring; they differ while slots move. Nodes \
that went lately are listed too.

Examples:
  order-service cluster nodes
  order-service cluster nodes --server http://10.0.0.7:9464 -o json")]
pub(super) struct NodesArgs {
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(arguments: NodesArgs) -> Result<(), Failure> {
    session::run(
        &arguments.server,
        async |client| client.nodes().await,
        |told, is_json| if is_json { print_json(&as_json(&told)) } else { print(&as_table(&told)) },
    )
}

fn lease_left(node: &pb::ClusterNode) -> Option<f64> {
    let left = node.lease_left?;
    Some(left.seconds as f64 + f64::from(left.nanos) / 1e9)
}

fn as_json(told: &pb::ListNodesResponse) -> Value {
    let nodes: Vec<Value> = told
        .nodes
        .iter()
        .map(|node| {
            full(json!({
                "name": node.name,
                "incarnation": node.incarnation,
                "address": node.address,
                "state": node.state,
                "slots": node.slots,
                "slots_wanted": node.slots_wanted,
                "live_orders": node.live_orders,
                "lease_left_seconds": lease_left(node),
                "weight": node.weight,
                "version": node.version,
                "build": node.build,
                "started_at": time(node.started_at),
                "answers": node.answers,
            }))
        })
        .collect();
    json!({ "nodes": nodes, "view_version": told.view_version, "slots": told.slots })
}

fn as_table(told: &pb::ListNodesResponse) -> String {
    let rows = told.nodes.iter().map(|node| {
        let lease = lease_left(node).map_or_else(String::new, |left| format!("{left:.1} s"));
        let version = [node.version.as_str(), node.build.as_str()].join(" ");
        [
            format!("{}{}", clean(&node.name), if node.answers { " *" } else { "" }),
            clean(&node.state),
            node.slots.to_string(),
            node.slots_wanted.to_string(),
            node.live_orders.to_string(),
            lease,
            node.weight.to_string(),
            clean(&node.address),
            clean(version.trim()),
            node.incarnation.to_string(),
        ]
    });
    let header =
        ["Node", "State", "Slots", "Wanted", "Live", "Lease", "Weight", "Address", "Version", "Incarnation"];
    let table = grid(header, rows);
    format!("{table}\n\nView {}, {} slots. * answers.", told.view_version, told.slots)
}
