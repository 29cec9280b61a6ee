//! Who a bearer token is for: JSON Web Tokens (RFC 7519) by the rules of RFC 8725.
//!
//! An issuer is trusted by a fixed list of algorithms and by keys that the configuration names, never by anything that
//! stands in a token. Checking is pure (`claims`, `header`: the time is an argument); keys are looked after by a task of
//! their own (`ring`), and a token that was verified is known again for as long as it and its key are good (`seen`).

mod claims;
mod fetch;
mod header;
mod jose;
mod keys;
pub mod mint;
mod ring;
mod seen;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Timestamp;
use crate::domain::access::Caller;

pub use self::jose::Algorithm;

use self::claims::Rules;
use self::header::Parts;
use self::keys::KeySet;
use self::ring::{Ring, Source};
use self::seen::{Known, Seen};

/// Of whom tokens are taken.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// What stands in `iss`, letter by letter.
    pub issuer: String,
    /// What has to stand in `aud`, alone or among others.
    pub audience: String,
    /// How its tokens are proven.
    pub trust: Trust,
    /// The claim that says which user of the platform the caller is; one that is no UUID says nobody.
    pub user_claim: String,
    /// How long after `iat` a token is taken at most; none = as long as `exp` says.
    pub max_age: Option<Duration>,
}

/// How the tokens of an issuer are proven. Shared and public keys cannot stand side by side: whoever knows a public key
/// could else use it as the shared one.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By a private key that the issuer alone has.
    Public {
        /// The algorithms that are taken, each asymmetric.
        algorithms: Vec<Algorithm>,
        /// Where its public keys are.
        keys: KeySource,
    },
    /// HS256, by a secret that is known here too.
    Shared(SharedSecret),
}

/// Where public keys are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeySource {
    /// A PEM or JWKS file.
    File(PathBuf),
    /// A JWKS document: `https`, or `http` on this machine.
    Url(String),
}

/// A secret that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(Arc<[u8]>);

impl SharedSecret {
    /// Least length, in bytes: that of the hash (RFC 7518, section 3.2).
    pub const LEAST_BYTES: usize = 32;

    /// Wraps it.
    pub fn new(secret: &[u8]) -> Self {
        Self(Arc::from(secret))
    }

    fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Limits of verification.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest token that is looked at, in bytes.
    pub max_length: usize,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Verified tokens that are known again, at most.
    pub known: usize,
    /// How often keys are read again.
    pub refresh: Duration,
    /// Longest reading of keys, and longest wait of a call for keys it needs.
    pub timeout: Duration,
    /// Shortest time between two readings that are made because a token names an unknown key.
    pub unknown_key_pause: Duration,
    /// How long keys are good for after they were last read.
    pub stale_after: Duration,
    /// Longest key document, in bytes.
    pub max_document: usize,
}

/// Why a token is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It proves nothing; says what is wrong, and holds nothing of the token.
    Token(&'static str),
    /// There are no keys to check it with; later there may be.
    NoKeys,
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Trusted>,
    limits: Limits,
    seen: Seen,
}

#[derive(Debug)]
struct Trusted {
    rules: Rules,
    algorithms: Vec<Algorithm>,
    ring: Arc<Ring>,
}

impl Verifier {
    /// Reads what keys are in files, begins to read those that are elsewhere, and looks after all until `stop`.
    ///
    /// # Errors
    /// When a file cannot be read or holds no key that fits; a URL that does not answer is asked again.
    pub async fn start(
        issuers: Vec<Issuer>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, String> {
        let mut trusted = Vec::with_capacity(issuers.len());
        for issuer in issuers {
            let (algorithms, ring) = match issuer.trust {
                Trust::Shared(secret) => {
                    let keys = KeySet::shared(secret.expose());
                    (vec![Algorithm::Hs256], Ring::fixed(keys, limits))
                }
                Trust::Public { algorithms, keys } => {
                    let source = Source::new(keys)?;
                    let ring = Ring::start(&issuer.issuer, source, &algorithms, limits, stop.clone()).await?;
                    (algorithms, ring)
                }
            };
            let rules = Rules {
                issuer: issuer.issuer,
                audience: issuer.audience,
                user_claim: issuer.user_claim,
                max_age: issuer.max_age,
                leeway: limits.leeway,
            };
            trusted.push(Trusted { rules, algorithms, ring });
        }
        Ok(Arc::new(Self { issuers: trusted, limits, seen: Seen::new(limits.known) }))
    }

    /// Whom a token is for.
    ///
    /// # Errors
    /// [`Refused`], which says nothing of the token's content.
    pub async fn caller(&self, token: &str, now: Timestamp) -> Result<Caller, Refused> {
        if token.len() > self.limits.max_length {
            return Err(Refused::Token("the token is too long"));
        }
        let name = seen::name(token);
        if let Some(known) = self.seen.get(&name, now.timestamp()) {
            let keys = self.issuers.get(known.issuer).map(|trusted| trusted.ring.keys());
            if let Some(Some(keys)) = keys
                && keys.generation == known.generation
            {
                return Ok(known.caller);
            }
        }
        let parts = Parts::read(token)?;
        // What is read here decides only by which rules the token is checked; nothing is believed yet.
        let issuer = parts.issuer()?;
        let found = self.issuers.iter().enumerate().find(|(_, trusted)| trusted.rules.issuer == issuer);
        let (number, trusted) =
            found.ok_or(Refused::Token("the token's issuer (iss) is none that this service trusts"))?;
        let algorithm = parts.algorithm(&trusted.algorithms)?;
        let keys = trusted.ring.keys_for(parts.key(), algorithm).await.ok_or(Refused::NoKeys)?;
        let candidates = keys.set.candidates(parts.key(), algorithm);
        if candidates.is_empty() {
            return Err(Refused::Token("the token is signed by a key that its issuer does not show (kid)"));
        }
        if !candidates.iter().any(|key| key.verifies(parts.signed(), parts.signature())) {
            return Err(Refused::Token("the token's signature is wrong"));
        }
        let verified = claims::check(parts.claims(), &trusted.rules, now)?;
        let known = Known {
            caller: verified.caller.clone(),
            until: verified.until,
            issuer: number,
            generation: keys.generation,
        };
        self.seen.put(name, known, now.timestamp());
        Ok(verified.caller)
    }
}
