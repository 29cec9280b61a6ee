//! Opening the file: whose it is, who has it, which schema it has.
//!
//! A file that is refused is left as it was.

use std::cmp::Ordering;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, query_scalar};

use crate::file_lock;
use crate::store::Applied;

/// The schema, compiled in.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// `application_id` in the header of our files, set by the first migration: "ORDS".
const APPLICATION_ID: i32 = 0x4F52_4453;

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Where the file is and how it is used.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file. Its folder is created when it is not there; `PATH.lock` stands beside it.
    pub path: PathBuf,
    /// Connections for reading.
    pub readers: u32,
    /// At most this many changes in one transaction.
    pub batch_max: usize,
    /// At most this many changes waiting; more are refused.
    pub queue_max: usize,
    /// How long a statement waits for another program that has the file locked, in milliseconds.
    pub busy_timeout_ms: u64,
    /// How long a read waits for a free connection, in milliseconds.
    pub read_timeout_ms: u64,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/orders.db"),
            readers: 4,
            batch_max: 256,
            queue_max: 16_384,
            busy_timeout_ms: 5_000,
            read_timeout_ms: 5_000,
        }
    }
}

/// Why the store could not be opened. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is not there and cannot be made.
    #[error("cannot create the folder {} for the order store ({error}); create it or choose another store.url", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot use {} ({error}); check that this user may write to it and to its folder", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process has it open.
    #[error("the order store {} is in use by {holder}; stop that process first or choose another store.url", .path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
        /// Who, such as `process 4711`.
        holder: String,
    },
    /// Not a database.
    #[error("{} is not an SQLite file; choose another store.url or move the file away", .path.display())]
    NotSqlite {
        /// The file.
        path: PathBuf,
    },
    /// A database of another program.
    #[error("{} is an SQLite file of another program, not an order store; choose another store.url", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to read.
    #[error("there is no order store at {}; correct store.url, or start a node, which makes one", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// An older program has been here, and a reader changes nothing.
    #[error(
        "{} has schema version {found} and this program reads version {known}; run order-service migrate first",
        .path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Highest version applied.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// A newer program has been here.
    #[error(
        "{} has schema version {found} and this program knows versions up to {known}; start the newer program",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Highest version applied.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// A migration in this program is not the one that was applied.
    #[error(
        "migration {version} was changed after it was applied to {}; start the program that applied it",
        .path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Which.
        version: i64,
    },
    /// Anything else SQLite says.
    #[error("cannot open the order store {}: {what}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        what: String,
    },
}

/// Applies every migration that the file does not have, creating it if need be, and tells which.
pub async fn migrate(config: &SqliteConfig) -> Result<Vec<Applied>, OpenError> {
    let opened = open(config).await?;
    opened.writer.close().await.map_err(|error| sqlite(&config.path, &error))?;
    Ok(opened.applied)
}

/// A file that is ours alone and has our schema.
pub(super) struct Opened {
    pub(super) lock: FileLock,
    pub(super) writer: SqliteConnection,
    pub(super) writing: SqliteConnectOptions,
    pub(super) applied: Vec<Applied>,
}

pub(super) async fn open(config: &SqliteConfig) -> Result<Opened, OpenError> {
    let path = &real_path(&config.path)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Orders hold names and addresses: nobody else on this machine needs to look in.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| OpenError::Folder { path: folder.to_path_buf(), error })?;
    }
    let lock = FileLock::take(path)?;
    check_kind(path)?;
    let plain = SqliteConnectOptions::new().filename(path).foreign_keys(false).disable_statement_logging();
    let mut looking = plain.clone().connect().await.map_err(|error| sqlite(path, &error))?;
    check_contents(path, &mut looking).await?;
    looking.close().await.map_err(|error| sqlite(path, &error))?;

    let writing = writing(plain, config);
    let mut writer = writing.connect().await.map_err(|error| sqlite(path, &error))?;
    let applied = apply(path, &mut writer).await?;
    Ok(Opened { lock, writer, writing, applied })
}

/// Connections that can only read, to a file that somebody else may be writing: it is neither made nor changed nor
/// locked, so its schema has to be ours already.
pub(super) async fn open_reader(config: &SqliteConfig) -> Result<SqlitePool, OpenError> {
    let failed = |error: std::io::Error| match (error.kind(), config.path.clone()) {
        (ErrorKind::NotFound, path) => OpenError::Missing { path },
        (_, path) => OpenError::File { path, error },
    };
    let path = &real_path(&config.path)?;
    let mut file = File::open(path).map_err(failed)?;
    let mut head = Vec::with_capacity(MAGIC.len());
    (&mut file).take(MAGIC.len() as u64).read_to_end(&mut head).map_err(failed)?;
    if head != MAGIC {
        return Err(OpenError::NotSqlite { path: path.clone() });
    }
    let config = SqliteConfig { path: path.clone(), ..config.clone() };
    let pool = readers(&config).await?;
    match check_schema(path, &pool).await {
        Ok(()) => Ok(pool),
        Err(error) => {
            pool.close().await;
            Err(error)
        }
    }
}

