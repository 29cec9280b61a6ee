//! What only a store in an SQLite file promises: whose file it is, and what stands in it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use order_service::domain::event::OrderEvent;
use order_service::domain::ids::OrderId;
use order_service::domain::status::OrderStatus;
use order_service::ports::store::OrderStore;
use order_service::store::Applied;
use order_service::store::sqlite::{OpenError, SqliteConfig, SqliteStore, migrate};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tempfile::TempDir;
use uuid::Uuid;

use super::StoreFactory;
use crate::harness::orders::{creation, event, id, order, update};

/// A folder for one file.
pub(crate) struct SqliteFiles {
    folder: TempDir,
}

impl SqliteFiles {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data").join("orders.db")
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig { path: self.path(), readers: 2, ..SqliteConfig::default() }
    }

    pub(crate) async fn try_open(&self) -> Result<Arc<SqliteStore>, OpenError> {
        SqliteStore::open(self.config()).await
    }

    /// A connection behind the store's back.
    async fn raw(&self) -> SqliteConnection {
        fs::create_dir_all(self.path().parent().unwrap()).unwrap();
        let options = SqliteConnectOptions::new().filename(self.path()).create_if_missing(true);
        options.connect().await.unwrap()
    }

    async fn run(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut raw = self.raw().await;
        let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut raw).await.map(drop);
        raw.close().await.unwrap();
        result
    }
}

#[async_trait(?Send)]
impl StoreFactory for SqliteFiles {
    async fn fresh() -> Self {
        Self::new()
    }

    async fn open(&self) -> Arc<dyn OrderStore> {
        self.try_open().await.unwrap()
    }

