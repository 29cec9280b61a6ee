//! The data keys at hand: fetched when they are needed, unwrapped, and kept for a while.
//!
//! What is kept is bounded in number and time. So a key that was destroyed through another node is used here for
//! [`RingConfig::keep_for`] at most.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use moka::sync::Cache;
use tokio::sync::{oneshot, watch};

use super::seal::DataKey;
use crate::domain::ids::UserId;
use crate::ports::clock::Clock;
use crate::ports::store::StoreError;
use crate::ports::vault::{KeyBytes, KeyId, KeyRow, KeyStore, KeyWrapper, WrapError};

/// Users whose keys are made by one statement.
const TOGETHER: usize = 256;
/// How often a key that somebody else makes in the same moment is looked for.
const TRIES: u32 = 3;

/// Limits of what is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingConfig {
    /// Keys.
    pub at_most: u64,
    /// How long each.
    pub keep_for: Duration,
}

/// What there is of a key.
#[derive(Clone, Debug)]
pub enum Held {
    /// It can be used.
    Ready(Arc<DataKey>),
    /// It is there and cannot be unwrapped here, or nobody knows it.
    Locked,
    /// It was destroyed.
    Destroyed,
}

/// Why there is no key to encrypt with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoKey {
    /// The store or the KMS cannot be reached; it may pass.
    #[error("the keys of personal data cannot be reached: {0}")]
    Unreachable(String),
    /// The key-encryption key is missing or wrong.
    #[error("personal data cannot be encrypted: {0}")]
    Locked(String),
    /// The user has none: it was destroyed, or there never was one.
    #[error("the user has no key for personal data")]
    None,
}

type Asked = (UserId, oneshot::Sender<Result<Arc<DataKey>, NoKey>>);

/// The keys at hand.
#[derive(Debug)]
pub struct Keyring {
    store: Arc<dyn KeyStore>,
    /// None where there is no key-encryption key.
    wrapper: Option<Arc<dyn KeyWrapper>>,
    clock: Arc<dyn Clock>,
    by_id: Cache<KeyId, Held>,
    by_user: Cache<UserId, Arc<DataKey>>,
    /// Whether the KEK is the one that others of its name have, as the store said when it had been found so many times.
    proven: Mutex<Option<(u64, bool)>>,
    /// Held by the one who asks for that, with what became of the last asking if it failed.
    proving: tokio::sync::Mutex<Option<NoKey>>,
    /// How often somebody has asked to the end.
    askings: AtomicU64,
    /// Counts how often the store found its database again. That may be another one, which has lost keys or has those again
    /// that were destroyed: what is at hand from before is dropped.
    reconnects: watch::Receiver<u64>,
    /// The count at which all that is at hand came.
    generation: AtomicU64,
    /// Who waits for the key of a user.
    waiting: Mutex<Vec<Asked>>,
    turn: tokio::sync::Mutex<()>,
}

/// What a wrapped key is bound to besides its KEK.
pub(super) fn context(row: &KeyRow) -> Vec<u8> {
    let mut context = row.id.0.to_be_bytes().to_vec();
    context.extend_from_slice(row.user.0.as_bytes());
    context
}

fn unreachable(error: &StoreError) -> NoKey {
    NoKey::Unreachable(error.to_string())
}

fn no_wrap(error: WrapError) -> NoKey {
    match error {
        WrapError::Unreachable(why) => NoKey::Unreachable(why),
        error => NoKey::Locked(error.to_string()),
    }
}

