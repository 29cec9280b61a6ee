//! What a caller sees of an answer: what its roles need to know, and nothing else.
//!
//! Callers of the roles `service` and `admin` see all. For everybody else an answer is copied field by field, and only a
//! field with a row in [`fields`] is copied: what is added to a message is hidden until a row says who may see it. The
//! node that executes a call does it, and so does the one that the caller talks to; what was hidden once looks the same
//! when it is hidden again.

mod fields;
mod masks;
mod payload;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use self::fields::Message;
use super::watch;
use crate::domain::access::{Caller, Role};
use crate::domain::error::OrderError;
use crate::domain::ids::UserId;
use crate::domain::reach::Reach;
use crate::proto::answer::Answer;
use crate::proto::order as pb;

/// The roles that do not see all, in the order of the tables' columns.
const COLUMNS: [Role; 4] = [Role::Customer, Role::Support, Role::Warehouse, Role::Finance];

/// What a role sees of a field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum See {
    /// Nothing: as if it were empty.
    Hidden,
    /// Nothing, but for what is the caller's own doing.
    Mine,
    /// As its mask leaves it.
    Masked,
    /// All of it.
    Whole,
}

/// What each of [`COLUMNS`] sees.
type Cells = [See; 4];

/// Of whom a message tells, as seen by its reader.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Whose {
    /// The order is the reader's own.
    own: bool,
    /// The reader has caused what is told.
    mine: bool,
}

/// Who reads an answer.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    sees_all: bool,
    roles: [bool; 4],
    /// Whatever it is told of is its own.
    only_own: bool,
    user: Option<UserId>,
    principal: Arc<str>,
}

impl Viewer {
    /// The caller, who got at so many orders.
    pub(crate) fn new(caller: &Caller, reach: Reach) -> Self {
        Self {
            sees_all: caller.is(Role::Service) || caller.is(Role::Admin),
            roles: COLUMNS.map(|role| caller.is(role)),
            only_own: reach.is_own(),
            user: caller.user,
            principal: Arc::clone(&caller.principal),
        }
    }

    /// What it sees of a field. Of several roles the one that sees most counts; that of a customer counts for own orders
    /// only, or whoever orders for themselves would see more of all other orders, too.
    fn sees(&self, cells: &Cells, whose: Whose) -> See {
        if self.sees_all {
            return See::Whole;
        }
        let own = whose.own || self.only_own;
        let counted = COLUMNS
            .iter()
            .zip(self.roles)
            .zip(cells)
            .filter(|((role, has), _)| *has && (own || **role != Role::Customer));
        let seen = counted.map(|(_, cell)| match cell {
            See::Mine if whose.mine => See::Whole,
            See::Mine => See::Hidden,
            cell => *cell,
        });
        seen.max().unwrap_or(See::Hidden)
    }

    fn sees_whole(&self, cells: &Cells) -> bool {
        self.sees(cells, Whose::default()) == See::Whole
    }

    /// A refusal without what the caller does not see of the order either.
    pub(crate) fn refusal(&self, error: OrderError) -> OrderError {
        const NOT_SHOWN: &str = "NOT_SHOWN";
        let text = || NOT_SHOWN.to_owned();
        match error {
            OrderError::OnHold { status, .. } if !self.sees_whole(&fields::HOLD_REASON) => {
                OrderError::OnHold { status, reason: "ask support for the reason".to_owned() }
            }
            OrderError::PaymentDeclined { order_id, .. } if !self.sees_whole(&fields::MONEY) => {
                OrderError::PaymentDeclined { code: text(), order_id }
            }
            OrderError::PriceChanged { .. } if !self.sees_whole(&fields::MONEY) => {
                OrderError::PriceChanged { expected: text(), actual: text(), currency: text() }
            }
            error => error,
        }
    }

    fn reduce(&self, bytes: &[u8], message: &Message) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        wire::reduce(self, Whose::default(), bytes, message, &mut out);
        out
    }
}

/// An answer that may tell more than its caller may see.
pub(crate) trait Viewed: Sized {
    /// What of it the caller sees.
    fn seen_by(self, viewer: &Viewer) -> Self;
}

impl Viewed for Answer<pb::Order> {
    fn seen_by(self, viewer: &Viewer) -> Self {
        if viewer.sees_all {
            return self;
        }
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Message(message) => Bytes::from(message.encode_to_vec()),
        };
        Self::Bytes(viewer.reduce(&bytes, &fields::ORDER).into())
    }
}

/// Answers by the table of their fields.
macro_rules! viewed {
    ($($answer:ident by $table:ident,)+) => {
        $(impl Viewed for pb::$answer {
            fn seen_by(self, viewer: &Viewer) -> Self {
                if viewer.sees_all {
                    return self;
                }
                // What cannot be read is not shown.
                let reduced = viewer.reduce(&self.encode_to_vec(), &fields::$table);
                Self::decode(&*reduced).unwrap_or_default()
            }
        })+
    };
}

viewed! {
    GetOrderStatusResponse by STATUS,
    ListOrdersResponse by ORDERS,
    ListOrderEventsResponse by EVENTS,
    ListPaymentTransactionsResponse by TRANSACTIONS,
    WatchOrderResponse by WATCHED,
}

/// Each of its messages is reduced when it is sent.
impl Viewed for watch::Stream {
    fn seen_by(self, _viewer: &Viewer) -> Self {
        self
    }
}

#[cfg(test)]
mod tests;
