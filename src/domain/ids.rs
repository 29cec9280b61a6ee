//! Identifiers: how they are laid out, derived and shown.
//!
//! Everything random about an order comes from one place, the [`OrderId`]; ids of its parts are hashes of it
//! and a counter. So the domain needs no source of randomness and a replayed command makes the same ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use super::Timestamp;

/// Slots that orders are spread over; the slot stands in every order id and order number.
pub const SLOTS: u16 = 4096;

/// Digits of Crockford's base 32 (no I, L, O, U).
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// An order: UUID of version-7 layout, 48 bits of time, 12 bits of slot, 62 bits of hash or randomness.
    OrderId
}
uuid_id! {
    /// A user of the platform; owned by the User service.
    UserId
}

/// The secret that keys the slot and id hashes. Changing it makes repeated requests miss their order.
#[derive(Clone)]
pub struct IdKey(pub Vec<u8>);

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey(***)")
    }
}

impl IdKey {
    /// A tag that only a holder of this key can make: for opaque tokens.
    pub fn tag(&self, purpose: &str, parts: &[&[u8]]) -> u64 {
        keyed_hash(&self.0, purpose, parts) as u64
    }
}

/// A hash of a request's method and content: equal requests have equal hashes.
pub fn content_hash(method: &str, parts: &[&[u8]]) -> [u8; 16] {
    keyed_hash(&[], method, parts).to_be_bytes()
}

/// SHA-256 over the key, a purpose and length-prefixed parts; the first 16 bytes.
fn keyed_hash(key: &[u8], purpose: &str, parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in [key, purpose.as_bytes()].iter().chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0u8; 16];
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    u128::from_be_bytes(first)
}

impl OrderId {
    /// 62 bits that are a hash or random, to spread orders by.
    pub fn low_bits(self) -> u64 {
        self.0.as_u64_pair().1 & (u64::MAX >> 2)
    }

    /// The id of a new order.
    ///
    /// With a `request_id` the id depends on nothing but user, request id and key, so a repeated request meets the
    /// same order on any node, for ever: the low 62 bits are their hash, and the 48 bits of time are those of the
    /// request id when it is a UUIDv7 (ids still grow with time), else hashed too. Without one, time is `now` and
    /// the low bits are `random`.
    pub fn for_request(
        key: &IdKey,
        user: UserId,
        request_id: Option<&str>,
        now: Timestamp,
        random: u64,
    ) -> Self {
        let slot = u128::from(Self::slot_of(key, user));
        let (millis, low) = match request_id {
            None => (now.timestamp_millis().unsigned_abs(), random),
            Some(request) => {
                let hash = keyed_hash(&key.0, "order", &[user.0.as_bytes(), request.as_bytes()]);
                let time = match Uuid::try_parse(request) {
                    Ok(id) if id.get_version_num() == 7 => (id.as_u128() >> 80) as u64,
                    _ => (hash >> 80) as u64,
                };
                (time, hash as u64)
            }
        };
        let raw = (u128::from(millis & 0xFFFF_FFFF_FFFF) << 80)
            | (7u128 << 76)
            | (slot << 64)
            | (0b10u128 << 62)
            | u128::from(low & 0x3FFF_FFFF_FFFF_FFFF);
        Self(Uuid::from_u128(raw))
    }

    /// The slot of all orders of a user: below [`SLOTS`].
    pub fn slot_of(key: &IdKey, user: UserId) -> u16 {
        (keyed_hash(&key.0, "slot", &[user.0.as_bytes()]) & 0xFFF) as u16
    }

    /// The slot in this id: below [`SLOTS`].
    pub fn slot(self) -> u16 {
        ((self.0.as_u128() >> 64) & 0xFFF) as u16
    }

    /// The id of the `n`-th part of kind `kind` of this order (UUID version 8, a hash).
    pub fn part(self, kind: &str, n: u64) -> Uuid {
        let hash = keyed_hash(&[], kind, &[self.0.as_bytes(), &n.to_be_bytes()]);
        Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
    }
}

/// What people call an order: `ORD-` and ten Crockford digits (12 bits of slot, 38 hashed bits).
///
/// Unique by the store's constraint; says nothing about how many orders there are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderNumber(String);

impl OrderNumber {
    /// The number of `order`; `attempt` counts the numbers that were found taken before.
    pub fn of(key: &IdKey, order: OrderId, attempt: u32) -> Self {
        let hash = keyed_hash(&key.0, "number", &[order.0.as_bytes(), &attempt.to_be_bytes()]);
        let bits = (u64::from(order.slot()) << 38) | ((hash as u64) & 0x3F_FFFF_FFFF);
        let digits = (0..10u32).rev().filter_map(|place| {
            let digit = (bits >> place.saturating_mul(5)) & 31;
            CROCKFORD.get(digit as usize).map(|byte| char::from(*byte))
        });
        Self("ORD-".chars().chain(digits).collect())
    }

    /// Reads a number as people type it: any case, surrounding blanks, `I`/`L` for 1 and `O` for 0.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.strip_prefix("ORD-")?;
        if digits.len() != 10 {
            return None;
        }
        let mut clean = String::from("ORD-");
        for digit in digits.chars() {
            let digit = match digit {
                'I' | 'L' => '1',
                'O' => '0',
                other => other,
            };
            if !digit.is_ascii() || !CROCKFORD.contains(&(digit as u8)) {
                return None;
            }
            clean.push(digit);
        }
        Some(Self(clean))
    }

    /// The slot in this number: its first twelve bits. None in a number that is not of this form.
    pub fn slot(&self) -> Option<u16> {
        let digits = self.0.strip_prefix("ORD-")?.bytes().take(3);
        let value = |digit: u8| CROCKFORD.iter().position(|known| *known == digit);
        let bits = digits.map(value).try_fold(0usize, |bits, digit| Some(bits << 5 | digit?))?;
        u16::try_from(bits >> 3).ok().filter(|slot| *slot < SLOTS)
    }

    /// A number read back from a store, taken as it is.
    pub fn from_store(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The idempotency key of one outward call: order, saga number, step and attempt.
///
/// We choose it before the call, so a repeat after a crash carries the same key and is harmless.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallKey(String);

impl CallKey {
    /// Longest key that is accepted from the wire, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The key of `step` (a lower-case name) in saga number `saga` of `order`.
    pub fn new(order: OrderId, saga: u32, step: &str, attempt: u32) -> Self {
        Self(format!("{order}/{saga}/{step}/{attempt}"))
    }

    /// A key that came over the wire or out of a store.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of the saga that makes the call; none where the text is not one of ours.
    pub fn saga(&self) -> Option<u32> {
        self.0.split('/').nth(1)?.parse().ok()
    }

    /// The step's name; empty where the text is not one of ours.
    pub fn step(&self) -> &str {
        self.0.split('/').nth(2).unwrap_or_default()
    }

    /// The text without the attempt: another attempt is the same intent.
    pub fn intent(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(intent, _)| intent)
    }

    /// Which attempt of its intent it is; 1 for a key of another form.
    pub fn attempt(&self) -> u32 {
        self.0.rsplit_once('/').and_then(|(_, attempt)| attempt.parse().ok()).unwrap_or(1)
    }
}

impl fmt::Display for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
