//! Reading orders as they were last committed: out of memory, a cache or the store. Starts no actor.

use std::sync::Arc;

use bytes::Bytes;

use super::orders::{Orders, refuse_read};
use super::registry::Entry;
use crate::domain::error::OrderError;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::ports::seen::{Glance, Seen};
use crate::ports::store::{Owner, StoreError};

/// Where the last committed state of an order is.
enum Nearest {
    /// In this actor.
    Live(Arc<Entry>, Arc<Order>),
    /// In the store; where this node may read its cache, perhaps there.
    Resting(Option<Owner>),
}

impl Orders {
    /// Whether the order is live or was a short while ago: it costs nothing to find out.
    pub async fn is_near(&self, id: OrderId) -> bool {
        let Some(reader) = self.shared().placement.reader(id.slot()) else { return false };
        let live = self.shared().registry.get(id).is_some_and(|entry| entry.owner() == reader);
        live || self.shared().cache.get(id, reader.epoch).await.is_some()
    }

    /// The order as last committed; none when there is no such order. Starts no actor and waits for none.
    ///
    /// # Errors
    /// When it is not in memory and the store cannot be read.
    pub async fn view(&self, id: OrderId) -> Result<Option<Arc<Order>>, OrderError> {
        match self.nearest(id) {
            Nearest::Live(_, order) => Ok(Some(order)),
            Nearest::Resting(reader) => self.view_resting(id, reader).await,
        }
    }

    /// As [`Self::view`], as `encode` makes it: once for each state of a live order. One that the caller `may` not see is
    /// none.
    ///
    /// # Errors
    /// As of [`Self::view`].
    pub async fn show(
        &self,
        id: OrderId,
        may: impl Fn(&Order) -> bool,
        encode: impl FnOnce(&Order) -> Bytes,
    ) -> Result<Option<Bytes>, OrderError> {
        match self.nearest(id) {
            Nearest::Live(entry, order) => Ok(may(&order).then(|| entry.show(&order, encode))),
            Nearest::Resting(reader) => {
                let order = self.view_resting(id, reader).await?;
                Ok(order.filter(|order| may(order)).map(|order| encode(&order)))
            }
        }
    }

    /// Where the last committed state of an order is to be read.
    fn nearest(&self, id: OrderId) -> Nearest {
        let Some(reader) = self.shared().placement.reader(id.slot()) else { return Nearest::Resting(None) };
        let entry = self.shared().registry.get(id).filter(|entry| entry.owner() == reader);
        let Some(entry) = entry else { return Nearest::Resting(Some(reader)) };
        // Where others read the store, nobody may be shown less than the store has shown them; what is in the cache may be
        // less, too, while a commit is under way.
        let is_shared = self.shared().placement.is_shared();
        match if is_shared { entry.newest() } else { entry.published() } {
            Some(order) => Nearest::Live(entry, order),
            None => Nearest::Resting((!is_shared).then_some(reader)),
        }
    }

    /// As [`Self::view`], from the cache of `reader`, where there is one, or the store.
    async fn view_resting(
        &self,
        id: OrderId,
        reader: Option<Owner>,
    ) -> Result<Option<Arc<Order>>, OrderError> {
        if let Some(order) = self.kept(id, reader).await {
            return Ok(Some(order));
        }
        let stored = self.shared().store.load(id).await.map_err(refuse_read)?;
        let Some(stored) = stored else { return Ok(None) };
        self.note_read(id);
        // Where others use the store, only what was claimed is surely not changed behind our back: an owner that was
        // declared dead may still commit to what nobody has claimed.
        if let Some(reader) = reader.filter(|_| !self.shared().placement.is_shared()) {
            self.shared().cache.put(Arc::clone(&stored.order), reader.epoch).await;
        }
        Ok(Some(stored.order))
    }

    /// The order in the cache of `reader`, where there is one: exact, since nobody else can have changed it.
    async fn kept(&self, id: OrderId, reader: Option<Owner>) -> Option<Arc<Order>> {
        let order = self.shared().cache.get(id, reader?.epoch).await;
        let outcome = if order.is_some() { "hit" } else { "miss" };
        metrics::counter!("order_cache_reads_total", "tier" => "memory", "kind" => "order", "outcome" => outcome)
            .increment(1);
        order
    }

    /// The order as it was committed a short while ago: from memory, a cache, or a replica, where there is one that has it.
    ///
    /// # Errors
    /// As of [`Self::view`].
    pub async fn view_stale(&self, id: OrderId) -> Result<Option<Seen<Arc<Order>>>, OrderError> {
        if self.is_near(id).await {
            return Ok(self.view(id).await?.map(Seen::now));
        }
        // Not kept near by: readers who want the newest state would find it there.
        match self.shared().store.load_stale(id).await {
            Ok(Some(seen)) => {
                self.note_read(id);
                Ok(Some(seen.map(|stored| stored.order)))
            }
            Ok(None) | Err(StoreError::Unavailable(_)) => Ok(self.view(id).await?.map(Seen::now)),
            Err(error @ StoreError::Corrupt { .. }) => Err(refuse_read(error)),
        }
    }

    /// Where the order stands, or stood a short while ago.
    ///
    /// # Errors
    /// As of [`Self::view`].
    pub async fn glance(&self, id: OrderId) -> Result<Option<Seen<Glance>>, OrderError> {
        // Who has the store to itself knows the newest state.
        if !self.shared().placement.is_shared() {
            return Ok(self.view(id).await?.map(|order| Seen::now(Glance::of(&order))));
        }
        let near = match self.nearest(id) {
            Nearest::Live(_, order) => Some(order),
            Nearest::Resting(reader) => self.kept(id, reader).await,
        };
        if let Some(order) = near {
            return Ok(Some(Seen::now(Glance::of(&order))));
        }
        let seen = self.shared().store.glance(id).await.map_err(refuse_read)?;
        if seen.is_some() {
            self.note_read(id);
        }
        Ok(seen)
    }

    /// Remembers that an order was read that somebody else owns.
    fn note_read(&self, id: OrderId) {
        let shared = self.shared();
        let is_warmed = shared.config.warm_orders > 0 && shared.placement.is_shared();
        if is_warmed && shared.placement.owner(id.slot()).is_none() {
            shared.hot.note(id);
        }
    }
}
