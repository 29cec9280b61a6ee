//! Stores behind encryption: to whoever uses them they are stores like any other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use order_service::domain::Timestamp;
use order_service::domain::ids::OrderId;
use order_service::ports::clock::Clock;
use order_service::ports::store::OrderStore;
use order_service::ports::vault::{KeyBytes, KeyStore};
use order_service::privacy::{Keyring, LocalKeks, Protected, RingConfig};
use order_service::store::postgres::PostgresStore;

use super::StoreFactory;
use super::postgres::{Database, config_of};
use super::sqlite::SqliteFiles;
use crate::harness::dawn;

/// It is always dawn.
#[derive(Debug)]
struct Dawn;

impl Clock for Dawn {
    fn now(&self) -> Timestamp {
        dawn()
    }
}

fn protected(store: Arc<dyn OrderStore>, keys: Arc<dyn KeyStore>) -> Arc<dyn OrderStore> {
    let keks = LocalKeks::new((String::from("kek"), KeyBytes([7; 32])), Vec::new()).unwrap();
    let limits = RingConfig { at_most: 100, keep_for: Duration::from_secs(60) };
    let ring = Keyring::new(keys, Some(Arc::new(keks)), Arc::new(Dawn), limits);
    Arc::new(Protected::new(store, Arc::new(ring)))
}

/// A file whose orders are encrypted.
pub(crate) struct ProtectedFiles(SqliteFiles);

#[async_trait(?Send)]
impl StoreFactory for ProtectedFiles {
    async fn fresh() -> Self {
        Self(SqliteFiles::fresh().await)
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        let store = self.0.try_open().await.unwrap();
        protected(Arc::clone(&store) as Arc<dyn OrderStore>, store)
    }

    async fn spoil(&self, order: OrderId) {
        self.0.spoil(order).await;
    }
}

/// A database whose orders are encrypted.
pub(crate) struct ProtectedDatabase(Database);

#[async_trait(?Send)]
impl StoreFactory for ProtectedDatabase {
    async fn fresh() -> Self {
        Self(Database::fresh().await)
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        let store = PostgresStore::open(config_of(&self.0.url)).await.unwrap();
        protected(Arc::clone(&store) as Arc<dyn OrderStore>, store)
    }

    async fn spoil(&self, order: OrderId) {
        self.0.spoil(order).await;
    }
}
