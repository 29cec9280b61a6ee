//! Fetches one small document over HTTP/1.1: no redirects, no cookies, no connection kept.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where a document is.
#[derive(Clone)]
pub(super) struct Place {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.uri)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl Place {
    /// Where `url` points: `https`, proven by an authority that this machine trusts, or `http`.
    ///
    /// # Errors
    /// When it is no such URL, or this machine trusts no authority.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url} is not a URL"))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let tls = if is_https {
            let name = ServerName::try_from(host.clone()).map_err(|_| format!("{url} names no server"))?;
            Some((connector()?, name))
        } else {
            None
        };
        Ok(Self { uri, host, port, tls })
    }

    /// The document, no longer than `most` bytes. How long it takes is for the caller to limit.
    ///
    /// # Errors
    /// Half a sentence that says what went wrong.
    pub(super) async fn get(&self, most: usize) -> Result<Vec<u8>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| format!("cannot be reached ({error})"))?;
        match &self.tls {
            None => self.get_over(stream, most).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                self.get_over(stream.map_err(|error| format!("cannot be trusted ({error})"))?, most).await
            }
        }
    }

    async fn get_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        most: usize,
    ) -> Result<Vec<u8>, String> {
        let broke = |error: hyper::Error| format!("broke the connection ({error})");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let asked = async {
            let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
            let host = self.uri.authority().map_or("", |authority| authority.as_str());
            let mut request = Request::get(path).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
            let headers = request.headers_mut();
            headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|error| error.to_string())?);
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            let answer = sender.send_request(request).await.map_err(broke)?;
            if answer.status() != StatusCode::OK {
                return Err(format!("answers {}", answer.status()));
            }
            let body = Limited::new(answer.into_body(), most).collect().await;
            let body =
                body.map_err(|error| format!("gives no whole document up to {most} bytes ({error})"))?;
            Ok(body.to_bytes().to_vec())
        };
        tokio::pin!(asked, connection);
        // The connection is driven here, so that it ends with the question.
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            ended = &mut connection => match ended {
                // What was sent before the end may still be read.
                Ok(()) => asked.await,
                Err(error) => Err(broke(error)),
            },
        }
    }
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _odd) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(String::from(
            "this machine trusts no authority; install certificates or name a file of them in SSL_CERT_FILE",
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
