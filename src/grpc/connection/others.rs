//! Streams of services that ask for no token, health and reflection: so many in all, and so many of one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::Status;

use super::TransportLimits;
use crate::proto::served::order_service_server::SERVICE_NAME;

/// The only call of another service that is no stream. It is answered at once, and whoever balances load must get an
/// answer however many streams there are.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// How many there are, and may be.
#[derive(Debug)]
pub(super) struct OtherStreams {
    most: usize,
    most_of_one: usize,
    open: AtomicUsize,
}

impl OtherStreams {
    pub(super) fn new(limits: &TransportLimits) -> Self {
        let (most, most_of_one) = (limits.max_other_streams, limits.max_other_streams_per_connection);
        Self { most, most_of_one, open: AtomicUsize::new(0) }
    }
}

/// Those of one connection.
#[derive(Debug)]
pub(super) struct OthersOfOne {
    all: Arc<OtherStreams>,
    open: Arc<AtomicUsize>,
}

impl OthersOfOne {
    pub(super) fn new(all: &Arc<OtherStreams>) -> Self {
        Self { all: Arc::clone(all), open: Arc::default() }
    }

    /// A place for a call of this path; none where it needs none.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there is none left.
    pub(super) fn take(&self, path: &str) -> Result<Option<OtherStream>, Status> {
        let of_orders = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
        if of_orders.is_some_and(|rest| rest.starts_with('/')) || path == CHECK {
            return Ok(None);
        }
        let Some(mine) = Counted::below(&self.open, self.all.most_of_one) else {
            return Err(refused("connection"));
        };
        let all = Arc::clone(&self.all);
        let up = |open: usize| (open < all.most).then_some(open.saturating_add(1));
        if all.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, up).is_err() {
            return Err(refused("all"));
        }
        Ok(Some(OtherStream { all, _mine: mine }))
    }
}

fn refused(limit: &'static str) -> Status {
    metrics::counter!("order_grpc_other_streams_refused_total", "limit" => limit).increment(1);
    Status::resource_exhausted(
        "too many streams of health checks and reflection are open; close some, or try again later",
    )
}

/// One that is counted for its connection; no more when dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn below(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let up = |open: usize| (open < most).then_some(open.saturating_add(1));
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, up).ok()?;
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that is counted; no more when dropped.
#[derive(Debug)]
pub(super) struct OtherStream {
    all: Arc<OtherStreams>,
    _mine: Counted,
}

impl Drop for OtherStream {
    fn drop(&mut self) {
        self.all.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::tests_support::limits;
    use super::*;

    const WATCH: &str = "/grpc.health.v1.Health/Watch";

    #[test]
    fn streams_are_counted_by_connection_and_in_all_and_are_free_again() {
        let all = Arc::new(OtherStreams::new(&limits()));
        let (one, other) = (OthersOfOne::new(&all), OthersOfOne::new(&all));
        let first = one.take(WATCH).unwrap();
        let second = one.take("/order.v1.OrderServices/GetOrder").unwrap();
        assert_eq!(one.take(WATCH).unwrap_err().code(), tonic::Code::ResourceExhausted, "two of one");
        assert!(
            one.take("/order.v1.OrderService/GetOrder").unwrap().is_none(),
            "calls of orders have other limits"
        );
        assert!(one.take(CHECK).unwrap().is_none(), "whoever checks is answered");
        let third = other.take(WATCH).unwrap();
        assert!(other.take(WATCH).is_err(), "three in all");
        drop(first);
        let fourth = other.take(WATCH).unwrap();
        assert!(one.take(WATCH).is_err());
        drop((second, third, fourth));
        assert_eq!((all.open.load(Ordering::Relaxed), one.open.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(other.open.load(Ordering::Relaxed), 0);
    }
}
