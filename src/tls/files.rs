//! The certificate files of a listener, read again when they have changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

/// How HTTP/2 is called when a connection is made.
const HTTP2: &[u8] = b"h2";
/// Longest file, in bytes.
const MOST_BYTES: u64 = 1_048_576;

/// Paths of PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The certificate, and those that lead to the authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whose certificates are taken of callers; none = callers are not asked for one.
    pub client_ca: Option<PathBuf>,
}

/// What tells that a file has changed.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// What new connections are answered with.
pub struct ServerTls {
    current: ArcSwap<ServerConfig>,
    files: Files,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({:?})", self.files)
    }
}

impl ServerTls {
    /// Reads the files, and from then on looks every `every`, until `stop`, whether they have changed. What is wrong later is
    /// told once, and the last good ones stay.
    ///
    /// # Errors
    /// When one cannot be read, or they do not go together.
    pub async fn start(files: Files, every: Duration, stop: CancellationToken) -> Result<Arc<Self>, String> {
        let stamp = files.stamp().await;
        let config = files.read().await?;
        let tls = Arc::new(Self { current: ArcSwap::new(config), files });
        let kept = Arc::clone(&tls);
        tokio::spawn(async move { stop.run_until_cancelled(kept.follow(every, stamp)).await });
        Ok(tls)
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    async fn follow(&self, every: Duration, mut known: Stamp) {
        let mut look = tokio::time::interval(every);
        let mut told = None;
        loop {
            look.tick().await;
            let stamp = self.files.stamp().await;
            if stamp == known {
                continue;
            }
            match self.files.read().await {
                Ok(config) => {
                    self.current.store(config);
                    tracing::info!(certificate = %self.files.cert.display(), "TLS certificates were read again");
                    (known, told) = (stamp, None);
                }
                // Tried again at each look: one of two files may be written before the other.
                Err(problem) if told.as_ref() != Some(&problem) => {
                    tracing::error!(problem, "changed TLS files cannot be used; the last good ones stay");
                    told = Some(problem);
                }
                Err(_told) => {}
            }
        }
    }
}

impl Files {
    async fn stamp(&self) -> Stamp {
        let mut stamp = Vec::new();
        for path in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            let found = tokio::fs::metadata(path).await.ok();
            stamp.push(found.and_then(|found| Some((found.modified().ok()?, found.len()))));
        }
        stamp
    }

    async fn read(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |why: &str| format!("grpc.tls_client_ca: {} {why}", path.display());
                let mut roots = RootCertStore::empty();
                let (usable, _odd) =
                    roots.add_parsable_certificates(certificates("grpc.tls_client_ca", path).await?);
                if usable == 0 {
                    return Err(wrong("holds no certificate that could be an authority"));
                }
                // Most callers have a token instead.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(&error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let cert = certificates("grpc.tls_cert", &self.cert).await?;
        let key = PrivateKeyDer::from_pem_slice(&text("grpc.tls_key", &self.key).await?)
            .map_err(|error| format!("grpc.tls_key: {} {error}", self.key.display()))?;
        let mut config = builder
            .with_single_cert(cert, key)
            .map_err(|error| format!("grpc.tls_cert and grpc.tls_key do not go together ({error})"))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Arc::new(config))
    }
}

async fn text(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error| {
        format!("{key}: cannot read {} ({error}); check the path and who may read it", path.display())
    };
    let file = tokio::fs::File::open(path).await.map_err(cannot)?;
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).await.map_err(cannot)?;
    Ok(text)
}

async fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(key, path).await?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{key}: {} holds no certificate", path.display())),
        Err(error) => Err(format!("{key}: {} {error}", path.display())),
    }
}
