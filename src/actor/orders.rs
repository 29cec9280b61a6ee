//! The handle to all orders of this node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorRuntime};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crash::CrashPoint;
use super::message::{Answer, Message, Reply};
use super::order_actor::OrderActor;
use super::registry::{Admission, Counts, Entry};
use super::shared::{ActorConfig, Shared};
use super::skip::SkippedUndo;
use super::supervisor::Supervisor;
use super::sweeper;
use super::waiters::{Want, answer};
use super::watch::Watcher;
use crate::domain::Timestamp;
use crate::domain::command::{Ask, OrderCommand};
use crate::domain::error::OrderError;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{IdKey, OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::domain::react::Policy;
use crate::ports::Collaborators;
use crate::ports::cache::OrderCache;
use crate::ports::clock::Clock;
use crate::ports::placement::Placement;
use crate::ports::store::{ListQuery, OrderStore, StoreError};
use crate::steps::StepLimits;

/// How often a command is given to a fresh actor after one ended under it.
const ASK_ATTEMPTS: u32 = 4;

/// How often a stopping node looks whether the last order has come to rest.
const REST_CHECK: Duration = Duration::from_millis(10);

/// At most so many orders whose actor failed wait for the sweeper; it finds the others by itself, later.
const ORPHANS: usize = 10_000;

/// What the actors are built from.
#[derive(Debug)]
pub struct Parts {
    /// Where orders are stored.
    pub store: Arc<dyn OrderStore>,
    /// Where passive orders are kept near by.
    pub cache: Arc<dyn OrderCache>,
    /// The other services.
    pub collaborators: Collaborators,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Keys the hashes of ids and numbers.
    pub key: IdKey,
    /// How patient sagas are.
    pub policy: Policy,
    /// Limits of a step's call.
    pub limits: StepLimits,
    /// Limits of the actor layer.
    pub config: ActorConfig,
    /// Which orders are this process's own.
    pub placement: Arc<dyn Placement>,
    /// Where a test wants this process killed.
    pub crash_at: Option<CrashPoint>,
    /// What a test wants this process to leave undone.
    pub skip_undo: Option<SkippedUndo>,
}

/// The handle everyone uses: ask, view, watch, stop.
#[derive(Debug)]
pub struct Orders {
    shared: Arc<Shared>,
    supervisor: ActorCell,
    sweepers: CancellationToken,
}

impl Orders {
    /// Starts the supervisor, and the sweepers that passivate idle orders and resume unfinished sagas.
    ///
    /// # Errors
    /// When the supervisor cannot be spawned.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, String> {
        let (supervisor, _join) =
            Actor::spawn(None, Supervisor, ()).await.map_err(|error| error.to_string())?;
        let (orphans, left) = mpsc::channel(ORPHANS);
        let orders = Arc::new(Self {
            shared: Arc::new(Shared::new(parts, orphans)),
            supervisor: supervisor.get_cell(),
            sweepers: CancellationToken::new(),
        });
        orders.shared.clock.set_by(&*orders.shared.store).await;
        sweeper::start(&orders, left, &orders.sweepers);
        Ok(orders)
    }

    /// The clock that all orders go by: that of the store, where it has one.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock) as Arc<dyn Clock>
    }

    /// How many orders the user created at `since` or later, counted up to `at_most`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count_of_user(
        &self,
        user: UserId,
        since: Timestamp,
        at_most: u32,
    ) -> Result<u32, OrderError> {
        self.shared.store.count_of_user(user, since, at_most).await.map_err(refuse_read)
    }

    /// Orders of the user that hold stock and are not paid, at most `at_most`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_orders_of_user(&self, user: UserId, at_most: u32) -> Result<Vec<OrderId>, OrderError> {
        self.shared.store.open_of_user(user, at_most).await.map_err(refuse_read)
    }

    /// How long the change that has waited longest to be stored has waited by now.
    pub fn oldest_wait(&self) -> Duration {
        self.shared.store.oldest_wait()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many orders are live.
    pub fn counts(&self) -> Counts {
        self.shared.registry.counts()
    }

    /// Gives a command to the order's actor and waits until its saga has settled.
    ///
    /// After `wait` the answer is the order as it stands, provided that the command is stored. Dropping the future
    /// stops nothing that is stored or under way. `fresh` says that a creation is most likely no
    /// repeat, so that the store need not be asked first: it refuses one that is.
    ///
    /// # Errors
    /// The refusals of the command; `Overloaded` at a limit; `StorageUnavailable` when nothing is certain in time.
    pub async fn ask(&self, id: OrderId, ask: Ask, wait: Duration, fresh: bool) -> Answer {
        let start = Instant::now();
        let hard = start.checked_add(self.shared.config.max_wait).unwrap_or(start);
        let soft = start.checked_add(wait).unwrap_or(hard).min(hard);
        let mut fresh = fresh;
        for _ in 0..ASK_ATTEMPTS {
            let (entry, permit) = self.admit(id)?;
            let (reply, mut heard, mut accepted) = Reply::new();
            let message = Message::Ask { ask: Box::new(ask.clone()), fresh, reply, permit };
            fresh = false;
            if entry.actor().cast(message).is_err() {
                self.shared.leave(id, &entry);
                continue;
            }
            let answered = match tokio::time::timeout_at(soft, &mut heard).await {
                Ok(answered) => answered,
                Err(_elapsed) => {
                    // Out of patience, but nothing is certain until the command is stored: this long at least.
                    let certain = async {
                        tokio::select! {
                            biased;
                            answered = &mut heard => Some(answered),
                            Ok(_permit) = &mut accepted => None,
                        }
                    };
                    match tokio::time::timeout_at(hard, certain).await {
                        Ok(Some(answered)) => answered,
                        // Stored and under way: the order as it stands is a true answer.
                        Ok(None) => return entry.published().ok_or(OrderError::StorageUnavailable),
                        Err(_elapsed) => return Err(OrderError::StorageUnavailable),
                    }
                }
            };
            match answered {
                Ok(answer) => return answer,
                // The actor ended before it answered. A command it had stored is under way, and the order as it stands
                // is its answer; of any other, what is stored decides.
                Err(_dropped) => {
                    let is_lost = self.shared.placement.owner(id.slot()) != Some(entry.owner());
                    if accepted.try_recv().is_ok()
                        && let Some(order) = entry.published()
                    {
                        // Its new owner can tell how it ended, provided that it can tell that it is the same request.
                        if is_lost && ask.repeatable.is_some() {
                            return Err(OrderError::NotOwner);
                        }
                        return Ok(order);
                    }
                }
            }
        }
        Err(OrderError::StorageUnavailable)
    }

    /// The answer to a creation that may have been stored before; none when it was not.
    ///
    /// # Errors
    /// As of [`Self::ask`]; `RequestIdReused` when the stored order was asked for otherwise.
    pub async fn rejoin(
        &self,
        id: OrderId,
        ask: Ask,
        wait: Duration,
    ) -> Result<Option<Arc<Order>>, OrderError> {
        if self.shared.registry.get(id).is_none() {
            let stored = self.shared.store.load(id).await.map_err(refuse_read)?;
            let Some(stored) = stored else { return Ok(None) };
            if let OrderCommand::Rejoin { user_id, request_hash } = &ask.command
                && (stored.order.user_id, stored.order.request_hash) != (*user_id, *request_hash)
            {
                return Err(OrderError::RequestIdReused);
            }
            // A settled order answers without being woken.
            if stored.saga.is_none() {
                return answer(&stored.order, Want::Goal(1)).map(Some);
            }
        }
        match self.ask(id, ask, wait, false).await {
            // The first creation is live but not stored yet, or was refused: the caller makes its own attempt.
            Err(OrderError::OrderNotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The id behind an order number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&self, number: &OrderNumber) -> Result<Option<OrderId>, OrderError> {
        self.shared.store.find_by_number(number).await.map_err(refuse_read)
    }

    /// One page of orders as last committed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, OrderError> {
        self.shared.store.list(query).await.map_err(refuse_read)
    }

    /// Events behind `after_seq`, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, OrderError> {
        self.shared.store.events(id, after_seq, limit).await.map_err(refuse_read)
    }

    /// The order as the store has it; none when there is no such order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn stored(&self, id: OrderId) -> Result<Option<Arc<Order>>, OrderError> {
        let stored = self.shared.store.load(id).await.map_err(refuse_read)?;
        Ok(stored.map(|stored| stored.order))
    }

    /// Takes part in the order's feed of events; `order` is it as last seen. Needs a runtime.
    pub fn watch(self: &Arc<Self>, order: &Order) -> Watcher {
        Watcher::new(self, order)
    }

    /// How many orders are watched on this node.
    pub fn watched(&self) -> usize {
        self.shared.hub.feeds()
    }

    /// Starts the actor of an order whose saga is unfinished.
    pub(super) fn wake(&self, id: OrderId, place: OwnedSemaphorePermit) -> Result<(), OrderError> {
        // Work that was begun comes before new work: its places bound it, not the limit of live orders.
        let entry = self.activate(id, usize::MAX)?;
        // An actor that ended right now will be found unfinished again.
        let _gone = entry.actor().cast(Message::Wake { place });
        Ok(())
    }

    /// Has an order loaded that somebody may ask for soon.
    pub(super) fn warm(&self, id: OrderId, place: OwnedSemaphorePermit) -> Result<(), OrderError> {
        let entry = self.activate(id, self.shared.config.max_live)?;
        let _gone = entry.actor().cast(Message::Wake { place });
        Ok(())
    }

    fn admit(&self, id: OrderId) -> Result<(Arc<Entry>, super::registry::Permit), OrderError> {
        if self.shared.is_stopping() {
            return Err(OrderError::ShuttingDown);
        }
        let limit = self.shared.config.max_commands_per_order;
        loop {
            let entry = self.activate(id, self.shared.config.max_live)?;
            match entry.admit(limit, self.shared.now_millis()) {
                Admission::Granted(permit) => return Ok((entry, permit)),
                Admission::Full => {
                    metrics::counter!("order_commands_refused_total").increment(1);
                    let what = "this order has too many commands in flight";
                    return Err(OrderError::Overloaded { what });
                }
                // It leaves: make room for a fresh one.
                Admission::Closed => self.shared.leave(id, &entry),
            }
        }
    }

    fn activate(&self, id: OrderId, max_live: usize) -> Result<Arc<Entry>, OrderError> {
        let owner = self.shared.placement.owner(id.slot()).ok_or(OrderError::NotOwner)?;
        self.shared.check_trouble(id)?;
        // An actor of an earlier ownership may still be there, and would be refused whatever it wants to store.
        if let Some(entry) = self.shared.registry.get(id).filter(|entry| entry.owner() != owner) {
            self.shared.leave(id, &entry);
            let _gone = entry.actor().cast(Message::Release);
        }
        let spawn = || {
            let behavior = OrderActor(Arc::clone(&self.shared));
            let supervisor = self.supervisor.clone();
            match ActorRuntime::spawn_linked_instant(None, behavior, (id, owner), supervisor) {
                Ok((actor, _join)) => {
                    self.shared.tally.activations.increment(1);
                    Some(Entry::new(actor, owner, self.shared.now_millis()))
                }
                Err(error) => {
                    tracing::error!(order_id = %id, %error, "an order's actor could not be spawned");
                    None
                }
            }
        };
        let entry = self.shared.registry.get_or_spawn(id, max_live, spawn);
        entry.ok_or_else(|| {
            metrics::counter!("order_actors_refused_total").increment(1);
            OrderError::Overloaded { what: "this node has too many live orders" }
        })
    }

    /// Starts nothing of its own any more; commands are still taken.
    pub fn quiesce(&self) {
        self.sweepers.cancel();
    }

    /// Takes no more commands, lets what runs come to rest for at most `grace`, then closes the store.
    ///
    /// What has not come to rest by then goes on at the next start: what is stored says what may be under way.
    pub async fn stop(&self, grace: Duration) {
        self.shared.stopping.store(true, Ordering::Release);
        self.quiesce();
        let start = Instant::now();
        let deadline = start.checked_add(grace).unwrap_or(start);
        let mut check = tokio::time::interval(REST_CHECK);
        loop {
            let mut busy = 0usize;
            self.shared.registry.each(|_, entry| busy = busy.saturating_add(usize::from(entry.is_busy())));
            if busy == 0 {
                break;
            }
            if Instant::now() >= deadline {
                tracing::warn!(orders = busy, "stopping with sagas under way; they go on at the next start");
                break;
            }
            check.tick().await;
        }
        self.supervisor.stop_children(None);
        self.supervisor.stop(None);
        self.shared.store.close().await;
    }
}

pub(super) fn refuse_read(error: StoreError) -> OrderError {
    tracing::warn!(%error, "a read failed");
    match error {
        StoreError::Unavailable(_) => OrderError::StorageUnavailable,
        StoreError::Corrupt { .. } => {
            metrics::counter!("order_corrupt_reads_total").increment(1);
            OrderError::Quarantined
        }
    }
}
