//! The store of orders: what must be durable, and when.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::Timestamp;
use crate::domain::chain::{Checked, EventHash, Trail};
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::{Order, RequestRecord};
use crate::domain::saga::SagaProgress;
use crate::domain::status::OrderStatus;
use crate::domain::verify::Entered;
use crate::ports::seen::{Glance, Mark, Seen};
use crate::ports::usage::{Backlog, StoreUsage};
use crate::ports::vault::KeyId;

/// How many of a user's orders are looked through for those that are open: what bounds that look.
pub const OPEN_AMONG: u32 = 1_000;

/// Who may write: one process life on one node, at one epoch of ownership. Epochs only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Epoch of the slot's ownership.
    pub epoch: i64,
    /// The process life; unique for ever.
    pub incarnation: i64,
}

/// The condition of a write: the row is at `version` and belongs to `owner`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteGuard {
    /// The version before the write; 0 = the order does not exist yet.
    pub version: i64,
    /// The owner that claimed it.
    pub owner: Owner,
    /// The key that a new order's texts are encrypted with: it is stored only while that key is not destroyed. None = they
    /// are not encrypted, or the order is there already.
    pub key: Option<KeyId>,
}

/// Which rows besides the order's own a commit writes. Everything for version 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched {
    /// The lines changed: they are replaced.
    pub items: bool,
    /// The addresses changed: they are replaced.
    pub addresses: bool,
    /// The shipments changed: each is inserted or updated; none is ever removed.
    pub shipments: bool,
    /// Ledger entries from this index on are new.
    pub payments_from: usize,
    /// [`Order::timer`] changed: its row is inserted or updated.
    pub timer: bool,
}

/// What a commit does to the use count of a coupon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CouponMove {
    /// Count one use, unless `use_limit` uses are counted already.
    Claim {
        /// Upper-cased code.
        code: String,
        /// At most this many uses; none = no limit.
        use_limit: Option<u32>,
    },
    /// Give the use of this order back. Giving back what is not claimed does nothing.
    Release {
        /// Upper-cased code.
        code: String,
    },
}

/// One order's change: all of it becomes durable, or none.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The condition.
    pub guard: WriteGuard,
    /// The order after the change; its version is `guard.version + 1`.
    ///
    /// Written once, with version 1, and never again: id, user, number, currency, payment and shipping method, metadata,
    /// request hash and creation time. Its `requests` and `failures` are not looked at: they come from the commits'
    /// `request`s and from sagas that settled with a failure.
    pub order: Arc<Order>,
    /// Which rows to write.
    pub touched: Touched,
    /// New events, in order; a `StatusChanged` (and the creation) also makes a row of status history.
    pub events: Vec<RecordedEvent>,
    /// The saga's record after the change: inserted or replaced, by order and number. An order has at most one that is
    /// not settled.
    pub saga: Option<SagaProgress>,
    /// A request id that this change answers.
    pub request: Option<RequestRecord>,
    /// What happens to the coupon.
    pub coupon: Option<CouponMove>,
    /// Where the events stand in the order's chain.
    pub chain: Chain,
}

/// Where the events of a commit stand in the chain of their order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Chain {
    /// The hash of the order's last stored event; none = the chain begins here.
    pub after: Option<EventHash>,
    /// One for each event. Made by the store, which knows how it writes them; empty until then.
    pub links: Vec<Link>,
}

/// An event as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its payload, to the byte.
    pub payload: String,
    /// Its hash.
    pub hash: EventHash,
}

impl Chain {
    /// A chain that goes on behind this event.
    pub fn after(after: Option<EventHash>) -> Self {
        Self { after, links: Vec::new() }
    }

    /// The hash of the last event once the commit is stored.
    pub fn head(&self) -> Option<EventHash> {
        self.links.last().map(|link| link.hash).or(self.after)
    }
}

/// An order as it is stored, with what its actor needs besides.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The order.
    pub order: Arc<Order>,
    /// Its saga that is not settled, if any.
    pub saga: Option<SagaProgress>,
    /// The hash of its last event; none where that is from before there was a chain.
    pub head: Option<EventHash>,
}

/// Why a commit did not, or may not have, become durable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// Not committed: the row is at another version or owner, or exists already. The writer is deposed.
    #[error("the order has changed under its writer")]
    Conflict,
    /// Not committed: the order number is taken.
    #[error("the order number is taken")]
    NumberTaken,
    /// Not committed: the coupon has no uses left.
    #[error("the coupon has no uses left")]
    CouponExhausted,
    /// Not done: the store has lost acknowledged changes of this order, and a person has to look first.
    #[error("the order is quarantined: the store has lost changes of it")]
    Quarantined,
    /// Not committed, not even tried: too many changes are waiting.
    #[error("the store queue is full, too many changes are waiting")]
    QueueFull,
    /// Certainly not committed, for a reason that may pass.
    #[error("the store did not take the change: {0}")]
    NotCommitted(String),
    /// It may have been committed. Load afresh before telling anyone.
    #[error("it is not known whether the change was stored: {0}")]
    Unknown(String),
}

