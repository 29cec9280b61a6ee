//! Mutual TLS towards other nodes.

use std::fmt;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::PeerTls;

/// How HTTP/2 is called when a connection is made.
const HTTP2: &[u8] = b"h2";

/// Makes connections on which both sides have shown their certificates.
#[derive(Clone)]
pub(super) struct Connector {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({:?})", self.name)
    }
}

impl Connector {
    /// Reads the certificates.
    ///
    /// # Errors
    /// When one of the texts is not what it should be.
    pub(super) fn new(tls: &PeerTls) -> Result<Self, String> {
        let all = |pem: &str, what: &str| {
            let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            match read {
                Ok(certificates) if !certificates.is_empty() => Ok(certificates),
                Ok(_) => Err(format!("{what}: no certificate")),
                Err(error) => Err(format!("{what}: {error}")),
            }
        };
        let mut roots = RootCertStore::empty();
        let (usable, _odd) = roots.add_parsable_certificates(all(&tls.ca, "peer.tls_ca")?);
        if usable == 0 {
            return Err(String::from("peer.tls_ca: no certificate that could be an authority"));
        }
        let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes())
            .map_err(|error| format!("peer.tls_key: {error}"))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(all(&tls.cert, "peer.tls_cert")?, key)
            .map_err(|error| format!("peer.tls_cert, peer.tls_key: {error}"))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let name =
            ServerName::try_from(tls.name.clone()).map_err(|error| format!("peer.tls_name: {error}"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Makes a connection secure.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let stream = self.connector.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP2) => Ok(stream),
            _ => Err(String::from("the other side does not speak HTTP/2")),
        }
    }
}
