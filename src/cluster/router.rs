//! The way to the owner of an order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Cluster;
use super::peers::{Failed, Outgoing};
use super::table::Whose;
use crate::domain::error::OrderError;
use crate::domain::membership::{Incarnation, Member};

/// How long a node that hears of a newer view waits until it has it.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Where a command is to be executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// On this node.
    Here,
    /// On another one.
    Peer(Arc<Member>),
}

impl Cluster {
    /// Where a command for the slot is to be executed. While the slot has no owner that would do, this waits: within
    /// `cluster.hold_for` and until `deadline`.
    ///
    /// `via` is the view of the node that has forwarded the command here. Such a command is executed here or nowhere: it is
    /// never forwarded again.
    ///
    /// # Errors
    /// `NotOwner` when there is no owner in time, or a forwarded command belongs elsewhere; `StorageUnavailable` when this
    /// node owns the slot and may not act on it, since the store is out of reach; `Overloaded` when too many wait.
    pub async fn route(&self, slot: u16, via: Option<i64>, deadline: Instant) -> Result<Route, OrderError> {
        self.find(slot, via, deadline, true).await
    }

    /// As [`Self::route`] for one who watches: such readers wait beside the calls, not in their places.
    ///
    /// # Errors
    /// As of [`Self::route`], but for `Overloaded`.
    pub async fn route_watch(
        &self,
        slot: u16,
        via: Option<i64>,
        deadline: Instant,
    ) -> Result<Route, OrderError> {
        self.find(slot, via, deadline, false).await
    }

    async fn find(
        &self,
        slot: u16,
        via: Option<i64>,
        deadline: Instant,
        takes_place: bool,
    ) -> Result<Route, OrderError> {
        if let Some(version) = via {
            self.catch_up(version, deadline).await;
        }
        let mut changes = None;
        let mut place = None;
        let held_until = Instant::now().checked_add(self.config.hold_for);
        let until = held_until.map_or(deadline, |held_until| held_until.min(deadline));
        loop {
            match self.table.whose(slot) {
                Whose::Here => return Ok(Route::Here),
                // Nothing was executed, and whoever forwarded it may find another owner soon.
                Whose::Lapsed if via.is_some() => return Err(OrderError::NotOwner),
                Whose::Lapsed => return Err(OrderError::StorageUnavailable),
                Whose::Peer(_) if via.is_some() => return Err(OrderError::NotOwner),
                Whose::Peer(member) => return Ok(Route::Peer(member)),
                Whose::Nobody => {}
            }
            if takes_place && place.is_none() {
                metrics::counter!("order_cluster_calls_held_total").increment(1);
                let what = "too many calls wait for orders whose owner changes";
                place = Some(self.held.try_acquire().map_err(|_full| OrderError::Overloaded { what })?);
            }
            // Subscribed before the look that decides to wait.
            let Some(news) = &mut changes else {
                changes = Some(self.table.changes());
                continue;
            };
            if tokio::time::timeout_at(until, news.changed()).await.is_err() {
                return Err(OrderError::NotOwner);
            }
        }
    }

    /// Waits until this node knows a view at least so new, but not for long.
    pub async fn catch_up(&self, version: i64, deadline: Instant) {
        if self.view_version() >= version {
            return;
        }
        self.heard_of(version);
        let mut changes = self.table.changes();
        let soon = Instant::now().checked_add(CATCH_UP).map_or(deadline, |soon| soon.min(deadline));
        let learned = async {
            while self.view_version() < version {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever does not learn it in time answers by what it knows.
        let _late = tokio::time::timeout_at(soon, learned).await;
    }

    /// Has this node read the newest view soon: what it knows was refused.
    pub fn look_again(&self) {
        self.heard_of(self.view_version().saturating_add(1));
    }

    /// Waits until something about the cluster changes, for at most `patience`.
    pub async fn news(&self, patience: Duration) {
        let mut changes = self.table.changes();
        let _late = tokio::time::timeout(patience, changes.changed()).await;
    }

    /// Ready when a member is gone: nothing more is to be expected of it.
    pub async fn gone(&self, member: &Member) {
        let mut changes = self.table.changes();
        while self.table.known().view.live(member.incarnation).is_some() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The connection to a member for watches that are forwarded.
    ///
    /// # Errors
    /// When its address makes no sense.
    pub fn watch_connection(&self, member: &Member) -> Result<Channel, String> {
        self.watches.channel(&member.address)
    }

    /// Makes a call to a member.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(&self, member: &Member, call: Outgoing) -> Result<Bytes, Failed> {
        self.calls.line(&member.address)?.call(call).await
    }

    /// A call to a member broke: it should be looked at, if this node looks after it.
    pub fn doubt(&self, member: &Member) {
        let known = self.table.known();
        if known.view.watchers(member.incarnation).contains(&self.me()) {
            self.doubts.notify_one();
        }
    }

    /// Whether this node reaches another one just now.
    pub(super) async fn reaches(self: &Arc<Self>, node: Incarnation) -> bool {
        let known = self.table.known();
        let Some(member) = known.view.live(node).cloned() else { return false };
        let (cluster, version) = (Arc::clone(self), known.view.version);
        let probing = self.handle.spawn(async move {
            let timeout = cluster.config.probe_timeout;
            let found = cluster.control.probe(&member.address, node, version, timeout).await;
            matches!(found, super::peers::Found::Alive(_))
        });
        probing.await.unwrap_or(false)
    }
}
