//! `cluster`: what operators ask a cluster.

mod drain;
mod nodes;
mod plan;
mod slots;

use clap::{Args, Subcommand};

use super::Failure;

#[derive(Args, Debug)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand, Debug)]
enum ClusterCommand {
    /// List the nodes: what state they are in, what they own, and how long their lease lasts.
    Nodes(nodes::NodesArgs),
    /// List who owns which slots.
    Slots(slots::SlotsArgs),
    /// Move everything away from a node, before it is stopped.
    Drain(drain::DrainArgs),
    /// Show what would move if nodes were added or removed.
    Plan(plan::PlanArgs),
}

pub(super) fn run(arguments: ClusterArgs) -> Result<(), Failure> {
    match arguments.command {
        ClusterCommand::Nodes(arguments) => nodes::run(arguments),
        ClusterCommand::Slots(arguments) => slots::run(arguments),
        ClusterCommand::Drain(arguments) => drain::run(arguments),
        ClusterCommand::Plan(arguments) => plan::run(arguments),
    }
}
