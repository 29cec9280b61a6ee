//! Opening the database: which server it is, which schema it has, and whether its word can be relied on.

use std::sync::LazyLock;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Executor, Row, query_scalar};

use super::config::{Pooler, PostgresConfig, Safety, Target};
use super::fault::told;
use crate::store::Applied;

/// The schema, compiled in.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("migrations/postgres");
    // Its lock belongs to a session, and stays in a pooler's session for ever.
    migrations.set_locking(false);
    migrations
});

/// Oldest server that is supported: 14.0.
const OLDEST_SERVER: i32 = 140_000;

/// Held while migrations are applied.
const MIGRATING: i64 = 0x4F52_4453_0001;
/// How often whoever waits for it looks.
const LOOK: Duration = Duration::from_millis(50);

/// Server settings that, when off, lose what was acknowledged.
const VITAL: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

/// Server settings that are told at start.
const TOLD: &str = "SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'server_version_num', 'fsync', \
     'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'wal_level', 'data_checksums', \
     'max_connections', 'default_transaction_isolation', 'default_transaction_read_only') ORDER BY name";

/// Why the store could not be opened. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No answer, or a refusal.
    #[error("cannot reach the order store at {target} ({what}); check store.url and that the server runs")]
    Unreachable {
        /// Which server and database.
        target: String,
        /// What was said.
        what: String,
    },
    /// Older than what is supported.
    #[error("the order store needs PostgreSQL 14 or later, and {target} has {version}; upgrade the server")]
    TooOld {
        /// Which server and database.
        target: String,
        /// Its version.
        version: String,
    },
    /// The schema is not there, or not all of it.
    #[error(
        "the order store at {target} has schema version {found} and this program needs {known}; run `order-service migrate` first"
    )]
    NotMigrated {
        /// Which server and database.
        target: String,
        /// Highest version applied; 0 = none.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// As [`Self::NotMigrated`], behind a pooler, through which it cannot be mended.
    #[error(
        "the order store at {target} has schema version {found}, this program needs {known}, and a pooler is in the way; run `order-service migrate` with store.pooler none and the URL of the server itself"
    )]
    Pooled {
        /// Which pooler and database.
        target: String,
        /// Highest version applied; 0 = none.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// A database of another program.
    #[error("{target} has a table \"orders\" of another program; choose another database in store.url")]
    Foreign {
        /// Which server and database.
        target: String,
    },
    /// A newer program has been here.
    #[error(
        "the order store at {target} has schema version {found} and this program knows versions up to {known}; start the newer program"
    )]
    Newer {
        /// Which server and database.
        target: String,
        /// Highest version applied.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// A migration in this program is not the one that was applied.
    #[error(
        "migration {version} was changed after it was applied to {target}; start the program that applied it"
    )]
    Changed {
        /// Which server and database.
        target: String,
        /// Which.
        version: i64,
    },
    /// The server may lose what it acknowledged.
    #[error(
        "the order store at {target} has {name} = {value} and may lose acknowledged orders; turn it on, or add {name} to store.allow_unsafe"
    )]
    Unsafe {
        /// Which server and database.
        target: String,
        /// The server's setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// Another node has it.
    #[error(
        "the order store at {target} is in use by another node ({holder}); stop that node first or choose another store.url"
    )]
    InUse {
        /// Which server and database.
        target: String,
        /// Who, as the server sees it.
        holder: String,
    },
    /// Anything else the server says.
    #[error("cannot open the order store at {target}: {what}")]
    Server {
        /// Which server and database.
        target: String,
        /// What the server says.
        what: String,
    },
}

/// A setting of the server as it was seen at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Connects without any settings of a session.
pub(super) async fn connect(config: &PostgresConfig, role: &str) -> Result<PgConnection, OpenError> {
    let unreachable = |what: String| OpenError::Unreachable { target: config.target.to_string(), what };
    let connecting = config.connect(&config.target, role, None).statement_cache_capacity(0);
    match tokio::time::timeout(config.connect_timeout, connecting.connect()).await {
        Ok(connected) => connected.map_err(|error| unreachable(told(&error))),
        Err(_elapsed) => Err(unreachable(String::from("connecting took too long"))),
    }
}

/// Applies every migration that the database does not have and tells which. Several at once wait for each other.
///
/// # Errors
/// When the server is not reachable, too old, or has a newer or foreign schema.
pub fn migrate(config: &PostgresConfig) -> BoxFuture<'_, Result<Vec<Applied>, OpenError>> {
    // Boxed here, where the compiler still sees that it is Send.
    Box::pin(apply(config))
}

