//! `ops stuck`.

use std::time::Duration;

use clap::Args;

use super::session::{self, ServerArgs};
use super::told;
use crate::cli::Failure;
use crate::cli::order::{print, print_json};
use crate::config::parse_duration;
use crate::proto::admin::ListStuckOrdersRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
By id, which is about the order of creation. Exit code 0 also when there are some.

Examples:
  order-service ops stuck
  order-service ops stuck --older-than 1h --limit 200 -o json")]
pub(super) struct StuckArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Sagas that began longer ago than this count as stuck: 0s to 8760h.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    older_than: Duration,
    /// At most so many orders, up to 200.
    #[arg(long, value_name = "ORDERS", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=200))]
    limit: i32,
    /// Go on behind an earlier page: its next_page_token.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
}

pub(super) fn run(arguments: StuckArgs) -> Result<(), Failure> {
    let StuckArgs { server, older_than, limit: page_size, page_token } = arguments;
    let older_than = prost_types::Duration::try_from(older_than).ok();
    let request = ListStuckOrdersRequest { older_than, page_size, page_token };
    session::run(
        &server,
        async |client| client.stuck(request).await,
        |page, is_json| {
            if is_json { print_json(&told::stuck_json(&page)) } else { print(&told::stuck(&page)) }
        },
    )
}
