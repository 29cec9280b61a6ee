//! The stream of an order's events: what is stored first, then what comes. Where another node owns the order, it is that
//! node's stream, begun anew whenever the owner changes.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::forward::{self, Miss};
use super::order_service::Origin;
use super::view::{Viewed, Viewer};
use super::{convert, status};
use crate::actor::{Orders, WatchEnd};
use crate::cluster::{Cluster, Route};
use crate::domain::error::OrderError;
use crate::domain::membership::Member;
use crate::domain::order::Order;
use crate::proto::order as pb;
use crate::proto::order::order_service_client::OrderServiceClient;

/// How long a stream goes on without an owner of its order.
const WITHOUT_OWNER: Duration = Duration::from_secs(60);
/// A stream that lasted for so long was one of the order's owner.
const ATTACHED: Duration = Duration::from_secs(15);

/// How patient the service is with who watches.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Events that wait for one reader, at least 1.
    pub buffer: usize,
    /// Longest time without room for the next event.
    pub slow_after: Duration,
}

/// What is watched, and by whom.
pub(super) struct Watched {
    pub(super) orders: Arc<Orders>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) order: Arc<Order>,
    /// The last event that the reader has.
    pub(super) after_seq: i64,
    pub(super) limits: WatchLimits,
    /// Who reads, as far as that decides what is shown.
    pub(super) viewer: Viewer,
    pub(super) origin: Origin,
    /// How long what proved who reads is good; none = it does not end by itself.
    pub(super) proven_for: Option<Duration>,
}

/// What a reader is told whose token is over.
const EXPIRED: OrderError = OrderError::Unauthenticated {
    what: "the token has expired (exp); watch again with a new one, behind the last event",
};

type Answer = Result<pb::WatchOrderResponse, Status>;

/// What a watcher is sent.
pub(super) type Stream = ReceiverStream<Answer>;

/// Why a stream, or one owner's part of it, ends.
enum End {
    /// The reader hung up.
    HungUp,
    /// For good, as the reader is told.
    For(OrderError),
    /// As the owner has told.
    Told(Status),
    /// The order has another owner, or none for now.
    Moved,
}

/// Streams the events of an order, until the reader hangs up or is too slow, its token is over, or `stop`.
pub(super) fn stream(watched: Watched, permit: OwnedSemaphorePermit, stop: CancellationToken) -> Stream {
    let (sender, receiver) = mpsc::channel(watched.limits.buffer.saturating_add(1));
    // Why it ends can be told also to a reader whose buffer is full.
    let last_place = sender.clone().try_reserve_owned();
    tokio::spawn(async move {
        let _permit = permit;
        let ended = tokio::select! {
            () = sender.closed() => return,
            () = stop.cancelled() => End::For(OrderError::ShuttingDown),
            () = over(watched.proven_for) => End::For(EXPIRED),
            ended = follow(&watched, &sender) => ended,
        };
        if matches!(ended, End::For(OrderError::SlowWatcher { .. })) {
            metrics::counter!("order_watchers_dropped_total").increment(1);
        }
        let mut told = match ended {
            End::HungUp => return,
            End::For(error) => status::to_status(&watched.viewer.refusal(error)),
            End::Told(told) => told,
            End::Moved => status::to_status(&OrderError::NotOwner),
        };
        if let (Some(cluster), Some(_)) = (&watched.cluster, watched.origin.via) {
            forward::tell_view(told.metadata_mut(), cluster.view_version());
        }
        if let Ok(place) = last_place {
            place.send(Err(told));
        }
    });
    ReceiverStream::new(receiver)
}

/// Ends when that time is over; never where there is none.
async fn over(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => pending().await,
    }
}

/// Follows the order from owner to owner.
async fn follow(watched: &Watched, sender: &mpsc::Sender<Answer>) -> End {
    let mut last = watched.after_seq;
    let Some(cluster) = &watched.cluster else { return here(watched, &mut last, sender).await };
    let (slot, via) = (watched.order.id.slot(), watched.origin.via);
    let (mut alone_since, mut misses) = (Instant::now(), 0u32);
    loop {
        let deadline = alone_since.checked_add(WITHOUT_OWNER).unwrap_or(alone_since);
        let before = last;
        let routed = cluster.route_watch(slot, via, deadline).await;
        let began = Instant::now();
        let ended = match routed {
            Ok(Route::Here) => here(watched, &mut last, sender).await,
            Ok(Route::Peer(member)) => relay(watched, cluster, &member, &mut last, sender).await,
            // In time it will have one.
            Err(OrderError::NotOwner | OrderError::StorageUnavailable | OrderError::Overloaded { .. }) => {
                End::Moved
            }
            Err(error) => End::For(error),
        };
        if !matches!(ended, End::Moved) || via.is_some() {
            return ended;
        }
        let now = Instant::now();
        // Whoever told something, or had nothing to tell for a while, was its owner until now.
        if last != before || now.saturating_duration_since(began) > ATTACHED {
            (alone_since, misses) = (now, 0);
        } else if now >= deadline {
            return End::Moved;
        }
        misses = misses.saturating_add(1);
        cluster.news(forward::pause_after(misses)).await;
    }
}

