//! The part of a node that keeps personal data encrypted.

use std::sync::Arc;

use super::stores::Opened;
use crate::config::{Config, PrivacyMode, SecretBytes};
use crate::ports::clock::Clock;
use crate::ports::vault::{Custodian, KeyBytes, KeyWrapper};
use crate::privacy::{Keeper, Keyring, LocalKeks, NoKey, Protected, RingConfig};

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
    let ring = Arc::new(Keyring::new(keys, wrapper, Arc::clone(clock), limits));
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
