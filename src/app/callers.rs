//! How callers prove who they are, and the node to them.

use std::sync::Arc;

use anyhow::anyhow;
use tokio_util::sync::CancellationToken;

use crate::auth::{Algorithm, Issuer, KeySource, Limits, SharedSecret, Trust, Verifier};
use crate::config::{AuthMode, Config, IssuerConfig, KeysAt, PublicAlgorithm, TrustConfig};
use crate::grpc::Secured;
use crate::tls::{Files, HandshakeLimits, ServerTls};

/// What verifies callers' tokens; none where everybody may do everything. Its keys are looked after until `stop`.
pub(super) async fn verifier(
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Arc<Verifier>>> {
    let listen = config.grpc.listen;
    let is_reached = !listen.ip().is_loopback();
    let auth = &config.auth;
    if auth.mode == AuthMode::Dev {
        if is_reached {
            tracing::warn!(%listen, "auth.mode is dev: whoever reaches that address may do everything");
        }
        return Ok(None);
    }
    if is_reached && config.grpc.tls.is_none() && !config.grpc.behind_tls_proxy {
        tracing::warn!(%listen, "callers are answered without TLS: their tokens can be read on the way");
    }
    let limits = Limits {
        max_length: auth.max_length,
        leeway: auth.leeway,
        known: auth.known,
        refresh: auth.refresh,
        timeout: auth.timeout,
        unknown_key_pause: auth.unknown_kid_pause,
        stale_after: auth.stale_after,
        max_document: auth.max_document,
    };
    let issuers = auth.issuers.iter().map(issuer).collect();
    let verifier = Verifier::start(issuers, limits, stop.clone()).await;
    verifier.map(Some).map_err(|problem| anyhow!(problem))
}

fn issuer(config: &IssuerConfig) -> Issuer {
    let trust = match &config.trust {
        TrustConfig::Shared(secret) => Trust::Shared(SharedSecret::new(secret.expose().as_bytes())),
        TrustConfig::Public(algorithms, keys) => Trust::Public {
            algorithms: algorithms
                .iter()
                .map(|algorithm| match algorithm {
                    PublicAlgorithm::Es256 => Algorithm::Es256,
                    PublicAlgorithm::EdDsa => Algorithm::EdDsa,
                    PublicAlgorithm::Rs256 => Algorithm::Rs256,
                })
                .collect(),
            keys: match keys {
                KeysAt::File(path) => KeySource::File(path.clone()),
                KeysAt::Url(url) => KeySource::Url(url.clone()),
            },
        },
    };
    Issuer {
        issuer: config.issuer.clone(),
        audience: config.audience.clone(),
        trust,
        user_claim: config.user_claim.clone(),
        max_age: config.max_age,
    }
}

/// With what the public listener is secured; its files are looked after until `stop`.
pub(super) async fn secured(config: &Config, stop: &CancellationToken) -> anyhow::Result<Option<Secured>> {
    let Some(tls) = &config.grpc.tls else { return Ok(None) };
    let files = Files { cert: tls.cert.clone(), key: tls.key.clone(), client_ca: tls.client_ca.clone() };
    let limits = HandshakeLimits { timeout: tls.handshake_timeout, at_once: tls.max_handshakes };
    let tls = ServerTls::start(files, tls.reload_every, stop.clone()).await;
    Ok(Some(Secured { tls: tls.map_err(|problem| anyhow!(problem))?, limits }))
}
