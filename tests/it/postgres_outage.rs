//! Postgres servers that refuse, have no place left, or have a full disk.

use std::time::Duration;

use futures::future::join_all;
use order_service::ports::store::{CommitError, OrderStore, StoreError};
use order_service::store::postgres::{OpenError, PostgresStore, migrate};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::harness::orders::{creation, id, order};
use crate::harness::pg_store::{Proxied, ms, value, whole};
use crate::harness::postgres::{PgServer, Shutdown, query, shared};
use crate::harness::small_disk::SmallDisk;
use crate::harness::wait::{eventually, within};
use crate::store_suite::postgres::config_of;

#[tokio::test]
async fn reconnecting_is_no_storm() {
    const OUTAGE: Duration = Duration::from_millis(1_500);
    /// Pauses of 10, 20, 40 … 320 ms and then 1 s, at least half as long with jitter, in two lanes; and the owner's
    /// connection, once a second.
    const MOST: u64 = 2 * 9 + 3;
    let it = Proxied::start(|config| {
        (config.lanes, config.outage_patience) = (2, ms(300));
        config.reconnect_max = Duration::from_secs(1);
    })
    .await;
    it.store.commit(creation(order(1_000))).await.unwrap();
    it.proxy.refuse(true);
    it.proxy.cut_all();
    let (before, started) = (it.proxy.connections(), Instant::now());
    let tried = join_all((1..=200).map(|n| {
        let store = &it.store;
        async move {
            let mut tries = 0;
            while started.elapsed() < OUTAGE {
                let result = store.commit(creation(order(n))).await;
                let told = matches!(result, Err(CommitError::Unknown(_) | CommitError::NotCommitted(_)));
                assert!(told, "{result:?}");
                tries += 1;
                // Those who are refused at once come again at once, as far as the others let them.
                tokio::task::yield_now().await;
            }
            tries
        }
    }))
    .await;
    let connections = it.proxy.connections() - before;
    let tries: u64 = tried.iter().sum();
    assert!(tries >= 200, "{tries}");
    assert!((2..=MOST).contains(&connections), "{connections} connections");
    it.proxy.refuse(false);
    let back = Instant::now();
    eventually("a commit", async || it.store.commit(creation(order(2_000))).await.ok()).await;
    println!("{tries} commits and {connections} connections; back after {:?}", back.elapsed());
    whole(&it.url).await;
    it.store.close().await;
}

#[tokio::test]
async fn a_database_that_takes_no_writes_says_so_and_is_not_hammered() {
    let it = Proxied::start(|config| {
        config.outage_patience = ms(300);
        config.reconnect_max = Duration::from_secs(1);
    })
    .await;
    it.store.commit(creation(order(1))).await.unwrap();
    let name = value(&it.url, "SELECT current_database()").await;
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = 'on'");
    shared().await.admin(&read_only).await;
    it.proxy.cut_all();
    let before = it.proxy.connections();
    // It takes connections, and then refuses.
    let told = async || {
        let result = it.store.commit(creation(order(2))).await;
        matches!(&result, Err(CommitError::NotCommitted(why)) if why.contains("read-only")).then_some(())
    };
    for _ in 0..3 {
        within(Duration::from_secs(10), "a refusal", told).await;
    }
    // Pauses of 10 to 640 ms and then 1 s, in one lane; and the owner's connection.
    let connections = it.proxy.connections() - before;
    assert!(connections <= 14, "{connections} connections");
    it.has_nothing_of(id(2)).await;
    shared().await.admin(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    eventually("a commit", async || it.store.commit(creation(order(3))).await.ok()).await;
    it.store.close().await;
}

#[tokio::test]
async fn reads_go_on_when_the_server_is_back() {
    let server = PgServer::start(&[]).await;
    let it = Proxied::start_on(&server, |config| config.read_timeout = Duration::from_secs(5)).await;
    it.store.commit(creation(order(1))).await.unwrap();
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        // Every reader has a connection.
        let reads = join_all((0..16).map(|_| it.store.load(id(1)))).await;
        assert!(reads.iter().all(Result::is_ok));
        server.restart(how).await;
        let reads = join_all((0..16).map(|_| it.store.load(id(1)))).await;
        let failed: Vec<_> = reads.into_iter().filter_map(Result::err).collect();
        assert_eq!(failed, []);
        assert_eq!(it.store.ping().await, Ok(()));
    }
    it.store.close().await;
}

/// Takes every connection that a role can have.
async fn take_all(url: &str) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    while let Ok(connection) = PgConnection::connect(url).await {
        taken.push(connection);
    }
    taken
}

