//! `cluster drain`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::ops::session::{self, ServerArgs, Span};
use crate::cli::order::{duration, print, print_json};
use crate::proto::admin as pb;

#[derive(Args, Debug)]
#[command(after_help = "\
The node hands over its slots one batch after the other; calls for them wait for some milliseconds. It goes on to take and \
forward calls, so stop it afterwards; it takes slots again when it is started anew. SIGTERM drains as well. The drain goes \
on when this command is interrupted; the same command shows how far it is.

Examples:
  order-service cluster nodes
  order-service cluster drain node-3
  order-service cluster drain                     the node that answers
  order-service cluster drain --at-least 10s --at-most 25s     as before a container is stopped")]
pub(super) struct DrainArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The node's name, as `cluster nodes` lists it; the node that answers when there is none.
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// Do not end sooner, even when nothing is left or it fails: callers take some time to learn that the node goes.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    at_least: Option<Duration>,
    /// Fail when something is left after this; the node goes on to drain.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    at_most: Option<Duration>,
}

pub(super) fn run(arguments: DrainArgs) -> Result<(), Failure> {
    let DrainArgs { server, node, at_least, at_most } = arguments;
    session::run_for(
        &server,
        Span { at_least: at_least.unwrap_or_default(), at_most },
        async |client| {
            let node = match node.clone() {
                Some(node) => node,
                None => {
                    let told = client.nodes().await?;
                    told.nodes.into_iter().find(|node| node.answers).map(|node| node.name).unwrap_or_default()
                }
            };
            let request = pb::DrainNodeRequest { node: node.clone() };
            let mut last = None;
            client
                .drain(request, |progress| {
                    tell(&node, progress);
                    last = Some(*progress);
                })
                .await?;
            Ok(last)
        },
        |last, is_json| {
            let (left, start) =
                last.map_or((0, 0), |last: pb::DrainNodeProgress| (last.slots_left, last.slots_at_start));
            if is_json {
                print_json(&json!({ "slots_left": left, "slots_at_start": start }))
            } else if left == 0 {
                print("Drained: nothing is left on it. It may be stopped.")
            } else {
                print(&format!("{left} slots are left, and no other node can take them."))
            }
        },
    )
}

/// Progress goes to standard error, on one line where that is a terminal.
fn tell(node: &str, progress: &pb::DrainNodeProgress) {
    let mut errors = io::stderr().lock();
    let moved = progress.slots_at_start.saturating_sub(progress.slots_left);
    let line = format!("{node}: {moved} of {} slots moved", progress.slots_at_start);
    // Whoever closed standard error does not look.
    let _gone = match errors.is_terminal() {
        true if progress.slots_left > 0 => write!(errors, "\r{line}  "),
        true => writeln!(errors, "\r{line}  "),
        false => writeln!(errors, "{line}"),
    };
    let _gone = errors.flush();
}