async fn apply(config: &PostgresConfig) -> Result<Vec<Applied>, OpenError> {
    let target = &config.target;
    let mut connection = connect(config, "migrate").await?;
    let failed = |error: sqlx::Error| server(target, &error);
    check_server(config, &settings(target, &mut connection).await?)?;
    if config.pooler == Pooler::Transaction {
        // A lock of a session says nothing here, and would stay behind.
        let found = applied(target, &mut connection).await?;
        return match check_schema(target, &found) {
            Err(OpenError::NotMigrated { target, found, known }) => {
                Err(OpenError::Pooled { target, found, known })
            }
            checked => checked.map(|()| Vec::new()),
        };
    }
    // Asked for again and again: a session that waits for a lock holds up the building of an index beside writers, by
    // the very one that has the lock.
    let take = "SELECT pg_try_advisory_lock($1)";
    while !query_scalar(take).bind(MIGRATING).fetch_one(&mut connection).await.map_err(failed)? {
        tokio::time::sleep(LOOK).await;
    }
    let before = applied(target, &mut connection).await?;
    if before.is_empty() {
        let foreign: bool = query_scalar("SELECT to_regclass('orders') IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        if foreign {
            return Err(OpenError::Foreign { target: target.to_string() });
        }
    }
    if check_schema(target, &before).is_ok() {
        return Ok(Vec::new());
    }
    // `run` takes any source of connections, and with that the compiler no longer sees that the future is Send.
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => {
            OpenError::Newer { target: target.to_string(), found, known: known() }
        }
        MigrateError::VersionMismatch(version) => OpenError::Changed { target: target.to_string(), version },
        other => OpenError::Server { target: target.to_string(), what: other.to_string() },
    })?;
    connection.close().await.map_err(failed)?;
    let new =
        MIGRATIONS.iter().filter(|migration| !before.iter().any(|(done, _)| *done == migration.version));
    Ok(new
        .map(|migration| Applied {
            version: migration.version,
            description: migration.description.clone().into_owned(),
        })
        .collect())
}

/// Checks server and schema; returns the settings seen.
pub(super) async fn check(config: &PostgresConfig) -> Result<Vec<Setting>, OpenError> {
    let patience = config.connect_timeout.saturating_add(config.read_timeout);
    match tokio::time::timeout(patience, look(config)).await {
        Ok(checked) => checked,
        Err(_elapsed) => {
            let what = String::from("it was connected to and said nothing in time");
            Err(OpenError::Unreachable { target: config.target.to_string(), what })
        }
    }
}

async fn look(config: &PostgresConfig) -> Result<Vec<Setting>, OpenError> {
    let target = &config.target;
    let mut connection = connect(config, "check").await?;
    let settings = settings(target, &mut connection).await?;
    check_server(config, &settings)?;
    let found = applied(target, &mut connection).await?;
    check_schema(target, &found)?;
    connection.close().await.map_err(|error| server(target, &error))?;
    Ok(settings)
}

async fn settings(target: &Target, connection: &mut PgConnection) -> Result<Vec<Setting>, OpenError> {
    let rows = connection.fetch_all(TOLD).await.map_err(|error| server(target, &error))?;
    let read = |row: &sqlx::postgres::PgRow| Ok(Setting { name: row.try_get(0)?, value: row.try_get(1)? });
    rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(|error| server(target, &error))
}

fn check_server(config: &PostgresConfig, settings: &[Setting]) -> Result<(), OpenError> {
    let value = |name: &str| {
        settings.iter().find(|setting| setting.name == name).map_or("", |setting| setting.value.as_str())
    };
    if value("server_version_num").parse::<i32>().unwrap_or(0) < OLDEST_SERVER {
        let version = value("server_version").to_owned();
        return Err(OpenError::TooOld { target: config.target.to_string(), version });
    }
    let loses = |name: &str| match value(name) {
        "off" => true,
        // Whoever names standbys wants them waited for.
        "local" => !value("synchronous_standby_names").is_empty(),
        _ => false,
    };
    for name in VITAL.into_iter().filter(|name| loses(name)) {
        match &config.safety {
            Safety::Refuse { except } if !except.iter().any(|allowed| allowed == name) => {
                let (target, value) = (config.target.to_string(), value(name).to_owned());
                return Err(OpenError::Unsafe { target, name: name.to_owned(), value });
            }
            _ => tracing::warn!(
                setting = name,
                value = value(name),
                "the database server may lose acknowledged orders when it or its machine crashes"
            ),
        }
    }
    Ok(())
}

/// Versions and checksums of the migrations that were applied.
async fn applied(target: &Target, connection: &mut PgConnection) -> Result<Vec<(i64, Vec<u8>)>, OpenError> {
    let failed = |error: sqlx::Error| server(target, &error);
    // Nothing is prepared: a pooler keeps a prepared statement for whoever gets that session next.
    let row =
        connection.fetch_one("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").await.map_err(failed)?;
    let has_history: bool = row.try_get(0).map_err(failed)?;
    if !has_history {
        return Ok(Vec::new());
    }
    let rows = connection
        .fetch_all("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
        .await
        .map_err(failed)?;
    let read = |row: &sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

fn check_schema(target: &Target, applied: &[(i64, Vec<u8>)]) -> Result<(), OpenError> {
    let target = || target.to_string();
    let found = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
    if found > known() {
        return Err(OpenError::Newer { target: target(), found, known: known() });
    }
    for migration in MIGRATIONS.iter() {
        match applied.iter().find(|(version, _)| *version == migration.version) {
            None => return Err(OpenError::NotMigrated { target: target(), found, known: known() }),
            Some((version, checksum)) if **checksum != *migration.checksum => {
                return Err(OpenError::Changed { target: target(), version: *version });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

pub(super) fn server(target: &Target, error: &sqlx::Error) -> OpenError {
    OpenError::Server { target: target.to_string(), what: told(error) }
}
