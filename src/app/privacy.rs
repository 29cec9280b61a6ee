//! The part of a node that keeps personal data encrypted.

use std::sync::Arc;

use anyhow::anyhow;

use super::stores::{self, Opened};
use crate::config::{Config, PrivacyMode, SecretBytes};
use crate::ports::clock::Clock;
use crate::ports::vault::{Custodian, KeyBytes, KeyWrapper};
use crate::privacy::{
    self, Days, Exported, Form, Keeper, Keyring, LocalKeks, NoKey, Protected, Pseudonyms, RingConfig, Sink,
};

/// Puts encryption before the store, if the configuration says so. Nothing here ends a start: without the right key the
/// node does all that needs no personal data.
pub(super) async fn protect(
    config: &Config,
    opened: &mut Opened,
    clock: &Arc<dyn Clock>,
) -> Option<Arc<dyn Custodian>> {
    let privacy = &config.privacy;
    if privacy.mode == PrivacyMode::Off {
        return None;
    }
    let wrapper = keks(config).map(|keks| Arc::new(keks) as Arc<dyn KeyWrapper>);
    let limits = RingConfig { at_most: privacy.keep_users, keep_for: privacy.keep_for };
    let keys = Arc::clone(&opened.keys);
    let ring = Arc::new(Keyring::new(keys, wrapper, Arc::clone(clock), limits, opened.store.reconnects()));
    match ring.prove().await {
        Ok(()) => {}
        Err(error @ NoKey::Locked(_)) => {
            tracing::error!(%error, "personal data is not shown and no order can be created");
        }
        Err(error) => tracing::warn!(%error, "the key-encryption key is not proven yet"),
    }
    let inner = Arc::clone(&opened.store);
    opened.store = Arc::new(Protected::new(Arc::clone(&inner), Arc::clone(&ring)));
    Some(Arc::new(Keeper::new(inner, ring)))
}

fn keks(config: &Config) -> Option<LocalKeks> {
    let bytes = |secret: &SecretBytes| KeyBytes(*secret.expose());
    let privacy = &config.privacy;
    let current = privacy.kek.as_ref()?;
    let old = privacy.old_keks.iter().map(|(id, secret)| (id.clone(), bytes(secret))).collect();
    LocalKeks::new((privacy.kek_id.clone(), bytes(current)), old)
}

/// Tells the orders of some days for analytics, reading only, beside whoever uses the store.
///
/// # Errors
/// When there is no secret for pseudonyms, no such store, or it cannot be read.
pub async fn export(
    config: &Config,
    days: Days,
    form: Form,
    sink: &mut impl Sink,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Exported> {
    let secret = config.privacy.export_secret.as_ref().ok_or_else(|| {
        anyhow!(
            "pseudonyms need a secret; set privacy.export_secret, for example by ORDER__PRIVACY__EXPORT_SECRET_FILE, \
             to what openssl rand -base64 32 prints"
        )
    })?;
    let names = Pseudonyms::new(&KeyBytes(*secret.expose()));
    let store = stores::open_reader(config).await?;
    let ended = privacy::export(&*store, days, form, &names, sink, stop).await;
    store.close().await;
    Ok(ended?)
}
