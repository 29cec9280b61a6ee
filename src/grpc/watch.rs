//! The stream of an order's events: what is stored first, then what comes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{convert, status};
use crate::actor::{Orders, WatchEnd};
use crate::domain::error::OrderError;
use crate::domain::order::Order;
use crate::proto::order as pb;

/// How patient the service is with who watches.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Events that wait for one reader, at least 1.
    pub buffer: usize,
    /// Longest time without room for the next event.
    pub slow_after: Duration,
}

type Answer = Result<pb::WatchOrderResponse, Status>;

/// What a watcher is sent.
pub(super) type Stream = ReceiverStream<Answer>;

/// Streams the events of an order behind `after_seq`, until the reader hangs up or is too slow, or `stop`.
pub(super) fn stream(
    orders: Arc<Orders>,
    order: Arc<Order>,
    after_seq: i64,
    limits: WatchLimits,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> Stream {
    let (sender, receiver) = mpsc::channel(limits.buffer.saturating_add(1));
    // Why it ends can be told also to a reader whose buffer is full.
    let last_place = sender.clone().try_reserve_owned();
    tokio::spawn(async move {
        let _permit = permit;
        let ended = tokio::select! {
            () = sender.closed() => return,
            () = stop.cancelled() => OrderError::ShuttingDown,
            error = follow(&orders, &order, after_seq, limits.slow_after, &sender) => match error {
                Some(error) => error,
                None => return,
            },
        };
        if matches!(ended, OrderError::SlowWatcher { .. }) {
            metrics::counter!("order_watchers_dropped_total").increment(1);
        }
        if let Ok(place) = last_place {
            place.send(Err(status::to_status(&ended)));
        }
    });
    ReceiverStream::new(receiver)
}

/// Sends events for ever; comes back with what went wrong, or with nothing when the reader hung up.
async fn follow(
    orders: &Arc<Orders>,
    order: &Order,
    after_seq: i64,
    slow_after: Duration,
    sender: &mpsc::Sender<Answer>,
) -> Option<OrderError> {
    let mut watcher = orders.watch(order);
    let mut last = after_seq;
    loop {
        let batch = match watcher.next(last).await {
            Ok(batch) => batch,
            Err(WatchEnd::Lagged) => return Some(OrderError::SlowWatcher { resume_after: last }),
            Err(WatchEnd::Failed(error)) => return Some(error),
        };
        let (known, order) = (last, convert::order(&batch.order));
        for event in batch.events.iter().filter(|event| event.seq > known) {
            match timeout(slow_after, sender.reserve()).await {
                Ok(Ok(place)) => {
                    let event = Some(convert::event(batch.order.id, event));
                    place.send(Ok(pb::WatchOrderResponse { event, order: Some(order.clone()) }));
                }
                Ok(Err(_hung_up)) => return None,
                Err(_elapsed) => return Some(OrderError::SlowWatcher { resume_after: last }),
            }
            last = event.seq;
        }
    }
}