/// Why a read failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or is overloaded.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The stored rows of one order make no sense; only that order is affected.
    #[error("the stored order {order} cannot be read: {what}")]
    Corrupt {
        /// Which order.
        order: OrderId,
        /// What is wrong; never with personal data.
        what: String,
    },
}

/// Which orders to list, newest first unless `oldest_first`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListQuery {
    /// Only this user's.
    pub user_id: Option<UserId>,
    /// Only these statuses; empty = all.
    pub statuses: Vec<OrderStatus>,
    /// Created at or after.
    pub created_after: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
    /// Continue behind this order.
    pub after: Option<ListCursor>,
    /// At least 1; a page and one more, to tell whether there is a next.
    pub limit: u32,
}

/// The last order of a page: the next page continues behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListCursor {
    /// Its creation time.
    pub created_at: Timestamp,
    /// Its id, which breaks ties.
    pub id: OrderId,
}

/// A saga that is not settled, or a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unfinished {
    /// The order.
    pub order_id: OrderId,
    /// When its next call, or its timer, is due; the saga's start for one that was running.
    pub due_at: Timestamp,
}

/// An order of which less is stored than was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regression {
    /// The order.
    pub id: OrderId,
    /// The version that was acknowledged.
    pub known: i64,
    /// The version that is stored; 0 = the order is gone.
    pub stored: i64,
}

/// An order that is set aside because the store has lost changes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quarantine {
    /// What is missing.
    pub regression: Regression,
    /// Since when.
    pub since: Timestamp,
}

/// An order of a scan.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Its id.
    pub id: OrderId,
    /// All that is stored of it; or what cannot be read, by table and column, never with personal data.
    pub found: Result<Evidence, String>,
}

/// All that is stored of one order, as of one moment.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The order and its saga that is not settled.
    pub stored: Stored,
    /// Every event, by sequence.
    pub events: Vec<RecordedEvent>,
    /// Every row of status history, by sequence.
    pub history: Vec<Entered>,
    /// What became of following the chain of the events.
    pub chain: Checked,
}

/// An order of a walk along the chains.
#[derive(Clone, Debug)]
pub struct Trailed {
    /// Its id.
    pub id: OrderId,
    /// Its events as they are stored; or what cannot be read, by table and column, never with personal data.
    pub found: Result<Trail, String>,
}

/// What is stored about orders. Implementations pass one conformance suite.
#[async_trait]
pub trait OrderStore: Send + Sync + std::fmt::Debug {
    /// Makes `owner` the only writer of the order and returns its newest state; none when there is no such order.
    ///
    /// Durable when it returns: a writer with an older epoch or another incarnation can commit nothing from now on.
    /// Refused with [`ClaimError::Deposed`] when the order belongs to a higher epoch; at the same epoch the last claim
    /// counts. What comes back holds: a change of this owner whose fate was unknown before is in it or never will be.
    /// Only a creation may still arrive after a claim that found nothing; whoever creates the order again meets it.
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError>;

    /// Stores one change. Durable when it returns `Ok`; all or nothing; order of commits per order is kept.
    ///
    /// The work runs in a task of the store: dropping the future neither stops nor harms it. Comes back with the hash of
    /// the order's last event, which the next commit goes on from.
    async fn append(&self, commit: Commit) -> Result<Option<EventHash>, CommitError>;