#[tokio::test]
async fn a_server_without_a_free_connection_says_so_and_is_used_again() {
    let server = PgServer::start(&[("max_connections", "14")]).await;
    server.admin("CREATE ROLE app LOGIN").await;
    let owned = server.create_database().await;
    let name = owned.rsplit_once('/').unwrap().1;
    server.admin(&format!("ALTER DATABASE {name} OWNER TO app")).await;
    let url = owned.replace("//orders@", "//app@");
    migrate(&config_of(&url)).await.unwrap();
    let mut config = config_of(&url);
    (config.read_timeout, config.outage_patience, config.exclusive) = (ms(500), ms(200), false);
    let store = PostgresStore::open(config.clone()).await.unwrap();
    store.commit(creation(order(1))).await.unwrap();
    store.load(id(1)).await.unwrap().unwrap();

    // Others take what is free, and then what the store had.
    let mut others = take_all(&url).await;
    // What the store has it keeps.
    assert_eq!(store.commit(creation(order(2))).await, Ok(()));
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name LIKE 'order-service %'";
    eventually("every connection to be taken", async || {
        server.admin(end).await;
        others.append(&mut take_all(&url).await);
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'order-service %'";
        (server.value(left).await == "0").then_some(())
    })
    .await;
    // A session that has ended, also one that asked just now, gives its place back a moment later.
    let mut in_vain = 0;
    eventually("no place to be given back any more", async || {
        let mut more = take_all(&url).await;
        in_vain = if more.is_empty() { in_vain + 1 } else { 0 };
        others.append(&mut more);
        (in_vain == 50).then_some(())
    })
    .await;
    let mut refused = store.commit(creation(order(3))).await;
    if matches!(refused, Err(CommitError::Unknown(_))) {
        // This one may have been on its way when the connection ended.
        refused = store.commit(creation(order(4))).await;
    }
    assert!(
        matches!(&refused, Err(CommitError::NotCommitted(why)) if why.contains("connection slots")),
        "{refused:?}"
    );
    let started = Instant::now();
    let read = store.load(id(1)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let opened = PostgresStore::open(config.clone()).await.unwrap_err();
    assert!(
        matches!(&opened, OpenError::Unreachable { what, .. } if what.contains("connection slots")),
        "{opened}"
    );

    drop(others);
    eventually("a commit", async || store.commit(creation(order(5))).await.ok()).await;
    eventually("a read", async || store.load(id(5)).await.ok()?).await;
    let other = PostgresStore::open(config).await.unwrap();
    assert!(other.load(id(5)).await.unwrap().is_some());
    whole(&url).await;
    other.close().await;
    store.close().await;
}

#[tokio::test]
async fn a_full_disk_takes_nothing_by_halves() {
    let disk = SmallDisk::new(130);
    let server = PgServer::start_on(&disk, &[]).await;
    let it = Proxied::start_on(&server, |config| config.outage_patience = ms(300)).await;
    it.store.commit(creation(order(1))).await.unwrap();
    disk.fill();
    let mut results = Vec::new();
    // Until the last free page is used up: each takes a dozen rows.
    for first in (0..).step_by(100) {
        let commits = (first..first + 100).map(|n| creation(order(10_000 + n)));
        let batch: Vec<_> = commits.collect();
        let answers = join_all(batch.iter().map(|commit| it.store.commit(commit.clone()))).await;
        let failed = answers.iter().any(Result::is_err);
        results.extend(batch.into_iter().zip(answers));
        if failed {
            break;
        }
    }
    let log = server.log();
    assert!(log.contains("No space left on device"), "{log}");
    for (_, result) in &results {
        let told = matches!(result, Ok(()) | Err(CommitError::NotCommitted(_) | CommitError::Unknown(_)));
        assert!(told, "{result:?}");
    }
    disk.free();
    server.recovered().await;
    // The same store goes on.
    eventually("a commit", async || it.store.commit(creation(order(2))).await.ok()).await;
    whole(&it.url).await;
    let ids = query(&it.url, "SELECT id FROM orders").await.unwrap().concat();
    for (commit, result) in &results {
        let is_there = ids.contains(&commit.order.id.to_string());
        match result {
            Ok(()) => assert!(is_there, "an acknowledged order is gone"),
            Err(CommitError::Unknown(_)) => {}
            Err(error) => assert!(!is_there, "an order is there that was refused: {error}"),
        }
    }
    let count = |wanted: fn(&Result<(), CommitError>) -> bool| {
        results.iter().filter(|(_, result)| wanted(result)).count()
    };
    let unknown = count(|result| matches!(result, Err(CommitError::Unknown(_))));
    println!("{} stored, {unknown} unknown, of {}", count(Result::is_ok), results.len());
    assert_eq!(value(&it.url, "SELECT count(*) FROM commit_marks").await, "0");
    it.store.close().await;
}

#[tokio::test]
async fn a_full_tablespace_refuses_and_the_server_goes_on() {
    let disk = SmallDisk::new(16);
    let server = PgServer::start(&[]).await;
    let it = Proxied::start_on(&server, |_| {}).await;
    it.store.commit(creation(order(1))).await.unwrap();
    let space = disk.path();
    server.admin(&format!("CREATE TABLESPACE small LOCATION '{}'", space.display())).await;
    query(&it.url, "ALTER TABLE order_events SET TABLESPACE small").await.unwrap();
    disk.fill();
    let (mut stored, mut refused) = (0, None);
    for n in 2.. {
        match it.store.commit(creation(order(n))).await {
            Ok(()) => stored += 1,
            Err(error) => {
                refused = Some((n, error));
                break;
            }
        }
    }
    let (n, error) = refused.unwrap();
    assert!(matches!(&error, CommitError::NotCommitted(why) if why.contains("No space left")), "{error:?}");
    it.has_nothing_of(id(n)).await;
    assert_eq!(it.store.load(id(1)).await.unwrap().unwrap().order.version, 1);
    disk.free();
    assert_eq!(it.store.commit(creation(order(n))).await, Ok(()));
    whole(&it.url).await;
    assert_eq!(value(&it.url, "SELECT count(*) FROM orders").await, (stored + 2).to_string());
    it.store.close().await;
}
