//! How calls prove who makes them, and a server who it is.

use std::fmt;

use http::Uri;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, ClientTlsConfig};

/// A token as calls bring it; never shown.
#[derive(Clone)]
pub struct Bearer(AsciiMetadataValue);

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
        let value = format!("Bearer {token}").parse::<AsciiMetadataValue>().ok().filter(|_| {
            // One from a file may have been wrapped.
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let mut value = value.ok_or_else(|| {
            String::from("the token is empty or has blanks in it; give it as it was issued")
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    fn put(&self, metadata: &mut MetadataMap) {
        metadata.insert("authorization", self.0.clone());
    }
}

/// What a client has to show, and to see.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Proves who calls; none = calls bring no token.
    pub token: Option<Bearer>,
    /// PEM text of the authorities that `https` servers are proven by; none = those that this machine trusts.
    pub ca: Option<String>,
    /// Why the caller acts on somebody else's orders; none = they do not say.
    pub reason: Option<String>,
}

impl Access {
    /// Puts what a call has to show on it.
    pub(in crate::clients) fn put(&self, metadata: &mut MetadataMap) {
        if let Some(token) = &self.token {
            token.put(metadata);
        }
        // What no header can hold is left out, and missed by the server.
        if let Some(Ok(reason)) =
            self.reason.as_deref().map(|text| AsciiMetadataValue::try_from(text.as_bytes()))
        {
            metadata.insert("x-on-behalf-reason", reason);
        }
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
    pub(in crate::clients) fn fits(&self, server: &Uri) -> Result<(), String> {
        let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.token.is_none() || is_here || server.scheme_str() == Some("https") {
            return Ok(());
        }
        Err(format!("{server} would get the token in the clear; name it with https://"))
    }
}
