//! `cluster slots`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::ops::session::{self, ServerArgs};
use crate::cli::ops::told::full;
use crate::cli::order::table::{clean, grid};
use crate::cli::order::{print, print_json};
use crate::proto::admin as pb;

#[derive(Args, Debug)]
#[command(after_help = "\
An order's slot stands in its id and number. The epoch is the view that made the owner the owner.

Examples:
  order-service cluster slots
  order-service cluster slots --moving")]
pub(super) struct SlotsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only those that are not where they should be.
    #[arg(long)]
    moving: bool,
}

pub(super) fn run(arguments: SlotsArgs) -> Result<(), Failure> {
    let SlotsArgs { server, moving } = arguments;
    session::run(
        &server,
        async |client| client.slots().await,
        |mut told, is_json| {
            told.ranges.retain(|range| !moving || !range.wanted.is_empty() || range.owner.is_empty());
            if is_json { print_json(&as_json(&told)) } else { print(&as_table(&told)) }
        },
    )
}

fn as_json(told: &pb::ListSlotsResponse) -> Value {
    let ranges: Vec<Value> = told
        .ranges
        .iter()
        .map(|range| {
            full(json!({
                "first": range.first,
                "last": range.last,
                "owner": range.owner,
                "incarnation": range.incarnation,
                "epoch": range.epoch,
                "wanted": range.wanted,
            }))
        })
        .collect();
    json!({ "ranges": ranges, "view_version": told.view_version })
}

fn as_table(told: &pb::ListSlotsResponse) -> String {
    let rows = told.ranges.iter().map(|range| {
        let slots = match range.first == range.last {
            true => range.first.to_string(),
            false => format!("{}-{}", range.first, range.last),
        };
        let owner = if range.owner.is_empty() { String::from("(nobody)") } else { clean(&range.owner) };
        [slots, owner, range.epoch.to_string(), clean(&range.wanted)]
    });
    format!("{}\n\nView {}.", grid(["Slots", "Owner", "Epoch", "Wanted by"], rows), told.view_version)
}
