//! A shelf in Redis, for all nodes together.
//!
//! One key an order, a hash of its mark (`m`), when that was the newest (`t`, with its tag `a`), where the order stands (`s`)
//! and the order (`d`).
//! Keys live in a namespace, a random number that stands in Redis itself: a node that could not tell Redis of a change makes
//! a new one before it shows anything unasked again, so that nobody finds what should have been replaced.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::entry::{FORM, Seal, read_mark};
use super::shelf::{Details, Found, Kept, Shelf};
use super::writer::{self, Note};
use crate::domain::ids::{IdKey, OrderId};
use crate::ports::seen::Glance;
use crate::redis_link::{Connection, LinkConfig, News, RedisLink};

/// What waits to be written, at most; what comes then is not written.
const WAITING: usize = 4_096;

/// Where, and how patient.
#[derive(Clone)]
pub struct ShelfConfig {
    /// As of [`LinkConfig::url`]. Never shown.
    pub url: String,
    /// PEM of the authorities that are believed; none = those of the system.
    pub tls_ca: Option<Vec<u8>>,
    /// How long a read waits for Redis before it asks the store.
    pub patience: Duration,
    /// How long a Redis that failed is left alone.
    pub retry_every: Duration,
    /// How long a copy is kept after it was put there first, however often it is confirmed.
    pub keep_for: Duration,
    /// What all keys begin with: one for each database.
    pub prefix: String,
    /// What the tags of copies are made by: the same on all nodes.
    pub key: IdKey,
}

impl fmt::Debug for ShelfConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShelfConfig").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The shelf.
#[derive(Debug)]
pub struct RedisShelf {
    shared: Arc<Shared>,
    notes: mpsc::Sender<Note>,
    _ends: DropGuard,
}

/// What reading and writing share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) link: RedisLink,
    pub(super) seal: Seal,
    pub(super) prefix: String,
    pub(super) patience: Duration,
    pub(super) keep_for: Duration,
    /// The namespace; 0 = not known (yet), and nothing is read.
    pub(super) namespace: AtomicU64,
    /// Redis was not told of a change: it has to get another namespace.
    pub(super) owes: AtomicBool,
}

impl RedisShelf {
    /// Begins to connect, and goes on for as long as it lives, whether Redis is there or not.
    ///
    /// # Errors
    /// When the URL is none of a Redis. The text holds nothing of it.
    pub fn start(config: ShelfConfig) -> Result<Self, String> {
        let ShelfConfig { url, tls_ca, patience, retry_every, keep_for, prefix, key } = config;
        let link = RedisLink::start(LinkConfig { url, tls_ca, patience, retry_every, tell })?;
        let shared = Arc::new(Shared {
            link,
            seal: Seal(key),
            prefix,
            patience,
            keep_for,
            namespace: AtomicU64::new(0),
            owes: AtomicBool::new(false),
        });
        let (notes, waiting) = mpsc::channel(WAITING);
        let ends = CancellationToken::new();
        let writing = writer::run(Arc::clone(&shared), waiting);
        tokio::spawn(ends.clone().run_until_cancelled_owned(writing));
        Ok(Self { shared, notes, _ends: ends.drop_guard() })
    }

    fn note(&self, note: Note) {
        let is_owed = note.is_owed();
        if self.notes.try_send(note).is_err() {
            writer::lost(&self.shared, is_owed);
        }
    }

    /// Fields of the keys of these orders; none = they could not be had in time.
    async fn fields(&self, ids: &[OrderId], names: &[&str]) -> Option<Vec<Fields>> {
        let shared = &self.shared;
        let namespace = shared.namespace.load(Ordering::Acquire);
        if namespace == 0 {
            return None;
        }
        let link = shared.link.connection()?;
        // One after the other over one connection, without waiting in between; of a cluster each to its server.
        let asked = ids.iter().map(|id| {
            let mut command = redis::cmd("HMGET");
            command.arg(shared.key(namespace, *id)).arg(names);
            let mut connection = Connection::clone(&link);
            async move { command.query_async::<Fields>(&mut connection).await }
        });
        let all = async { join_all(asked).await.into_iter().collect() };
        shared.link.heard(&link, shared.patience, all).await.ok()
    }
}

/// Values of fields, none where there is none.
type Fields = Vec<Option<Vec<u8>>>;

impl Shared {
    pub(super) fn key(&self, namespace: u64, id: OrderId) -> String {
        format!("{}:{FORM}:{namespace:016x}:{id}", self.prefix)
    }

    pub(super) fn namespace_key(&self) -> String {
        format!("{}:{FORM}:namespace", self.prefix)
    }
}

fn text(field: Option<&Option<Vec<u8>>>) -> Option<&str> {
    std::str::from_utf8(field?.as_ref()?).ok()
}

/// The mark in fields that begin with `m`, `t` and `a`, as a text, and when it was the newest; none = no node has written so.
fn noted<'f>(seal: &Seal, id: OrderId, fields: &'f Fields) -> Option<(&'f str, i64)> {
    let mark = text(fields.first())?;
    let at = seal.read_time(id, mark, text(fields.get(1))?, text(fields.get(2))?)?;
    Some((mark, at))
}

#[async_trait]
impl Shelf for RedisShelf {
    async fn details(&self, ids: &[OrderId]) -> Vec<Found<Details>> {
        let Some(all) = self.fields(ids, &["m", "t", "a", "d"]).await else {
            return ids.iter().map(|_| Found::Unasked).collect();
        };
        let read = |id: OrderId, fields: &Fields| {
            let (mark, at) = noted(&self.shared.seal, id, fields)?;
            let order = self.shared.seal.read_order(id, mark, fields.get(3)?.as_ref()?)?;
            Some(Details { mark: read_mark(mark)?, at, order })
        };
        let found =
            ids.iter().zip(&all).map(|(id, fields)| read(*id, fields).map_or(Found::Nothing, Found::Here));
        found.collect()
    }

    async fn glance(&self, id: OrderId) -> Found<(Glance, i64)> {
        let Some(fields) = self.fields(&[id], &["m", "t", "a", "s"]).await.and_then(|mut all| all.pop())
        else {
            return Found::Unasked;
        };
        let read = || {
            let (mark, at) = noted(&self.shared.seal, id, &fields)?;
            Some((self.shared.seal.read_glance(id, mark, fields.get(3)?.as_ref()?)?, at))
        };
        read().map_or(Found::Nothing, Found::Here)
    }

    fn is_there(&self) -> bool {
        self.shared.namespace.load(Ordering::Acquire) != 0 && self.shared.link.connection().is_some()
    }

    fn is_whole(&self) -> bool {
        !self.shared.owes.load(Ordering::Acquire)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn put(&self, copy: Kept, replaces: bool) {
        self.note(Note::Put { copy: Box::new(copy), replaces });
    }

    fn forget(&self, id: OrderId) {
        self.note(Note::Forget(id));
    }
}

fn tell(news: News) {
    let is_there = match news {
        News::There => {
            tracing::info!("Redis keeps copies of orders");
            1.0
        }
        News::Lost(why) => {
            tracing::warn!(why, "Redis keeps no copies of orders; the store is asked until it does again");
            0.0
        }
        News::Missing(why) => {
            tracing::warn!(why, "Redis is not there to keep copies of orders; the store is asked");
            0.0
        }
    };
    metrics::gauge!("order_cache_redis_is_there").set(is_there);
}
