//! The cache before a store that others use as well, or that is to be spared.

use std::sync::Arc;

use anyhow::anyhow;

use super::limits::authorities;
use super::stores::Opened;
use crate::cache::{CachedStore, NearShelf, RedisShelf, Shelf, ShelfConfig};
use crate::config::{CacheUrl, Config};
use crate::domain::ids::IdKey;
use crate::ports::clock::Clock;

/// Puts a shelf before the store, if the configuration says so. Below the encryption of personal data, so that copies are
/// what the store holds. A node that has its store to itself keeps orders in memory and needs no shelf there.
pub(super) fn put_before(config: &Config, opened: &mut Opened, clock: &Arc<dyn Clock>) -> anyhow::Result<()> {
    let cache = &config.cache;
    let shelf: Arc<dyn Shelf> = match &cache.url {
        CacheUrl::Memory if config.cluster.enabled => Arc::new(NearShelf::new(cache.max_orders, cache.ttl)),
        CacheUrl::Memory | CacheUrl::None => return Ok(()),
        CacheUrl::Redis(url) => {
            let redis = ShelfConfig {
                url: url.expose().to_owned(),
                tls_ca: authorities(cache.tls_ca.as_deref(), "cache.tls_ca")?,
                patience: cache.timeout,
                retry_every: cache.retry_every,
                keep_for: cache.ttl,
                prefix: cache.prefix.clone(),
                key: IdKey(config.ids.key.expose().as_bytes().to_vec()),
            };
            Arc::new(RedisShelf::start(redis).map_err(|problem| anyhow!("cache.url {problem}"))?)
        }
    };
    let inner = Arc::clone(&opened.store);
    opened.store = Arc::new(CachedStore::new(inner, shelf, Arc::clone(clock), cache.max_stale));
    Ok(())
}
