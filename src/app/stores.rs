//! The stores that a configuration may name.

use std::sync::Arc;

use anyhow::anyhow;

use crate::config::{self, Config, PostgresUrl, Profile, StoreUrl};
use crate::ports::store::OrderStore;
use crate::ports::vault::KeyStore;
use crate::store::Applied;
use crate::store::postgres::{self, Pooler, PostgresConfig, PostgresStore, Safety, SslMode, Target};
use crate::store::sqlite::{self, SqliteConfig, SqliteStore};

/// A store that a node uses.
pub(super) struct Opened {
    pub(super) store: Arc<dyn OrderStore>,
    /// The keys of personal data, in the same database.
    pub(super) keys: Arc<dyn KeyStore>,
    /// At which epoch this node owns all orders, if it has the store to itself.
    pub(super) epoch: i64,
    /// Where the cluster's records are.
    pub(super) postgres: Option<(Arc<PostgresStore>, PostgresConfig)>,
}

/// A SQLite file has one process at a time, and it knows no others.
const ALONE: i64 = 1;

/// Opens the configured store for a node.
pub(super) async fn open(config: &Config) -> anyhow::Result<Opened> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => {
            let store = SqliteStore::open(sqlite_config(config, path)).await?;
            let keys = Arc::clone(&store) as Arc<dyn KeyStore>;
            Ok(Opened { store, keys, epoch: ALONE, postgres: None })
        }
        StoreUrl::Postgres(url) => {
            let config = postgres_config(config, url)?;
            if config.migrate {
                report(&postgres::migrate(&config).await?);
            }
            let store = PostgresStore::open(config.clone()).await?;
            let epoch = store.epoch().unwrap_or(ALONE);
            Ok(Opened {
                store: Arc::clone(&store) as Arc<dyn OrderStore>,
                keys: Arc::clone(&store) as Arc<dyn KeyStore>,
                epoch,
                postgres: Some((store, config)),
            })
        }
    }
}

/// The configured store for reading only, beside whoever uses it.
pub(super) async fn open_reader(config: &Config) -> anyhow::Result<Arc<dyn OrderStore>> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => Ok(SqliteStore::open_reader(&sqlite_config(config, path)).await?),
        StoreUrl::Postgres(url) => Ok(PostgresStore::open_reader(&postgres_config(config, url)?).await?),
    }
}

/// Brings the configured store's tables up to date and tells what that took.
pub(super) async fn migrate(config: &Config) -> anyhow::Result<Vec<Applied>> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => Ok(sqlite::migrate(&sqlite_config(config, path)).await?),
        StoreUrl::Postgres(url) => Ok(postgres::migrate(&postgres_config(config, url)?).await?),
    }
}

/// Gives a role of the configured database what a node needs.
pub(super) async fn grant(config: &Config, role: &str) -> anyhow::Result<()> {
    match &config.store.url {
        StoreUrl::Sqlite(_) => Err(anyhow!(
            "a SQLite file has no roles; use --grant-to with the URL of a Postgres database in store.url"
        )),
        StoreUrl::Postgres(url) => Ok(postgres::grant(&postgres_config(config, url)?, role).await?),
    }
}

/// Logs the migrations that were applied.
pub(super) fn report(applied: &[Applied]) {
    for migration in applied {
        tracing::info!(version = migration.version, name = migration.description, "migration applied");
    }
}

fn sqlite_config(config: &Config, path: &std::path::Path) -> SqliteConfig {
    SqliteConfig {
        path: path.to_path_buf(),
        readers: config.store.readers,
        batch_max: config.store.batch_max,
        queue_max: config.store.queue_max,
        ..SqliteConfig::default()
    }
}

/// What the Postgres store is told of a configuration whose `store.url` is `url`.
///
/// # Errors
/// When the URL names no user.
pub fn postgres_config(config: &Config, url: &PostgresUrl) -> anyhow::Result<PostgresConfig> {
    let store = &config.store;
    let except = store.allow_unsafe.iter().map(|setting| setting.name().to_owned()).collect();
    Ok(PostgresConfig {
        target: target(url, "store.url")?,
        replica: store.read_url.as_ref().map(|url| target(url, "store.read_url")).transpose()?,
        migrate: store.migrate,
        readers: store.readers,
        lanes: usize::try_from(store.lanes).unwrap_or(1),
        batch_max: store.batch_max,
        queue_max: store.queue_max,
        lane_jobs: store.lane_jobs,
        gather: store.gather,
        connect_timeout: store.connect_timeout,
        read_timeout: store.read_timeout,
        commit_timeout: store.commit_timeout,
        lock_timeout: store.lock_timeout,
        outage_patience: store.outage_patience,
        reconnect_max: store.reconnect_max,
        pooler: match store.pooler {
            config::Pooler::None => Pooler::None,
            config::Pooler::Transaction => Pooler::Transaction,
        },
        application_name: store.application_name.clone(),
        safety: match config.profile {
            Profile::Dev => Safety::Warn,
            Profile::Production => Safety::Refuse { except },
        },
        exclusive: !config.cluster.enabled,
    })
}

fn target(url: &PostgresUrl, key: &str) -> anyhow::Result<Target> {
    let user = url.user.clone().ok_or_else(|| {
        anyhow!("{key}: {url} names no user; write postgres://USER:PASSWORD@HOST:PORT/DATABASE")
    })?;
    Ok(Target {
        host: url.host.clone().unwrap_or_else(|| String::from("localhost")),
        port: url.port,
        user,
        password: url.password.as_ref().map(|password| password.expose().to_owned()),
        database: url.database.clone(),
        ssl_mode: match url.ssl_mode {
            config::SslMode::Disable => SslMode::Disable,
            config::SslMode::Allow => SslMode::Allow,
            config::SslMode::Prefer => SslMode::Prefer,
            config::SslMode::Require => SslMode::Require,
            config::SslMode::VerifyCa => SslMode::VerifyCa,
            config::SslMode::VerifyFull => SslMode::VerifyFull,
        },
        ssl_root_cert: url.ssl_root_cert.clone(),
        ssl_identity: url.ssl_identity.as_ref().map(|identity| (identity.cert.clone(), identity.key.clone())),
    })
}
