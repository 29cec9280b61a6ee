//! Several nodes on one store: who is in, who owns which slot, and the way to the owner.
//!
//! The store is the arbiter. What is known here is a hint that may be old: whoever acts on it is refused by the store where
//! it matters, looks again, and goes on. The rules are in [`crate::domain::membership`].

mod admin;
mod config;
mod control;
mod handover;
mod lease;
mod peers;
mod plan;
mod probing;
mod ring;
mod router;
mod suspicion;
mod table;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lease::{BootTime, Lease};
use self::peers::{Calls, Peers, Windows};
use self::table::Table;
use crate::actor::Orders;
use crate::domain::Timestamp;
use crate::domain::membership::{Change, Incarnation, NewMember, NodeState};
use crate::ports::members::{ChangeError, MemberError, MemberStore};
use crate::ports::placement::Placement;

pub use self::admin::Standing;
pub use self::config::ClusterConfig;
pub use self::peers::{Failed, Outgoing, PeerApi, PeerRoutes, PeerTls, framed};
pub use self::ring::Ring;
pub use self::router::Route;

/// How often a change is tried again that met a newer view.
const TRIES: u32 = 10;
/// So many nodes are told of a new view at once; others find out with their next renewal.
const TOLD_AT_ONCE: usize = 64;
/// How often whoever waits for slots to go looks, without news.
const LOOK: Duration = Duration::from_millis(200);

/// Why a node ends that knows more than the store.
const GONE_BACK: &str = "the store has lost changes of the cluster's records that this node has seen";

/// A node of a cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    store: Arc<dyn MemberStore>,
    table: Arc<Table>,
    /// Set once the actors are there; they need to know this first.
    orders: OnceLock<Arc<Orders>>,
    /// The thread on which this node does what it does to be in its cluster.
    handle: Handle,
    /// Connections for what nodes say to each other, used on that thread.
    control: Peers,
    /// Connections for calls that are forwarded, used by whoever forwards.
    calls: Calls,
    /// Connections for watches that are forwarded, whose readers may be slow and must not hold up calls, and for drains.
    watches: Peers,
    /// The highest view that was heard of.
    wanted: watch::Sender<i64>,
    /// A peer should be looked at soon.
    doubts: Notify,
    /// What time it was by the store's clock, and when.
    time: Mutex<Option<(BootTime, Timestamp)>>,
    /// Calls that may wait.
    held: Semaphore,
    /// The records could not be read the last time, which was told.
    unread: AtomicBool,
    stopped: CancellationToken,
    /// This life is over, and why.
    dead: CancellationToken,
    why: OnceLock<String>,
}

impl Cluster {
    /// Joins the cluster, on a thread of its own. `open` opens the cluster's records there.
    ///
    /// # Errors
    /// What stands in the way, as one sentence.
    pub async fn join<F, E>(
        config: ClusterConfig,
        tls: Option<PeerTls>,
        connect_timeout: Duration,
        open: F,
    ) -> Result<Arc<Self>, E>
    where
        F: Future<Output = Result<Arc<dyn MemberStore>, E>> + Send + 'static,
        E: From<MemberError> + From<std::io::Error> + Send + 'static,
    {
        let calls = Calls::new(tls.as_ref(), connect_timeout)
            .map_err(|why| std::io::Error::new(std::io::ErrorKind::InvalidInput, why))?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let ended = CancellationToken::new();
        let stopped = ended.clone();
        std::thread::Builder::new()
            .name(String::from("cluster"))
            .spawn(move || runtime.block_on(ended.cancelled()))?;
        let joining = {
            let (config, handle, stopped) = (config.clone(), handle.clone(), stopped.clone());
            async move {
                let store = open.await?;
                let cluster = Arc::new(Self {
                    table: Arc::new(Table::new(Lease::new(config.serve_for, config.read_for))),
                    store,
                    orders: OnceLock::new(),
                    handle,
                    control: Peers::new(tls.clone(), connect_timeout, Windows::Few),
                    calls,
                    watches: Peers::new(tls, connect_timeout, Windows::Watches),
                    wanted: watch::Sender::new(0),
                    doubts: Notify::new(),
                    time: Mutex::default(),
                    held: Semaphore::new(config.hold_calls),
                    unread: AtomicBool::new(false),
                    stopped,
                    dead: CancellationToken::new(),
                    why: OnceLock::new(),
                    config,
                });
                cluster.enter().await?;
                Ok(cluster)
            }
        };
        let joined = match handle.spawn(joining).await {
            Ok(joined) => joined,
            Err(error) => Err(E::from(std::io::Error::other(error))),
        };
        if joined.is_err() {
            stopped.cancel();
        }
        joined
    }

