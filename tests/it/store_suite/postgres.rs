//! Stores in databases of a private Postgres server.

use std::sync::Arc;

use async_trait::async_trait;
use order_service::domain::ids::OrderId;
use order_service::ports::store::OrderStore;
use order_service::store::postgres::{PostgresStore, migrate};

use super::StoreFactory;
pub(crate) use crate::harness::pg_store::config_of;
use crate::harness::postgres::{query, shared_database};

/// A database of the server that all tests share.
pub(crate) struct Database {
    pub(crate) url: String,
}

#[async_trait(?Send)]
impl StoreFactory for Database {
    async fn fresh() -> Self {
        let url = shared_database().await;
        migrate(&config_of(&url)).await.unwrap();
        Self { url }
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        PostgresStore::open(config_of(&self.url)).await.unwrap()
    }

    async fn spoil(&self, order: OrderId) {
        let sql = format!("UPDATE orders SET status = 'LOST' WHERE id = '{order}'");
        query(&self.url, &sql).await.unwrap();
    }
}
