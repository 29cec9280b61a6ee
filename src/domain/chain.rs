//! The chain over an order's events: each holds a hash of itself and of the one before it, so whoever alters, removes,
//! inserts or swaps events in the store breaks it at a place that can be named.
//!
//! What is hashed are the texts of the row as they are stored, in whichever form that is, so that a check needs no key and
//! does not depend on how today's program would write the event. The hash is a plain SHA-256 of full length: it is no secret
//! who may compute it, so a forger who may write everything can also compute the rest of a chain anew. Against that,
//! heads are noted outside ([`check`] is told of them by its caller). Half of the length would do against altering what is
//! there, but not against somebody who has a say in an event's text and looks for two that collide.

use std::fmt;

use sha2::{Digest, Sha256};

use super::ids::OrderId;

/// Tells these hashes from any others, and versions of their form from each other.
const DOMAIN: &[u8] = b"order-events/1";

/// The hash of an event and, through the one before it, of all events up to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventHash(pub [u8; 32]);

impl EventHash {
    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0u8; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            let start = place.saturating_mul(2);
            *byte = u8::from_str_radix(text.get(start..start.saturating_add(2))?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An event as its row holds it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whose event.
    pub order: OrderId,
    /// Its place.
    pub seq: i64,
    /// The order's version with it.
    pub version: i64,
    /// When, in microseconds since 1970.
    pub at: i64,
    /// Its `type`.
    pub kind: &'a str,
    /// Its payload, to the byte.
    pub payload: &'a str,
    /// Who.
    pub principal: &'a str,
    /// As what.
    pub role: Option<&'a str>,
    /// Why.
    pub reason: Option<&'a str>,
    /// By which request.
    pub request_id: Option<&'a str>,
}

impl Entry<'_> {
    /// Its hash behind the event whose hash is `previous`; none = it begins the chain.
    ///
    /// Every text goes in behind its length, and what is absent is not what is empty, so no two rows read alike.
    pub fn hash(&self, previous: Option<EventHash>) -> EventHash {
        let mut bytes = Vec::with_capacity(256_usize.saturating_add(self.payload.len()));
        bytes.extend_from_slice(DOMAIN);
        bytes.extend_from_slice(&previous.unwrap_or(EventHash([0; 32])).0);
        bytes.extend_from_slice(self.order.0.as_bytes());
        for number in [self.seq, self.version, self.at] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for text in [Some(self.kind), Some(self.payload), Some(self.principal)] {
            add(&mut bytes, text);
        }
        for text in [self.role, self.reason, self.request_id] {
            add(&mut bytes, text);
        }
        EventHash(Sha256::digest(&bytes).into())
    }
}

fn add(bytes: &mut Vec<u8>, text: Option<&str>) {
    // No text is as long as this.
    let length = text.map_or(u64::MAX, |text| u64::try_from(text.len()).unwrap_or(u64::MAX));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// A row of events, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its place.
    pub seq: i64,
    /// The order's version with it.
    pub version: i64,
    /// When, in microseconds since 1970.
    pub at: i64,
    /// Its `type`.
    pub kind: String,
    /// Its payload, to the byte.
    pub payload: String,
    /// Who.
    pub principal: String,
    /// As what.
    pub role: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// By which request.
    pub request_id: Option<String>,
    /// The hash stored with it, in hexadecimal digits; none in rows from before there was a chain.
    pub hash: Option<String>,
}

/// All rows of one order, and what the order's own row says of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trail {
    /// The order.
    pub order: OrderId,
    /// Its last event, by its own row.
    pub event_seq: i64,
    /// The hash of that, by its own row; none before there was a chain.
    pub head: Option<EventHash>,
    /// Its events, by sequence.
    pub rows: Vec<Row>,
}

/// A place where the chain does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Break {
    /// The event.
    pub seq: i64,
    /// What is wrong with it; never with what it holds.
    pub what: String,
}

/// What a check of one order found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Checked {
    /// Events ahead of the chain's first: they are from before there was one.
    pub unchained: u64,
    /// Events in the chain.
    pub chained: u64,
    /// The last of them.
    pub last: Option<(i64, EventHash)>,
    /// Where it does not hold, by sequence.
    pub breaks: Vec<Break>,
}

impl Checked {
    fn broken(&mut self, seq: i64, what: impl Into<String>) {
        self.breaks.push(Break { seq, what: what.into() });
    }
}

/// Follows the chain from its first event to its last, and compares with what the order's own row says.
pub fn check(trail: &Trail) -> Checked {
    let mut checked = Checked::default();
    let mut expected = 1i64;
    for row in &trail.rows {
        let is_next = row.seq == expected;
        if !is_next {
            let last = row.seq.saturating_sub(1);
            checked.broken(expected, missing(expected, last));
        }
        expected = row.seq.saturating_add(1);
        let previous = checked.last.map(|(_, hash)| hash);
        let stored = match &row.hash {
            None if previous.is_none() => {
                checked.unchained = checked.unchained.saturating_add(1);
                continue;
            }
            None => {
                checked.broken(row.seq, "it has no hash, though events before it have one");
                continue;
            }
            Some(hash) => EventHash::from_hex(hash),
        };
        checked.chained = checked.chained.saturating_add(1);
        let computed = entry(trail.order, row).hash(previous);
        // Behind a gap nobody can say what it should be.
        if is_next && stored != Some(computed) {
            checked.broken(
                row.seq,
                "it is not what was recorded, or does not follow what was recorded before it",
            );
        }
        // What follows is judged by what is stored here, so that one break is told of once.
        checked.last = Some((row.seq, stored.unwrap_or(computed)));
    }
    if expected <= trail.event_seq {
        checked.broken(expected, missing(expected, trail.event_seq));
    } else if trail.rows.last().is_some_and(|row| row.seq != trail.event_seq) {
        let first = trail.event_seq.saturating_add(1);
        checked.broken(first, format!("the order knows of no event after {}", trail.event_seq));
    }
    let head = checked.last.map(|(_, hash)| hash);
    if checked.breaks.is_empty() && trail.head != head {
        checked.broken(trail.event_seq, "its hash is not the one in the order's own row");
    }
    checked
}

