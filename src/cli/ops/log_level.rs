//! `ops log-level`.

use std::time::Duration;

use clap::Args;

use super::http::ask;
use crate::cli::{Failure, print};

/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
#[command(after_help = "\
Answered to the node's own machine only. The change is over when the node ends.

Examples:
  order-service ops log-level
  order-service ops log-level info,order_service::actor=debug --for 10m")]
pub(super) struct LogLevelArgs {
    /// Where the node answers operators (its ops.listen): HOST:PORT, or http://HOST:PORT.
    #[arg(long, env = "ORDER_OPS_SERVER", value_name = "URL", default_value = "http://127.0.0.1:9464")]
    server: String,
    /// The new filter, in the syntax of log.level; without it the present one is shown.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Set it back after this: 1s to 24h, such as 90s, 10m or 1h.
    #[arg(long = "for", value_name = "TIME", requires = "filter")]
    lasts: Option<String>,
}

pub(super) fn run(arguments: &LogLevelArgs) -> Result<(), Failure> {
    let server = arguments.server.trim_end_matches('/');
    let server = server.strip_prefix("http://").unwrap_or(server);
    // Anything but letters and digits would be another request.
    let lasts = arguments.lasts.as_deref().unwrap_or_default();
    let lasts: String = lasts.chars().filter(char::is_ascii_alphanumeric).collect();
    let query = if arguments.lasts.is_some() { format!("?for={lasts}") } else { String::new() };
    let (method, path) =
        (if arguments.filter.is_some() { "PUT" } else { "GET" }, format!("/debug/log{query}"));
    let answer = ask(server, method, &path, arguments.filter.as_deref(), PATIENCE).map_err(|error| {
        Failure::Sentence(format!(
            "cannot reach {server} ({error}); start the node or name its ops.listen with --server"
        ))
    })?;
    let text = answer.body.trim_end();
    if answer.status == 200 { print(text) } else { Err(Failure::Sentence(text.to_owned())) }
}
