//! `ops health`: whether a node on this machine is well, for checks of containers.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::http::ask;
use crate::cli::{ConfigFiles, Failure, load_config};
use crate::config::parse_duration;

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
        let answer = ask(&host, "GET", path, None, arguments.timeout)
            .map_err(|error| Failure::Sentence(format!("http://{host}{path} does not answer ({error})")))?;
        let line = answer.body.lines().next().unwrap_or_default();
        if answer.status != 200 {
            return Err(Failure::Sentence(format!("http://{host}{path} says: {line}")));
        }
        line.clone_into(&mut said);
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
