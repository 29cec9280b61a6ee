//! The keys of personal data: where they are kept, who wraps them, and who looks after them.

use std::fmt;

use async_trait::async_trait;

use super::store::StoreError;
use crate::domain::Timestamp;
use crate::domain::ids::{OrderId, UserId};

/// A data key's name: random, so it tells nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KeyId(pub i64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A data key as it is stored: encrypted by a key-encryption key (KEK).
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Which KEK, 1..=64 characters.
    pub kek_id: String,
    /// What that KEK unwraps.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("kek_id", &self.kek_id).finish_non_exhaustive()
    }
}

/// A row of `user_keys`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    /// Its name.
    pub id: KeyId,
    /// Whose data it encrypts.
    pub user: UserId,
    /// The key; none once it is destroyed.
    pub wrapped: Option<Wrapped>,
    /// Since when.
    pub created_at: Timestamp,
}

/// Who had a user's personal data erased, when and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Erasure {
    /// Whose.
    pub user: UserId,
    /// When.
    pub at: Timestamp,
    /// Who called.
    pub principal: String,
    /// Who wanted it, as the caller says; may be empty.
    pub by: String,
    /// Why, without personal data.
    pub reason: String,
}

/// A key that gets another wrapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrap {
    /// Which.
    pub id: KeyId,
    /// The wrapping that it has to have still.
    pub old: Wrapped,
    /// The one that it gets.
    pub new: Wrapped,
}

/// Where data keys are kept. A user has at most one key that is not destroyed.
#[async_trait]
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// The keys with these names, with those that are destroyed, in any order.
    async fn keys(&self, ids: Vec<KeyId>) -> Result<Vec<KeyRow>, StoreError>;

    /// Stores each of `new` whose user has no key, durably, and returns the key that each of these users has now; in any
    /// order. Of a user who got one from somebody else in the same moment none may come back: ask again.
    async fn add_keys(&self, new: Vec<KeyRow>) -> Result<Vec<KeyRow>, StoreError>;

    /// The keys of these users that are not destroyed, in any order.
    async fn keys_of(&self, users: Vec<UserId>) -> Result<Vec<KeyRow>, StoreError>;

    /// Whether the user's keys were ever destroyed.
    async fn was_erased(&self, user: UserId) -> Result<bool, StoreError>;

    /// Whether `proof` is what is known of this KEK; what is told first counts from then on.
    async fn prove(&self, kek_id: String, proof: Vec<u8>, at: Timestamp) -> Result<bool, StoreError>;

    /// Destroys all keys of a user and records it, in one transaction; returns which. To repeat it records it again.
    async fn destroy(&self, erasure: Erasure) -> Result<Vec<KeyId>, StoreError>;

    /// Keys that are not destroyed and wrapped by another KEK than this one, by id, behind `after`, at most `limit`.
    async fn keys_to_rewrap(
        &self,
        kek_id: String,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<KeyRow>, StoreError>;

    /// Replaces wrappings, each only where the old one is still there; how many were.
    async fn rewrap(&self, changes: Vec<Rewrap>) -> Result<u64, StoreError>;
}

/// Why a key-encryption key did not do its work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WrapError {
    /// There is no KEK of this name here.
    #[error("there is no key-encryption key {0}; add it to privacy.old_keks or set privacy.kek")]
    UnknownKek(String),
    /// It does not unwrap this key: another KEK has this name, or the row was tampered with.
    #[error("the key-encryption key {0} does not fit; check privacy.kek and privacy.kek_id")]
    DoesNotFit(String),
    /// It cannot be reached right now.
    #[error("the key-encryption keys cannot be reached: {0}")]
    Unreachable(String),
}

/// 32 bytes of key, overwritten when they are dropped and never shown.
pub struct KeyBytes(pub [u8; 32]);

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for KeyBytes {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// What has the key-encryption keys: this process, or a service for keys (KMS).
#[async_trait]
pub trait KeyWrapper: Send + Sync + fmt::Debug {
    /// The KEK that wraps from now on.
    fn current(&self) -> &str;

    /// Wraps a data key by the current KEK. `context` has to be given to unwrap it.
    async fn wrap(&self, key: &KeyBytes, context: &[u8]) -> Result<Wrapped, WrapError>;

    /// Unwraps a data key.
    async fn unwrap(&self, wrapped: &Wrapped, context: &[u8]) -> Result<KeyBytes, WrapError>;

    /// What tells two KEKs of one name apart and nothing else about them.
    async fn proof(&self) -> Result<Vec<u8>, WrapError>;
}

/// What became of the texts of an order whose keys should be gone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Attempt {
    /// Encrypted texts that were tried.
    pub sealed: u64,
    /// Those of them that could be decrypted.
    pub opened: u64,
    /// Texts that are not encrypted: stored before encryption was on.
    pub plain: u64,
    /// Those of them that stand in the history, which no node may change.
    pub plain_history: u64,
}

/// A page of keys that got another wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotated {
    /// Rewrapped.
    pub rewrapped: u64,
    /// Left as they were: their KEK is not here or does not fit.
    pub failed: u64,
    /// The last key of the page; none = there are no more.
    pub last: Option<KeyId>,
}

/// A page of orders that were looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainPage {
    /// Those with addresses or notes that are stored as plain text.
    pub orders: Vec<OrderId>,
    /// The last one that was looked at; none = there are no more.
    pub last: Option<OrderId>,
    /// How many were looked at.
    pub looked_at: u64,
}

/// Who looks after the keys of personal data.
#[async_trait]
pub trait Custodian: Send + Sync + fmt::Debug {
    /// Destroys the keys of a user, in the store and in this process, and records it; returns which.
    async fn destroy(&self, erasure: Erasure) -> Result<Vec<KeyId>, StoreError>;

    /// Drops what this process has at hand of a user's keys.
    fn forget(&self, user: UserId);

    /// Tries to decrypt every text that is stored of an order, by what the store says of the keys at this moment; none when
    /// there is no such order.
    async fn attempt(&self, order: OrderId) -> Result<Option<Attempt>, StoreError>;

    /// As [`OrderStore::take_out`](super::store::OrderStore::take_out).
    async fn take_out(&self, order: OrderId) -> Result<(), StoreError>;

    /// Wraps a page of keys by the current KEK.
    async fn rotate(&self, after: Option<KeyId>, limit: u32) -> Result<Rotated, StoreError>;

    /// A page of orders behind `after`, of which those are told that hold plain personal data.
    async fn plain_orders(&self, after: Option<OrderId>, limit: u32) -> Result<PlainPage, StoreError>;
}
