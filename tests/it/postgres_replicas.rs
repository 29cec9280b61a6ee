//! Standbys of Postgres: one that commits wait for, one that is read, and one that a node is pointed at too early.

use std::time::Duration;

use order_service::ports::store::{CommitError, ListQuery, OrderStore, StoreError};
use order_service::ports::vault::{Erasure, KeyId, KeyRow, KeyStore, Wrapped};
use order_service::store::postgres::{PostgresConfig, PostgresStore, migrate};

use crate::harness::orders::{OWNER, at, creation, id, order, update};
use crate::harness::pg_store::{ms, value, waits_for, whole};
use crate::harness::postgres::{PgServer, Shutdown, query};
use crate::harness::standby::Replication;
use crate::harness::wait::eventually;
use crate::store_suite::postgres::config_of;

/// Standbys look for their primary this often.
const SOON: &[(&str, &str)] = &[("wal_retrieve_retry_interval", "100ms")];

/// The same database on another server.
fn there(url: &str, from: &PgServer, to: &PgServer) -> String {
    url.replace(&from.address().to_string(), &to.address().to_string())
}

async fn migrated(server: &PgServer) -> String {
    let url = server.create_database().await;
    migrate(&config_of(&url)).await.unwrap();
    url
}

/// Tells a commit that waits for the standby to wait no longer: the server answers that it is done, with a warning.
async fn cut_wait_short(url: &str) -> String {
    let waiting = waits_for(url, "SyncRep").await;
    query(url, &format!("SELECT pg_cancel_backend({waiting})")).await.unwrap();
    waiting
}

#[tokio::test]
async fn a_commit_that_did_not_wait_for_its_standby_is_not_acknowledged() {
    let primary = PgServer::start(SOON).await;
    let standby = primary.standby("spare", Replication::Synchronous).await;
    let url = migrated(&primary).await;
    let store = PostgresStore::open(config_of(&url)).await.unwrap();
    let first = creation(order(1));
    store.commit(first.clone()).await.unwrap();

    standby.cut_replication().await;
    let changed = update(&first.order, |order| order.notes = String::from("changed"));
    let commit = store.commit(changed.clone());
    tokio::pin!(commit);
    let cut = async {
        cut_wait_short(&url).await;
        let seen = format!("SELECT notes FROM orders WHERE id = '{}'", id(1));
        eventually("the change", async || (value(&url, &seen).await == "changed").then_some(())).await;
        // It is in the database, with a warning: the store asks for more, which waits for the standby again; twice.
        cut_wait_short(&url).await;
        waits_for(&url, "SyncRep").await;
    };
    tokio::select! {
        biased;
        () = cut => {}
        early = &mut commit => panic!("answered without the standby: {early:?}"),
    }
    assert!(futures::poll!(&mut commit).is_pending());
    assert_eq!(value(&there(&url, &primary, &standby), "SELECT max(version) FROM orders").await, "1");
    standby.restore_replication().await;
    assert_eq!(commit.await, Ok(()));
    // On both disks.
    primary.stop(Shutdown::Immediate).await;
    standby.promote().await;
    let url = there(&url, &primary, &standby);
    assert_eq!(value(&url, "SELECT notes FROM orders").await, "changed");
    whole(&url).await;
    store.close().await;
}

