//! The keys of personal data. Each call is one statement through a reader's connection to the primary: they are rare, and
//! must not wait behind the changes of orders.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, Row, SqlSafeStr};
use uuid::Uuid;

use super::PostgresStore;
use super::read::{arguments, unavailable};
use crate::domain::Timestamp;
use crate::domain::ids::{OrderId, UserId};
use crate::ports::store::StoreError;
use crate::ports::vault::{Erasure, KeyId, KeyRow, KeyStore, Rewrap, Wrapped};

pub(super) const KEYS: &str =
    "SELECT key_id, user_id, kek_id, wrapped, created_at FROM user_keys WHERE key_id = ANY($1)";
pub(super) const KEYS_OF: &str = "SELECT key_id, user_id, kek_id, wrapped, created_at FROM user_keys \
     WHERE user_id = ANY($1) AND destroyed_at IS NULL";
/// A key that somebody else stores in the same moment is in neither part.
pub(super) const ADD: &str = "WITH added AS ( \
       INSERT INTO user_keys (key_id, user_id, kek_id, wrapped, created_at) \
       SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bytea[], $5::timestamptz[]) \
       ON CONFLICT DO NOTHING RETURNING key_id, user_id, kek_id, wrapped, created_at) \
     SELECT * FROM added UNION ALL SELECT key_id, user_id, kek_id, wrapped, created_at FROM user_keys \
     WHERE user_id = ANY($2) AND destroyed_at IS NULL";
const ERASED: &str = "SELECT EXISTS (SELECT FROM erasures WHERE user_id = $1)";
const PROVE: &str = "WITH told AS ( \
       INSERT INTO kek_proofs (kek_id, proof, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING proof) \
     SELECT proof FROM told UNION ALL SELECT proof FROM kek_proofs WHERE kek_id = $1";
const DESTROY: &str = "WITH gone AS ( \
       UPDATE user_keys SET wrapped = NULL, destroyed_at = $2 WHERE user_id = $1 AND destroyed_at IS NULL \
       RETURNING key_id), \
     noted AS ( \
       INSERT INTO erasures (user_id, at, principal, wanted_by, reason, keys) \
       SELECT $1, $2, $3, $4, $5, (SELECT count(*) FROM gone) ON CONFLICT DO NOTHING) \
     SELECT key_id FROM gone";
const TAKE_OUT: &str = "WITH quiet AS ( \
       UPDATE sagas SET notes = '', turn = NULL WHERE order_id = $1 AND settled AND (notes <> '' OR turn IS NOT NULL)) \
     UPDATE orders SET metadata = '{}', updated_at = updated_at + interval '1 microsecond' \
     WHERE id = $1 AND metadata::text <> '{}'";
const TO_REWRAP: &str = "SELECT key_id, user_id, kek_id, wrapped, created_at FROM user_keys \
     WHERE key_id > $1 AND kek_id <> $2 AND destroyed_at IS NULL ORDER BY key_id LIMIT $3";
const REWRAP: &str = "UPDATE user_keys AS k SET kek_id = v.kek_id, wrapped = v.new \
     FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[]) AS v(key_id, kek_id, old, new) \
     WHERE k.key_id = v.key_id AND k.wrapped = v.old RETURNING k.key_id";

fn row(row: &PgRow) -> Result<KeyRow, sqlx::Error> {
    let wrapped: Option<Vec<u8>> = row.try_get("wrapped")?;
    let kek_id: String = row.try_get("kek_id")?;
    Ok(KeyRow {
        id: KeyId(row.try_get("key_id")?),
        user: UserId(row.try_get::<Uuid, _>("user_id")?),
        wrapped: wrapped.map(|bytes| Wrapped { kek_id, bytes }),
        created_at: row.try_get("created_at")?,
    })
}

fn rows(found: &[PgRow]) -> Result<Vec<KeyRow>, StoreError> {
    found.iter().map(row).collect::<Result<_, _>>().map_err(|error| unavailable(&error))
}

fn ids(found: &[PgRow]) -> Result<Vec<KeyId>, StoreError> {
    let id = |row: &PgRow| row.try_get(0).map(KeyId);
    found.iter().map(id).collect::<Result<_, _>>().map_err(|error| unavailable(&error))
}

impl PostgresStore {
    /// As [`OrderStore::take_out`](crate::ports::store::OrderStore::take_out).
    pub(super) async fn empty(&self, order: OrderId) -> Result<(), StoreError> {
        self.tell(TAKE_OUT, arguments(|args| args.add(order.0))?).await.map(drop)
    }

    async fn ask(&self, sql: &'static str, arguments: PgArguments) -> Result<Vec<PgRow>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.ask(sql.into_sql_str(), arguments).await }).await
    }

