//! One request to the pages of an ops listener, for commands that need no client of its calls.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The largest answer that is read, in bytes.
const MOST: u64 = 64 << 10;

/// What a page says.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks `host` (`HOST:PORT`) for a page, with `patience` for all of it; a body is sent where there is one.
///
/// # Errors
/// When there is no answer in time, or it is none of HTTP.
pub(super) fn ask(
    host: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
    patience: Duration,
) -> io::Result<Answer> {
    let deadline = Instant::now().checked_add(patience);
    let left = || {
        let left = deadline.map_or(patience, |deadline| deadline.saturating_duration_since(Instant::now()));
        // Zero would mean to wait for ever.
        left.max(Duration::from_millis(1))
    };
    let mut last = io::Error::other("the name has no address");
    let connected = host
        .to_socket_addrs()?
        .find_map(|address| TcpStream::connect_timeout(&address, left()).map_err(|error| last = error).ok());
    let mut stream = connected.ok_or(last)?;
    stream.set_write_timeout(Some(left()))?;
    let body = body.unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/plain\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.set_read_timeout(Some(left()))?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let no_http = || io::Error::other("that is no HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_http)?;
    Ok(Answer { status, body: body.to_owned() })
}
