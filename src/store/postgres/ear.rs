//! Hearing what the server says beside its answers.
//!
//! A commit whose wait for a synchronous standby was cut short is reported as done, with a WARNING beside it: it may be
//! lost with the server. The driver has no other place for such words than its log, so they are listened to there. A new
//! connection proves that it is heard before it is used.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Executor;
use sqlx::postgres::PgConnection;
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use super::fault::told;

/// Where the driver logs notices.
const TARGET: &str = "sqlx::postgres::notice";

/// Notices kept between two looks; one warning would do.
const KEPT: usize = 16;

/// What a connection has to hear before it is used.
const GREETING: &str = "order store: can you hear me";
/// Has the server say it: as a notice, which comes the way of a warning but does not fill the server's log.
const GREET: &str = "BEGIN; SET LOCAL client_min_messages = notice; \
     DO $$ BEGIN RAISE NOTICE 'order store: can you hear me'; END $$; COMMIT";

/// Hears the connections of one writer.
#[derive(Debug)]
pub(super) struct Ear {
    /// What was heard since the last look.
    heard: Arc<Mutex<Vec<(Level, String)>>>,
    /// Made once: the program's log looks at all of its places again for each new one.
    listening: Dispatch,
}

impl Ear {
    pub(super) fn new() -> Self {
        let heard = Arc::default();
        let inner = tracing::dispatcher::get_default(Clone::clone);
        let listening = Dispatch::new(Listener { inner, heard: Arc::clone(&heard) });
        Self { heard, listening }
    }

    /// Runs `work` and returns with its result the warnings that came meanwhile.
    pub(super) async fn listen<F: Future>(&self, work: F) -> (F::Output, Vec<String>) {
        let (result, heard) = self.listen_closely(work).await;
        let warnings = heard.into_iter().filter(|(level, _)| *level <= Level::WARN);
        (result, warnings.map(|(_, words)| words).collect())
    }

    /// Makes sure that a new connection's warnings are heard.
    pub(super) async fn prove(&self, connection: &mut PgConnection) -> Result<(), String> {
        let (greeted, heard) = self.listen_closely(connection.execute(GREET)).await;
        greeted.map_err(|error| told(&error))?;
        if heard.iter().any(|(_, words)| words.contains(GREETING)) {
            return Ok(());
        }
        Err(String::from("the server's warnings are not heard, so its commits cannot be trusted"))
    }

    /// Runs `work` and returns with its result all notices that came meanwhile.
    async fn listen_closely<F: Future>(&self, work: F) -> (F::Output, Vec<(Level, String)>) {
        let result = work.with_subscriber(self.listening.clone()).await;
        let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        (result, heard)
    }
}

/// Passes everything on but the notices of the driver's servers, which it keeps.
struct Listener {
    inner: Dispatch,
    heard: Arc<Mutex<Vec<(Level, String)>>>,
}

/// Notices are listened to for the sake of the proof; they are not what a commit is judged by.
fn is_heard(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET && *metadata.level() <= Level::INFO
}

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_heard(metadata) { Interest::always() } else { self.inner.register_callsite(metadata) }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_heard(metadata) || self.inner.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        if is_heard(event.metadata()) {
            let mut words = Words(String::new());
            event.record(&mut words);
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.len() < KEPT {
                heard.push((*event.metadata().level(), words.0));
            }
        } else if self.inner.enabled(event.metadata()) {
            self.inner.event(event);
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.inner.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.inner.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.inner.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.inner.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.inner.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.inner.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.inner.try_close(id)
    }
}

/// The message of an event.
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }
}
