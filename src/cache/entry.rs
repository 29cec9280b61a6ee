//! How a copy is written where others could alter it: as JSON behind a tag that only a holder of the nodes' key can make. So
//! what is read is what a node wrote, of this order and this state, or it counts as nothing.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::Timestamp;
use crate::domain::chain::EventHash;
use crate::domain::ids::{IdKey, OrderId};
use crate::domain::order::Order;
use crate::ports::seen::{Glance, Mark};

/// Stands in every key: programs that write orders in another way do not meet. Raised when the JSON of an order changes, or
/// what a key holds.
pub(super) const FORM: u32 = 2;

/// The longest order that is kept, in bytes of JSON.
const MOST_BYTES: usize = 128 << 10;

/// Digits of a tag.
const TAG: usize = 16;

/// `VERSION-HASH-MICROS`, the hash as `none` where there is none.
pub(super) fn mark_text(mark: &Mark) -> String {
    let head = mark.head.map_or_else(|| "none".to_owned(), |head| head.to_string());
    format!("{}-{head}-{}", mark.version, mark.updated_at.timestamp_micros())
}

/// The mark in a text that [`mark_text`] made.
pub(super) fn read_mark(text: &str) -> Option<Mark> {
    let mut parts = text.splitn(3, '-');
    let version = parts.next()?.parse().ok()?;
    let head = match parts.next()? {
        "none" => None,
        hex => Some(EventHash::from_hex(hex)?),
    };
    let updated_at = Timestamp::from_timestamp_micros(parts.next()?.parse().ok()?)?;
    Some(Mark { version, head, updated_at })
}

/// Writes and reads what is kept.
#[derive(Debug)]
pub(super) struct Seal(pub(super) IdKey);

impl Seal {
    /// An order, if it is not too long.
    pub(super) fn order(&self, order: &Order, mark: &str) -> Option<Vec<u8>> {
        self.write("order", order.id, mark, order).filter(|bytes| bytes.len() <= MOST_BYTES)
    }

    /// Where an order stands.
    pub(super) fn glance(&self, glance: &Glance, mark: &str) -> Option<Vec<u8>> {
        self.write("glance", glance.id, mark, glance)
    }

    /// The order with this id and mark, if that is what it is.
    pub(super) fn read_order(&self, id: OrderId, mark: &str, bytes: &[u8]) -> Option<Arc<Order>> {
        self.read("order", id, mark, bytes)
    }

    /// As [`Self::read_order`].
    pub(super) fn read_glance(&self, id: OrderId, mark: &str, bytes: &[u8]) -> Option<Glance> {
        self.read("glance", id, mark, bytes)
    }

    /// Says that a node has noted the order to be of this mark at `at`. By itself, since a later time is noted alone.
    pub(super) fn time(&self, id: OrderId, mark: &str, at: i64) -> String {
        self.tag("time", id, mark, &at.to_be_bytes())
    }

    /// The time in this text, if this tag says that a node has noted it.
    pub(super) fn read_time(&self, id: OrderId, mark: &str, text: &str, tag: &str) -> Option<i64> {
        let at = text.parse().ok()?;
        (self.time(id, mark, at) == tag).then_some(at)
    }

    fn tag(&self, what: &str, id: OrderId, mark: &str, json: &[u8]) -> String {
        let parts = [what.as_bytes(), id.0.as_bytes(), mark.as_bytes(), json];
        format!("{:016x}", self.0.tag("cache", &parts))
    }

    fn write(&self, what: &str, id: OrderId, mark: &str, value: &impl Serialize) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(value).ok()?;
        let mut bytes = self.tag(what, id, mark, &json).into_bytes();
        bytes.extend_from_slice(&json);
        Some(bytes)
    }

    fn read<T: DeserializeOwned>(&self, what: &str, id: OrderId, mark: &str, bytes: &[u8]) -> Option<T> {
        let (tag, json) = bytes.split_at_checked(TAG)?;
        if tag != self.tag(what, id, mark, json).as_bytes() {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{OrderNumber, UserId};
    use crate::domain::status::{OrderStatus, PaymentStatus};

    const AT: i64 = 1_700_000_000_000_000;

    fn glance() -> Glance {
        Glance {
            id: OrderId(Uuid::from_u128(1)),
            user_id: UserId(Uuid::from_u128(2)),
            order_number: OrderNumber::parse("ORD-0123456789").unwrap(),
            status: OrderStatus::Pending,
            payment_status: PaymentStatus::Pending,
            version: 3,
            updated_at: Timestamp::from_timestamp_micros(AT).unwrap(),
        }
    }

    fn mark(version: i64) -> String {
        let updated_at = Timestamp::from_timestamp_micros(AT).unwrap();
        mark_text(&Mark { version, head: None, updated_at })
    }

    #[test]
    fn an_entry_whose_version_or_time_was_altered_is_refused() {
        let (seal, glance) = (Seal(IdKey(vec![7; 32])), glance());
        let id = glance.id;
        let entry = seal.glance(&glance, &mark(3)).unwrap();
        assert_eq!(seal.read_glance(id, &mark(3), &entry), Some(glance));
        for altered in [mark(2), mark(4), mark(3).replace("none", "no"), String::new()] {
            assert_eq!(seal.read_glance(id, &altered, &entry), None, "{altered}");
        }
        let (time, tag) = (AT.to_string(), seal.time(id, &mark(3), AT));
        assert_eq!(seal.read_time(id, &mark(3), &time, &tag), Some(AT));
        let other = OrderId(Uuid::from_u128(9));
        let later = (AT + 1).to_string();
        assert_eq!(seal.read_time(id, &mark(3), &later, &tag), None, "noted by nobody");
        assert_eq!(seal.read_time(id, &mark(4), &time, &tag), None, "of another state");
        assert_eq!(seal.read_time(other, &mark(3), &time, &tag), None, "of another order");
        let elsewhere = Seal(IdKey(vec![8; 32]));
        assert_eq!(elsewhere.read_time(id, &mark(3), &time, &tag), None, "by another key");
    }
}
