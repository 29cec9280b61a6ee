//! What may be asked of an order, and by whom.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Timestamp;
use super::access::Caller;
use super::address::Address;
use super::amend::Edit;
use super::ids::{OrderId, OrderNumber, UserId};
use super::item::OrderItem;
use super::money::Currency;
use super::payment::PaymentToken;
use super::pricing::{CouponUse, Totals};
use super::reach::Reach;
use super::refund::Wish;
use super::repair::RepairOrder;
use super::status::OrderStatus;
use super::trace::TraceContext;

/// What a request carries besides its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestContext {
    /// Names this request in logs and in outward calls, at most 64 characters.
    pub request_id: Arc<str>,
    /// Where in its trace it is executed; none where nobody traces it.
    pub trace: Option<TraceContext>,
}

/// A repeatable request: the caller's id, and the hash of method and content that the id stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repeatable {
    /// The caller's id, 1..=64 characters.
    pub request_id: String,
    /// The first 16 bytes of a SHA-256 over method and content.
    pub hash: [u8; 16],
}

/// A checked and priced order that is not stored yet.
#[derive(Clone)]
pub struct Draft {
    /// Its id.
    pub id: OrderId,
    /// Its number; another one is drawn when the store finds it taken.
    pub order_number: OrderNumber,
    /// Whose it is.
    pub user_id: UserId,
    /// All amounts are in this.
    pub currency: Currency,
    /// Sums.
    pub totals: Totals,
    /// Lines with their ids.
    pub items: Vec<OrderItem>,
    /// Shipping, then billing.
    pub addresses: Vec<Address>,
    /// Upper-cased name from the price book.
    pub payment_method: String,
    /// Secret; kept until the charge is settled.
    pub payment_token: Option<PaymentToken>,
    /// Upper-cased name from the price book.
    pub shipping_method: String,
    /// Free text.
    pub notes: String,
    /// The coupon to claim.
    pub coupon: Option<CouponUse>,
    /// Free pairs.
    pub metadata: BTreeMap<String, String>,
    /// Hash of the request.
    pub request_hash: [u8; 16],
    /// Why it is to be held before it is paid, as [`super::risk::RiskRules`] say; none = it is not.
    pub risk: Option<String>,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("id", &self.id).field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// Tracking told by the caller of a status change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracking {
    /// At most 100 characters.
    pub carrier: String,
    /// At most 100 characters.
    pub tracking_number: String,
}

/// What is asked of one order.
#[derive(Clone, Debug)]
pub enum OrderCommand {
    /// Store it and run its Create saga.
    Create(Box<Draft>),
    /// The answer to a creation that was stored before.
    Rejoin {
        /// Whose the order has to be.
        user_id: UserId,
        /// What the creation has to have asked.
        request_hash: [u8; 16],
    },
    /// Unwind it.
    Cancel {
        /// Free text, kept as the note of the status change.
        notes: String,
    },
    /// Move it along the status table.
    SetStatus {
        /// Where to.
        to: OrderStatus,
        /// Free text, kept in the history.
        notes: String,
        /// Carrier and number, when shipping.
        tracking: Option<Tracking>,
    },
    /// Give money back while it lives on.
    Refund {
        /// What.
        wish: Wish,
        /// Free text, kept in the history.
        reason: String,
    },
    /// Give it other items.
    Edit(Box<Edit>),
    /// Send it in one parcel more.
    AddShipment {
        /// Who carries it, where the label came from elsewhere; none = a label is made.
        tracking: Option<Tracking>,
    },
    /// Stop its forward moves. One that is held already is held for the new reason from now on.
    Hold {
        /// Why, 1..=200 characters.
        reason: String,
        /// Until when; none = until released.
        until: Option<Timestamp>,
    },
    /// Let it move again.
    Release {
        /// Free text, kept in the history.
        notes: String,
    },
    /// An operator's repair.
    Repair(RepairOrder),
}

impl OrderCommand {
    /// Whether its answer waits for no saga.
    pub fn is_noted(&self) -> bool {
        matches!(self, Self::Hold { .. } | Self::Release { .. } | Self::Repair(_))
    }
}

/// A command with everything that decides whether it is taken.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who asks.
    pub caller: Caller,
    /// Whose orders they get at; any other order is none.
    pub reach: Reach,
    /// The request's context.
    pub context: RequestContext,
    /// The version the caller saw, if it cares.
    pub expected_version: Option<i64>,
    /// Makes the command repeatable.
    pub repeatable: Option<Repeatable>,
    /// What.
    pub command: OrderCommand,
}

impl Ask {
    /// Whether asking again does no more than asking once, and is told no less, when it is not known if the first was
    /// stored. A refund or an edit without a request id would be carried out twice, or be refused because of itself.
    pub fn may_be_repeated(&self) -> bool {
        match &self.command {
            _ if self.repeatable.is_some() => true,
            OrderCommand::Create(_) | OrderCommand::Rejoin { .. } => true,
            // The version it names would be gone.
            _ if self.expected_version.is_some() => false,
            OrderCommand::Cancel { .. } | OrderCommand::Hold { .. } | OrderCommand::Release { .. } => true,
            OrderCommand::SetStatus { to, .. } => *to != OrderStatus::Processing,
            // A repair is tied to what was seen of the order, so it would meet what it did itself.
            OrderCommand::Refund { .. }
            | OrderCommand::Edit(_)
            | OrderCommand::AddShipment { .. }
            | OrderCommand::Repair(_) => false,
        }
    }
}
