//! Tokens that were verified: a signature costs more to check than many a call to answer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::domain::access::Caller;

/// Parts that are locked by themselves.
const SHARDS: usize = 16;

/// What a token is known by: its hash, so that none is kept.
pub(super) type Name = [u8; 32];

/// A token that is good for as long as its key is, and its time.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) caller: Caller,
    /// The second from which on it is good no more, since 1970.
    pub(super) until: i64,
    /// By whose keys it was verified.
    pub(super) issuer: usize,
    /// By which of them.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Seen {
    shards: [Mutex<HashMap<Name, Known>>; SHARDS],
    /// Tokens in each shard, at most.
    most: usize,
}

pub(super) fn name(token: &str) -> Name {
    Sha256::digest(token.as_bytes()).into()
}

impl Seen {
    /// Knows `most` tokens; 0 = none.
    pub(super) fn new(most: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), most: most.div_ceil(SHARDS) }
    }

    fn shard(&self, name: &Name) -> Option<&Mutex<HashMap<Name, Known>>> {
        let byte = usize::from(*name.first()?);
        self.shards.get(byte % SHARDS)
    }

    pub(super) fn get(&self, name: &Name, now: i64) -> Option<Known> {
        let shard = self.shard(name)?.lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(name).filter(|known| now < known.until).cloned()
    }

    /// Remembers a token; when there is no room, another one is forgotten.
    pub(super) fn put(&self, name: Name, known: Known, now: i64) {
        if self.most == 0 {
            return;
        }
        let Some(shard) = self.shard(&name) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.most && !shard.contains_key(&name) {
            let any = shard.iter().find(|(_, known)| now >= known.until).or_else(|| shard.iter().next());
            if let Some(any) = any.map(|(name, _)| *name) {
                shard.remove(&any);
            }
        }
        shard.insert(name, known);
    }
}
