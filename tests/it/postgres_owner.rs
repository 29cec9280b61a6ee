//! Two nodes that want the same Postgres database: one has it.

use order_service::ports::store::OrderStore;
use order_service::store::postgres::{OpenError, PostgresStore, migrate};

use crate::harness::orders::{creation, order};
use crate::harness::pg_store::value;
use crate::harness::postgres::{query, shared_database};
use crate::harness::wait::eventually;
use crate::store_suite::postgres::config_of;

/// The processes that hold a lock of this database's owner; there is only ever one.
const HOLDERS: &str = "SELECT coalesce(string_agg(pid::text, ','), 'nobody') FROM pg_locks \
    WHERE locktype = 'advisory' AND granted \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
const END_HOLDER: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks \
    WHERE locktype = 'advisory' AND granted \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test]
async fn a_second_node_is_refused_and_told_who_has_the_database() {
    let url = shared_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let first = PostgresStore::open(config_of(&url)).await.unwrap();
    let held = value(&url, HOLDERS).await;
    let refused = PostgresStore::open(config_of(&url)).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    let since =
        format!("SELECT '127.0.0.1, since ' || backend_start::text FROM pg_stat_activity WHERE pid = {held}");
    let holder = value(&url, &since).await;
    assert!(refused.to_string().contains(&holder), "{refused}; it is {holder}");
    // Who only reads is no other node, and who has it does not mind either.
    let reader = PostgresStore::open_reader(&config_of(&url)).await.unwrap();
    assert_eq!(first.commit(creation(order(1))).await, Ok(()));
    assert_eq!(reader.scan(None, 10).await.unwrap().len(), 1);
    reader.close().await;
    first.close().await;
    let second = PostgresStore::open(config_of(&url)).await.unwrap();
    assert_eq!(second.commit(creation(order(2))).await, Ok(()));
    second.close().await;
    assert_eq!(value(&url, HOLDERS).await, "nobody");
}

#[tokio::test]
async fn a_node_waits_a_moment_for_one_that_is_just_ending() {
    let url = shared_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let first = PostgresStore::open(config_of(&url)).await.unwrap();
    let ending = async {
        // The second one has looked in vain.
        let looked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND application_name LIKE '% owner' AND query LIKE '%pg_try_advisory_lock%'";
        eventually("a second node", async || (value(&url, looked).await == "2").then_some(())).await;
        first.close().await;
    };
    let (second, ()) = tokio::join!(PostgresStore::open(config_of(&url)), ending);
    second.unwrap().close().await;
}

#[tokio::test]
async fn a_node_that_lost_its_connection_takes_the_database_again() {
    let url = shared_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let first = PostgresStore::open(config_of(&url)).await.unwrap();
    let held = value(&url, HOLDERS).await;
    query(&url, END_HOLDER).await.unwrap();
    let again = async || {
        let holder = value(&url, HOLDERS).await;
        (holder != "nobody" && holder != held).then_some(holder)
    };
    eventually("the database to be taken again", again).await;
    assert_eq!(first.commit(creation(order(1))).await, Ok(()));

    // Somebody else may be faster. Then it waits until that one is gone.
    query(&url, END_HOLDER).await.unwrap();
    if let Ok(second) = PostgresStore::open(config_of(&url)).await {
        let taken = value(&url, HOLDERS).await;
        second.close().await;
        let back = async || {
            let holder = value(&url, HOLDERS).await;
            (holder != "nobody" && holder != taken).then_some(())
        };
        eventually("the first one to have it back", back).await;
    }
    first.close().await;
    assert_eq!(value(&url, HOLDERS).await, "nobody");
}
