//! Stores in databases of a private Postgres server, behind a PgBouncer that gives each transaction another session.

use std::sync::Arc;

use async_trait::async_trait;
use order_service::domain::ids::OrderId;
use order_service::ports::store::OrderStore;
use order_service::store::postgres::{Pooler, PostgresConfig, PostgresStore, migrate};

use super::StoreFactory;
use super::postgres::{Database, config_of};
use crate::harness::pg_store::value;
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::postgres::{shared, shared_database};

/// A database of the server that all tests share, and a pool before it.
pub(crate) struct Pooled {
    database: Database,
    bouncer: PgBouncer,
}

#[async_trait(?Send)]
impl StoreFactory for Pooled {
    async fn fresh() -> Self {
        // Migrations lock for a whole session, so they go to the server itself.
        let database = Database::fresh().await;
        Self { database, bouncer: PgBouncer::start(shared().await, "transaction").await }
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        let config = config_of(&self.bouncer.url_of(&self.database.url));
        PostgresStore::open(PostgresConfig { pooler: Pooler::Transaction, ..config }).await.unwrap()
    }

    async fn spoil(&self, order: OrderId) {
        self.database.spoil(order).await;
    }
}

#[tokio::test]
async fn a_pool_is_only_looked_through_and_keeps_nothing_of_it() {
    let url = shared_database().await;
    let bouncer = PgBouncer::start(shared().await, "transaction").await;
    let config = config_of(&bouncer.url_of(&url));
    let config = PostgresConfig { pooler: Pooler::Transaction, ..config };
    let refused = migrate(&config).await.unwrap_err();
    assert!(refused.to_string().contains("migrate"), "{refused}");
    migrate(&config_of(&url)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(migrate(&config).await.unwrap(), []);
        let store = PostgresStore::open(config.clone()).await.unwrap();
        assert_eq!(store.ping().await, Ok(()));
        store.close().await;
    }
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(value(&url, left).await, "0", "a lock is left in the pool");
}