    async fn spoil(&self, order: OrderId) {
        self.run(&format!("UPDATE orders SET status = 'LOST' WHERE id = x'{}'", order.0.simple()))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn one_process_has_the_file() {
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
    let refused = files.try_open().await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    assert!(matches!(migrate(&files.config()).await, Err(OpenError::InUse { .. })));
    store.close().await;
    files.try_open().await.unwrap().close().await;
}

#[tokio::test]
async fn a_file_is_the_same_by_whatever_name() {
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
    let path = files.config().path.canonicalize().unwrap();
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let by_link = SqliteConfig { path: link, ..files.config() };
    let refused = SqliteStore::open(by_link).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    store.close().await;

    let twin = path.with_file_name("twin.db");
    fs::hard_link(&path, &twin).unwrap();
    let by_twin = SqliteConfig { path: twin, ..files.config() };
    let refused = SqliteStore::open(by_twin).await.unwrap_err();
    assert!(refused.to_string().contains("more than one name"), "{refused}");
}

#[tokio::test]
async fn a_store_that_is_dropped_lets_go_of_its_file() {
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
    assert!(futures::FutureExt::now_or_never(store.commit(creation(order(1)))).is_none());
    drop(store);
    let store = loop {
        match files.try_open().await {
            Ok(store) => break store,
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(store.load(id(1)).await.unwrap().is_some());
    store.close().await;
}

#[tokio::test]
async fn closing_leaves_one_tidy_file() {
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
    store.commit(creation(order(1))).await.unwrap();
    store.load(id(1)).await.unwrap();
    store.close().await;
    let mut names: Vec<_> =
        fs::read_dir(files.path().parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["orders.db", "orders.db.lock"]);
}

#[tokio::test]
async fn a_file_that_is_not_sqlite_is_refused_and_kept() {
    let files = SqliteFiles::new();
    fs::create_dir_all(files.path().parent().unwrap()).unwrap();
    fs::write(files.path(), "my notes").unwrap();
    assert!(matches!(files.try_open().await, Err(OpenError::NotSqlite { .. })));
    assert_eq!(fs::read_to_string(files.path()).unwrap(), "my notes");
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_kept() {
    for sql in
        ["CREATE TABLE songs (id INTEGER)", "PRAGMA application_id = 42", "CREATE TABLE orders (id INTEGER)"]
    {
        let files = SqliteFiles::new();
        files.run(sql).await.unwrap();
        let before = fs::read(files.path()).unwrap();
        let refused = files.try_open().await;
        assert!(matches!(refused, Err(OpenError::Foreign { .. })), "{sql}: {refused:?}");
        assert_eq!(fs::read(files.path()).unwrap(), before);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let files = SqliteFiles::new();
    files.try_open().await.unwrap().close().await;
    let insert = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2026-01-01', 1, x'00', 1)";
    files.run(insert).await.unwrap();
    let refused = files.try_open().await;
    assert!(matches!(refused, Err(OpenError::Newer { found: 9999, .. })), "{refused:?}");
    files.run("DELETE FROM _sqlx_migrations WHERE version = 9999").await.unwrap();
    files.try_open().await.unwrap().close().await;
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let files = SqliteFiles::new();
    files.try_open().await.unwrap().close().await;
    files.run("UPDATE _sqlx_migrations SET checksum = x'00'").await.unwrap();
    assert!(matches!(files.try_open().await, Err(OpenError::Changed { version: 1, .. })));
}

#[tokio::test]
async fn migrations_are_reported_once() {
    let files = SqliteFiles::new();
    let first = migrate(&files.config()).await.unwrap();
    assert_eq!(first[0], Applied { version: 1, description: String::from("orders") });
    assert_eq!(migrate(&files.config()).await.unwrap(), []);
    files.try_open().await.unwrap().close().await;
}

#[tokio::test]
async fn a_start_that_was_cut_short_is_done_again() {
    let files = SqliteFiles::new();
    files.try_open().await.unwrap().close().await;
    let schema = "SELECT sql FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let schema: String = sqlx::query_scalar(schema).fetch_one(&mut files.raw().await).await.unwrap();
    fs::remove_file(files.path()).unwrap();
    files.run(&schema).await.unwrap();
    files.try_open().await.unwrap().close().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let files = SqliteFiles::new();
    fs::write(files.folder.path().join("data"), "in the way").unwrap();
    let refused = files.try_open().await.unwrap_err();
    assert!(matches!(refused, OpenError::Folder { .. }), "{refused}");
    assert!(refused.to_string().contains("data"), "{refused}");
}

#[tokio::test]
async fn history_and_ledger_cannot_be_rewritten() {
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
    let mut full = order(1);
    crate::harness::orders::change_all(&mut full);
    store.commit(creation(full)).await.unwrap();
    for table in ["order_events", "order_status_history", "order_payment_transactions"] {
        for sql in [format!("UPDATE {table} SET order_id = order_id"), format!("DELETE FROM {table}")] {
            let refused = files.run(&sql).await.unwrap_err();
            assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
        }
    }
    store.close().await;
}

#[tokio::test]
async fn every_status_has_a_row_of_history() {
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
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
    let rows: Vec<(Uuid, String, String, String)> =
        sqlx::query_as(sql).fetch_all(&mut files.raw().await).await.unwrap();
    let row = |seq, status: &str, notes: &str| {
        (id(1).part("history", seq), status.to_owned(), notes.to_owned(), String::from("user:1"))
    };
    assert_eq!(rows, [row(1, "PENDING", ""), row(3, "CANCELLED", "bye")]);
    store.close().await;
}

#[tokio::test]
async fn what_was_answered_is_in_the_files() {
    // As after a crash: a copy of the files, made while the store is open, holds everything that was answered.
    let files = SqliteFiles::new();
    let store = files.try_open().await.unwrap();
    store.commit(creation(order(1))).await.unwrap();
    let copy = SqliteFiles::new();
    fs::create_dir_all(copy.path().parent().unwrap()).unwrap();
    for end in ["", "-wal"] {
        let name = |files: &SqliteFiles| files.path().with_file_name(format!("orders.db{end}"));
        fs::copy(name(&files), name(&copy)).unwrap();
    }
    let copied = copy.try_open().await.unwrap();
    assert_eq!(*copied.load(id(1)).await.unwrap().unwrap().order, order(1));
    copied.close().await;
    store.close().await;
}

#[test]
fn unknown_settings_are_refused() {
    let config: SqliteConfig = serde_json::from_str(r#"{"path": "x.db", "readers": 2}"#).unwrap();
    assert_eq!((config.readers, config.batch_max), (2, 256));
    assert!(serde_json::from_str::<SqliteConfig>(r#"{"reader": 2}"#).is_err());
}
