//! `ops retry-step`.

use clap::Args;

use super::session::{self, AuditArgs, SeenArgs, ServerArgs};
use crate::cli::Failure;
use crate::proto::admin::RetryStepRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
The call that waits is made now, with the key it would have later, and its pauses begin anew. That is harmless in both \
directions: what undoes fires sooner, and nothing turns a saga forward again. Refused when nothing waits.

Examples:
  order-service ops retry-step ORD-7K3M9Q2XYZ
  order-service ops retry-step ORD-7K3M9Q2XYZ --step CHARGE --direction BACKWARD --by ada --reason 'gateway is back'")]
pub(super) struct RetryStepArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = session::order)]
    order: String,
    /// Why; up to 500 characters, kept in the history, without personal data.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    seen: SeenArgs,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(super) fn run(arguments: RetryStepArgs) -> Result<(), Failure> {
    let RetryStepArgs { server, order, reason, seen, audit } = arguments;
    let (step, direction) = seen.names();
    let AuditArgs { by, expected_version, request_id } = audit;
    let expected_version = expected_version.unwrap_or_default();
    let request = RetryStepRequest { order, reason, by, step, direction, expected_version, request_id };
    session::run(&server, async |client| client.retry(request).await, session::show_repaired)
}
