//! What a listener serves: calls of orders straight, all others by a router.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

/// The service that is called most, and the rest. A router looks at each call's path, copies what it knows and puts what it
/// found beside the call: for a call that is answered from memory a good part of its cost.
#[derive(Clone)]
pub(super) struct Front<S> {
    first: S,
    others: Routes,
}

impl<S> Front<S> {
    /// Serves `first` by its name, and `others`.
    pub(super) fn new(first: S, others: Routes) -> Self {
        Self { first, others: others.prepare() }
    }
}

impl<S> Service<Request<Body>> for Front<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The router is always ready.
        self.first.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let named = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME));
        match named {
            Some(rest) if rest.starts_with('/') => Either::Left(self.first.call(request)),
            _ => Either::Right(self.others.call(request)),
        }
    }
}
