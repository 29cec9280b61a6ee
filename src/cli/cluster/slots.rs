//! `cluster slots`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::ops::session::{self, ServerArgs};
use crate::cli::ops::told::full;
use crate::cli::order::table::{clean, grid};
use crate::cli::order::{print, print_json};
use crate::domain::ids::{OrderId, OrderNumber};
use crate::proto::admin as pb;

#[derive(Args, Debug)]
#[command(after_help = "\
An order's slot stands in its id and number. The epoch is the view that made the owner the owner.

Examples:
  order-service cluster slots
  order-service cluster slots --order ORD-7K3M9Q2XYZ
  order-service cluster slots --moving")]
pub(super) struct SlotsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only those that are not where they should be.
    #[arg(long)]
    moving: bool,
    /// Only the one of this order, by id or number.
    #[arg(long, value_name = "ORDER", value_parser = slot_of)]
    order: Option<u16>,
}

pub(super) fn run(arguments: SlotsArgs) -> Result<(), Failure> {
    let SlotsArgs { server, moving, order } = arguments;
    session::run(
        &server,
        async |client| client.slots().await,
        |mut told, is_json| {
            told.ranges.retain(|range| !moving || !range.wanted.is_empty() || range.owner.is_empty());
            if let Some(slot) = order.map(i32::from) {
                told.ranges.retain(|range| (range.first..=range.last).contains(&slot));
                for range in &mut told.ranges {
                    (range.first, range.last) = (slot, slot);
                }
            }
            if is_json { print_json(&as_json(&told)) } else { print(&as_table(&told)) }
        },
    )
}

/// The slot in an order's id or number.
fn slot_of(text: &str) -> Result<u16, String> {
    let name = session::order(text)?;
    let slot = match OrderNumber::parse(&name) {
        Some(number) => number.slot(),
        None => name.parse().ok().map(OrderId::slot),
    };
    slot.ok_or_else(|| String::from("no order's id nor its number"))
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
