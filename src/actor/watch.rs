//! One feed per watched order: a task that reads new events once and hands them to everyone who watches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::orders::Orders;
use crate::domain::error::OrderError;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;

/// Events read at once.
const PAGE: u32 = 100;
/// How often the store is asked for events that nobody told of: a commit whose end was in doubt may have told nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often, and with what pause, an order is looked for that is as new as its events before the store is asked.
const LOOKS: u32 = 20;
const PUBLISHED_SOON: Duration = Duration::from_millis(5);

/// Events that were read together.
#[derive(Debug)]
pub struct Batch {
    /// By sequence without gaps, 1 to 100.
    pub events: Vec<RecordedEvent>,
    /// The order as it stood then: at the last event's version or a later one.
    pub order: Arc<Order>,
}

impl Batch {
    fn last(&self) -> i64 {
        self.events.last().map_or(0, |event| event.seq)
    }
}

/// What a feed hands out; an error is its end.
type News = Result<Arc<Batch>, OrderError>;

/// Why a watcher gets nothing more.
#[derive(Debug)]
pub enum WatchEnd {
    /// It fell further behind the feed than batches are kept.
    Lagged,
    /// The events could not be read.
    Failed(OrderError),
}

impl From<OrderError> for WatchEnd {
    fn from(error: OrderError) -> Self {
        Self::Failed(error)
    }
}

#[derive(Debug)]
struct Feed {
    /// Events up to here are stored, as far as was told.
    told: watch::Sender<i64>,
    news: broadcast::Sender<News>,
    /// Events up to here were handed out. Locked while handing out, so that whoever joins knows what is still to come.
    handed: Mutex<i64>,
}

impl Feed {
    fn new(start: i64, buffer: usize) -> Self {
        let (told, news) = (watch::Sender::new(start), broadcast::Sender::new(buffer.max(1)));
        Self { told, news, handed: Mutex::new(start) }
    }

    fn handed(&self) -> MutexGuard<'_, i64> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, batch: Batch) {
        let mut handed = self.handed();
        *handed = batch.last();
        // Nobody there: the feed is about to end.
        let _nobody = self.news.send(Ok(Arc::new(batch)));
    }
}

/// Orders that somebody watches on this node. Empty for all others, so that an unwatched commit costs one look-up.
#[derive(Debug, Default)]
pub(super) struct WatchHub {
    feeds: DashMap<OrderId, Arc<Feed>>,
}

impl WatchHub {
    /// Events up to `seq` are stored.
    pub(super) fn published(&self, id: OrderId, seq: i64) {
        if self.feeds.is_empty() {
            return;
        }
        if let Some(feed) = self.feeds.get(&id) {
            feed.told.send_if_modified(|known| {
                let newer = seq > *known;
                *known = seq.max(*known);
                newer
            });
        }
    }

    /// The feeds that run.
    pub(super) fn feeds(&self) -> usize {
        self.feeds.len()
    }

    /// Takes part in the order's feed; it is begun behind event `start` when there is none.
    fn join(orders: &Arc<Orders>, id: OrderId, start: i64) -> (broadcast::Receiver<News>, i64) {
        let shared = orders.shared();
        let mut begun = None;
        let joined = {
            let feed = shared.hub.feeds.entry(id).or_insert_with(|| {
                let feed = Arc::new(Feed::new(start, shared.config.watch_buffer));
                begun = Some(Arc::clone(&feed));
                feed
            });
            let handed = feed.handed();
            (feed.news.subscribe(), *handed)
        };
        if let Some(feed) = begun {
            tokio::spawn(run(Arc::clone(orders), id, feed));
        }
        joined
    }

    /// Ends the feeds of these slots' orders for this reason.
    pub(super) fn end(&self, slots: &BTreeSet<u16>, why: &OrderError) {
        if self.feeds.is_empty() {
            return;
        }
        self.feeds.retain(|id, feed| {
            let stays = !slots.contains(&id.slot());
            if !stays {
                let _nobody = feed.news.send(Err(why.clone()));
            }
            stays
        });
    }

    /// Whether the feed is over, since nobody watches it any more.
    fn is_over(&self, id: OrderId, feed: &Arc<Feed>) -> bool {
        let is_alone = |known: &Arc<Feed>| Arc::ptr_eq(known, feed) && known.news.receiver_count() == 0;
        self.feeds.remove_if(&id, |_, known| is_alone(known)).is_some()
            // It was taken out, or even replaced, before.
            || self.feeds.get(&id).is_none_or(|known| !Arc::ptr_eq(&known, feed))
    }
}