    async fn enter(&self) -> Result<(), MemberError> {
        let config = &self.config;
        let started = BootTime::now();
        let deadline = Instant::now().checked_add(config.lease.saturating_mul(2));
        let new = NewMember {
            name: config.name.clone(),
            address: config.address.clone(),
            weight: config.weight,
            version: config.version.clone(),
            build: config.build.clone(),
            lease: config.lease,
            read_for: config.read_for,
        };
        let joined = loop {
            match self.store.join(&new).await {
                Ok(joined) => break joined,
                // An earlier life at another address may have died without a word: its lease tells.
                Err(MemberError::NameTaken { address })
                    if deadline.is_some_and(|deadline| Instant::now() < deadline) =>
                {
                    tracing::info!(address, "a node of this name is in the cluster; waiting for its end");
                    tokio::time::sleep(config.renew_every).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.table.join(joined.incarnation);
        self.table.lease.renewed(started);
        let update = self.store.view(0).await?;
        self.note_time(update.now, BootTime::now().since(started));
        self.wanted.send_modify(|known| *known = (*known).max(joined.version));
        self.table.update(update);
        let members = self.table.known().view.all_live().count();
        tracing::info!(
            node = config.name,
            address = config.address,
            incarnation = %joined.incarnation,
            view = joined.version,
            members,
            "joined the cluster"
        );
        self.announce(joined.version, None).await;
        Ok(())
    }

    /// Begins to take part: renews the lease, takes and gives slots of these orders.
    pub fn start(self: &Arc<Self>, orders: Arc<Orders>) {
        if self.orders.set(orders).is_ok() {
            self.handle.spawn(control::run(Arc::clone(self)));
        }
    }

    /// Which orders are this node's own.
    pub fn placement(&self) -> Arc<dyn Placement> {
        Arc::clone(&self.table) as Arc<dyn Placement>
    }

    /// This life.
    pub fn me(&self) -> Incarnation {
        self.table.me()
    }

    /// The newest view that this node knows.
    pub fn view_version(&self) -> i64 {
        self.table.version()
    }

    /// Ready when others have declared this node dead. It has to end: nothing it does counts any more.
    pub async fn died(&self) -> String {
        self.dead.cancelled().await;
        self.why.get().cloned().unwrap_or_default()
    }

    /// Whether the node takes part: its lease is good, and others know it.
    pub fn is_in(&self) -> bool {
        self.table.lease.serves()
    }

    /// Hands over everything that others can take, for at most `patience`; tells whether nothing is left to hand over.
    pub async fn leave(self: &Arc<Self>, patience: Duration) -> bool {
        self.begin_to_leave();
        let nothing_left = || {
            let (me, view) = (self.me(), Arc::clone(&self.table.known().view));
            let is_leaving = view.members.get(&me).is_none_or(|node| node.state != NodeState::Active);
            is_leaving && (view.slots_of(me) == 0 || view.all_active().next().is_none())
        };
        self.until(patience, nothing_left).await
    }

    fn begin_to_leave(self: &Arc<Self>) {
        let (cluster, node) = (Arc::clone(self), self.me());
        self.handle.spawn(async move {
            while cluster.table.is_active() && !cluster.table.lease.is_dead() {
                if !cluster.change(Change::Leave { node }).await {
                    tokio::time::sleep(LOOK).await;
                }
            }
        });
    }

    /// Says goodbye: what this node still owns may be taken at once. Nothing may run on it any more.
    pub async fn end(self: &Arc<Self>) {
        self.table.lease.end();
        let (cluster, node) = (Arc::clone(self), self.me());
        let ending = self.handle.spawn(async move {
            let ended = cluster.change(Change::End { node }).await;
            cluster.store.close().await;
            ended
        });
        let ended = tokio::time::timeout(self.config.lease, ending).await;
        if !matches!(ended, Ok(Ok(true))) {
            tracing::warn!("the other nodes could not be told that this one ends; they will find out");
        }
        self.stopped.cancel();
    }

    /// Stops taking part without a word, for a node that is dead.
    pub fn abandon(&self) {
        self.table.lease.end();
        self.stopped.cancel();
    }

    async fn until(&self, patience: Duration, holds: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        let deadline = start.checked_add(patience).unwrap_or(start);
        let mut changes = self.table.changes();
        loop {
            changes.mark_unchanged();
            if holds() {
                return true;
            }
            if self.table.lease.is_dead() || Instant::now() >= deadline {
                return false;
            }
            // Both mean to look again.
            let pause = deadline.saturating_duration_since(Instant::now()).min(LOOK);
            let _news = tokio::time::timeout(pause, changes.changed()).await;
        }
    }

    fn orders(&self) -> Option<&Arc<Orders>> {
        self.orders.get()
    }

    fn die(&self, why: &str) {
        self.table.lease.end();
        let _once = self.why.set(why.to_owned());
        self.table.note_change();
        self.dead.cancel();
    }

    /// There is a view of this version; it is read soon, if it is new.
    pub fn heard_of(&self, version: i64) {
        self.wanted.send_if_modified(|known| {
            let newer = version > *known;
            *known = version.max(*known);
            newer
        });
    }

    /// Reads what is new since `since`; false when that failed. On the cluster's thread only.
    async fn look(&self, since: i64) -> bool {
        let started = BootTime::now();
        match self.store.view(since).await {
            Ok(update) if update.version < since => {
                self.die(GONE_BACK);
                false
            }
            Ok(update) => {
                self.unread.store(false, Ordering::Relaxed);
                self.note_time(update.now, BootTime::now().since(started));
                self.adopt(update);
                true
            }
            Err(error) => {
                if !self.unread.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the cluster's records could not be read; trying again");
                }
                false
            }
        }
    }

    fn adopt(&self, update: crate::ports::members::ViewUpdate) {
        let before = self.table.known();
        let since = before.view.version;
        let Some((gained, lost)) = self.table.update(update) else { return };
        let known = self.table.known();
        for member in known.view.members.values() {
            let earlier = before.view.members.get(&member.incarnation).map(|member| member.state);
            if earlier != Some(member.state) {
                tracing::info!(
                    view = known.view.version,
                    node = member.name,
                    incarnation = %member.incarnation,
                    address = member.address,
                    state = member.state.as_str(),
                    "the cluster has changed"
                );
            }
        }
        if known.view.live(self.me()).is_none() {
            self.die("the other nodes have declared this one dead, because they could not reach it");
            return;
        }
        tracing::debug!(
            since,
            view = known.view.version,
            gained = gained.len(),
            lost = lost.len(),
            "new view"
        );
        let addresses: BTreeSet<&str> = known.view.all_live().map(|member| member.address.as_str()).collect();
        self.control.keep(&addresses);
        self.calls.keep(&addresses);
        self.watches.keep(&addresses);
        if let Some(orders) = self.orders().filter(|_| !gained.is_empty()) {
            orders.take_up(gained);
        }
    }

    /// Waits until a view is known that is at least so new, as far as it can be read. On the cluster's thread only.
    async fn learn(&self, version: i64) {
        self.heard_of(version);
        let known = self.table.version();
        if known < version {
            self.look(known).await;
        }
    }

    /// As [`Self::learn`], however long that takes: this node has made that view, and must not act on an older one.
    async fn know(&self, version: i64) {
        self.heard_of(version);
        loop {
            let known = self.table.version();
            if known >= version || self.table.lease.is_dead() {
                return;
            }
            if !self.look(known).await {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Makes a change that does not depend on which view it is, if the newest one allows it; false when not. On the
    /// cluster's thread only.
    async fn change(&self, change: Change) -> bool {
        for _ in 0..TRIES {
            let version = self.table.version();
            match self.store.change(version, &change).await {
                Ok(version) => {
                    tracing::info!(view = version, ?change, "changed the cluster");
                    self.announce(version, None).await;
                    self.learn(version).await;
                    return true;
                }
                Err(ChangeError::Refused) => {
                    if !self.look(version).await || self.table.version() == version {
                        // This very view does not allow it.
                        return false;
                    }
                }
                Err(error) => {
                    tracing::warn!(?change, %error, "the cluster's records could not be changed");
                    self.look(version).await;
                    return false;
                }
            }
        }
        false
    }

    /// Tells others of a new view; waits only for `first`, for as long as a probe may take.
    async fn announce(&self, version: i64, first: Option<Incarnation>) {
        let (me, known, patience) = (self.me(), self.table.known(), self.config.probe_timeout);
        let others = known.others(me).filter(|member| Some(member.incarnation) != first).take(TOLD_AT_ONCE);
        let addresses: Vec<String> = others.map(|member| member.address.clone()).collect();
        let control = self.control.clone();
        tokio::spawn(async move {
            join_all(addresses.iter().map(|address| control.announce(address, version, patience))).await;
        });
        // Whoever waits for this may give up; the others are told nevertheless.
        if let Some(member) = first.and_then(|node| known.view.live(node)) {
            self.control.announce(&member.address, version, patience).await;
        }
    }

    /// A part of a pause, by chance, so that nodes do not do everything at the same moment.
    fn pause(&self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let chance = uuid::Uuid::new_v4().as_u64_pair().0;
        Duration::from_micros(chance.checked_rem(micros.saturating_add(1)).unwrap_or(0))
    }

    fn note_time(&self, now: Timestamp, took: Duration) {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = Some((BootTime::now(), now));
        if let Some(orders) = self.orders() {
            orders.set_time(now, took);
        }
    }

    /// What time it is by the store's clock, at least.
    fn store_time(&self) -> Timestamp {
        let noted = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, time)) = noted else { return Timestamp::MIN_UTC };
        let passed = chrono::Duration::from_std(BootTime::now().since(at)).unwrap_or_default();
        time.checked_add_signed(passed).unwrap_or(time)
    }
}
