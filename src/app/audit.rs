//! Following the chains of events of the configured store.

use std::future::Future;
use std::ops::ControlFlow;

use super::stores;
use crate::config::Config;
use crate::verify::{self, AuditOptions, AuditReport, AuditWitness, Head, Noted};

/// Follows the chain of every order's events, reading only, until the last order or until `stop` is ready.
///
/// # Errors
/// When there is no such store or it cannot be read, or when a noted head cannot be read.
pub async fn audit(
    config: &Config,
    options: &AuditOptions,
    noted: Option<Noted>,
    witness: &mut impl AuditWitness,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<AuditReport> {
    let store = stores::open_reader(config).await?;
    let ended = verify::audit(&*store, options, noted, witness, stop).await;
    store.close().await;
    Ok(ended?)
}

/// Tells the last event of every order. Whether the last order was reached.
///
/// # Errors
/// When there is no such store or it cannot be read.
pub async fn event_heads(
    config: &Config,
    options: &AuditOptions,
    told: impl FnMut(&Head) -> ControlFlow<()>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<bool> {
    let store = stores::open_reader(config).await?;
    let ended = verify::heads(&*store, options, told, stop).await;
    store.close().await;
    Ok(ended?)
}
