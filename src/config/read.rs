//! From merged text to checked types: every key is read here, with its range.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::auth;
use super::cache;
use super::cluster;
use super::load::{DEFAULTS, Entry, Merged, Origin, Scalar, all_or_errors, parse_yaml};
use super::mask::shown;
use super::privacy;
use super::sections::{
    ActorConfig, CollaboratorUrl, CollaboratorsConfig, Config, CreateConfig, GrpcConfig, IdsConfig,
    LimitsConfig, LogConfig, LogFormat, Pooler, PricingConfig, Profile, RiskConfig, SagaConfig, Secret,
    SimulatorConfig, SimulatorJournal, StoreConfig, StoreUrl, TestingConfig, WatchConfig,
};
use super::values::{
    allow_unsafe, amounts, application_name, collaborator_url, parse_duration, show_duration,
    simulator_journal, store_url,
};
use super::{ConfigError, ConfigErrors, PostgresUrl, ops, rate_limits, tracing, transport};

const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
const MESSAGE_BYTES: RangeInclusive<usize> = 4_096..=67_108_864;

impl Config {
    /// Checks what was merged.
    ///
    /// # Errors
    /// Everything that is wrong, with what merging found.
    pub fn from_merged(merged: &Merged) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(merged);
        let config = read(&mut reader);
        cross_check(&config, &mut reader);
        all_or_errors(config, reader.errors)
    }
}

fn read(r: &mut Reader<'_>) -> Config {
    let profile = r.choice("profile", &[("dev", Profile::Dev), ("production", Profile::Production)]);
    Config {
        profile,
        grpc: GrpcConfig {
            listen: r.address("grpc.listen"),
            max_message_bytes: r.number("grpc.max_message_bytes", MESSAGE_BYTES),
            default_deadline: r.duration("grpc.default_deadline", ms(10)..=minutes(10)),
            max_deadline: r.duration("grpc.max_deadline", ms(10)..=minutes(10)),
            max_concurrent_requests: r.number("grpc.max_concurrent_requests", 1..=1_000_000),
            max_streams_per_connection: r.number("grpc.max_streams_per_connection", 1..=100_000),
            max_watchers: r.number("grpc.max_watchers", 1..=1_000_000),
            reflection: r.flag("grpc.reflection"),
            keepalive: r.duration("grpc.keepalive", SECOND..=HOUR),
            shutdown_grace: r.duration("grpc.shutdown_grace", Duration::ZERO..=minutes(10)),
            tls: auth::read_tls(r),
            behind_tls_proxy: r.flag("grpc.behind_tls_proxy"),
            transport: transport::read(r),
        },
        peer: cluster::read_peer(r),
        cluster: cluster::read(r),
        ops: ops::read(r),
        store: read_store(r),
        cache: cache::read(r),
        collaborators: CollaboratorsConfig {
            inventory: r.collaborator("collaborators.inventory"),
            product: r.collaborator("collaborators.product"),
            user: r.collaborator("collaborators.user"),
            payment: r.collaborator("collaborators.payment"),
            shipping: r.collaborator("collaborators.shipping"),
            timeout: r.duration("collaborators.timeout", ms(10)..=minutes(5)),
            connect_timeout: r.duration("collaborators.connect_timeout", ms(10)..=MINUTE),
            read_retries: r.number("collaborators.read_retries", 0..=10),
            breaker_failures: r.number("collaborators.breaker_failures", 1..=1_000),
            breaker_open_for: r.duration("collaborators.breaker_open_for", ms(100)..=minutes(10)),
            max_message_bytes: r.number("collaborators.max_message_bytes", MESSAGE_BYTES),
        },
        auth: auth::read(r, profile),
        rate_limits: rate_limits::read(r),
        create: CreateConfig { wait: r.duration("create.wait", Duration::ZERO..=minutes(5)) },
        watch: WatchConfig {
            buffer: r.number("watch.buffer", 1..=1_024),
            slow_after: r.duration("watch.slow_after", MS..=minutes(10)),
        },
        actor: read_actor(r),
        saga: read_saga(r),
        risk: RiskConfig {
            hold_from_amount: r.parsed("risk.hold_from_amount", amounts, Vec::new),
            max_orders_per_user: r.number("risk.max_orders_per_user", 0..=100_000),
            window: r.duration("risk.window", SECOND..=hours(720)),
            hold_mismatched_countries: r.flag("risk.hold_mismatched_countries"),
        },
        limits: read_limits(r),
        pricing: PricingConfig { file: r.optional("pricing.file", |path| Ok(PathBuf::from(path))) },
        privacy: privacy::read(r),
        ids: IdsConfig { key: r.parsed("ids.key", id_key, || Secret::new(String::new())) },
        log: LogConfig {
            level: r.parsed("log.level", log_level, String::new),
            format: r.choice(
                "log.format",
                &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json), ("auto", LogFormat::Auto)],
            ),
        },
        tracing: tracing::read(r),
        simulator: SimulatorConfig {
            listen: r.address("simulator.listen"),
            seed: r.number("simulator.seed", 0..=u64::MAX >> 1),
            max_ledger: r.number("simulator.max_ledger", 1..=1_000_000_000),
            journal: r.parsed("simulator.journal", simulator_journal, SimulatorJournal::default),
        },
        testing: TestingConfig {
            crash_at: r.optional("testing.crash_at", |name| Ok(name.to_owned())),
            skip_undo: r.optional("testing.skip_undo", |name| Ok(name.to_owned())),
        },
        shown: r.merged.settings().collect(),
    }
}

