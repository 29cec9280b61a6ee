//! The typed configuration: one struct per section of `config/default.yaml`, which says what each key means.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;

use super::auth::{AuthConfig, ListenerTls};
use super::cache::CacheConfig;
use super::cluster::{ClusterConfig, PeerConfig};
use super::load::Setting;
use super::ops::OpsConfig;
use super::postgres::PostgresUrl;
use super::privacy::PrivacyConfig;
use super::rate_limits::RateLimitsConfig;
use super::tracing::TracingConfig;
use super::transport::TransportConfig;
use crate::domain::money::Currency;

/// The whole configuration, checked. Made by [`Config::load`].
#[derive(Clone, Debug)]
pub struct Config {
    /// What the node is run for.
    pub profile: Profile,
    /// The public API.
    pub grpc: GrpcConfig,
    /// Node to node.
    pub peer: PeerConfig,
    /// Whether there are other nodes.
    pub cluster: ClusterConfig,
    /// Health and metrics.
    pub ops: OpsConfig,
    /// Where orders are kept.
    pub store: StoreConfig,
    /// The disposable copy of orders.
    pub cache: CacheConfig,
    /// The five services that orders depend on.
    pub collaborators: CollaboratorsConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// How often callers may call.
    pub rate_limits: RateLimitsConfig,
    /// Creation of orders.
    pub create: CreateConfig,
    /// Who watches orders.
    pub watch: WatchConfig,
    /// Actors.
    pub actor: ActorConfig,
    /// Sagas.
    pub saga: SagaConfig,
    /// What is held before it is paid.
    pub risk: RiskConfig,
    /// What a request may hold.
    pub limits: LimitsConfig,
    /// Where the price book is.
    pub pricing: PricingConfig,
    /// Personal data at rest.
    pub privacy: PrivacyConfig,
    /// Identifiers.
    pub ids: IdsConfig,
    /// Log lines.
    pub log: LogConfig,
    /// Spans.
    pub tracing: TracingConfig,
    /// The simulated collaborators.
    pub simulator: SimulatorConfig,
    /// For tests only.
    pub testing: TestingConfig,
    /// All of it as it may be shown, with where each value comes from.
    pub shown: Arc<[Setting]>,
}

/// What a node is run for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Profile {
    /// Development: everything is allowed.
    #[default]
    Dev,
    /// Production: what is only meant for development is refused.
    Production,
}

/// `grpc`: the public API.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Where it listens; port 0 takes a free port.
    pub listen: SocketAddr,
    /// Largest request, in bytes.
    pub max_message_bytes: usize,
    /// Deadline of a call that brings none.
    pub default_deadline: Duration,
    /// Longest deadline; at least `default_deadline`.
    pub max_deadline: Duration,
    /// Calls in flight on this node.
    pub max_concurrent_requests: usize,
    /// Calls in flight on one connection.
    pub max_streams_per_connection: u32,
    /// `WatchOrder` calls on this node.
    pub max_watchers: usize,
    /// Whether server reflection is answered.
    pub reflection: bool,
    /// How often a silent connection is checked.
    pub keepalive: Duration,
    /// How long a stopping node waits for what is in flight.
    pub shutdown_grace: Duration,
    /// How it proves to callers who it is; none = it does not.
    pub tls: Option<ListenerTls>,
    /// Whether something in front of the node ends TLS.
    pub behind_tls_proxy: bool,
    /// Its connections.
    pub transport: TransportConfig,
}

/// From where repairs are taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Repairs {
    /// From this machine.
    #[default]
    Loopback,
    /// From wherever the listener is reached.
    All,
    /// From nowhere.
    None,
}

/// Which store, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A Postgres database.
    Postgres(PostgresUrl),
}

/// What stands between the service and its Postgres server.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Pooler {
    /// Nothing that shares server connections: a session is ours for as long as we hold it.
    #[default]
    None,
    /// pgbouncer in transaction mode: no state of a session and no named prepared statement outlives a transaction.
    Transaction,
}

/// A setting of the Postgres server that loses acknowledged commits when it is off; the order is that of the manual.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum UnsafeSetting {
    /// `fsync`.
    Fsync,
    /// `full_page_writes`.
    FullPageWrites,
    /// `synchronous_commit`.
    SynchronousCommit,
}

