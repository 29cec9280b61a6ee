//! What only a store in Postgres promises: how its tables come to be, whose database it is, and what stands in it.

use std::time::Duration;

use futures::future::join_all;
use order_service::domain::event::OrderEvent;
use order_service::domain::status::OrderStatus;
use order_service::ports::store::{OrderStore, StoreError};
use order_service::store::Applied;
use order_service::store::postgres::{OpenError, Pooler, PostgresConfig, PostgresStore, migrate};
use tokio::time::Instant;

use super::postgres::config_of;
use crate::harness::orders::{change_all, creation, event, id, order, update};
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::place::free_port;
use crate::harness::postgres::{query, shared, shared_database};
use crate::harness::process::Process;

/// What a whole node, or another command, says last on this store; it must not start.
async fn refused(url: &str, command: &str, settings: &[(&str, &str)]) -> String {
    let all = [
        ("ORDER__STORE__URL", url),
        ("ORDER__GRPC__LISTEN", "127.0.0.1:0"),
        ("ORDER__OPS__LISTEN", "127.0.0.1:0"),
    ];
    let all: Vec<_> =
        all.iter().chain(settings).map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let mut process = Process::spawn("refused", &[command], &all);
    let code = process.ended().await.code();
    let log = process.log();
    let last = log.lines().last().unwrap_or_default().to_owned();
    assert!(code == Some(1) && !log.contains("panicked"), "{code:?} {log}");
    last
}

/// A database with the newest schema.
async fn migrated() -> (String, PostgresConfig) {
    let url = shared_database().await;
    let config = config_of(&url);
    migrate(&config).await.unwrap();
    (url, config)
}

async fn open_error(config: PostgresConfig) -> OpenError {
    PostgresStore::open(config).await.unwrap_err()
}

fn first() -> Applied {
    Applied { version: 1, description: String::from("orders") }
}

#[tokio::test]
async fn migrations_are_reported_once() {
    let config = config_of(&shared_database().await);
    assert_eq!(migrate(&config).await.unwrap()[0], first());
    assert_eq!(migrate(&config).await.unwrap(), []);
    PostgresStore::open(config).await.unwrap().close().await;
}

#[tokio::test]
async fn many_migrate_at_once_and_each_migration_is_applied_once() {
    let url = shared_database().await;
    let config = config_of(&url);
    let told = join_all((0..8).map(|_| migrate(&config))).await;
    let told: Vec<Applied> = told.into_iter().flat_map(Result::unwrap).collect();
    let rows =
        query(&url, "SELECT version, description FROM _sqlx_migrations ORDER BY version").await.unwrap();
    let stored: Vec<Applied> = rows
        .iter()
        .map(|row| Applied { version: row[0].parse().unwrap(), description: row[1].clone() })
        .collect();
    assert_eq!(told, stored);
    PostgresStore::open(config).await.unwrap().close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (url, config) = migrated().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'tomorrow', true, '', 0)";
    query(&url, newer).await.unwrap();
    let refusal = open_error(config.clone()).await;
    assert!(matches!(refusal, OpenError::Newer { found: 9999, .. }), "{refusal}");
    let refusal = migrate(&config).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Newer { found: 9999, .. }), "{refusal}");
    for command in ["serve", "migrate"] {
        let last = refused(&url, command, &[]).await;
        assert!(
            last.contains("has schema version 9999") && last.contains("start the newer program"),
            "{last}"
        );
    }
    query(&url, "DELETE FROM _sqlx_migrations WHERE version = 9999").await.unwrap();
    PostgresStore::open(config).await.unwrap().close().await;
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let (url, config) = migrated().await;
    query(&url, "UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1").await.unwrap();
    let refusal = open_error(config.clone()).await;
    assert!(matches!(refusal, OpenError::Changed { version: 1, .. }), "{refusal}");
    assert!(refusal.to_string().contains("start the program that applied it"), "{refusal}");
    let refusal = migrate(&config).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Changed { version: 1, .. }), "{refusal}");
}

#[tokio::test]
async fn tables_of_another_program_are_refused_and_kept() {
    let url = shared_database().await;
    query(&url, "CREATE TABLE orders (what text); INSERT INTO orders VALUES ('a cake')").await.unwrap();
    let refusal = migrate(&config_of(&url)).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Foreign { .. }), "{refusal}");
    for command in ["serve", "migrate"] {
        let last = refused(&url, command, &[]).await;
        assert!(last.contains("of another program; choose another database in store.url"), "{last}");
    }
    assert_eq!(query(&url, "SELECT what FROM orders").await.unwrap(), [["a cake"]]);
    let tables = "SELECT string_agg(tablename, ',') FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(query(&url, tables).await.unwrap(), [["orders"]]);
}

#[tokio::test]
async fn a_node_that_may_not_migrate_says_who_has_to() {
    let url = shared_database().await;
    let refusal = open_error(config_of(&url)).await;
    assert!(matches!(refusal, OpenError::NotMigrated { found: 0, known, .. } if known >= 1), "{refusal}");
    let last = refused(&url, "serve", &[("ORDER__STORE__MIGRATE", "false")]).await;
    assert!(
        last.contains("has schema version 0") && last.contains("run `order-service migrate` first"),
        "{last}"
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(query(&url, tables).await.unwrap(), [["0"]]);
}

#[tokio::test]
async fn migrations_do_not_go_through_a_pooler() {
    let url = shared_database().await;
    let bouncer = PgBouncer::start(shared().await, "transaction").await;
    let pooled = PostgresConfig { pooler: Pooler::Transaction, ..config_of(&bouncer.url_of(&url)) };
    let refusal = migrate(&pooled).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Pooled { found: 0, .. }), "{refusal}");
    assert!(
        refusal.to_string().contains("with store.pooler none and the URL of the server itself"),
        "{refusal}"
    );
    migrate(&config_of(&url)).await.unwrap();
    // A node may be told to migrate as long as there is nothing to do; again and again, since sessions are shared.
    for _ in 0..3 {
        assert_eq!(migrate(&pooled).await.unwrap(), []);
        PostgresStore::open(pooled.clone()).await.unwrap().close().await;
    }
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(query(&url, left).await.unwrap(), [["0"]]);
}

