//! Stores behind encryption: to whoever uses them they are stores like any other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use order_service::domain::Timestamp;
use order_service::domain::ids::{OrderId, UserId};
use order_service::domain::order::Order;
use order_service::domain::sealed::PersonalData;
use order_service::ports::clock::Clock;
use order_service::ports::store::{CommitError, OrderStore};
use order_service::ports::vault::{Erasure, KeyBytes, KeyStore};
use order_service::privacy::{Keyring, LocalKeks, Protected, RingConfig};
use order_service::store::postgres::PostgresStore;
use tokio::sync::watch;
use uuid::Uuid;

use super::StoreFactory;
use super::postgres::{Database, config_of};
use super::sqlite::SqliteFiles;
use crate::harness::dawn;
use crate::harness::orders::{at, creation, order};

/// It is always dawn.
#[derive(Debug)]
struct Dawn;

impl Clock for Dawn {
    fn now(&self) -> Timestamp {
        dawn()
    }
}

fn erasure(user: UserId, second: i64) -> Erasure {
    let (principal, reason) = (String::from("ada"), String::from("asked for it"));
    Erasure { user, at: at(second), principal, by: String::new(), reason }
}

/// What another node does to a key while this one has it at hand.
async fn a_new_order_is_not_sealed_by_a_key_that_is_gone(
    store: Arc<dyn OrderStore>,
    keys: Arc<dyn KeyStore>,
) {
    let sealed = protected(Arc::clone(&store), Arc::clone(&keys));
    // Until every lane has its connection: with a new one nothing is at hand any more.
    for number in 10..30 {
        let warm = Order { user_id: UserId(Uuid::from_u128(99)), ..order(number) };
        sealed.commit(creation(warm)).await.unwrap();
    }
    let first = order(1);
    sealed.commit(creation(first.clone())).await.unwrap();
    assert_eq!(keys.destroy(erasure(first.user_id, 1)).await.unwrap().len(), 1);
    let second = Order { user_id: first.user_id, ..order(2) };
    let refused = sealed.commit(creation(second.clone())).await;
    assert!(
        matches!(&refused, Err(CommitError::NotCommitted(why)) if why.contains("destroyed")),
        "{refused:?}"
    );
    assert!(store.load(second.id).await.unwrap().is_none());
    // With others in the batch only that one is refused.
    sealed.commit(creation(second.clone())).await.unwrap();
    assert_eq!(keys.destroy(erasure(first.user_id, 2)).await.unwrap().len(), 1);
    let third = Order { user_id: first.user_id, ..order(3) };
    let mut neighbor = order(4);
    neighbor.user_id = UserId(Uuid::from_u128(44));
    let (refused, stored) =
        tokio::join!(sealed.commit(creation(third.clone())), sealed.commit(creation(neighbor.clone())));
    assert!(matches!(refused, Err(CommitError::NotCommitted(_))), "{refused:?}");
    assert_eq!(stored, Ok(()));
    sealed.commit(creation(third.clone())).await.unwrap();
    let read = sealed.load(third.id).await.unwrap().unwrap().order;
    assert_eq!((&read.addresses, &read.notes), (&third.addresses, &third.notes));
    sealed.close().await;
}

#[tokio::test]
async fn keys_at_hand_are_dropped_when_the_store_found_its_database_again() {
    let files = SqliteFiles::fresh().await;
    let store = files.try_open().await.unwrap();
    let (reconnects, count) = watch::channel(0);
    let keys = Arc::clone(&store) as Arc<dyn KeyStore>;
    let sealed = protected_by(Arc::clone(&store) as _, Arc::clone(&keys), count);
    let order = order(1);
    sealed.commit(creation(order.clone())).await.unwrap();
    // As a server does that did not have the key yet, or had it still.
    keys.destroy(erasure(order.user_id, 1)).await.unwrap();
    let seen = async || sealed.load(order.id).await.unwrap().unwrap().order.personal_data();
    assert_eq!(seen().await, PersonalData::Available, "it is at hand");
    reconnects.send(1).unwrap();
    assert_eq!(seen().await, PersonalData::Unavailable);
    sealed.close().await;
}

#[tokio::test]
async fn a_destroyed_key_seals_nothing_on_sqlite() {
    let files = SqliteFiles::fresh().await;
    let store = files.try_open().await.unwrap();
    a_new_order_is_not_sealed_by_a_key_that_is_gone(Arc::clone(&store) as _, store).await;
}

#[tokio::test]
async fn a_destroyed_key_seals_nothing_on_postgres() {
    let database = Database::fresh().await;
    let store = PostgresStore::open(config_of(&database.url)).await.unwrap();
    a_new_order_is_not_sealed_by_a_key_that_is_gone(Arc::clone(&store) as _, store).await;
}

fn protected(store: Arc<dyn OrderStore>, keys: Arc<dyn KeyStore>) -> Arc<dyn OrderStore> {
    let count = store.reconnects();
    protected_by(store, keys, count)
}

/// The same, with a count of its own of how often the store found its database.
fn protected_by(
    store: Arc<dyn OrderStore>,
    keys: Arc<dyn KeyStore>,
    reconnects: watch::Receiver<u64>,
) -> Arc<dyn OrderStore> {
    let keks = LocalKeks::new((String::from("kek"), KeyBytes([7; 32])), Vec::new()).unwrap();
    let limits = RingConfig { at_most: 100, keep_for: Duration::from_secs(60) };
    let ring = Keyring::new(keys, Some(Arc::new(keks)), Arc::new(Dawn), limits, reconnects);
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