/// Sends the events that this node has.
async fn here(watched: &Watched, last: &mut i64, sender: &mpsc::Sender<Answer>) -> End {
    let mut watcher = watched.orders.watch(&watched.order);
    // It may have moved before the feed was there that would have told.
    if !watched.orders.owns(watched.order.id) {
        return End::Moved;
    }
    loop {
        let batch = match watcher.next(*last).await {
            Ok(batch) => batch,
            Err(WatchEnd::Lagged) => return End::For(OrderError::SlowWatcher { resume_after: *last }),
            Err(WatchEnd::Failed(OrderError::NotOwner)) => return End::Moved,
            Err(WatchEnd::Failed(error)) => return End::For(error),
        };
        let (known, order) = (*last, convert::order(&batch.order));
        for event in batch.events.iter().filter(|event| event.seq > known) {
            let told = Some(convert::event(batch.order.id, event));
            let answer = pb::WatchOrderResponse { event: told, order: Some(order.clone()) };
            if let Err(end) = send(watched, *last, answer, sender).await {
                return end;
            }
            *last = event.seq;
        }
    }
}

/// Sends the events that the owner tells.
async fn relay(
    watched: &Watched,
    cluster: &Arc<Cluster>,
    member: &Member,
    last: &mut i64,
    sender: &mpsc::Sender<Answer>,
) -> End {
    let missed = |miss: Miss| match miss {
        Miss::Refused(status) => {
            End::Told(Status::with_details(status.code(), status.message(), status.details().to_vec().into()))
        }
        Miss::NotThere(version) => {
            cluster.heard_of(version);
            End::Moved
        }
        Miss::Broken(why) => {
            tracing::debug!(node = member.name, why, "a watch through another node broke; it goes on");
            cluster.doubt(member);
            End::Moved
        }
    };
    let channel = match cluster.watch_connection(member) {
        Ok(channel) => channel,
        Err(why) => return missed(Miss::Broken(why)),
    };
    let request = pb::WatchOrderRequest { order_id: watched.order.id.to_string(), after_sequence: *last };
    let request = forward::mark(cluster, &watched.origin, watched.origin.context.trace.as_ref(), request);
    let mut client = OrderServiceClient::new(channel).max_decoding_message_size(forward::ANSWER_BYTES);
    let gone = cluster.gone(member);
    tokio::pin!(gone);
    let asked = tokio::select! {
        asked = client.watch_order(request) => asked,
        () = &mut gone => return End::Moved,
    };
    let mut told = match asked {
        Ok(answer) => answer.into_inner(),
        Err(status) => return missed(Miss::of(status)),
    };
    loop {
        let next = tokio::select! {
            next = told.message() => next,
            () = &mut gone => return End::Moved,
        };
        match next {
            Ok(Some(answer)) => {
                let seq = answer.event.as_ref().map_or(*last, |event| event.sequence);
                if let Err(end) = send(watched, *last, answer, sender).await {
                    return end;
                }
                *last = seq;
            }
            Ok(None) => return End::Moved,
            Err(status) => return missed(Miss::of(status)),
        }
    }
}

/// Sends one event to a reader that has all up to `last`.
async fn send(
    watched: &Watched,
    last: i64,
    answer: pb::WatchOrderResponse,
    sender: &mpsc::Sender<Answer>,
) -> Result<(), End> {
    match timeout(watched.limits.slow_after, sender.reserve()).await {
        Ok(Ok(place)) => {
            place.send(Ok(answer.seen_by(&watched.viewer)));
            Ok(())
        }
        Ok(Err(_hung_up)) => Err(End::HungUp),
        Err(_elapsed) => Err(End::For(OrderError::SlowWatcher { resume_after: last })),
    }
}
