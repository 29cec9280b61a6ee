//! The stream of an order's events: what is stored first, then what comes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{convert, status};
use crate::actor::Orders;
use crate::domain::error::OrderError;
use crate::domain::ids::OrderId;
use crate::proto::order as pb;

/// Events read at once.
const PAGE: u32 = 100;
/// Events waiting for a slow reader; beyond it, reading the store waits too.
const BUFFER: usize = 16;

/// How often the store is asked for events that nobody told of.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The longest time to wait for a publication before looking again.
const PUBLISHED_SOON: Duration = Duration::from_millis(50);

/// What a watcher is sent.
pub(super) type Stream = ReceiverStream<Result<pb::WatchOrderResponse, Status>>;

/// Streams the events of an order behind `after_seq`, until the reader hangs up or `stop`.
pub(super) fn stream(
    orders: Arc<Orders>,
    id: OrderId,
    after_seq: i64,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> Stream {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        let _permit = permit;
        let ended = tokio::select! {
            () = sender.closed() => return,
            () = stop.cancelled() => OrderError::ShuttingDown,
            error = follow(&orders, id, after_seq, &sender) => match error {
                Some(error) => error,
                None => return,
            },
        };
        // A reader that hung up, or does not read, does not hear it.
        let _gone = sender.try_send(Err(status::to_status(&ended)));
    });
    ReceiverStream::new(receiver)
}

/// Sends events for ever; comes back with what went wrong, or with nothing when the reader hung up.
async fn follow(
    orders: &Orders,
    id: OrderId,
    mut after_seq: i64,
    sender: &mpsc::Sender<Result<pb::WatchOrderResponse, Status>>,
) -> Option<OrderError> {
    let mut watcher = orders.watch(id);
    loop {
        // Read after subscribing: what is stored meanwhile wakes the watcher.
        let events = match orders.events(id, after_seq, PAGE).await {
            Ok(events) => events,
            Err(error) => return Some(error),
        };
        let Some(last) = events.last() else {
            // Also without news: a commit whose end was in doubt may have told nobody.
            let _either = tokio::time::timeout(LOOK_AGAIN, watcher.changed()).await;
            continue;
        };
        after_seq = last.seq;
        // Events are stored a moment before the order that has them is published.
        let order = loop {
            match orders.view(id).await {
                Ok(Some(order)) if order.version < last.version => {
                    let _either = tokio::time::timeout(PUBLISHED_SOON, watcher.changed()).await;
                }
                Ok(order) => break order.map(|order| convert::order(&order)),
                Err(error) => return Some(error),
            }
        };
        for event in &events {
            let response =
                pb::WatchOrderResponse { event: Some(convert::event(id, event)), order: order.clone() };
            if sender.send(Ok(response)).await.is_err() {
                return None;
            }
        }
    }
}
