//! Puts the name in a caller's certificate beside each of its calls.

use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Request};
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::Service;

use crate::tls::service_name;

/// Under this name the authenticator finds it. What a caller sends by this name is always thrown away.
pub const SERVICE: HeaderName = HeaderName::from_static("x-order-service-certificate");

/// A service behind the public listener.
#[derive(Clone, Debug)]
pub(super) struct Known<S> {
    inner: S,
}

impl<S> Known<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Known<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        request.headers_mut().remove(&SERVICE);
        let certificates =
            request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
        let name = certificates.and_then(|all| service_name(all.first()?));
        if let Some(Ok(name)) = name.as_deref().map(HeaderValue::from_str) {
            request.headers_mut().insert(SERVICE, name);
        }
        self.inner.call(request)
    }
}