#[tokio::test]
async fn a_key_that_was_destroyed_without_the_standby_is_told_as_not_done() {
    let primary = PgServer::start(SOON).await;
    let standby = primary.standby("spare", Replication::Synchronous).await;
    let url = migrated(&primary).await;
    let store = PostgresStore::open(config_of(&url)).await.unwrap();
    let wrapped = Some(Wrapped { kek_id: String::from("kek"), bytes: vec![1] });
    let key = KeyRow { id: KeyId(1), user: order(1).user_id, wrapped, created_at: at(1) };
    store.add_keys(vec![key.clone()]).await.unwrap();

    standby.cut_replication().await;
    let erasure = |n| Erasure {
        user: key.user,
        at: at(n),
        principal: String::from("ada"),
        by: String::new(),
        reason: String::from("asked for it"),
    };
    // Keys are not written by the writers of orders.
    let cut = eventually("the erasure to wait", async || {
        let cut = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (!query(&url, cut).await.unwrap().is_empty()).then_some(())
    });
    let (destroyed, ()) = tokio::join!(store.destroy(erasure(2)), cut);
    let told = destroyed.unwrap_err().to_string();
    assert!(told.contains("may not outlive the server") && told.contains("do it again"), "{told}");
    standby.restore_replication().await;
    // Again it leaves a row, and so something to wait for the standby with.
    assert_eq!(store.destroy(erasure(3)).await, Ok(Vec::new()));
    let gone = "SELECT count(*) FROM user_keys WHERE wrapped IS NULL";
    let there = there(&url, &primary, &standby);
    eventually("the standby to show it", async || (value(&there, gone).await == "1").then_some(())).await;
    store.close().await;
}

