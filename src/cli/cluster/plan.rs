//! `cluster plan`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::ops::session::{self, ServerArgs};
use crate::cli::order::table::{clean, grid};
use crate::cli::order::{print, print_json};
use crate::proto::admin as pb;

#[derive(Args, Debug)]
#[command(after_help = "\
Computes and changes nothing. Where slots go depends on the names of nodes: added ones are taken to be new-1, new-2 and so \
on, of weight 1, so the real shares differ a little.

Examples:
  order-service cluster plan --add 2
  order-service cluster plan --remove node-3")]
pub(super) struct PlanArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// How many nodes are added.
    #[arg(long, value_name = "NODES", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=1000))]
    add: i32,
    /// The name of a node that is removed; may be repeated.
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
}

pub(super) fn run(arguments: PlanArgs) -> Result<(), Failure> {
    let PlanArgs { server, add, remove } = arguments;
    let request = pb::PlanClusterRequest { add, remove };
    session::run(
        &server,
        async |client| client.plan(request).await,
        |told, is_json| if is_json { print_json(&as_json(&told)) } else { print(&as_table(&told)) },
    )
}

fn as_json(told: &pb::PlanClusterResponse) -> Value {
    let nodes: Vec<Value> = told
        .nodes
        .iter()
        .map(|node| {
            json!({
                "name": node.name,
                "slots_now": node.slots_now,
                "slots_then": node.slots_then,
                "change": node.change,
            })
        })
        .collect();
    json!({ "nodes": nodes, "moves": told.moves, "slots": told.slots })
}

fn as_table(told: &pb::PlanClusterResponse) -> String {
    let rows = told.nodes.iter().map(|node| {
        let (now, then) = (node.slots_now.to_string(), node.slots_then.to_string());
        [clean(&node.name), clean(&node.change), now, then]
    });
    let share = f64::from(told.moves) * 100.0 / f64::from(told.slots.max(1));
    let table = grid(["Node", "Change", "Slots now", "Slots then"], rows);
    format!("{table}\n\n{} of {} slots would move ({share:.1} %).", told.moves, told.slots)
}
