//! Lets every call of a service be worked for as itself: what is logged on its way names it.

use std::task::{Context, Poll};

use tonic::server::NamedService;
use tower::Service;

use crate::trace::Scope;

/// A service each call of which has a [`Scope`].
#[derive(Clone, Debug)]
pub(super) struct Scoped<S>(pub(super) S);

impl<S: NamedService> NamedService for Scoped<S> {
    const NAME: &'static str = S::NAME;
}

impl<Q, S> Service<Q> for Scoped<S>
where
    S: Service<Q>,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Scope<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        Scope::new(self.0.call(request))
    }
}