fn missing(first: i64, last: i64) -> String {
    if first == last {
        String::from("it is missing")
    } else {
        format!("events {first} to {last} are missing")
    }
}

fn entry(order: OrderId, row: &Row) -> Entry<'_> {
    Entry {
        order,
        seq: row.seq,
        version: row.version,
        at: row.at,
        kind: &row.kind,
        payload: &row.payload,
        principal: &row.principal,
        role: row.role.as_deref(),
        reason: row.reason.as_deref(),
        request_id: row.request_id.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

    use uuid::Uuid;

    use super::*;

    fn trail(unchained: i64, chained: i64) -> Trail {
        let order = OrderId(Uuid::from_u128(7));
        let mut rows = Vec::new();
        let mut head = None;
        for seq in 1..=unchained + chained {
            let mut row = Row {
                seq,
                version: 1 + seq / 3,
                at: 1_000 * seq,
                kind: String::from("status_changed"),
                payload: format!("{{\"type\":\"status_changed\",\"n\":{seq}}}"),
                principal: String::from("user:1"),
                role: Some(String::from("customer")),
                reason: None,
                request_id: Some(String::from("req")),
                hash: None,
            };
            if seq > unchained {
                let hash = entry(order, &row).hash(head);
                (row.hash, head) = (Some(hash.to_string()), Some(hash));
            }
            rows.push(row);
        }
        Trail { order, event_seq: unchained + chained, head, rows }
    }

    fn places(trail: &Trail) -> Vec<i64> {
        check(trail).breaks.iter().map(|broken| broken.seq).collect()
    }

    #[test]
    fn a_chain_that_nobody_touched_holds() {
        for (unchained, chained) in [(0, 0), (0, 1), (0, 9), (4, 0), (4, 5)] {
            let checked = check(&trail(unchained, chained));
            assert_eq!(checked.breaks, []);
            assert_eq!((checked.unchained, checked.chained), (unchained as u64, chained as u64));
        }
    }

    #[test]
    fn whatever_is_altered_is_found_where_it_is() {
        type Alter = fn(&mut Row);
        let alterations: [(&str, Alter); 10] = [
            ("payload", |row| row.payload.push(' ')),
            ("principal", |row| row.principal = String::from("user:2")),
            ("time", |row| row.at += 1),
            ("version", |row| row.version += 1),
            ("type", |row| row.kind = String::from("charged")),
            ("role", |row| row.role = None),
            ("no role", |row| row.role = Some(String::new())),
            ("reason", |row| row.reason = Some(String::from("because"))),
            ("request id", |row| row.request_id = None),
            ("hash", |row| row.hash = Some("0".repeat(64))),
        ];
        for (name, alter) in alterations {
            let mut altered = trail(2, 6);
            alter(&mut altered.rows[4]);
            // The one behind a false hash does not follow it either.
            let expected = if name == "hash" { vec![5, 6] } else { vec![5] };
            assert_eq!(places(&altered), expected, "{name}");
        }
        let mut moved = trail(0, 3);
        moved.order = OrderId(Uuid::from_u128(8));
        assert_eq!(places(&moved), [1, 2, 3], "events of another order");
    }

    #[test]
    fn what_is_missing_or_too_much_is_found() {
        let mut middle = trail(0, 6);
        middle.rows.remove(2);
        assert_eq!(places(&middle), [3]);
        let mut first = trail(0, 6);
        first.rows.remove(0);
        assert_eq!(places(&first), [1]);
        let mut last = trail(0, 6);
        last.rows.pop();
        assert_eq!(places(&last), [6]);
        // With the order's count set back, the order's head still tells.
        last.event_seq = 5;
        assert_eq!(places(&last), [5]);
        let mut swapped = trail(0, 6);
        swapped.rows.swap(2, 3);
        (swapped.rows[2].seq, swapped.rows[3].seq) = (3, 4);
        assert_eq!(places(&swapped), [3, 4, 5]);
        let mut inserted = trail(0, 6);
        let more = Row { seq: 7, hash: None, ..inserted.rows[5].clone() };
        inserted.rows.push(more);
        assert_eq!(places(&inserted), [7, 7]);
        let mut none = trail(0, 6);
        none.rows.clear();
        assert_eq!(places(&none), [1]);
        let mut bare = trail(0, 6);
        bare.rows.iter_mut().for_each(|row| row.hash = None);
        assert_eq!(places(&bare), [6], "a chain that was taken away");
    }

    #[test]
    fn hashes_are_written_and_read() {
        let hash = EventHash(std::array::from_fn(|place| place as u8 * 7));
        assert_eq!(EventHash::from_hex(&hash.to_string()), Some(hash));
        for text in ["", "00", "zz", &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(EventHash::from_hex(text), None);
        }
    }
}