    /// As [`Self::append`], for those who write no more behind it.
    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.append(commit).await.map(drop)
    }

    /// The order as last committed.
    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError>;

    /// The order as it was committed, perhaps a little while ago: a replica or a cache may answer. Nothing is decided on it.
    async fn load_stale(&self, id: OrderId) -> Result<Option<Seen<Stored>>, StoreError> {
        Ok(self.load(id).await?.map(Seen::now))
    }

    /// Where the order stands, or stood a little while ago: a cache may answer.
    async fn glance(&self, id: OrderId) -> Result<Option<Seen<Glance>>, StoreError> {
        Ok(self.load(id).await?.map(|stored| Seen::now(Glance::of(&stored.order))))
    }

    /// The mark of the order as last committed. Fails where [`Self::load`] would because the order is quarantined.
    async fn mark(&self, id: OrderId) -> Result<Option<Mark>, StoreError> {
        Ok(self.load(id).await?.as_ref().map(Mark::of))
    }

    /// The marks of what [`Self::list`] answers, in its order, as of one moment; none = there is no way to them that is
    /// cheaper than the list, or an order of the page is quarantined.
    async fn marks(&self, _query: &ListQuery) -> Result<Option<Vec<(OrderId, Mark)>>, StoreError> {
        Ok(None)
    }

    /// As [`Self::list`], with all that is stored of the orders; none = the store does not tell.
    async fn page(&self, _query: &ListQuery) -> Result<Option<Vec<Stored>>, StoreError> {
        Ok(None)
    }

    /// Whether lists, and what may be a little late, come from a replica.
    fn has_replica(&self) -> bool {
        false
    }

    /// The order with this number.
    async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError>;

    /// One page of orders. One that cannot be read is left out, logged and counted, and does not shorten the page.
    async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, StoreError>;

    /// Events with `seq > after_seq`, in order, at most `limit`.
    async fn events(&self, id: OrderId, after_seq: i64, limit: u32)
    -> Result<Vec<RecordedEvent>, StoreError>;

    /// Sagas that are not settled and due before `due_before`, by due time and id, behind `after`, at most `limit`.
    async fn unfinished(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError>;

    /// Timers ([`Order::timer`]) that are due before `due_before`, by due time and id, behind `after`, at most `limit`.
    async fn timers(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError>;

    /// How many orders this user created at `since` or later, counted up to `at_most`.
    async fn count_of_user(&self, user: UserId, since: Timestamp, at_most: u32) -> Result<u32, StoreError>;

    /// Orders of this user that are PENDING, at most `at_most`, among the newest [`OPEN_AMONG`]. Never from a replica.
    async fn open_of_user(&self, user: UserId, at_most: u32) -> Result<Vec<OrderId>, StoreError>;

    /// How long the change that has waited longest to be written has waited by now; zero when none waits.
    fn oldest_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// How much of the store's means is in use now. Costs no more than a look at memory.
    fn usage(&self) -> StoreUsage {
        StoreUsage::default()
    }

    /// How much is unfinished; each number counted up to `at_most`, which bounds what this costs. Sagas that began before
    /// `started_before` count as stuck.
    async fn backlog(&self, _started_before: Timestamp, _at_most: u32) -> Result<Backlog, StoreError> {
        Ok(Backlog::default())
    }

    /// What time it is by the store's own clock, to the microsecond; none where the machine's clock is the only one.
    async fn now(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Grows each time the store has connected to its database: to what server is not known, so whatever was acknowledged
    /// before should be looked for.
    fn reconnects(&self) -> watch::Receiver<u64>;

    /// The stored versions of these orders; those that are not stored are left out.
    async fn versions(&self, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError>;

    /// Notes durably that acknowledged changes of these orders are missing. From then on they can be neither claimed nor
    /// loaded, by any node, until an operator has looked.
    async fn quarantine(&self, regressions: &[Regression], at: Timestamp) -> Result<(), StoreError>;

    /// Whether and why the order is quarantined.
    async fn quarantined(&self, id: OrderId) -> Result<Option<Quarantine>, StoreError>;

    /// Ends the quarantine of an order: what is stored counts again. Durable when it returns; to end none does nothing.
    async fn release(&self, id: OrderId) -> Result<(), StoreError>;

    /// Takes out of an order what is plain and stands beside what its changes write: its metadata, and what was noted with
    /// sagas that have ended. That is no new version, but another mark where metadata goes, so that no copy of what was
    /// there before is believed. To repeat it does nothing.
    async fn take_out(&self, id: OrderId) -> Result<(), StoreError>;

    /// Orders that call for a person, or whose saga began before `started_before` and has not settled, or that are
    /// quarantined: by id, behind `after`, at most `limit`.
    ///
    /// Reads the records of all sagas that are not settled, however few it finds.
    async fn stuck(
        &self,
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError>;

    /// All orders by id, behind `after`, at most `limit` (at least 1), with everything that is stored of them; a page
    /// shorter than `limit` is the last one.
    ///
    /// Each order is read at one moment, never half before and half after a commit; two orders of a page need not be.
    /// Takes no lock that a writer would wait for. An order that cannot be read has its place on the page.
    async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError>;

    /// The events of all orders as they are stored, to follow their chains: by id, behind `after`, at most `limit` (at
    /// least 1), those changed at `since` or later where that is given; a page shorter than `limit` is the last one.
    ///
    /// As with [`Self::scan`], each order is read at one moment, nobody waits for the reading, and an order that cannot be
    /// read has its place on the page.
    async fn trails(
        &self,
        after: Option<OrderId>,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Trailed>, StoreError>;

    /// Whether the store answers at all, within a short time.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits until everything queued is stored, then closes files and connections.
    async fn close(&self);
}

/// Why an order could not be claimed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClaimError {
    /// It belongs to a higher epoch.
    #[error("the order belongs to a newer owner")]
    Deposed,
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}