impl Keyring {
    /// An empty one. Without a `wrapper` it opens nothing and makes no keys. `reconnects` are those of the store.
    pub fn new(
        store: Arc<dyn KeyStore>,
        wrapper: Option<Arc<dyn KeyWrapper>>,
        clock: Arc<dyn Clock>,
        config: RingConfig,
        reconnects: watch::Receiver<u64>,
    ) -> Self {
        let (at_most, keep_for) = (config.at_most, config.keep_for);
        let generation = AtomicU64::new(*reconnects.borrow());
        Self {
            store,
            wrapper,
            clock,
            by_id: Cache::builder().max_capacity(at_most).time_to_live(keep_for).build(),
            by_user: Cache::builder().max_capacity(at_most).time_to_live(keep_for).build(),
            proven: Mutex::default(),
            proving: tokio::sync::Mutex::default(),
            askings: AtomicU64::new(0),
            generation,
            reconnects,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Where its keys are kept.
    pub(super) fn store(&self) -> &Arc<dyn KeyStore> {
        &self.store
    }

    /// Who wraps them.
    pub(super) fn wrapper(&self) -> Option<&Arc<dyn KeyWrapper>> {
        self.wrapper.as_ref()
    }

    /// How often the store found its database; drops what is at hand from before the last time.
    fn generation(&self) -> u64 {
        let now = *self.reconnects.borrow();
        if self.generation.load(Ordering::Acquire) < now {
            // In this order: who sees the new count finds nothing from before it.
            self.by_id.invalidate_all();
            self.by_user.invalidate_all();
            self.generation.fetch_max(now, Ordering::AcqRel);
        }
        now
    }

    /// What there is of each of these keys. Those that are not at hand are fetched by one statement.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn by_ids(&self, ids: &HashSet<KeyId>) -> Result<HashMap<KeyId, Held>, StoreError> {
        let generation = self.generation();
        let mut found = HashMap::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            match self.by_id.get(id) {
                Some(held) => {
                    found.insert(*id, held);
                }
                None => missing.push(*id),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        for (id, held) in self.fetch(missing).await? {
            if self.generation() == generation {
                self.by_id.insert(id, held.clone());
            }
            found.insert(id, held);
        }
        Ok(found)
    }

    /// What the store says of these keys at this moment. Nothing is kept of it.
    pub(super) async fn fetch(&self, ids: Vec<KeyId>) -> Result<HashMap<KeyId, Held>, StoreError> {
        // Of a name that nobody knows there is nothing to wait for either.
        let mut found: HashMap<KeyId, Held> = ids.iter().map(|id| (*id, Held::Locked)).collect();
        for row in self.store.keys(ids).await? {
            let held = match (&row.wrapped, self.unwrap(&row).await) {
                (None, _) => Held::Destroyed,
                (Some(_), Ok(key)) => Held::Ready(key),
                (Some(_), Err(NoKey::Unreachable(why))) => return Err(StoreError::Unavailable(why)),
                (Some(_), Err(error)) => {
                    metrics::counter!("order_personal_data_refused_total", "reason" => "locked").increment(1);
                    tracing::debug!(key = %row.id, %error, "a data key cannot be unwrapped");
                    Held::Locked
                }
            };
            found.insert(row.id, held);
        }
        Ok(found)
    }

    async fn unwrap(&self, row: &KeyRow) -> Result<Arc<DataKey>, NoKey> {
        let wrapped = row.wrapped.as_ref().ok_or(NoKey::None)?;
        let wrapper = self.wrapper.as_ref().ok_or_else(no_kek)?;
        let bytes = wrapper.unwrap(wrapped, &context(row)).await.map_err(no_wrap)?;
        let key = DataKey::new(row.id, row.user, &bytes);
        key.map(Arc::new).ok_or_else(|| NoKey::Locked(String::from("the data key is unusable")))
    }

    /// The key of a user, where nothing has to be fetched for it.
    pub fn at_hand(&self, user: UserId) -> Option<Arc<DataKey>> {
        self.generation();
        self.by_user.get(&user)
    }

    /// The key that a user's new data are encrypted with; where there is none, and `make` says so, a new one.
    ///
    /// # Errors
    /// [`NoKey::None`] only without `make`.
    pub async fn of_user(&self, user: UserId, make: bool) -> Result<Arc<DataKey>, NoKey> {
        if let Some(key) = self.at_hand(user) {
            return Ok(key);
        }
        let generation = self.generation();
        if !make {
            let rows = self.store.keys_of(vec![user]).await.map_err(|error| unreachable(&error))?;
            let row = rows.into_iter().find(|row| row.user == user).ok_or(NoKey::None)?;
            return self.keep(&row, generation).await;
        }
        self.prove().await?;
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((user, answer));
        // One statement at a time; who comes meanwhile shares the next one.
        let _turn = self.turn.lock().await;
        let batch = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = waiting.len().min(TOGETHER);
            waiting.drain(..rest).collect::<Vec<Asked>>()
        };
        if !batch.is_empty() {
            self.make(batch).await;
        }
        drop(_turn);
        answered.await.unwrap_or_else(|_| Err(NoKey::Unreachable(String::from("the look-up was cut short"))))
    }

    async fn make(&self, batch: Vec<Asked>) {
        let users: HashSet<UserId> = batch.iter().map(|(user, _)| *user).collect();
        let made = self.keys_for(users).await;
        for (user, answer) in batch {
            let key = match &made {
                Ok(keys) => keys
                    .get(&user)
                    .cloned()
                    .unwrap_or_else(|| Err(NoKey::Unreachable(String::from("the key changed meanwhile")))),
                Err(error) => Err(error.clone()),
            };
            // Whoever does not wait any more needs none.
            let _gone = answer.send(key);
        }
    }

    /// The keys of these users, with new ones for those who have none.
    async fn keys_for(
        &self,
        mut users: HashSet<UserId>,
    ) -> Result<HashMap<UserId, Result<Arc<DataKey>, NoKey>>, NoKey> {
        let generation = self.generation();
        let mut keys = HashMap::with_capacity(users.len());
        for _ in 0..TRIES {
            if users.is_empty() {
                break;
            }
            let mut new = Vec::with_capacity(users.len());
            for user in &users {
                new.push(self.new_row(*user).await?);
            }
            for row in self.store.add_keys(new).await.map_err(|error| unreachable(&error))? {
                if users.remove(&row.user) {
                    keys.insert(row.user, self.keep(&row, generation).await);
                }
            }
        }
        Ok(keys)
    }

    async fn new_row(&self, user: UserId) -> Result<KeyRow, NoKey> {
        let wrapper = self.wrapper.as_ref().ok_or_else(no_kek)?;
        let (mut id, mut bytes) = ([0; 8], KeyBytes([0; 32]));
        rand::fill(&mut id)
            .and_then(|()| rand::fill(&mut bytes.0))
            .map_err(|_| NoKey::Unreachable(String::from("there are no random bytes")))?;
        let id = KeyId(i64::from_be_bytes(id));
        let row = KeyRow { id, user, wrapped: None, created_at: self.clock.now() };
        let wrapped = wrapper.wrap(&bytes, &context(&row)).await.map_err(no_wrap)?;
        Ok(KeyRow { wrapped: Some(wrapped), ..row })
    }

    /// Keeps a key that came at this count of the store's connections.
    async fn keep(&self, row: &KeyRow, generation: u64) -> Result<Arc<DataKey>, NoKey> {
        let key = self.unwrap(row).await?;
        if self.generation() == generation {
            self.by_id.insert(row.id, Held::Ready(Arc::clone(&key)));
            self.by_user.insert(row.user, Arc::clone(&key));
        }
        Ok(key)
    }

    /// Makes sure, once for each time that the store found its database, that the current KEK is the one that this store has met
    /// under its name: by a wrong one nothing may be encrypted. One asks the store at a time, and who waits for that shares what
    /// comes of it.
    ///
    /// # Errors
    /// [`NoKey::Locked`] when it is another one or there is none.
    pub async fn prove(&self) -> Result<(), NoKey> {
        let wrapper = self.wrapper.as_ref().ok_or_else(no_kek)?;
        let proven = match self.proven() {
            Some(proven) => proven,
            None => self.ask_for_proof(&**wrapper).await?,
        };
        match proven {
            true => Ok(()),
            false => Err(no_wrap(WrapError::DoesNotFit(wrapper.current().to_owned()))),
        }
    }

    /// What the store has said since it found its database last.
    fn proven(&self) -> Option<bool> {
        let generation = self.generation();
        let known = *self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(count, _)| *count == generation).map(|(_, proven)| proven)
    }

