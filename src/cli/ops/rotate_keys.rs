//! `ops rotate-keys`.

use clap::Args;
use serde_json::json;

use super::session::{self, Progress, ServerArgs};
use crate::cli::Failure;
use crate::cli::order::{ClientFailure, print, print_json};
use crate::clients::orders::ApiError;
use crate::proto::admin::RotateKeysRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
To change the key-encryption key: add the new one to privacy.old_keks of every node; when all have it, make it privacy.kek \
with its own kek_id, and the old one one of privacy.old_keks; then run this. Afterwards the old one is needed for backups \
only. Orders are read and written meanwhile. What was cut short is finished by running it again.

Exit code 0 when every key is wrapped by the current one, 1 otherwise.

Example:
  order-service ops rotate-keys")]
pub(super) struct RotateKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Keys wrapped at a time, up to 200.
    #[arg(long, value_name = "KEYS", default_value_t = 200, value_parser = clap::value_parser!(i32).range(1..=200))]
    page_size: i32,
}

pub(super) fn run(arguments: &RotateKeysArgs) -> Result<(), Failure> {
    session::run(
        &arguments.server,
        async |client| {
            let (mut rewrapped, mut failed, mut progress) = (0i64, 0i64, Progress::new());
            let mut page_token = String::new();
            loop {
                let page_size = arguments.page_size;
                let page = client.rotate_keys(RotateKeysRequest { page_size, page_token }).await?;
                rewrapped = rewrapped.saturating_add(page.rewrapped);
                failed = failed.saturating_add(page.failed);
                progress.tell(&format!("{rewrapped} keys wrapped anew, {failed} left"));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return Ok((rewrapped, failed));
                }
            }
        },
        |(rewrapped, failed), is_json| {
            if is_json {
                print_json(&json!({ "rewrapped": rewrapped, "failed": failed }))?;
            } else {
                print(&format!("{rewrapped} keys wrapped anew, {failed} left as they were"))?;
            }
            match failed {
                0 => Ok(()),
                _ => {
                    let sentence = "some keys need a key-encryption key that this node does not have; add it to \
                                    privacy.old_keks and run it again";
                    Err(ClientFailure::from(ApiError::local("FAILED_PRECONDITION", sentence)))
                }
            }
        },
    )
}
