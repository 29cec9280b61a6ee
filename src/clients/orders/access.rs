//! How calls prove who makes them, and a server who it is.

use std::fmt;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Uri};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic::{Request, Status};

/// A token as calls bring it; never shown.
#[derive(Clone)]
pub struct Bearer(HeaderValue);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Bearer {
    /// Of a token as it was given; blanks around it do not count.
    ///
    /// # Errors
    /// When no call could bring it. The sentence does not hold the token.
    pub fn new(token: &str) -> Result<Self, String> {
        let token = token.trim();
        let value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| {
            // One from a file may have been wrapped.
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let mut value = value.ok_or_else(|| {
            String::from("the token is empty or has blanks in it; give it as it was issued")
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Why a caller acts for somebody else, as calls bring it.
#[derive(Clone, Debug)]
pub struct Reason(HeaderValue);

impl Reason {
    /// Of a text.
    ///
    /// # Errors
    /// When it holds control characters.
    pub fn new(text: &str) -> Result<Self, String> {
        HeaderValue::from_bytes(text.trim().as_bytes())
            .map(Self)
            .map_err(|_| String::from("the reason holds control characters; write one line of plain text"))
    }
}

/// What a client has to show, and to see.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Proves who calls; none = calls bring no token.
    pub token: Option<Bearer>,
    /// Why the caller acts for somebody else; none = it does not say.
    pub reason: Option<Reason>,
    /// The `traceparent` of the calls; none = they bring none.
    pub trace: Option<HeaderValue>,
    /// PEM text of the authorities that `https` servers are proven by; none = those that this machine trusts.
    pub ca: Option<String>,
}

impl Access {
    /// Puts what there is to show on a call.
    pub(in crate::clients) fn put(&self, metadata: &mut MetadataMap) {
        let mut headers = std::mem::take(metadata).into_headers();
        if let Some(Bearer(token)) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        if let Some(Reason(reason)) = &self.reason {
            headers.insert("x-on-behalf-reason", reason.clone());
        }
        if let Some(trace) = &self.trace {
            headers.insert("traceparent", trace.clone());
        }
        *metadata = MetadataMap::from_headers(headers);
    }

    pub(super) fn tls(&self) -> ClientTlsConfig {
        match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        }
    }

    /// Whether what is shown to this server stays between the two.
    ///
    /// # Errors
    /// A sentence, when a token would go over a network in the clear.
    pub fn fits(&self, server: &Uri) -> Result<(), String> {
        let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.token.is_none() || is_here || server.scheme_str() == Some("https") {
            return Ok(());
        }
        Err(format!("{server} would get the token in the clear; name it with https://"))
    }
}

/// Shows it with each call of a client that is made by hand.
impl Interceptor for Access {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.put(request.metadata_mut());
        Ok(request)
    }
}