    async fn ask_for_proof(&self, wrapper: &dyn KeyWrapper) -> Result<bool, NoKey> {
        let before = self.askings.load(Ordering::Acquire);
        let mut failed = self.proving.lock().await;
        if let Some(proven) = self.proven() {
            return Ok(proven);
        }
        // What failed before somebody came says nothing to them: it may have gone well since.
        if self.askings.load(Ordering::Acquire) != before
            && let Some(error) = &*failed
        {
            return Err(error.clone());
        }
        let asked = self.ask(wrapper).await;
        *failed = asked.as_ref().err().cloned();
        self.askings.fetch_add(1, Ordering::Release);
        asked
    }

    async fn ask(&self, wrapper: &dyn KeyWrapper) -> Result<bool, NoKey> {
        let generation = self.generation();
        let proof = wrapper.proof().await.map_err(no_wrap)?;
        let told = self.store.prove(wrapper.current().to_owned(), proof, self.clock.now()).await;
        let proven = told.map_err(|error| unreachable(&error))?;
        *self.proven.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, proven));
        Ok(proven)
    }

    /// Drops what is at hand of a user.
    pub fn forget(&self, user: UserId) {
        self.by_user.invalidate(&user);
        for (id, held) in &self.by_id {
            if matches!(&held, Held::Ready(key) if key.user() == user) {
                self.by_id.invalidate(&*id);
            }
        }
    }
}

