//! The keys of one issuer, looked after: read again and again by one task, kept while their source is away, and not for
//! ever.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::fetch::Place;
use super::jose::Algorithm;
use super::keys::KeySet;
use super::{KeySource, Limits};

/// The first pause after keys could not be read; it doubles up to the usual one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Numbers key sets, so that no two of this process are taken for each other.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// Where keys are read from.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url(Place),
}

impl Source {
    /// # Errors
    /// When a URL is none that is taken.
    pub(super) fn new(source: KeySource) -> Result<Self, String> {
        Ok(match source {
            KeySource::File(path) => Self::File(path),
            KeySource::Url(url) => Self::Url(Place::new(&url)?),
        })
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(place) => place.to_string(),
        }
    }

    /// The document; no longer than `most` bytes.
    async fn read(&self, most: usize) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let cannot = |error| format!("cannot be read ({error}); check the path");
                let file = tokio::fs::File::open(path).await.map_err(cannot)?;
                let mut text = Vec::new();
                let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
                file.take(limit).read_to_end(&mut text).await.map_err(cannot)?;
                if text.len() > most { Err(format!("has more than {most} bytes")) } else { Ok(text) }
            }
            Self::Url(place) => place.get(most).await,
        }
    }
}

/// Keys as they were read.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) set: Arc<KeySet>,
    /// Another one for each content: what was verified by earlier keys counts no more.
    pub(super) generation: u64,
    digest: [u8; 32],
    /// When they were last read; none = they do not grow old.
    read: Option<Instant>,
}

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct Ring {
    loaded: ArcSwapOption<Loaded>,
    limits: Limits,
    /// Asks the task for another reading.
    wanted: Notify,
    /// Readings that have ended.
    ended: watch::Sender<u64>,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// When a reading was last begun because a token named an unknown key.
    last: Option<Instant>,
    /// Whether one is under way.
    reading: bool,
}

impl Ring {
    /// Keys that stay as they are.
    pub(super) fn fixed(set: KeySet, limits: Limits) -> Arc<Self> {
        let ring = Self::empty(limits);
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        let loaded = Loaded { set: Arc::new(set), generation, digest: [0; 32], read: None };
        ring.loaded.store(Some(Arc::new(loaded)));
        // Nobody reads them again, so nobody needs to ask.
        ring.asked.lock().unwrap_or_else(PoisonError::into_inner).last = Some(Instant::now());
        Arc::new(ring)
    }

    fn empty(limits: Limits) -> Self {
        Self {
            loaded: ArcSwapOption::empty(),
            limits,
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            asked: Mutex::default(),
        }
    }

    /// Begins to look after the keys, until `stop`.
    ///
    /// # Errors
    /// When a file does not hold any; what is elsewhere may come later.
    pub(super) async fn start(
        issuer: &str,
        source: Source,
        algorithms: &[Algorithm],
        limits: Limits,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, String> {
        let ring = Arc::new(Self::empty(limits));
        let keeper = Keeper { ring: Arc::clone(&ring), source, algorithms: algorithms.to_vec() };
        let first = keeper.read().await;
        if let Err(problem) = &first {
            let name = keeper.source.name();
            match &keeper.source {
                Source::File(_) => return Err(format!("the keys of {issuer}: {name} {problem}")),
                Source::Url(_) => tracing::error!(
                    issuer,
                    url = name,
                    problem,
                    "keys cannot be read; until then the tokens of this issuer are not taken"
                ),
            }
        }
        let issuer = issuer.to_owned();
        tokio::spawn(async move {
            stop.run_until_cancelled(keeper.run(&issuer, first.is_err())).await;
        });
        Ok(ring)
    }

    /// The keys, unless they are too old to be believed.
    pub(super) fn keys(&self) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.load_full()?;
        let is_fresh = loaded.read.is_none_or(|read| read.elapsed() < self.limits.stale_after);
        is_fresh.then_some(loaded)
    }

    /// The keys for a token; read again first when they hold none that fits, though not more often than
    /// `unknown_key_pause`, and waited for no longer than `timeout`.
    pub(super) async fn keys_for(&self, name: Option<&str>, algorithm: Algorithm) -> Option<Arc<Loaded>> {
        let fits = |keys: &Arc<Loaded>| !keys.set.candidates(name, algorithm).is_empty();
        if let Some(keys) = self.keys().filter(fits) {
            return Some(keys);
        }
        let mut ended = self.ended.subscribe();
        let may_wait = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let may_ask = asked.last.is_none_or(|last| last.elapsed() >= self.limits.unknown_key_pause);
            if may_ask && !asked.reading {
                asked.last = Some(Instant::now());
                asked.reading = true;
                self.wanted.notify_one();
            }
            asked.reading
        };
        if may_wait {
            let _late = timeout(self.limits.timeout, ended.changed()).await;
        }
        self.keys()
    }
}

/// What reads the keys.
#[derive(Debug)]
struct Keeper {
    ring: Arc<Ring>,
    source: Source,
    algorithms: Vec<Algorithm>,
}

impl Keeper {
    async fn run(self, issuer: &str, mut failed: bool) {
        let mut pause = FIRST_PAUSE;
        loop {
            let usual = self.ring.limits.refresh;
            let wait = if failed { pause.min(usual) } else { usual };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.ring.wanted.notified() => {}
            }
            match self.read().await {
                Ok(()) => {
                    if failed {
                        tracing::info!(issuer, "keys can be read again");
                    }
                    (failed, pause) = (false, FIRST_PAUSE);
                }
                Err(problem) => {
                    if !failed {
                        let source = self.source.name();
                        tracing::warn!(
                            issuer,
                            source,
                            problem,
                            "keys cannot be read; the last ones are kept"
                        );
                    }
                    (failed, pause) = (true, pause.saturating_mul(2).min(usual));
                }
            }
        }
    }

    /// Reads the keys once. Whoever waits for that is told, however it ends.
    async fn read(&self) -> Result<(), String> {
        let ring = &self.ring;
        let read = timeout(ring.limits.timeout, self.source.read(ring.limits.max_document)).await;
        let taken = read
            .unwrap_or_else(|_| Err(String::from("does not answer in time")))
            .and_then(|text| self.take(&text));
        let outcome = if taken.is_ok() { "read" } else { "failed" };
        metrics::counter!("order_auth_keys_total", "outcome" => outcome).increment(1);
        ring.asked.lock().unwrap_or_else(PoisonError::into_inner).reading = false;
        ring.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
        taken
    }

    fn take(&self, text: &[u8]) -> Result<(), String> {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let read = Some(Instant::now());
        let loaded = match self.ring.loaded.load_full() {
            Some(same) if same.digest == digest => Loaded { read, ..(*same).clone() },
            _ => {
                let set = KeySet::read(text, &self.algorithms)?;
                if set.is_empty() {
                    let names: Vec<&str> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
                    let wanted = names.join(", ");
                    // At first it is a mistake. Later the issuer takes back what it has shown.
                    if self.ring.loaded.load().is_none() {
                        return Err(format!("holds no public key for {wanted}"));
                    }
                    let source = self.source.name();
                    tracing::warn!(
                        source,
                        wanted,
                        "there are no keys any more; tokens by earlier ones are refused"
                    );
                }
                let set = Arc::new(set);
                let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
                Loaded { set, generation, digest, read }
            }
        };
        self.ring.loaded.store(Some(Arc::new(loaded)));
        Ok(())
    }
}