impl UnsafeSetting {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fsync, Self::FullPageWrites, Self::SynchronousCommit];

    /// Its name, as the server and `store.allow_unsafe` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::FullPageWrites => "full_page_writes",
            Self::SynchronousCommit => "synchronous_commit",
        }
    }
}

/// `store`: where orders are kept. From `read_url` on the fields are for Postgres only.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Which store, and where.
    pub url: StoreUrl,
    /// Reads side by side, in connections.
    pub readers: u32,
    /// Orders' commits in one transaction.
    pub batch_max: usize,
    /// Commits that wait; at least `batch_max`.
    pub queue_max: usize,
    /// A replica for reads that may be stale; always none beside SQLite.
    pub read_url: Option<PostgresUrl>,
    /// Whether a starting node applies migrations.
    pub migrate: bool,
    /// Connections that commit side by side, 1 to 16.
    pub lanes: u32,
    /// Changes that wait before one more lane begins.
    pub lane_jobs: usize,
    /// How long a busy lane waits for more changes; zero = not at all.
    pub gather: Duration,
    /// Longest connecting.
    pub connect_timeout: Duration,
    /// Longest read, waiting for a connection included.
    pub read_timeout: Duration,
    /// Longest commit; then its outcome counts as unknown.
    pub commit_timeout: Duration,
    /// Longest wait of a statement for a row that another transaction holds.
    pub lock_timeout: Duration,
    /// How long changes wait for a lost database; zero = not at all.
    pub outage_patience: Duration,
    /// Longest pause between two tries to connect.
    pub reconnect_max: Duration,
    /// What stands before the server.
    pub pooler: Pooler,
    /// What the server shows for our connections; 1 to 63 printable ASCII characters.
    pub application_name: String,
    /// What production accepts although it loses commits.
    pub allow_unsafe: BTreeSet<UnsafeSetting>,
}

/// Where a collaborator is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CollaboratorUrl {
    /// Simulated in this process.
    Simulated,
    /// A gRPC server: `http://HOST:PORT` or `https://HOST:PORT`.
    Grpc(String),
}

/// `collaborators`: the five services that orders depend on.
#[derive(Clone, Debug)]
pub struct CollaboratorsConfig {
    /// Stock and reservations.
    pub inventory: CollaboratorUrl,
    /// Names and prices.
    pub product: CollaboratorUrl,
    /// Users and their addresses.
    pub user: CollaboratorUrl,
    /// Charges and refunds.
    pub payment: CollaboratorUrl,
    /// Labels.
    pub shipping: CollaboratorUrl,
    /// Longest call.
    pub timeout: Duration,
    /// Longest connecting.
    pub connect_timeout: Duration,
    /// How often a failed read is repeated at once.
    pub read_retries: u32,
    /// Failures in a row after which a collaborator is left alone.
    pub breaker_failures: u32,
    /// How long it is left alone.
    pub breaker_open_for: Duration,
    /// Largest answer, in bytes.
    pub max_message_bytes: usize,
}

/// `create`: creation of orders.
#[derive(Clone, Debug)]
pub struct CreateConfig {
    /// How long `CreateOrder` waits for its saga.
    pub wait: Duration,
}

/// `watch`: who watches orders.
#[derive(Clone, Debug)]
pub struct WatchConfig {
    /// Events that wait for one reader, and batches of events that an order's feed keeps for the slowest one.
    pub buffer: usize,
    /// Longest time without room for the next event; then the stream is ended.
    pub slow_after: Duration,
}

/// `actor`: one actor per order that is being worked on.
#[derive(Clone, Debug)]
pub struct ActorConfig {
    /// Actors on this node.
    pub max_live: usize,
    /// Commands in flight for one order.
    pub max_commands_per_order: usize,
    /// An actor with nothing to do ends after this.
    pub idle_after: Duration,
    /// How often idle actors are looked for.
    pub sweep_every: Duration,
    /// Failures in a row after which an order is quarantined.
    pub max_failures: u32,
    /// Pause after the first failure; doubles.
    pub failure_backoff: Duration,
    /// Longest pause; at least `failure_backoff`.
    pub failure_backoff_max: Duration,
    /// How long a quarantined order refuses commands.
    pub quarantine_for: Duration,
}

