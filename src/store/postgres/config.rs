//! Where the database is and how it is used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use backon::ExponentialBuilder;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, SqlSafeStr, SqlStr};

/// First pause between two tries to connect.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Who stands between us and the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pooler {
    /// Nobody, or someone who keeps a session together.
    None,
    /// Someone who gives each transaction another session, such as pgbouncer in transaction mode: nothing is kept in the
    /// session, no statement is prepared ahead, every statement travels in a transaction of its own.
    Transaction,
}

/// How a connection is protected, from least to most, as libpq names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are libpq's")]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// One server and one database on it.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Name, address, or folder of the socket when it begins with `/`.
    pub host: String,
    /// TCP port, also part of a socket's name.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Secret.
    pub password: Option<String>,
    /// Database.
    pub database: String,
    /// Protection of the connection.
    pub ssl_mode: SslMode,
    /// PEM file of the authorities to trust.
    pub ssl_root_cert: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub ssl_identity: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Target {
    /// Where, without who and how.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// Where the database is and how it is used.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// The primary.
    pub target: Target,
    /// A replica that may lag behind; none = everything is read from the primary.
    pub replica: Option<Target>,
    /// Whether a starting node applies migrations; looked at by who opens the store.
    pub migrate: bool,
    /// Connections for reading, to each of the two.
    pub readers: u32,
    /// Connections that commit side by side.
    pub lanes: usize,
    /// At most this many changes in one transaction.
    pub batch_max: usize,
    /// At most this many changes waiting, in all lanes; more are refused.
    pub queue_max: usize,
    /// So many changes have to wait for one more lane to begin.
    pub lane_jobs: usize,
    /// How long a busy lane waits for more changes; an idle one never waits.
    pub gather: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one read may take, the wait for a connection included.
    pub read_timeout: Duration,
    /// After this a commit's outcome counts as unknown.
    pub commit_timeout: Duration,
    /// How long a statement waits for a row that another transaction holds.
    pub lock_timeout: Duration,
    /// How long changes wait for a lost database before they are refused.
    pub outage_patience: Duration,
    /// Longest pause between two tries to connect.
    pub reconnect_max: Duration,
    /// Who stands between us and the server.
    pub pooler: Pooler,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
    /// Whether to refuse a server that may lose what it acknowledged.
    pub safety: Safety,
    /// Whether to refuse a database that another node writes.
    pub exclusive: bool,
}

/// What is done about server settings that may lose what was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Safety {
    /// They are told of.
    Warn,
    /// They are refused, but for those named here.
    Refuse {
        /// Accepted nevertheless.
        except: Vec<String>,
    },
}

impl PostgresConfig {
    /// How to connect; `role` is told to the server with the application's name.
    ///
    /// Everything that can be set is, so that the environment has no say in it; of the driver's variables only `PGOPTIONS`
    /// and the paths of `PGSSL...` are still looked at where the URL has none.
    pub(super) fn connect(&self, target: &Target, role: &str, session: Option<Session>) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(target.port)
            .username(&target.user)
            .password(target.password.as_deref().unwrap_or_default())
            .database(&target.database)
            .application_name(&format!("{} {role}", self.application_name))
            .extra_float_digits(None)
            .ssl_mode(match target.ssl_mode {
                SslMode::Disable => PgSslMode::Disable,
                SslMode::Allow => PgSslMode::Allow,
                SslMode::Prefer => PgSslMode::Prefer,
                SslMode::Require => PgSslMode::Require,
                SslMode::VerifyCa => PgSslMode::VerifyCa,
                SslMode::VerifyFull => PgSslMode::VerifyFull,
            });
        options = if target.host.starts_with('/') {
            options.socket(&target.host)
        } else {
            options.host(&target.host)
        };
        if let Some(cert) = &target.ssl_root_cert {
            options = options.ssl_root_cert(cert);
        }
        if let Some((cert, key)) = &target.ssl_identity {
            options = options.ssl_client_cert(cert).ssl_client_key(key);
        }
        if let (Some(session), Pooler::None) = (session, self.pooler) {
            options = options.options(self.session(session));
        }
        options.disable_statement_logging()
    }

    /// The pauses between tries to connect.
    pub(super) fn pauses(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(self.reconnect_max.max(FIRST_PAUSE))
            .with_jitter()
            .without_max_times()
    }

    /// What opens a transaction; with the session's settings where no session can keep them.
    pub(super) fn begin(&self, session: Session) -> SqlStr {
        let mut begin = String::from("BEGIN");
        if self.pooler == Pooler::Transaction {
            for (name, value) in self.session(session) {
                begin.push_str(&format!("; SET LOCAL {name} = '{value}'"));
            }
        }
        // Names and values are made here, of constants and numbers.
        AssertSqlSafe(begin).into_sql_str()
    }

    /// Settings that a session of `kind` has, as name and value.
    pub(super) fn session(&self, kind: Session) -> Vec<(&'static str, String)> {
        let millis = |duration: Duration| duration.as_millis().max(1).to_string();
        let timeout = match kind {
            Session::Commit => self.commit_timeout,
            Session::Read | Session::Renew => self.read_timeout,
        };
        let mut settings = vec![
            ("statement_timeout", millis(timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            ("idle_in_transaction_session_timeout", millis(timeout)),
            // Statements are short and looked up by key; working out a plan or machine code costs more than they do.
            ("jit", String::from("off")),
            // Everything is found by key or read in the order of an index. Kept plans must not be worked out for the
            // empty tables of a first day.
            ("enable_seqscan", String::from("off")),
            ("enable_bitmapscan", String::from("off")),
            ("enable_hashjoin", String::from("off")),
            ("enable_mergejoin", String::from("off")),
        ];
        if kind != Session::Read {
            settings.push(("plan_cache_mode", String::from("force_generic_plan")));
        }
        if kind == Session::Renew {
            // A server that crashed is not asked who was in time: see `members`.
            settings.push(("synchronous_commit", String::from("off")));
        }
        if kind == Session::Read {
            // Keys of personal data are written through these.
            settings.push(("client_min_messages", String::from("warning")));
        }
        if kind == Session::Commit {
            // A commit that may not outlive its server is told of by a warning.
            settings.push(("client_min_messages", String::from("notice")));
        }
        settings
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Session {
    /// Writing.
    Commit,
    /// Reading.
    Read,
    /// Renewing a lease, which need not outlive the server.
    Renew,
}