    /// As [`Self::ask`], for what writes. A server that did not wait for its standby says so beside its answer, as it does of
    /// commits: what it has written may be lost with it, so it is not taken as done. To do it again does no harm.
    async fn tell(&self, sql: &'static str, arguments: PgArguments) -> Result<Vec<PgRow>, StoreError> {
        let (reader, ear) = (self.reader.clone(), Arc::clone(&self.ear));
        let work = async move {
            let ear = ear.lock().await;
            let (told, warnings) = ear.listen(reader.ask(sql.into_sql_str(), arguments)).await;
            match (told, warnings.into_iter().next()) {
                (Ok(_), Some(warning)) => {
                    metrics::counter!("order_store_doubts_total", "why" => "warned").increment(1);
                    Err(StoreError::Unavailable(format!(
                        "what was written of the keys of personal data may not outlive the server ({warning}); do it again"
                    )))
                }
                (told, _) => told,
            }
        };
        self.read(work).await
    }
}

#[async_trait]
impl KeyStore for PostgresStore {
    async fn keys(&self, ids: Vec<KeyId>) -> Result<Vec<KeyRow>, StoreError> {
        let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
        rows(&self.ask(KEYS, arguments(|args| args.add(ids))?).await?)
    }

    async fn add_keys(&self, new: Vec<KeyRow>) -> Result<Vec<KeyRow>, StoreError> {
        let wrapped: Vec<&Wrapped> = new.iter().filter_map(|key| key.wrapped.as_ref()).collect();
        let bind = |args: &mut PgArguments| {
            args.add(new.iter().map(|key| key.id.0).collect::<Vec<i64>>())?;
            args.add(new.iter().map(|key| key.user.0).collect::<Vec<Uuid>>())?;
            args.add(wrapped.iter().map(|wrapped| wrapped.kek_id.clone()).collect::<Vec<String>>())?;
            args.add(wrapped.iter().map(|wrapped| wrapped.bytes.clone()).collect::<Vec<Vec<u8>>>())?;
            args.add(new.iter().map(|key| key.created_at).collect::<Vec<Timestamp>>())
        };
        rows(&self.tell(ADD, arguments(bind)?).await?)
    }

    async fn keys_of(&self, users: Vec<UserId>) -> Result<Vec<KeyRow>, StoreError> {
        let users: Vec<Uuid> = users.into_iter().map(|user| user.0).collect();
        rows(&self.ask(KEYS_OF, arguments(|args| args.add(users))?).await?)
    }

    async fn was_erased(&self, user: UserId) -> Result<bool, StoreError> {
        let found = self.ask(ERASED, arguments(|args| args.add(user.0))?).await?;
        found.first().map_or(Ok(false), |row| row.try_get(0)).map_err(|error| unavailable(&error))
    }

    async fn prove(&self, kek_id: String, proof: Vec<u8>, at: Timestamp) -> Result<bool, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(kek_id.clone())?;
            args.add(proof.clone())?;
            args.add(at)
        };
        // Where another node tells it in the same moment, neither part has it: then it is there for the second look.
        for _ in 0..2 {
            let found = self.tell(PROVE, arguments(bind)?).await?;
            if let Some(row) = found.first() {
                let known: Vec<u8> = row.try_get(0).map_err(|error| unavailable(&error))?;
                return Ok(known == proof);
            }
        }
        Err(StoreError::Unavailable(String::from("the proof of the key-encryption key was not stored")))
    }

    async fn destroy(&self, erasure: Erasure) -> Result<Vec<KeyId>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(erasure.user.0)?;
            args.add(erasure.at)?;
            args.add(erasure.principal.clone())?;
            args.add(erasure.by.clone())?;
            args.add(erasure.reason.clone())
        };
        ids(&self.tell(DESTROY, arguments(bind)?).await?)
    }

    async fn keys_to_rewrap(
        &self,
        kek_id: String,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(after.map_or(i64::MIN, |after| after.0))?;
            args.add(kek_id)?;
            args.add(i64::from(limit))
        };
        rows(&self.ask(TO_REWRAP, arguments(bind)?).await?)
    }

    async fn rewrap(&self, changes: Vec<Rewrap>) -> Result<u64, StoreError> {
        let bind = |args: &mut PgArguments| {
            args.add(changes.iter().map(|change| change.id.0).collect::<Vec<i64>>())?;
            args.add(changes.iter().map(|change| change.new.kek_id.clone()).collect::<Vec<String>>())?;
            args.add(changes.iter().map(|change| change.old.bytes.clone()).collect::<Vec<Vec<u8>>>())?;
            args.add(changes.iter().map(|change| change.new.bytes.clone()).collect::<Vec<Vec<u8>>>())
        };
        let done = self.tell(REWRAP, arguments(bind)?).await?;
        Ok(u64::try_from(done.len()).unwrap_or(u64::MAX))
    }
}
