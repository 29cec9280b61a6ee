//! The keys of personal data, in the same file.
//!
//! They are written through a connection of their own: a user's first order, and what operators do, must not wait behind a
//! batch of commits in the queue. SQLite lets the two take turns.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row, query, query_scalar};
use uuid::Uuid;

use super::SqliteStore;
use super::read::unavailable;
use crate::domain::Timestamp;
use crate::domain::ids::{OrderId, UserId};
use crate::ports::store::StoreError;
use crate::ports::vault::{Erasure, KeyId, KeyRow, KeyStore, Rewrap, Wrapped};

/// How long a try to empty the log holds commits up, how often that is tried, and the pause between two tries.
const PATIENCE: Duration = Duration::from_millis(50);
const TIDY_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

const COLUMNS: &str = "key_id, user_id, kek_id, wrapped, created_at";

/// The connection that writes keys; made when it is needed.
pub(super) fn writing(options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options)
}

fn row(row: &SqliteRow) -> Result<KeyRow, sqlx::Error> {
    let wrapped: Option<Vec<u8>> = row.try_get("wrapped")?;
    let kek_id: String = row.try_get("kek_id")?;
    let created_at: i64 = row.try_get("created_at")?;
    Ok(KeyRow {
        id: KeyId(row.try_get("key_id")?),
        user: UserId(row.try_get::<Uuid, _>("user_id")?),
        wrapped: wrapped.map(|bytes| Wrapped { kek_id, bytes }),
        created_at: Timestamp::from_timestamp_micros(created_at).unwrap_or_default(),
    })
}

/// `(?, ?, …)` for as many values; the statement's text depends on the number only.
fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

async fn keys_of(connection: &mut SqliteConnection, users: &[UserId]) -> Result<Vec<KeyRow>, sqlx::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM user_keys WHERE destroyed_at IS NULL AND user_id IN ({})",
        marks(users.len())
    );
    let mut asked = query(AssertSqlSafe(sql));
    for user in users {
        asked = asked.bind(user.0);
    }
    asked.fetch_all(connection).await?.iter().map(row).collect()
}

/// Ends a transaction.
async fn end<T>(connection: &mut SqliteConnection, done: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    match done {
        Ok(done) => {
            query("COMMIT").execute(connection).await?;
            Ok(done)
        }
        Err(error) => {
            let _rolled_back = query("ROLLBACK").execute(connection).await;
            Err(error)
        }
    }
}

async fn add(connection: &mut SqliteConnection, new: &[KeyRow]) -> Result<Vec<KeyRow>, sqlx::Error> {
    for key in new {
        let Some(wrapped) = &key.wrapped else { continue };
        query(
            "INSERT INTO user_keys (key_id, user_id, kek_id, wrapped, created_at) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT DO NOTHING",
        )
        .bind(key.id.0)
        .bind(key.user.0)
        .bind(wrapped.kek_id.clone())
        .bind(wrapped.bytes.clone())
        .bind(key.created_at.timestamp_micros())
        .execute(&mut *connection)
        .await?;
    }
    let users: Vec<UserId> = new.iter().map(|key| key.user).collect();
    keys_of(connection, &users).await
}

