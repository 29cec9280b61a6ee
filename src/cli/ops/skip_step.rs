//! `ops skip-step`.

use clap::Args;

use super::session::{self, AuditArgs, SeenArgs, ServerArgs};
use crate::cli::Failure;
use crate::proto::admin::SkipStepRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
Two steps may be skipped: the voiding of a label that has failed, and a restock that inventory has refused. Do by hand \
what they are for, then skip them. Every other step would leave money or stock behind and is refused.

Example:
  order-service ops skip-step ORD-7K3M9Q2XYZ --reason 'voided at the carrier, ticket 4711' --by ada")]
pub(super) struct SkipStepArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = session::order)]
    order: String,
    /// What was done by hand; up to 500 characters, kept in the history, without personal data.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    seen: SeenArgs,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(super) fn run(arguments: SkipStepArgs) -> Result<(), Failure> {
    let SkipStepArgs { server, order, reason, seen, audit } = arguments;
    let (step, direction) = seen.names();
    let AuditArgs { by, expected_version, request_id } = audit;
    let expected_version = expected_version.unwrap_or_default();
    let request = SkipStepRequest { order, reason, by, step, direction, expected_version, request_id };
    session::run(&server, async |client| client.skip(request).await, session::show_repaired)
}
