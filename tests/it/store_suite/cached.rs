//! Stores behind a cache: to whoever uses them they are stores like any other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use order_service::cache::{CachedStore, NearShelf, RedisShelf, Shelf, ShelfConfig};
use order_service::domain::ids::OrderId;
use order_service::ports::store::OrderStore;
use order_service::store::postgres::PostgresStore;

use super::StoreFactory;
use super::postgres::{Database, config_of};
use super::sqlite::SqliteFiles;
use crate::harness::node::MachineClock;
use crate::harness::orders::key;
use crate::harness::redis::shared_redis;
use crate::harness::wait::eventually;

const AT_MOST: Duration = Duration::from_secs(60);

fn cached(store: Arc<dyn OrderStore>, shelf: Arc<dyn Shelf>) -> Arc<dyn OrderStore> {
    Arc::new(CachedStore::new(store, shelf, Arc::new(MachineClock::default()), AT_MOST))
}

/// A file, with copies in this process.
pub(crate) struct CachedFiles {
    files: SqliteFiles,
    shelf: Mutex<Option<Arc<NearShelf>>>,
}

#[async_trait(?Send)]
impl StoreFactory for CachedFiles {
    async fn fresh() -> Self {
        Self { files: SqliteFiles::fresh().await, shelf: Mutex::default() }
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        let shelf = Arc::new(NearShelf::new(1_000, AT_MOST));
        *self.shelf.lock().unwrap() = Some(Arc::clone(&shelf));
        cached(self.files.open().await, shelf)
    }

    async fn spoil(&self, order: OrderId) {
        self.files.spoil(order).await;
        // Whoever changes rows behind the store's back empties the cache.
        let shelf = self.shelf.lock().unwrap().clone();
        shelf.unwrap().forget(order);
    }
}

/// A database, with copies in Redis.
pub(crate) struct CachedDatabase {
    database: Database,
    prefix: String,
    shelf: Mutex<Option<Arc<RedisShelf>>>,
}

#[async_trait(?Send)]
impl StoreFactory for CachedDatabase {
    async fn fresh() -> Self {
        static TESTS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("suite-{}", TESTS.fetch_add(1, Ordering::Relaxed));
        Self { database: Database::fresh().await, prefix, shelf: Mutex::default() }
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        let config = ShelfConfig {
            url: shared_redis().await.url(),
            tls_ca: None,
            patience: Duration::from_secs(1),
            retry_every: Duration::from_millis(20),
            keep_for: AT_MOST,
            prefix: self.prefix.clone(),
            key: key(),
        };
        let shelf = Arc::new(RedisShelf::start(config).unwrap());
        *self.shelf.lock().unwrap() = Some(Arc::clone(&shelf));
        let store = PostgresStore::open(config_of(&self.database.url)).await.unwrap();
        cached(store, shelf)
    }

    async fn spoil(&self, order: OrderId) {
        self.database.spoil(order).await;
        let shelf = self.shelf.lock().unwrap().clone().unwrap();
        shelf.forget(order);
        let gone = async || {
            let found = shelf.glance(order).await;
            matches!(found, order_service::cache::Found::Nothing).then_some(())
        };
        eventually("the copy to go", gone).await;
    }
}