async fn destroy(connection: &mut SqliteConnection, erasure: &Erasure) -> Result<Vec<KeyId>, sqlx::Error> {
    let at = erasure.at.timestamp_micros();
    let ids: Vec<i64> = query_scalar(
        "UPDATE user_keys SET wrapped = NULL, destroyed_at = ? WHERE user_id = ? AND destroyed_at IS NULL \
         RETURNING key_id",
    )
    .bind(at)
    .bind(erasure.user.0)
    .fetch_all(&mut *connection)
    .await?;
    query("INSERT OR REPLACE INTO erasures (user_id, at, principal, wanted_by, reason, keys) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(erasure.user.0)
        .bind(at)
        .bind(erasure.principal.clone())
        .bind(erasure.by.clone())
        .bind(erasure.reason.clone())
        .bind(i64::try_from(ids.len()).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(ids.into_iter().map(KeyId).collect())
}

/// Writes the log of the file back and empties it. Who reads an older page is waited for, and commits wait meanwhile: so each
/// try waits for a moment only.
async fn tidy(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    // Taken out of the pool, which makes another one: this one is impatient.
    let mut connection = pool.acquire().await?.detach();
    query(AssertSqlSafe(format!("PRAGMA busy_timeout = {}", PATIENCE.as_millis())))
        .execute(&mut connection)
        .await?;
    for _ in 0..TIDY_TRIES {
        let busy: i64 = query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection).await?;
        if busy == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    connection.close().await
}

async fn rewrap(connection: &mut SqliteConnection, changes: &[Rewrap]) -> Result<u64, sqlx::Error> {
    let mut done = 0u64;
    for change in changes {
        let changed = query("UPDATE user_keys SET kek_id = ?, wrapped = ? WHERE key_id = ? AND wrapped = ?")
            .bind(change.new.kek_id.clone())
            .bind(change.new.bytes.clone())
            .bind(change.id.0)
            .bind(change.old.bytes.clone())
            .execute(&mut *connection)
            .await?;
        done = done.saturating_add(changed.rows_affected());
    }
    Ok(done)
}

/// Runs `$work` as one transaction, in a task of its own: a caller that goes away cuts nothing short.
macro_rules! in_transaction {
    ($store:ident, |$connection:ident| $work:expr) => {{
        let pool = $store.writing_keys()?;
        let work = async move {
            let mut held = pool.acquire().await?;
            let $connection: &mut SqliteConnection = &mut held;
            query("BEGIN IMMEDIATE").execute(&mut *$connection).await?;
            let done = $work.await;
            end($connection, done).await
        };
        $store.read(async move { work.await.map_err(|error: sqlx::Error| unavailable(&error)) }).await
    }};
}

impl SqliteStore {
    /// As [`OrderStore::take_out`](crate::ports::store::OrderStore::take_out).
    pub(super) async fn empty(&self, order: OrderId) -> Result<(), StoreError> {
        in_transaction!(self, |connection| async {
            let sagas = "UPDATE sagas SET notes = '', turn = NULL \
                         WHERE order_id = ? AND settled AND (notes <> '' OR turn IS NOT NULL)";
            query(sagas).bind(order.0).execute(&mut *connection).await?;
            let order_row = "UPDATE orders SET metadata = '{}', updated_at = updated_at + 1 \
                             WHERE id = ? AND metadata <> '{}'";
            query(order_row).bind(order.0).execute(&mut *connection).await.map(drop)
        })
    }

    fn writing_keys(&self) -> Result<SqlitePool, StoreError> {
        self.keys.clone().ok_or_else(|| StoreError::Unavailable(String::from(super::READ_ONLY)))
    }

    async fn rows_of(
        &self,
        work: impl Future<Output = Result<Vec<SqliteRow>, sqlx::Error>> + Send + 'static,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let rows = self.read(async move { work.await.map_err(|error| unavailable(&error)) }).await?;
        rows.iter().map(row).collect::<Result<_, _>>().map_err(|error| unavailable(&error))
    }
}

#[async_trait]
impl KeyStore for SqliteStore {
    async fn keys(&self, ids: Vec<KeyId>) -> Result<Vec<KeyRow>, StoreError> {
        let pool = self.readers.clone();
        self.rows_of(async move {
            let sql = format!("SELECT {COLUMNS} FROM user_keys WHERE key_id IN ({})", marks(ids.len()));
            let mut asked = query(AssertSqlSafe(sql));
            for id in &ids {
                asked = asked.bind(id.0);
            }
            asked.fetch_all(&pool).await
        })
        .await
    }

    async fn add_keys(&self, new: Vec<KeyRow>) -> Result<Vec<KeyRow>, StoreError> {
        in_transaction!(self, |connection| add(connection, &new))
    }

    async fn keys_of(&self, users: Vec<UserId>) -> Result<Vec<KeyRow>, StoreError> {
        let pool = self.readers.clone();
        let work = async move {
            let mut connection = pool.acquire().await?;
            keys_of(&mut connection, &users).await
        };
        self.read(async move { work.await.map_err(|error: sqlx::Error| unavailable(&error)) }).await
    }

    async fn was_erased(&self, user: UserId) -> Result<bool, StoreError> {
        let pool = self.readers.clone();
        self.read(async move {
            let found = query_scalar::<_, i64>("SELECT EXISTS (SELECT 1 FROM erasures WHERE user_id = ?)")
                .bind(user.0)
                .fetch_one(&pool)
                .await;
            found.map(|found| found != 0).map_err(|error| unavailable(&error))
        })
        .await
    }

    async fn prove(&self, kek_id: String, proof: Vec<u8>, at: Timestamp) -> Result<bool, StoreError> {
        in_transaction!(self, |connection| async {
            query("INSERT INTO kek_proofs (kek_id, proof, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(kek_id.clone())
                .bind(proof.clone())
                .bind(at.timestamp_micros())
                .execute(&mut *connection)
                .await?;
            let known: Vec<u8> = query_scalar("SELECT proof FROM kek_proofs WHERE kek_id = ?")
                .bind(kek_id)
                .fetch_one(&mut *connection)
                .await?;
            Ok(known == proof)
        })
    }

    async fn destroy(&self, erasure: Erasure) -> Result<Vec<KeyId>, StoreError> {
        let destroyed = in_transaction!(self, |connection| destroy(connection, &erasure));
        // What the log of the file still holds of the keys goes with it; somebody who reads an older page keeps it a while.
        let pool = self.writing_keys()?;
        let _busy = self.read(async move { tidy(&pool).await.map_err(|error| unavailable(&error)) }).await;
        destroyed
    }

    async fn keys_to_rewrap(
        &self,
        kek_id: String,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let pool = self.readers.clone();
        self.rows_of(async move {
            let sql = format!(
                "SELECT {COLUMNS} FROM user_keys WHERE key_id > ? AND kek_id <> ? AND destroyed_at IS NULL \
                 ORDER BY key_id LIMIT ?"
            );
            let after = after.map_or(i64::MIN, |after| after.0);
            query(AssertSqlSafe(sql)).bind(after).bind(kek_id).bind(limit).fetch_all(&pool).await
        })
        .await
    }

    async fn rewrap(&self, changes: Vec<Rewrap>) -> Result<u64, StoreError> {
        in_transaction!(self, |connection| rewrap(connection, &changes))
    }
}
