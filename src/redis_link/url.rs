//! What a URL leads to.

use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::{Client, TlsCertificates};

/// How long one server of a cluster may take to be connected to, and to answer.
const SERVER: Duration = Duration::from_secs(1);

/// What a text has to be.
const FORM: &str = "is not the URL of a Redis; write redis://USER:PASSWORD@HOST:PORT/DATABASE, \
     redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT, or rediss in the place of redis for TLS";

/// Whom to connect to.
pub(super) enum Way {
    /// A server.
    Server(Box<Client>),
    /// The servers of a cluster, some of which are named.
    Cluster(Box<ClusterClient>),
}

impl Way {
    /// Reads a URL. `tls_ca` are the authorities to believe, in PEM; none = those of the system.
    pub(super) fn new(url: &str, tls_ca: Option<Vec<u8>>) -> Result<Self, String> {
        let (scheme, place) = url.split_once("://").ok_or(FORM)?;
        let certificates = TlsCertificates { client_tls: None, root_cert: tls_ca };
        let refused = |error: redis::RedisError| match error.kind() {
            redis::ErrorKind::Io => "needs authorities for TLS that can be read; check its tls_ca".to_owned(),
            // Its text may hold what stands in the URL.
            _ => FORM.to_owned(),
        };
        let server = |client| Self::Server(Box::new(client));
        match scheme {
            "redis" => Client::open(url).map(server).map_err(refused),
            "rediss" => Client::build_with_tls(url, certificates).map(server).map_err(refused),
            "redis+cluster" | "rediss+cluster" => {
                let is_tls = scheme.starts_with("rediss");
                let mut builder = ClusterClient::builder(servers(is_tls, place)?)
                    .connection_timeout(SERVER)
                    .response_timeout(SERVER)
                    // Whoever asks has no time for more; what is known of the servers is learnt anew meanwhile.
                    .retries(1);
                if is_tls {
                    builder = builder.certs(certificates);
                }
                builder.build().map(|client| Self::Cluster(Box::new(client))).map_err(refused)
            }
            _ => Err(FORM.to_owned()),
        }
    }
}

/// The URL of each server that is named: `USER:PASSWORD@HOST:PORT,HOST:PORT`.
fn servers(is_tls: bool, place: &str) -> Result<Vec<String>, String> {
    let scheme = if is_tls { "rediss" } else { "redis" };
    let (user, hosts) = match place.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), place),
    };
    let hosts = hosts.trim_end_matches('/');
    if hosts.split(',').any(|host| host.is_empty() || host.contains('/')) {
        return Err(FORM.to_owned());
    }
    Ok(hosts.split(',').map(|host| format!("{scheme}://{user}{host}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let is_server = |url| matches!(Way::new(url, None), Ok(Way::Server(_)));
        let is_cluster = |url| matches!(Way::new(url, None), Ok(Way::Cluster(_)));
        assert!(is_server("redis://h:1/0") && is_server("redis://u:p@h:1") && is_server("rediss://h:1"));
        assert!(is_cluster("redis+cluster://h:1,i:2") && is_cluster("rediss+cluster://u:p@h:1,i:2/"));
        for bad in [
            "",
            "redis",
            "memory:",
            "http://h",
            "redis+cluster://",
            "redis+cluster://h:1,",
            "redis+cluster://h/1",
        ] {
            assert!(Way::new(bad, None).is_err(), "{bad}");
        }
        assert_eq!(servers(false, "u:p@h:1,i:2").unwrap(), ["redis://u:p@h:1", "redis://u:p@i:2"]);
    }
}
