//! A token taken apart, before anything in it is believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Refused;
use super::jose::Algorithm;

/// Longest name of a key, in bytes.
pub(super) const KEY_NAME_BYTES: usize = 200;

const NO_TOKEN: Refused =
    Refused::Token("the token is not a signed JWT of three parts; send `authorization: Bearer TOKEN`");

/// The parts of a token. Of the header only `alg`, `kid` and `typ` are looked at: keys that a token brings or points to
/// (`jwk`, `jku`, `x5c`, `x5u`) never matter.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    signed: &'a str,
    signature: &'a str,
    algorithm: String,
    key: Option<String>,
    claims: Map<String, Value>,
}

impl<'a> Parts<'a> {
    pub(super) fn read(token: &'a str) -> Result<Self, Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(NO_TOKEN)?;
        let (header, payload) = signed.split_once('.').ok_or(NO_TOKEN)?;
        if payload.contains('.') {
            return Err(NO_TOKEN);
        }
        let header = object(header)?;
        if header.contains_key("crit") {
            return Err(Refused::Token("the token demands an extension (crit); send one without"));
        }
        let kind = match header.get("typ") {
            None => true,
            Some(Value::String(kind)) => {
                let kind = kind.to_ascii_lowercase();
                matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
            }
            Some(_) => false,
        };
        if !kind {
            return Err(Refused::Token("the token is of another type (typ) than JWT or at+jwt"));
        }
        let algorithm = match header.get("alg") {
            Some(Value::String(algorithm)) => algorithm.clone(),
            _ => return Err(Refused::Token("the token names no algorithm (alg)")),
        };
        let key = match header.get("kid") {
            None => None,
            Some(Value::String(key)) if key.len() <= KEY_NAME_BYTES => Some(key.clone()),
            Some(_) => return Err(Refused::Token("the token's kid is not a short text")),
        };
        Ok(Self { signed, signature, algorithm, key, claims: object(payload)? })
    }

    /// What the token was signed over.
    pub(super) fn signed(&self) -> &'a str {
        self.signed
    }

    pub(super) fn signature(&self) -> &'a str {
        self.signature
    }

    /// The name of the key, if it says.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Unproven until the signature is checked.
    pub(super) fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Who claims to have made it.
    pub(super) fn issuer(&self) -> Result<&str, Refused> {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        issuer.ok_or(Refused::Token("the token does not say who issued it (iss)"))
    }

    /// Its algorithm, which must be one of those that are taken of its issuer.
    pub(super) fn algorithm(&self, taken: &[Algorithm]) -> Result<Algorithm, Refused> {
        let found = taken.iter().copied().find(|algorithm| algorithm.name() == self.algorithm);
        found.ok_or(Refused::Token("the token's algorithm (alg) is none that is taken of its issuer"))
    }
}

/// A part of a token as the JSON object it must be.
fn object(part: &str) -> Result<Map<String, Value>, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| NO_TOKEN)?;
    serde_json::from_slice(&bytes).map_err(|_| NO_TOKEN)
}
