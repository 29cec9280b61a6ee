//! `ops explain`.

use clap::Args;

use super::session::{self, ServerArgs};
use super::told;
use crate::cli::Failure;
use crate::cli::order::{print, print_json};

#[derive(Args, Debug)]
#[command(after_help = "\
Asks the node; starts nothing. What may be done is found by trying each repair on a copy of the order.

Waits for: NOTHING, ANSWER (a call is under way), RETRY (a call is made again later), CERTAINTY (a charge that was sent \
may still arrive), NODE (a call is due and no node makes it), PERSON (no saga runs and something is left to do), \
QUARANTINE.

Example:
  order-service ops explain ORD-7K3M9Q2XYZ")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = session::order)]
    order: String,
}

pub(super) fn run(arguments: ExplainArgs) -> Result<(), Failure> {
    let ExplainArgs { server, order } = arguments;
    session::run(
        &server,
        async |client| client.explain(order).await,
        |found, is_json| {
            if is_json {
                print_json(&told::explanation_json(&found))
            } else {
                print(&told::explanation(&found))
            }
        },
    )
}
