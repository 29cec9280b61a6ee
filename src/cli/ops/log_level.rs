//! `ops log-level`.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::Args;

use crate::cli::{Failure, print};

/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER_BYTES: u64 = 8_192;

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
    let (status, text) = ask(server, arguments).map_err(|error| {
        Failure::Sentence(format!(
            "cannot reach {server} ({error}); start the node or name its ops.listen with --server"
        ))
    })?;
    if status == 200 { print(text.trim_end()) } else { Err(Failure::Sentence(text.trim_end().to_owned())) }
}

/// The status of the answer, and its text.
fn ask(server: &str, arguments: &LogLevelArgs) -> std::io::Result<(u16, String)> {
    let mut last = std::io::Error::other("no address");
    let connected = server.to_socket_addrs()?.find_map(|address| {
        TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| last = error).ok()
    });
    let mut stream = connected.ok_or(last)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let body = arguments.filter.as_deref().unwrap_or_default();
    let method = if arguments.filter.is_some() { "PUT" } else { "GET" };
    // Anything but letters and digits would be another request.
    let lasts = arguments.lasts.as_deref().unwrap_or_default();
    let lasts: String = lasts.chars().filter(char::is_ascii_alphanumeric).collect();
    let query = if arguments.lasts.is_some() { format!("?for={lasts}") } else { String::new() };
    write!(
        stream,
        "{method} /debug/log{query} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no answer of HTTP"))?;
    Ok((status, text.to_owned()))
}