fn no_kek() -> NoKey {
    NoKey::Locked(String::from("there is no key-encryption key; set privacy.kek"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use async_trait::async_trait;
    use futures::future::{join, join_all};
    use uuid::Uuid;

    use super::*;
    use crate::domain::Timestamp;
    use crate::ports::vault::{Erasure, Rewrap};
    use crate::privacy::LocalKeks;

    /// A store that is asked for proofs only, and takes its time.
    #[derive(Debug, Default)]
    struct Proofs {
        asked: AtomicU64,
        is_away: AtomicBool,
    }

    impl Proofs {
        fn asked(&self) -> u64 {
            self.asked.load(Ordering::SeqCst)
        }
    }

    fn away<T>() -> Result<T, StoreError> {
        Err(StoreError::Unavailable(String::from("away")))
    }

    #[async_trait]
    impl KeyStore for Proofs {
        async fn keys(&self, _: Vec<KeyId>) -> Result<Vec<KeyRow>, StoreError> {
            away()
        }
        async fn add_keys(&self, _: Vec<KeyRow>) -> Result<Vec<KeyRow>, StoreError> {
            away()
        }
        async fn keys_of(&self, _: Vec<UserId>) -> Result<Vec<KeyRow>, StoreError> {
            away()
        }
        async fn was_erased(&self, _: UserId) -> Result<bool, StoreError> {
            away()
        }
        async fn prove(&self, _: String, _: Vec<u8>, _: Timestamp) -> Result<bool, StoreError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            if self.is_away.load(Ordering::SeqCst) { away() } else { Ok(true) }
        }
        async fn destroy(&self, _: Erasure) -> Result<Vec<KeyId>, StoreError> {
            away()
        }
        async fn keys_to_rewrap(
            &self,
            _: String,
            _: Option<KeyId>,
            _: u32,
        ) -> Result<Vec<KeyRow>, StoreError> {
            away()
        }
        async fn rewrap(&self, _: Vec<Rewrap>) -> Result<u64, StoreError> {
            away()
        }
    }

    #[derive(Debug)]
    struct Dawn;

    impl Clock for Dawn {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    #[tokio::test]
    async fn many_who_need_the_proof_ask_for_it_once() {
        let (store, (found, reconnects)) = (Arc::new(Proofs::default()), watch::channel(0));
        let keks = LocalKeks::new((String::from("kek"), KeyBytes([7; 32])), Vec::new()).unwrap();
        let limits = RingConfig { at_most: 10, keep_for: Duration::from_secs(60) };
        let keys = Arc::clone(&store) as Arc<dyn KeyStore>;
        let ring = Keyring::new(keys, Some(Arc::new(keks)), Arc::new(Dawn), limits, reconnects);
        let all = async || join_all((0..100).map(|_| ring.prove())).await;
        store.is_away.store(true, Ordering::SeqCst);
        assert!(all().await.iter().all(|told| matches!(told, Err(NoKey::Unreachable(_)))));
        assert_eq!(store.asked(), 1, "nor does one after the other wait for a store that is away");
        // Somebody comes after that, while others wait for it still.
        let late = async {
            let held = ring.proving.lock().await;
            let waiting = (0..100).map(|_| ring.prove());
            let come = async {
                store.is_away.store(false, Ordering::SeqCst);
                drop(held);
                ring.prove().await
            };
            join(join_all(waiting), come).await
        };
        let (waited, came) = late.await;
        assert!(
            came.is_ok() && waited.iter().all(Result::is_ok),
            "what failed before they came is not theirs"
        );
        assert_eq!(store.asked(), 2);
        for reconnects in 0..3 {
            found.send_replace(reconnects);
            assert!(all().await.iter().all(Result::is_ok));
            assert_eq!(store.asked(), 2 + reconnects);
        }
    }

    #[test]
    fn a_wrapped_key_is_bound_to_its_name_and_its_user() {
        let row = |id, user| KeyRow {
            id: KeyId(id),
            user: UserId(Uuid::from_u128(user)),
            wrapped: None,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let bound = context(&row(1, 7));
        assert_eq!(bound, context(&row(1, 7)));
        assert_ne!(bound, context(&row(2, 7)));
        assert_ne!(bound, context(&row(1, 8)), "the key of one user is none of another");
    }
}