/// Takes a feed out of the hub, however its task ends: then its watchers hear that it is closed.
struct Running<'a> {
    hub: &'a WatchHub,
    id: OrderId,
    feed: &'a Arc<Feed>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.hub.feeds.remove_if(&self.id, |_, feed| Arc::ptr_eq(feed, self.feed));
    }
}

/// Reads once whenever there is something new, until nobody watches any more.
async fn run(orders: Arc<Orders>, id: OrderId, feed: Arc<Feed>) {
    let hub = &orders.shared().hub;
    let running = Running { hub, id, feed: &feed };
    let mut told = feed.told.subscribe();
    loop {
        // Also without news: what was stored between the watcher's look at the order and now told nobody.
        let asked = *told.borrow_and_update();
        if !orders.owns(id) {
            drop(running);
            let _nobody = feed.news.send(Err(OrderError::NotOwner));
            return;
        }
        let handed = *feed.handed();
        let batch = match read(&orders, id, handed).await {
            Ok(batch) => batch,
            Err(error) => {
                // Whoever comes from now on begins a fresh one.
                drop(running);
                let _nobody = feed.news.send(Err(error));
                return;
            }
        };
        let known = asked.max(batch.as_ref().map_or(handed, Batch::last));
        let is_full = batch.as_ref().is_some_and(|batch| batch.events.len() >= PAGE as usize);
        if let Some(batch) = batch {
            feed.hand_out(batch);
        }
        if is_full {
            continue;
        }
        let deadline = tokio::time::sleep(LOOK_AGAIN);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                _told = told.wait_for(|seq| *seq > known) => break,
                () = &mut deadline => break,
                () = feed.news.closed() => {
                    if hub.is_over(id, &feed) {
                        return;
                    }
                }
            }
        }
    }
}

/// The events behind `after`, with the order; none when there are none.
async fn read(orders: &Orders, id: OrderId, after: i64) -> Result<Option<Batch>, OrderError> {
    let events = orders.events(id, after, PAGE).await?;
    let Some(last) = events.last() else { return Ok(None) };
    // Events are stored a moment before the order that has them is published.
    for _ in 0..LOOKS {
        match orders.view(id).await? {
            Some(order) if order.version >= last.version => return Ok(Some(Batch { events, order })),
            _ => tokio::time::sleep(PUBLISHED_SOON).await,
        }
    }
    let order = orders.stored(id).await?.filter(|order| order.version >= last.version);
    let order = order.ok_or(OrderError::StorageUnavailable)?;
    Ok(Some(Batch { events, order }))
}

/// Somebody who watches one order.
#[derive(Debug)]
pub struct Watcher {
    orders: Arc<Orders>,
    id: OrderId,
    news: broadcast::Receiver<News>,
    /// What is behind this event comes from the feed.
    joined: i64,
    /// The feed has been reached.
    live: bool,
}

impl Watcher {
    pub(super) fn new(orders: &Arc<Orders>, order: &Order) -> Self {
        let (news, joined) = WatchHub::join(orders, order.id, order.event_seq);
        Self { orders: Arc::clone(orders), id: order.id, news, joined, live: false }
    }

    /// Waits for events behind `after`, the last one that this watcher has, and answers a batch in which there are some,
    /// without a gap; it may begin earlier. Reads the store by itself only as long as it is behind the feed.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// When it lags too far behind the feed, or the feed ends.
    pub async fn next(&mut self, after: i64) -> Result<Arc<Batch>, WatchEnd> {
        loop {
            if after < self.joined {
                if let Some(batch) = read(&self.orders, self.id, after).await? {
                    return Ok(Arc::new(batch));
                }
                self.joined = after;
            }
            match self.news.recv().await {
                Ok(batch) => {
                    let batch = batch?;
                    self.live = true;
                    if batch.last() > after {
                        return Ok(batch);
                    }
                }
                Err(RecvError::Lagged(_)) if self.live => return Err(WatchEnd::Lagged),
                // It was reading a long history meanwhile, which is not its fault.
                Err(RecvError::Lagged(_)) => {
                    (self.news, self.joined) = WatchHub::join(&self.orders, self.id, self.joined);
                }
                Err(RecvError::Closed) => return Err(OrderError::StorageUnavailable.into()),
            }
        }
    }
}