fn read_store(r: &mut Reader<'_>) -> StoreConfig {
    StoreConfig {
        url: r.parsed("store.url", store_url, || StoreUrl::Sqlite(PathBuf::new())),
        readers: r.number("store.readers", 1..=64),
        batch_max: r.number("store.batch_max", 1..=4_096),
        queue_max: r.number("store.queue_max", 1..=1_000_000),
        read_url: r.optional("store.read_url", PostgresUrl::parse),
        migrate: r.flag("store.migrate"),
        lanes: r.number("store.lanes", 1..=16),
        lane_jobs: r.number("store.lane_jobs", 1..=4_096),
        gather: r.duration("store.gather", Duration::ZERO..=ms(100)),
        connect_timeout: r.duration("store.connect_timeout", ms(100)..=MINUTE),
        read_timeout: r.duration("store.read_timeout", ms(10)..=minutes(10)),
        commit_timeout: r.duration("store.commit_timeout", ms(100)..=minutes(10)),
        lock_timeout: r.duration("store.lock_timeout", ms(10)..=MINUTE),
        outage_patience: r.duration("store.outage_patience", Duration::ZERO..=MINUTE),
        reconnect_max: r.duration("store.reconnect_max", ms(10)..=MINUTE),
        pooler: r.choice("store.pooler", &[("none", Pooler::None), ("transaction", Pooler::Transaction)]),
        application_name: r.parsed("store.application_name", application_name, String::new),
        allow_unsafe: r.parsed("store.allow_unsafe", allow_unsafe, BTreeSet::new),
    }
}

fn read_actor(r: &mut Reader<'_>) -> ActorConfig {
    ActorConfig {
        max_live: r.number("actor.max_live", 1..=10_000_000),
        max_commands_per_order: r.number("actor.max_commands_per_order", 1..=10_000),
        idle_after: r.duration("actor.idle_after", ms(10)..=hours(24)),
        sweep_every: r.duration("actor.sweep_every", ms(10)..=minutes(10)),
        max_failures: r.number("actor.max_failures", 1..=1_000),
        failure_backoff: r.duration("actor.failure_backoff", MS..=minutes(10)),
        failure_backoff_max: r.duration("actor.failure_backoff_max", MS..=HOUR),
        quarantine_for: r.duration("actor.quarantine_for", ms(100)..=hours(24)),
    }
}

fn read_saga(r: &mut Reader<'_>) -> SagaConfig {
    SagaConfig {
        step_timeout: r.duration("saga.step_timeout", ms(10)..=minutes(5)),
        retry_initial: r.duration("saga.retry_initial", MS..=minutes(10)),
        retry_max: r.duration("saga.retry_max", MS..=hours(24)),
        forward_tries: r.number("saga.forward_tries", 1..=1_000),
        attention_after_tries: r.number("saga.attention_after_tries", 1..=1_000),
        charge_settle_lag: r.duration("saga.charge_settle_lag", Duration::ZERO..=HOUR),
        run_ahead: r.duration("saga.run_ahead", Duration::ZERO..=Duration::from_secs(10)),
        reservation_ttl: r.duration("saga.reservation_ttl", Duration::from_secs(10)..=hours(720)),
        expire_after: r.duration("saga.expire_after", Duration::ZERO..=hours(8_760)),
        unknown_attention_after: r.duration("saga.unknown_attention_after", Duration::ZERO..=hours(24)),
        resume_every: r.duration("saga.resume_every", ms(10)..=minutes(10)),
        resume_batch: r.number("saga.resume_batch", 1..=10_000),
        resume_concurrency: r.number("saga.resume_concurrency", 1..=10_000),
        timers_batch: r.number("saga.timers_batch", 1..=10_000),
    }
}

