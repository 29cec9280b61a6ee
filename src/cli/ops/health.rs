//! `ops health`: whether a node on this machine is well, for checks of containers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::{ConfigFiles, Failure, load_config};
use crate::config::parse_duration;

/// The largest answer that is read, in bytes.
const MOST: u64 = 64 << 10;

#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 when the node is well, 1 when it is not or does not answer. Without a choice it is well once it has started and \
as long as it moves: a database that is away is no reason to start it anew.

Examples:
  order-service ops health
  order-service ops health --ready
  order-service ops health --live --url http://127.0.0.1:9464")]
pub(super) struct HealthArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Whether it should be sent calls.
    #[arg(long, conflicts_with = "live")]
    ready: bool,
    /// Only whether it moves.
    #[arg(long)]
    live: bool,
    /// Where the node answers operators: a URL without TLS, or HOST:PORT; the default is ops.listen of the configuration.
    #[arg(long, env = "ORDER_OPS_SERVER", value_name = "URL")]
    url: Option<String>,
    /// How long an answer may take, such as 500ms or 3s.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(super) fn run(files: &ConfigFiles, arguments: &HealthArgs) -> Result<(), Failure> {
    let host = match &arguments.url {
        Some(url) => host_of(url).map_err(Failure::Sentence)?,
        None => here(load_config(files)?.ops.listen)?,
    };
    let paths: &[&str] = match (arguments.ready, arguments.live) {
        (true, _) => &["/readyz"],
        (_, true) => &["/healthz"],
        _ => &["/startupz", "/healthz"],
    };
    let mut said = String::new();
    for path in paths {
        let (is_well, line) = ask(&host, path, arguments.timeout)
            .map_err(|error| Failure::Sentence(format!("http://{host}{path} does not answer ({error})")))?;
        if !is_well {
            return Err(Failure::Sentence(format!("http://{host}{path} says: {line}")));
        }
        said = line;
    }
    writeln!(io::stdout(), "{said}")?;
    Ok(())
}

/// `HOST:PORT` of a URL.
fn host_of(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let host = rest.split('/').next().unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() && !rest.contains("://") => {
            Ok(host.to_owned())
        }
        _ => Err(format!("{url} is no address of an ops listener; write it like http://127.0.0.1:9464")),
    }
}

/// How a listener of this machine is reached from it.
fn here(listen: SocketAddr) -> Result<String, Failure> {
    let address = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    match listen.port() {
        0 => Err(Failure::Sentence(String::from(
            "ops.listen takes a free port, which only the node knows; give its address by --url",
        ))),
        port => Ok(SocketAddr::new(address, port).to_string()),
    }
}

/// Whether the answer is a good one, and its first line.
fn ask(host: &str, path: &str, patience: Duration) -> io::Result<(bool, String)> {
    let deadline = Instant::now().checked_add(patience);
    let left = || {
        let left = deadline.map_or(patience, |deadline| deadline.saturating_duration_since(Instant::now()));
        // Zero would mean to wait for ever.
        left.max(Duration::from_millis(1))
    };
    let address =
        host.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/plain\r\nconnection: close\r\n\r\n")?;
    stream.set_read_timeout(Some(left()))?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("that is no HTTP"))?;
    let is_well = head.split(' ').nth(1).is_some_and(|status| status == "200");
    Ok((is_well, body.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_things() {
        for (url, expected) in [
            ("http://127.0.0.1:9464", Some("127.0.0.1:9464")),
            ("http://node:9464/", Some("node:9464")),
            ("[::1]:9464", Some("[::1]:9464")),
            ("https://node:9464", None),
            ("node", None),
            (":9464", None),
        ] {
            assert_eq!(host_of(url).ok().as_deref(), expected, "{url}");
        }
        let from_here = |listen: &str| here(listen.parse().unwrap()).ok();
        assert_eq!(from_here("0.0.0.0:9464").as_deref(), Some("127.0.0.1:9464"));
        assert_eq!(from_here("[::]:9464").as_deref(), Some("[::1]:9464"));
        assert_eq!(from_here("10.0.0.7:1").as_deref(), Some("10.0.0.7:1"));
        assert_eq!(from_here("127.0.0.1:0"), None);
    }
}