/// `saga`: how the steps of an order are carried through.
#[derive(Clone, Debug)]
pub struct SagaConfig {
    /// Longest step; then its outcome counts as unknown.
    pub step_timeout: Duration,
    /// Pause before a step's second try; doubles.
    pub retry_initial: Duration,
    /// Longest pause; at least `retry_initial`.
    pub retry_max: Duration,
    /// Tries of a step before its saga turns round.
    pub forward_tries: u32,
    /// Tries of a step before a person should look.
    pub attention_after_tries: u32,
    /// How long after an unknown charge "never heard of it" counts.
    pub charge_settle_lag: Duration,
    /// How long after its creation an order's calls may follow each other unstored.
    pub run_ahead: Duration,
    /// How long inventory keeps a reservation that is not renewed; renewed after half of it.
    pub reservation_ttl: Duration,
    /// How long after its creation an order that is not paid is canceled; zero = never.
    pub expire_after: Duration,
    /// How long the fate of a payment may be unknown before a person should look.
    pub unknown_attention_after: Duration,
    /// How often unfinished sagas are looked for.
    pub resume_every: Duration,
    /// Unfinished sagas fetched at a time.
    pub resume_batch: usize,
    /// Unfinished sagas woken side by side.
    pub resume_concurrency: usize,
    /// Due timers taken each `resume_every`.
    pub timers_batch: usize,
}

/// `risk`: which new orders are held before they are paid.
#[derive(Clone, Debug)]
pub struct RiskConfig {
    /// Totals from which on, by currency; empty = never.
    pub hold_from_amount: Vec<(Currency, Decimal)>,
    /// Orders of one user within `window`, from which on; 0 = however many.
    pub max_orders_per_user: u32,
    /// How far back orders are counted.
    pub window: Duration,
    /// When billing and shipping country differ.
    pub hold_mismatched_countries: bool,
}

/// `limits`: what a request may hold.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Lines of an order.
    pub items_per_order: usize,
    /// Pieces of a line.
    pub max_quantity: u32,
    /// Characters of notes.
    pub notes_chars: usize,
    /// Keys of metadata.
    pub metadata_keys: usize,
    /// Bytes of a key or value of metadata.
    pub metadata_bytes: usize,
    /// Page when the caller names no size; at most `page_size_max`.
    pub page_size_default: u32,
    /// Largest page.
    pub page_size_max: u32,
}

/// `pricing`: where the price book is.
#[derive(Clone, Debug)]
pub struct PricingConfig {
    /// A YAML file; none = the one that is compiled in.
    pub file: Option<PathBuf>,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `ids`: identifiers of orders.
#[derive(Clone, Debug)]
pub struct IdsConfig {
    /// Keys the hashes in ids and numbers; at least 16 bytes.
    pub key: Secret,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
}

/// `log`: log lines.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A level or filters, in the syntax of `tracing_subscriber::EnvFilter`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// Where the simulator keeps what it did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum SimulatorJournal {
    /// Beside a SQLite file, or `./data/order-service.simulator.jsonl` with Postgres, for a node with simulated
    /// collaborators; nowhere for `order-service simulate`.
    #[default]
    Auto,
    /// Nowhere: it is forgotten when the process ends.
    None,
    /// In this file.
    File(PathBuf),
}

/// `simulator`: the simulated collaborators.
#[derive(Clone, Debug)]
pub struct SimulatorConfig {
    /// Where `order-service simulate` listens; port 0 takes a free port.
    pub listen: SocketAddr,
    /// What faults are drawn from.
    pub seed: u64,
    /// Entries of its ledger.
    pub max_ledger: usize,
    /// Where it keeps what it did.
    pub journal: SimulatorJournal,
}

/// `testing`: for tests only.
#[derive(Clone, Debug)]
pub struct TestingConfig {
    /// Name of a point at which the process ends itself.
    pub crash_at: Option<String>,
    /// Name of a saga's station whose undo counts as done without being made.
    pub skip_undo: Option<String>,
}