fn read_limits(r: &mut Reader<'_>) -> LimitsConfig {
    LimitsConfig {
        items_per_order: r.number("limits.items_per_order", 1..=1_000),
        max_quantity: r.number("limits.max_quantity", 1..=1_000_000),
        notes_chars: r.number("limits.notes_chars", 0..=10_000),
        metadata_keys: r.number("limits.metadata_keys", 0..=1_000),
        metadata_bytes: r.number("limits.metadata_bytes", 1..=4_096),
        page_size_default: r.number("limits.page_size_default", 1..=1_000),
        page_size_max: r.number("limits.page_size_max", 1..=1_000),
    }
}

/// What no key alone can tell.
fn cross_check(config: &Config, r: &mut Reader<'_>) {
    let Config { grpc, store, actor, saga, limits, .. } = config;
    for (lower, upper, wrong) in [
        ("grpc.default_deadline", "grpc.max_deadline", grpc.default_deadline > grpc.max_deadline),
        ("store.batch_max", "store.queue_max", store.batch_max > store.queue_max),
        (
            "actor.failure_backoff",
            "actor.failure_backoff_max",
            actor.failure_backoff > actor.failure_backoff_max,
        ),
        ("saga.retry_initial", "saga.retry_max", saga.retry_initial > saga.retry_max),
        ("limits.page_size_default", "limits.page_size_max", limits.page_size_default > limits.page_size_max),
    ] {
        if wrong && !r.has_error(lower) && !r.has_error(upper) {
            r.refuse(upper, format!("is below {lower}; raise it or lower {lower}"));
        }
    }
    let listeners = [
        ("grpc.listen", grpc.listen),
        ("peer.listen", config.peer.listen),
        ("ops.listen", config.ops.listen),
    ];
    for (index, (key, address)) in listeners.iter().enumerate() {
        let twin = listeners.iter().take(index).find(|(_, other)| other == address);
        if let Some((other, _)) = twin.filter(|_| address.port() != 0 && !r.has_error(key)) {
            r.refuse(key, format!("is the address of {other} too; give each its own port"));
        }
    }
    let is_sqlite = matches!(store.url, StoreUrl::Sqlite(_));
    if store.read_url.is_some() && is_sqlite && !r.has_error("store.url") {
        r.refuse(
            "store.read_url",
            "names a replica, but store.url is a SQLite file; remove it or use Postgres for both",
        );
    }
    ops::cross_check(config, r);
    cluster::cross_check(config, r);
    auth::cross_check(config, r);
    if config.profile == Profile::Production {
        if r.is_default_text("ids.key", config.ids.key.expose()) {
            r.refuse(
                "ids.key",
                "is the published default; set a secret of your own with ORDER__IDS__KEY_FILE",
            );
        }
        if config.testing.crash_at.is_some() {
            r.refuse("testing.crash_at", "is for tests; remove it in production");
        }
        if config.testing.skip_undo.is_some() {
            r.refuse("testing.skip_undo", "leaves money or stock behind; remove it in production");
        }
    }
}

fn id_key(text: &str) -> Result<Secret, String> {
    if text.len() < 16 {
        return Err(format!("has {} bytes; give it at least 16", text.len()));
    }
    Ok(Secret::new(text.to_owned()))
}

fn log_level(text: &str) -> Result<String, String> {
    let blank = text.trim().is_empty();
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) if !blank => Ok(text.to_owned()),
        _ => Err("is not a log level; write it like info or info,order_service=debug".to_owned()),
    }
}

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(60))
}

pub(super) const fn hours(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(3_600))
}