async fn check_schema(path: &Path, pool: &SqlitePool) -> Result<(), OpenError> {
    let mut connection = pool.acquire().await.map_err(|error| sqlite(path, &error))?;
    check_contents(path, &mut connection).await?;
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let found = applied_versions(path, &mut connection).await?.into_iter().max().unwrap_or(0);
    let path = path.to_path_buf();
    match found.cmp(&known) {
        Ordering::Less => Err(OpenError::Older { path, found, known }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(OpenError::Newer { path, found, known }),
    }
}

/// The file itself where the path is a link to it: the lock and the log stand beside the file, so that everybody who
/// comes to it by whatever name meets them.
fn real_path(path: &Path) -> Result<PathBuf, OpenError> {
    let failed = |error| OpenError::File { path: path.to_path_buf(), error };
    // What is not there yet, or cannot be reached, is told about when it is opened.
    let Ok(path) = path.canonicalize() else { return Ok(path.to_path_buf()) };
    if std::fs::metadata(&path).map_err(failed)?.nlink() > 1 {
        let what = "it has more than one name (hard links), so nobody could tell who else uses it";
        return Err(failed(std::io::Error::other(what)));
    }
    Ok(path)
}

/// Connections that can only read.
pub(super) async fn readers(config: &SqliteConfig) -> Result<SqlitePool, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(&config.path)
        .read_only(true)
        .foreign_keys(false)
        .busy_timeout(Duration::from_millis(config.busy_timeout_ms))
        .statement_cache_capacity(128)
        .pragma("cache_size", "-16000")
        .pragma("mmap_size", "268435456")
        .thread_name(|_| String::from("orders-read"))
        .disable_statement_logging();
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(config.readers.max(1))
        .acquire_timeout(Duration::from_millis(config.read_timeout_ms.max(1)))
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(|error| sqlite(&config.path, &error))
}

fn writing(plain: SqliteConnectOptions, config: &SqliteConfig) -> SqliteConnectOptions {
    plain
        .journal_mode(SqliteJournalMode::Wal)
        // With the write-ahead log, FULL syncs it at every COMMIT: what is answered survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_millis(config.busy_timeout_ms))
        // Every statement in every size in use must fit, or each batch would prepare its statements anew.
        .statement_cache_capacity(1024)
        .pragma("cache_size", "-64000")
        .pragma("temp_store", "memory")
        // 32 MiB: a checkpoint happens inside somebody's commit, so not too often.
        .pragma("wal_autocheckpoint", "8192")
        .pragma("journal_size_limit", "67108864")
        // Tokens that were dropped are overwritten, not left in the free part of a page.
        .pragma("secure_delete", "fast")
        .thread_name(|_| String::from("orders-write"))
}

/// Refuses what is not SQLite without giving it to SQLite.
fn check_kind(path: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::File { path: path.to_path_buf(), error };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path).map_err(failed)?;
    let mut head = Vec::with_capacity(MAGIC.len());
    (&mut file).take(MAGIC.len() as u64).read_to_end(&mut head).map_err(failed)?;
    if head.is_empty() || head == MAGIC {
        Ok(())
    } else {
        Err(OpenError::NotSqlite { path: path.to_path_buf() })
    }
}

async fn check_contents(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| sqlite(path, &error);
    let id: i32 = query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await.map_err(failed)?;
    let tables: Vec<String> = query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    // A first start that was cut short leaves the table of migrations and nothing else.
    let is_fresh = id == 0 && tables.iter().all(|table| table == "_sqlx_migrations");
    if id != APPLICATION_ID && !is_fresh {
        return Err(OpenError::Foreign { path: path.to_path_buf() });
    }
    Ok(())
}

async fn apply(path: &Path, connection: &mut SqliteConnection) -> Result<Vec<Applied>, OpenError> {
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let before = applied_versions(path, connection).await?;
    // `run` takes any source of connections, and with that the compiler no longer sees that the future is Send.
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => OpenError::Newer { path: path.to_path_buf(), found, known },
        MigrateError::VersionMismatch(version) => OpenError::Changed { path: path.to_path_buf(), version },
        other => OpenError::Sqlite { path: path.to_path_buf(), what: other.to_string() },
    })?;
    let applied = MIGRATIONS.iter().filter(|migration| !before.contains(&migration.version));
    Ok(applied
        .map(|migration| Applied {
            version: migration.version,
            description: migration.description.clone().into_owned(),
        })
        .collect())
}

async fn applied_versions(path: &Path, connection: &mut SqliteConnection) -> Result<Vec<i64>, OpenError> {
    let failed = |error: sqlx::Error| sqlite(path, &error);
    let has_history: i64 = query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if has_history == 0 {
        return Ok(Vec::new());
    }
    query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(connection).await.map_err(failed)
}

fn sqlite(path: &Path, error: &sqlx::Error) -> OpenError {
    OpenError::Sqlite { path: path.to_path_buf(), what: error.to_string() }
}

/// An exclusive lock of the operating system on `PATH.lock`; it ends with the process, however that ends.
///
/// SQLite's own locks come and go with each transaction, so two processes could take turns writing; each would believe
/// that its actors alone own the orders.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    fn take(database: &Path) -> Result<Self, OpenError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |error| OpenError::File { path: path.clone(), error };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match file_lock::lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message: the holder may just be writing it.
                let _ = file.read_to_string(&mut text);
                let holder = match text.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => String::from("another process"),
                };
                return Err(OpenError::InUse { path: database.to_path_buf(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn commits_are_synced_and_readers_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = SqliteConfig { path: folder.path().join("orders.db"), ..SqliteConfig::default() };
        let mut opened = open(&config).await.unwrap();
        let synchronous: i64 =
            query_scalar("PRAGMA synchronous").fetch_one(&mut opened.writer).await.unwrap();
        let journal: String =
            query_scalar("PRAGMA journal_mode").fetch_one(&mut opened.writer).await.unwrap();
        assert_eq!((synchronous, journal.as_str()), (2, "wal"));
        let readers = readers(&config).await.unwrap();
        let refused = sqlx::query("DELETE FROM orders").execute(&readers).await.unwrap_err();
        assert!(refused.to_string().contains("readonly"), "{refused}");
        readers.close().await;
    }
}
