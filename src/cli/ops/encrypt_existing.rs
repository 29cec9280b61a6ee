//! `ops encrypt-existing`.

use clap::Args;
use serde_json::json;

use super::session::{self, Progress, ServerArgs};
use crate::cli::Failure;
use crate::cli::order::{ClientFailure, print, print_json};
use crate::clients::orders::ApiError;
use crate::proto::admin::EncryptExistingRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
For orders from before privacy.mode was encrypt. Each is stored anew by the node that owns it, which stands in its history. \
Notes in the history of those orders stay as they are. Old copies of rows stay in the database's files until it has \
overwritten them (Postgres: VACUUM; SQLite: VACUUM with no node running), and in backups.

Exit code 0 when no order is stored as plain text any more, 1 otherwise.

Example:
  order-service ops encrypt-existing")]
pub(super) struct EncryptExistingArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Orders looked at at a time, up to 200.
    #[arg(long, value_name = "ORDERS", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=200))]
    page_size: i32,
}

pub(super) fn run(arguments: &EncryptExistingArgs) -> Result<(), Failure> {
    session::run(
        &arguments.server,
        async |client| {
            let (mut looked_at, mut encrypted, mut failed) = (0i64, 0i64, Vec::new());
            let (mut progress, mut page_token) = (Progress::new(), String::new());
            loop {
                let page_size = arguments.page_size;
                let page = client.encrypt_existing(EncryptExistingRequest { page_size, page_token }).await?;
                looked_at = looked_at.saturating_add(page.looked_at);
                encrypted = encrypted.saturating_add(page.encrypted);
                failed.extend(page.failed_orders);
                progress.tell(&format!("{looked_at} orders looked at, {encrypted} encrypted"));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return Ok((looked_at, encrypted, failed));
                }
            }
        },
        |(looked_at, encrypted, failed), is_json| {
            if is_json {
                print_json(&json!({
                    "looked_at": looked_at, "encrypted": encrypted, "failed_orders": failed,
                }))?;
            } else {
                print(&format!(
                    "{looked_at} orders looked at, {encrypted} encrypted, {} failed",
                    failed.len()
                ))?;
            }
            if failed.is_empty() {
                return Ok(());
            }
            let sentence =
                "some orders could not be stored anew; run it again, and explain them if that does not help";
            Err(ClientFailure::from(ApiError::local("FAILED_PRECONDITION", sentence)))
        },
    )
}
