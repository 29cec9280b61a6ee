//! Telling watchers that an order has new events. The events themselves are read from the store.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::domain::ids::OrderId;

/// Orders that somebody watches on this node. Empty for all others, so that an unwatched commit costs one look-up.
#[derive(Debug, Default)]
pub(super) struct WatchHub {
    orders: DashMap<OrderId, watch::Sender<i64>>,
}

impl WatchHub {
    /// Events up to `seq` are stored.
    pub(super) fn published(&self, id: OrderId, seq: i64) {
        if self.orders.is_empty() {
            return;
        }
        if let Some(sender) = self.orders.get(&id) {
            sender.send_if_modified(|known| {
                let newer = seq > *known;
                *known = seq.max(*known);
                newer
            });
        }
    }

    pub(super) fn watch(self: &Arc<Self>, id: OrderId) -> Watcher {
        let receiver = self.orders.entry(id).or_insert_with(|| watch::channel(0).0).subscribe();
        Watcher { id, receiver: Some(receiver), hub: Arc::clone(self) }
    }
}

/// Hears of new events of one order.
#[derive(Debug)]
pub struct Watcher {
    id: OrderId,
    receiver: Option<watch::Receiver<i64>>,
    hub: Arc<WatchHub>,
}

impl Watcher {
    /// Waits until there are events that were not there at the last call.
    pub async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // The sender lives as long as the hub has an entry, which lives as long as this watcher.
            let _ended = receiver.changed().await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.receiver = None;
        self.hub.orders.remove_if(&self.id, |_, sender| sender.receiver_count() == 0);
    }
}