#[tokio::test]
async fn a_commit_is_unknown_while_its_standby_stays_away() {
    let primary = PgServer::start(SOON).await;
    let standby = primary.standby("spare", Replication::Synchronous).await;
    let url = migrated(&primary).await;
    let impatient = |config: PostgresConfig| PostgresConfig {
        outage_patience: Duration::ZERO,
        commit_timeout: ms(500),
        ..config
    };
    let store = PostgresStore::open(PostgresConfig { lanes: 1, ..impatient(config_of(&url)) }).await.unwrap();
    let first = creation(order(1));
    store.commit(first.clone()).await.unwrap();
    standby.cut_replication().await;

    // Warned of.
    let changed = update(&first.order, |order| order.notes = String::from("changed"));
    let (result, _) = tokio::join!(store.commit(changed.clone()), cut_wait_short(&url));
    assert!(matches!(&result, Err(CommitError::Unknown(_))), "{result:?}");
    // A claim whose wait was cut short is none.
    let (claimed, _) = tokio::join!(store.claim(id(1), OWNER), cut_wait_short(&url));
    assert!(claimed.is_err(), "{claimed:?}");
    // Not answered at all.
    let silent = store.commit(creation(order(2))).await;
    assert!(matches!(silent, Err(CommitError::Unknown(_))), "{silent:?}");
    // Those that are given up do not pile up in the server: four, and the last one.
    for n in 3..9 {
        // Until it is connected again nothing is sent.
        let sent = async || match store.commit(creation(order(n))).await {
            Err(CommitError::NotCommitted(_)) => None,
            other => Some(other),
        };
        let silent = eventually("a commit that is sent", sent).await;
        assert!(matches!(silent, Err(CommitError::Unknown(_))), "{silent:?}");
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
                   AND datname = current_database() AND application_name LIKE '% commit %'";
    let few = async || (value(&url, waiting).await.parse::<u32>().unwrap() <= 4 + 1).then_some(());
    eventually("the server to be rid of them", few).await;

    standby.restore_replication().await;
    let claimed = eventually("a claim", async || store.claim(id(1), OWNER).await.ok()).await.unwrap();
    assert_eq!(claimed.order.notes, "changed");
    assert!(claimed.order.version > changed.order.version, "{}", claimed.order.version);
    let next = update(&claimed.order, |order| order.notes = String::from("next"));
    assert_eq!(store.commit(next.clone()).await, Ok(()));
    standby.caught_up(&primary).await;
    let read = there(&url, &primary, &standby);
    assert_eq!(value(&read, &format!("SELECT notes FROM orders WHERE id = '{}'", id(1))).await, "next");
    store.close().await;
}

fn all() -> ListQuery {
    ListQuery {
        user_id: None,
        statuses: Vec::new(),
        created_after: None,
        created_before: None,
        oldest_first: true,
        after: None,
        limit: 10,
    }
}

#[tokio::test]
async fn lists_come_from_the_replica_and_decisions_do_not() {
    let primary = PgServer::start(SOON).await;
    let url = migrated(&primary).await;
    let standby = primary.standby("spare", Replication::Asynchronous).await;
    let mut config = config_of(&url);
    config.replica = Some(config_of(&there(&url, &primary, &standby)).target);
    config.read_timeout = ms(500);
    let store = PostgresStore::open(config).await.unwrap();
    let first = creation(order(1));
    store.commit(first.clone()).await.unwrap();
    standby.caught_up(&primary).await;
    assert_eq!(store.list(&all()).await.unwrap(), std::slice::from_ref(&first.order));

    standby.cut_replication().await;
    let second = creation(order(2));
    store.commit(second.clone()).await.unwrap();
    let changed = update(&first.order, |order| order.notes = String::from("changed"));
    store.commit(changed.clone()).await.unwrap();
    assert_eq!(store.list(&all()).await.unwrap(), std::slice::from_ref(&first.order), "not from the replica");

    let decides = async || {
        assert_eq!(store.load(id(2)).await.unwrap().unwrap().order, second.order);
        assert_eq!(store.load(id(1)).await.unwrap().unwrap().order, changed.order);
        assert_eq!(store.claim(id(1), OWNER).await.unwrap().unwrap().order, changed.order);
        assert_eq!(store.find_by_number(&second.order.order_number).await, Ok(Some(id(2))));
        assert_eq!(store.events(id(2), 0, 9).await.unwrap().len(), 2);
        assert_eq!(store.unfinished(at(1_000_000), None, 9).await.unwrap().len(), 2);
        assert_eq!(store.scan(None, 9).await.unwrap().len(), 2);
        let mut versions = store.versions(&[id(1), id(2)]).await.unwrap();
        versions.sort();
        let mut expected = [(id(1), 2), (id(2), 1)];
        expected.sort();
        assert_eq!(versions, expected);
        assert_eq!(store.ping().await, Ok(()));
    };
    decides().await;
    standby.stop(Shutdown::Immediate).await;
    let listed = store.list(&all()).await;
    assert!(matches!(listed, Err(StoreError::Unavailable(_))), "{listed:?}");
    decides().await;
    assert_eq!(store.commit(creation(order(3))).await, Ok(()));
    standby.start_again().await;
    standby.restore_replication().await;
    let listed = async || (store.list(&all()).await.ok()?.len() == 3).then_some(());
    eventually("the replica to be read again", listed).await;
    store.close().await;
}

#[tokio::test]
async fn a_node_on_a_standby_writes_nothing_until_it_is_promoted() {
    let primary = PgServer::start(SOON).await;
    let url = migrated(&primary).await;
    let before = PostgresStore::open(config_of(&url)).await.unwrap();
    let first = creation(order(1));
    before.commit(first.clone()).await.unwrap();
    before.close().await;
    let standby = primary.standby("spare", Replication::Asynchronous).await;
    let mut config = config_of(&there(&url, &primary, &standby));
    config.outage_patience = ms(200);
    config.read_timeout = ms(500);
    // To have the database for itself a node has to say so there.
    let refused = PostgresStore::open(config.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("standby"), "{refused}");
    config.exclusive = false;
    let store = PostgresStore::open(config).await.unwrap();
    for _ in 0..2 {
        let refused = store.commit(creation(order(2))).await;
        let told = matches!(&refused, Err(CommitError::NotCommitted(why)) if why.contains("standby"));
        assert!(told, "{refused:?}");
    }
    assert!(store.claim(id(1), OWNER).await.is_err());
    // What is read here may be late, so it is no ground to decide on.
    assert!(store.load(id(1)).await.is_err());
    assert!(store.ping().await.is_err());
    primary.stop(Shutdown::Fast).await;
    standby.promote().await;
    let second = creation(order(2));
    eventually("a commit", async || store.commit(second.clone()).await.ok()).await;
    let claimed = eventually("a claim", async || store.claim(id(1), OWNER).await.ok()).await;
    assert_eq!(claimed.unwrap().order, first.order);
    assert_eq!(store.load(id(2)).await.unwrap().unwrap().order, second.order);
    store.close().await;
}
