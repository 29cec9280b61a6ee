//! Configuration: compiled-in defaults, then files, then the environment; every value checked, all errors at once.
//!
//! `config/default.yaml` is the manual and the schema: a key that does not stand there does not exist.

mod auth;
mod cache;
mod cluster;
mod load;
mod mask;
mod ops;
mod postgres;
mod pricing;
mod privacy;
mod rate_limits;
mod read;
mod sections;
#[cfg(test)]
mod tests;
mod tracing;
mod transport;
mod values;

use std::fmt;
use std::path::PathBuf;

pub use auth::{AuthConfig, AuthMode, IssuerConfig, KeysAt, ListenerTls, PublicAlgorithm, TrustConfig};
pub use cache::{CacheConfig, CacheUrl};
pub use cluster::{ClusterConfig, PeerConfig, PeerTls};
pub use load::{Merged, Origin, Setting};
pub use ops::{DebugFrom, OpsConfig};
pub use postgres::{PostgresUrl, SslIdentity, SslMode};
pub use pricing::price_book;
pub use privacy::{PrivacyConfig, PrivacyMode, SecretBytes};
pub use rate_limits::{RateConfig, RateLimitsConfig, RateStore};
pub use sections::{
    ActorConfig, CollaboratorUrl, CollaboratorsConfig, Config, CreateConfig, GrpcConfig, IdsConfig,
    LimitsConfig, LogConfig, LogFormat, Pooler, PricingConfig, Profile, Repairs, RiskConfig, SagaConfig,
    Secret, SimulatorConfig, SimulatorJournal, StoreConfig, StoreUrl, TestingConfig, UnsafeSetting,
    WatchConfig,
};
pub use tracing::{SpanLines, TracingConfig};
pub use transport::TransportConfig;
pub use values::parse_duration;

impl Config {
    /// Merges and checks all layers. `files` are read in their order, later wins; of `environment`, variables that
    /// begin with `ORDER__` count, and win over files.
    ///
    /// # Errors
    /// Everything that is wrong, each with key, value and origin.
    pub fn load(
        files: &[PathBuf],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::from_merged(&Merged::collect(files, environment))
    }
}

/// One thing that is wrong with the configuration, as one sentence. Never holds a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Dotted key; empty when a whole file is wrong.
    pub key: String,
    /// The value, fit to be shown, where there is one.
    pub value: Option<String>,
    /// Where it comes from, as text.
    pub origin: String,
    /// The rest of the sentence: what is wrong, and what to do.
    pub problem: String,
}

impl ConfigError {
    fn new(
        key: impl Into<String>,
        value: Option<String>,
        origin: &Origin,
        problem: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), value, origin: origin.to_string(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, origin, problem } = self;
        match value {
            _ if key.is_empty() => write!(f, "{origin} {problem}"),
            Some(value) => write!(f, "{key} = {value} ({origin}) {problem}"),
            None => write!(f, "{key} ({origin}) {problem}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with the configuration; at least one error, one a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