#[tokio::test]
async fn history_and_ledger_cannot_be_rewritten() {
    let (url, config) = migrated().await;
    let store = PostgresStore::open(config).await.unwrap();
    let mut full = order(1);
    change_all(&mut full);
    store.commit(creation(full)).await.unwrap();
    for table in ["order_events", "order_status_history", "order_payment_transactions"] {
        let count = format!("SELECT count(*) FROM {table}");
        let before = query(&url, &count).await.unwrap();
        assert_ne!(before, [["0"]], "{table}");
        for sql in [
            format!("UPDATE {table} SET order_id = order_id"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("TRUNCATE orders, {table} CASCADE"),
        ] {
            let refused = query(&url, &sql).await.unwrap_err().to_string();
            assert!(refused.contains(&format!("{table} is append-only")), "{sql}: {refused}");
        }
        assert_eq!(query(&url, &count).await.unwrap(), before);
    }
    store.close().await;
}

#[tokio::test]
async fn every_status_has_a_row_of_history() {
    let (url, config) = migrated().await;
    let store = PostgresStore::open(config).await.unwrap();
    store.commit(creation(order(1))).await.unwrap();
    let mut commit = update(&order(1), |order| order.status = OrderStatus::Cancelled);
    let changed = OrderEvent::StatusChanged {
        from: OrderStatus::Pending,
        to: OrderStatus::Cancelled,
        notes: String::from("bye"),
        reason: None,
    };
    commit.events = vec![event(3, 2, changed)];
    store.commit(commit).await.unwrap();
    let sql = "SELECT id, status, notes, created_by FROM order_status_history ORDER BY created_at, seq";
    let row = |seq, status: &str, notes: &str| {
        vec![
            id(1).part("history", seq).to_string(),
            status.to_owned(),
            notes.to_owned(),
            String::from("user:1"),
        ]
    };
    assert_eq!(query(&url, sql).await.unwrap(), [row(1, "PENDING", ""), row(3, "CANCELLED", "bye")]);
    store.close().await;
}

#[tokio::test]
async fn one_node_has_the_database() {
    let (_, config) = migrated().await;
    let store = PostgresStore::open(config.clone()).await.unwrap();
    let refusal = open_error(config.clone()).await;
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    assert!(refusal.to_string().contains("in use by another node (127.0.0.1, since "), "{refusal}");
    // Whoever only reads is not in the way, and neither is a node of another database.
    PostgresStore::open_reader(&config).await.unwrap().close().await;
    let (_, other) = migrated().await;
    PostgresStore::open(other).await.unwrap().close().await;
    store.close().await;
    // It lets go at once.
    let started = Instant::now();
    PostgresStore::open(config).await.unwrap().close().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_is_away_is_told_without_the_password() {
    let port = free_port();
    let url = format!("postgres://somebody:hushhush@127.0.0.1:{port}/orders");
    let refusal = open_error(config_of(&url)).await;
    assert!(matches!(refusal, OpenError::Unreachable { .. }), "{refusal}");
    let last = refused(&url, "serve", &[]).await;
    for told in [refusal.to_string(), last] {
        let whole = told.contains(&format!("cannot reach the order store at 127.0.0.1:{port}/orders"))
            && told.contains("check store.url and that the server runs");
        assert!(whole && !told.contains("hushhush"), "{told}");
    }
    let refusal = format!("{refusal:?}");
    assert!(!refusal.contains("hushhush"), "{refusal}");
}

#[tokio::test]
async fn a_database_or_role_that_is_not_there_is_named() {
    let server = shared().await;
    let mut config = config_of(&server.url("no_such_database"));
    let refusal = open_error(config.clone()).await.to_string();
    assert!(refusal.contains("database \"no_such_database\" does not exist (3D000)"), "{refusal}");
    config = config_of(&server.url("postgres"));
    config.target.user = String::from("no_such_role");
    let refusal = open_error(config).await.to_string();
    assert!(refusal.contains("role \"no_such_role\" does not exist (28000)"), "{refusal}");
}

#[tokio::test]
async fn an_order_that_fails_a_read_fails_alone() {
    let (url, config) = migrated().await;
    let store = PostgresStore::open(config).await.unwrap();
    for n in 1..=20 {
        store.commit(creation(order(n))).await.unwrap();
    }
    // No number of microseconds, so the statement that reads it fails, whoever else it reads.
    let broken = format!("UPDATE order_items SET created_at = 'infinity' WHERE order_id = '{}'", id(7));
    query(&url, &broken).await.unwrap();
    let all = join_all((1..=20).map(|n| store.load(id(n)))).await;
    for (n, loaded) in (1..=20).zip(all) {
        if n == 7 {
            assert!(
                matches!(&loaded, Err(StoreError::Corrupt { order, .. }) if *order == id(7)),
                "{loaded:?}"
            );
        } else {
            assert_eq!(*loaded.unwrap().unwrap().order, order(n));
        }
    }
    store.close().await;
}
