//! Where the cluster's view is kept: the arbiter of who is in and who owns what.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::Timestamp;
use crate::domain::membership::{Change, Incarnation, Member, NewMember, SlotOwner};

/// A node is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// This process life.
    pub incarnation: Incarnation,
    /// The view that it is in from on.
    pub version: i64,
}

/// The answer to a renewal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renewal {
    /// Whether the node is (still) in; its lease is renewed then. Once false, always false.
    pub is_member: bool,
    /// The newest view.
    pub version: i64,
    /// The store's clock.
    pub now: Timestamp,
    /// Live nodes whose lease is over.
    pub overdue: Vec<Incarnation>,
}

/// What is new since an earlier view. As of one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewUpdate {
    /// Which view this leads to.
    pub version: i64,
    /// The store's clock.
    pub now: Timestamp,
    /// All members that count: the live ones, owners of slots, and those that went lately.
    pub members: Vec<Member>,
    /// Slots whose epoch is above the version that was asked from.
    pub slots: Vec<(u16, SlotOwner)>,
}

/// Why a question was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MemberError {
    /// The store cannot be reached.
    #[error("the cluster's records cannot be reached: {0}")]
    Unavailable(String),
    /// A live node at another address has the name.
    #[error("a live node at {address} has this name already")]
    NameTaken {
        /// Where it is.
        address: String,
    },
}

/// Why a change was not made, or may not have been.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Not made: the view is another one, or does not allow it (yet). Look again.
    #[error("the view has changed or does not allow it")]
    Refused,
    /// Certainly not made.
    #[error("the change was not made: {0}")]
    NotMade(String),
    /// It may have been made, or may still be. Look again after a change that was made surely.
    #[error("it is not known whether the change was made: {0}")]
    Unknown(String),
}

/// The cluster's records. Every change is durable before it is told, and all nodes see them in one order.
#[async_trait]
pub trait MemberStore: Send + Sync + std::fmt::Debug {
    /// Takes a node in: see [`View::join`](crate::domain::membership::View::join).
    async fn join(&self, new: &NewMember) -> Result<Joined, MemberError>;

    /// Renews the lease of a live node for `lease` and notes how many orders are live on it.
    ///
    /// On a connection of its own: never waits for the other calls. One call at a time.
    async fn renew(
        &self,
        node: Incarnation,
        lease: Duration,
        live_orders: i64,
    ) -> Result<Renewal, MemberError>;

    /// What is new since view `since`; 0 = everything.
    async fn view(&self, since: i64) -> Result<ViewUpdate, MemberError>;

    /// Makes a change, if `expected` is the newest view and allows it: see
    /// [`View::apply`](crate::domain::membership::View::apply). Returns the new version.
    async fn change(&self, expected: i64, change: &Change) -> Result<i64, ChangeError>;

    /// Notes that `voter` cannot reach `suspect`, from now on.
    async fn vote(&self, suspect: Incarnation, voter: Incarnation) -> Result<(), MemberError>;

    /// Takes a vote back. To take back none does nothing.
    async fn withdraw(&self, suspect: Incarnation, voter: Incarnation) -> Result<(), MemberError>;

    /// Closes its connections.
    async fn close(&self);
}