/// Reads keys and gathers what is wrong with them; a wrong key reads as some value that nobody gets to see.
pub(super) struct Reader<'a> {
    merged: &'a Merged,
    /// Keys that were read.
    pub(super) used: BTreeSet<&'static str>,
    pub(super) errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    fn new(merged: &'a Merged) -> Self {
        Self { merged, used: BTreeSet::new(), errors: merged.errors.clone() }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.used.insert(key);
        let entry = self.merged.entries.get(key);
        if entry.is_none() {
            self.errors.push(ConfigError::new(
                key,
                None,
                &Origin::Default,
                "is missing; report this as a defect",
            ));
        }
        entry
    }

    /// Reports the present value of `key`.
    pub(super) fn refuse(&mut self, key: &'static str, problem: impl Into<String>) {
        if let Some(entry) = self.merged.entries.get(key) {
            let value = Some(shown(key, &entry.value));
            self.errors.push(ConfigError::new(key, value, &entry.origin, problem));
        }
    }

    pub(super) fn has_error(&self, key: &str) -> bool {
        self.errors.iter().any(|error| error.key == key)
    }

    /// Whether `text` is what `config/default.yaml` gives `key`, whichever layer it came from.
    fn is_default_text(&self, key: &str, text: &str) -> bool {
        let (section, name) = key.split_once('.').unwrap_or_default();
        parse_yaml(DEFAULTS)
            .ok()
            .and_then(|mut root| root.remove(section))
            .and_then(|section| section.into_table().ok())
            .and_then(|mut section| section.remove(name))
            .is_some_and(|value| value.into_string().is_ok_and(|default| default == text))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        match &self.entry(key)?.value {
            Scalar::Text(text) => Some(text),
            Scalar::Flag(_) | Scalar::Number(_) => {
                self.refuse(key, "must be text; put it in quotes");
                None
            }
        }
    }

    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        otherwise: impl Fn() -> T,
    ) -> T {
        let Some(text) = self.text(key) else { return otherwise() };
        parse(text).unwrap_or_else(|problem| {
            self.refuse(key, problem);
            otherwise()
        })
    }

    /// Text of which the empty one means none.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parse = |text: &str| if text.is_empty() { Ok(None) } else { parse(text).map(Some) };
        self.parsed(key, parse, || None)
    }

    fn collaborator(&mut self, key: &'static str) -> CollaboratorUrl {
        self.parsed(key, collaborator_url, || CollaboratorUrl::Simulated)
    }

    pub(super) fn address(&mut self, key: &'static str) -> SocketAddr {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| "is not ADDRESS:PORT; write it like 127.0.0.1:50051 or [::]:50051".to_owned())
        };
        self.parsed(key, parse, || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    pub(super) fn choice<T: Copy + Default>(&mut self, key: &'static str, choices: &[(&str, T)]) -> T {
        let parse = |text: &str| {
            let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
            found.ok_or_else(|| {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                format!("is not a choice; use {}", names.join(" or "))
            })
        };
        self.parsed(key, parse, T::default)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        let Some(entry) = self.entry(key) else { return false };
        match &entry.value {
            Scalar::Flag(flag) => *flag,
            Scalar::Text(text) if entry.origin.is_untyped() && text.eq_ignore_ascii_case("true") => true,
            Scalar::Text(text) if entry.origin.is_untyped() && text.eq_ignore_ascii_case("false") => false,
            Scalar::Text(_) | Scalar::Number(_) => {
                self.refuse(key, "must be true or false; write one of the two");
                false
            }
        }
    }

    pub(super) fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + Copy + Display,
    {
        let Some(entry) = self.entry(key) else { return *range.start() };
        let number = match &entry.value {
            Scalar::Number(number) => Some(*number),
            Scalar::Text(text) if entry.origin.is_untyped() => text.trim().parse().ok(),
            Scalar::Text(_) | Scalar::Flag(_) => None,
        };
        match number.map(T::try_from) {
            Some(Ok(number)) if range.contains(&number) => return number,
            Some(_) => {
                self.refuse(key, format!("is out of range; use {} to {}", range.start(), range.end()));
            }
            None => {
                let problem = format!("must be a whole number; use {} to {}", range.start(), range.end());
                self.refuse(key, problem);
            }
        }
        *range.start()
    }

    pub(super) fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let Some(entry) = self.entry(key) else { return *range.start() };
        let parsed = match &entry.value {
            Scalar::Text(text) => parse_duration(text),
            Scalar::Number(number) => parse_duration(&number.to_string()),
            Scalar::Flag(flag) => parse_duration(&flag.to_string()),
        };
        let problem = match parsed {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => {
                let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
                format!("is out of range; use {low} to {high}")
            }
            Err(problem) => problem,
        };
        self.refuse(key, problem);
        *range.start()
    }
}

/// The keys that are read, whatever they hold.
#[cfg(test)]
pub(super) fn keys_read(merged: &Merged) -> BTreeSet<&'static str> {
    let mut reader = Reader::new(merged);
    read(&mut reader);
    reader.used
}
