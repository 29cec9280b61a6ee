//! `ops`: what operators ask and repair.

mod audit;
mod encrypt_existing;
mod erase_user;
mod explain;
mod export;
mod health;
mod http;
mod log_level;
mod printer;
mod resolve_payment;
mod retry_step;
mod rotate_keys;
pub(super) mod session;
mod skip_step;
mod stuck;
pub(super) mod told;
mod trace;
mod unquarantine;
mod verify;

use clap::{Args, Subcommand};

use super::{ConfigFiles, Failure};

#[derive(Args, Debug)]
pub(super) struct OpsArgs {
    #[command(flatten)]
    files: ConfigFiles,
    #[command(subcommand)]
    command: OpsCommand,
}

#[derive(Subcommand, Debug)]
enum OpsCommand {
    /// Tell whether a node is well, by its exit code: for checks of containers.
    Health(health::HealthArgs),
    /// Show what an order waits for, since when, and what may be done about it.
    Explain(explain::ExplainArgs),
    /// List orders that call for a person, wait for long or are quarantined.
    Stuck(stuck::StuckArgs),
    /// Make the call that an order waits to make due now.
    RetryStep(retry_step::RetryStepArgs),
    /// Take the step that an order insists on as done, where somebody did it by hand.
    SkipStep(skip_step::SkipStepArgs),
    /// Settle a charge or refund in doubt by evidence from outside.
    ResolvePayment(resolve_payment::ResolvePaymentArgs),
    /// Let a quarantined order be used again.
    Unquarantine(unquarantine::UnquarantineArgs),
    /// Erase a user's personal data for good; money, items and statuses stay.
    EraseUser(erase_user::EraseUserArgs),
    /// Wrap all data keys by the current key-encryption key, while nodes run.
    RotateKeys(rotate_keys::RotateKeysArgs),
    /// Have orders stored anew whose names, addresses or notes are stored as plain text.
    EncryptExisting(encrypt_existing::EncryptExistingArgs),
    /// Write the orders of some days for analytics, without who ordered them.
    Export(export::ExportArgs),
    /// Check the invariants on the configured store, also while nodes use it.
    Verify(verify::VerifyArgs),
    /// Show which log lines a node writes, or change that while it runs.
    LogLevel(log_level::LogLevelArgs),
    /// Print what one call brought about, on all nodes, from the files that tracing.print names.
    #[command(arg_required_else_help = true)]
    Trace(trace::TraceArgs),
    /// Follow the chain of hashes over every order's events, and note where it ends.
    #[command(arg_required_else_help = true)]
    Audit(audit::AuditArgs),
}

pub(super) fn run(files: &ConfigFiles, arguments: OpsArgs) -> Result<(), Failure> {
    let files = files.and(&arguments.files);
    match arguments.command {
        OpsCommand::Health(arguments) => health::run(&files.and(&arguments.files), &arguments),
        OpsCommand::Explain(arguments) => explain::run(arguments),
        OpsCommand::Stuck(arguments) => stuck::run(arguments),
        OpsCommand::RetryStep(arguments) => retry_step::run(arguments),
        OpsCommand::SkipStep(arguments) => skip_step::run(arguments),
        OpsCommand::ResolvePayment(arguments) => resolve_payment::run(arguments),
        OpsCommand::Unquarantine(arguments) => unquarantine::run(arguments),
        OpsCommand::LogLevel(arguments) => log_level::run(&arguments),
        OpsCommand::Trace(arguments) => trace::run(&arguments),
        OpsCommand::Audit(arguments) => audit::run(&files, &arguments),
        OpsCommand::EraseUser(arguments) => erase_user::run(arguments),
        OpsCommand::RotateKeys(arguments) => rotate_keys::run(&arguments),
        OpsCommand::EncryptExisting(arguments) => encrypt_existing::run(&arguments),
        OpsCommand::Export(arguments) => export::run(&files.and(&arguments.files), &arguments),
        OpsCommand::Verify(arguments) => verify::run(&files.and(&arguments.files), &arguments),
    }
}
