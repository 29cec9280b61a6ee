//! Sets of public keys: read from PEM files and JWKS documents (RFC 7517), looked up by name and algorithm.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::header::KEY_NAME_BYTES;
use super::jose::{Algorithm, VerifyingKey};

/// Keys of one document, at most.
const MOST_KEYS: usize = 100;
/// Keys without a name, at most: a token may have to be tried with each.
const MOST_UNNAMED: usize = 4;
/// Bits of an RSA modulus: no fewer (RFC 7518, section 3.3), and no more than are checked in good time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// Longest RSA exponent, in bytes.
const EXPONENT_BYTES: usize = 8;

/// What a public key of P-256 begins with (RFC 5480): all but its point.
pub(super) const EC_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// What a public key of Ed25519 begins with (RFC 8410): all but its point.
pub(super) const ED_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The algorithm of an RSA key in DER: rsaEncryption, no parameters.
const RSA_ALGORITHM: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Keys of one issuer.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet {
    named: HashMap<String, Vec<VerifyingKey>>,
    unnamed: Vec<VerifyingKey>,
}

/// A key of a JWKS document. Everything else in it is not for us.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// One shared secret.
    pub(super) fn shared(secret: &[u8]) -> Self {
        Self { unnamed: vec![VerifyingKey::hs256(secret)], ..Self::default() }
    }

    /// Reads a document: JWKS if it is JSON, else PEM. Keys of a JWKS that are of no use here are passed over: it may serve
    /// others too. One without any that is of use is that of an issuer that takes back what it has shown.
    ///
    /// # Errors
    /// Half a sentence, when it is neither, holds too many keys, or is a PEM file without any.
    pub(super) fn read(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        let is_json = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        if is_json {
            return Self::read_jwks(text, algorithms);
        }
        match Self::read_pem(text, algorithms)? {
            // It is about to be written, perhaps.
            set if set.is_empty() => Err(String::from("holds no public key")),
            set => Ok(set),
        }
    }

    /// Whether it holds no key.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.is_empty()
    }

    fn read_jwks(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        let jwks: Jwks =
            serde_json::from_slice(text).map_err(|error| format!("is no JWKS document ({error})"))?;
        if jwks.keys.len() > MOST_KEYS {
            return Err(format!("holds more than {MOST_KEYS} keys"));
        }
        let mut set = Self::default();
        for key in jwks.keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key) else { continue };
            if let Some(key) = key_of(&jwk)
                && algorithms.contains(&key.algorithm())
            {
                set.add(jwk.kid, key)?;
            }
        }
        Ok(set)
    }

    fn read_pem(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        if text.windows(b"PRIVATE KEY-----".len()).any(|part| part == b"PRIVATE KEY-----") {
            return Err(String::from("holds a private key; name a file with public keys only"));
        }
        let mut set = Self::default();
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(text) {
            let key = key.map_err(|error| format!("is no PEM file ({error})"))?;
            let key = key_of_spki(&key).ok_or_else(|| {
                let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                format!("holds a key that is neither P-256, nor Ed25519, nor RSA of {least} to {most} bits")
            })?;
            if !algorithms.contains(&key.algorithm()) {
                let name = key.algorithm().name();
                return Err(format!("holds a key for {name}, which is not among the algorithms"));
            }
            set.add(None, key)?;
        }
        Ok(set)
    }

    fn add(&mut self, name: Option<String>, key: VerifyingKey) -> Result<(), String> {
        let place = match name {
            // A token could not name it.
            Some(name) if name.len() > KEY_NAME_BYTES => return Ok(()),
            Some(name) => self.named.entry(name).or_default(),
            None => &mut self.unnamed,
        };
        if place.len() >= MOST_UNNAMED {
            return Err(format!("holds more than {MOST_UNNAMED} keys without a kid, or of the same"));
        }
        place.push(key);
        Ok(())
    }

    /// The keys that a token of this algorithm may be signed by: those of the name it gives, else those without a name, and
    /// without a name in the token the only one there is. Never more than four.
    pub(super) fn candidates(&self, name: Option<&str>, algorithm: Algorithm) -> Vec<&VerifyingKey> {
        let fits = |key: &&VerifyingKey| key.algorithm() == algorithm;
        if let Some(keys) = name.and_then(|name| self.named.get(name)) {
            return keys.iter().filter(fits).collect();
        }
        let unnamed: Vec<&VerifyingKey> = self.unnamed.iter().filter(fits).collect();
        if name.is_some() || !unnamed.is_empty() {
            return unnamed;
        }
        let all: Vec<&VerifyingKey> = self.named.values().flatten().filter(fits).take(2).collect();
        if all.len() == 1 { all } else { Vec::new() }
    }
}

/// The key that an entry of a JWKS document is, if it is one for checking signatures by an algorithm of ours.
fn key_of(jwk: &Jwk) -> Option<VerifyingKey> {
    let is_for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
    if !is_for_signatures {
        return None;
    }
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            let mut point = vec![4];
            point.extend_from_slice(&<[u8; 32]>::try_from(x).ok()?);
            point.extend_from_slice(&<[u8; 32]>::try_from(y).ok()?);
            VerifyingKey::es256(&<[u8; 65]>::try_from(point).ok()?)
        }
        ("OKP", Some("Ed25519")) => VerifyingKey::eddsa(&<[u8; 32]>::try_from(bytes(&jwk.x)?).ok()?),
        ("RSA", None) => rsa(&bytes(&jwk.n)?, &bytes(&jwk.e)?)?,
        _ => return None,
    };
    let name = key.algorithm().name();
    jwk.alg.as_deref().is_none_or(|algorithm| algorithm == name).then_some(key)
}

/// The key in a `SubjectPublicKeyInfo`, if it is of a kind of ours.
fn key_of_spki(der: &[u8]) -> Option<VerifyingKey> {
    if let Some(point) = der.strip_prefix(EC_PREFIX) {
        let point = <&[u8; 65]>::try_from(point).ok()?;
        return (point.first() == Some(&4)).then(|| VerifyingKey::es256(point));
    }
    if let Some(point) = der.strip_prefix(ED_PREFIX) {
        return Some(VerifyingKey::eddsa(<&[u8; 32]>::try_from(point).ok()?));
    }
    let (content, rest) = element(0x30, der)?;
    let (algorithm, content) = element(0x30, content)?;
    let (bits, none) = element(0x03, content)?;
    let (numbers, nothing) = element(0x30, bits.strip_prefix(&[0])?)?;
    let (modulus, exponent) = element(0x02, numbers)?;
    let (exponent, end) = element(0x02, exponent)?;
    let is_whole = [rest, none, nothing, end].iter().all(|rest| rest.is_empty());
    if !is_whole || algorithm != RSA_ALGORITHM {
        return None;
    }
    rsa(modulus, exponent)
}

/// An RSA key of a length that is neither weak nor a burden.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<VerifyingKey> {
    let modulus = without_zeros(modulus);
    let exponent = without_zeros(exponent);
    let leading = usize::try_from(modulus.first()?.leading_zeros()).ok()?;
    let bits = modulus.len().checked_mul(8)?.checked_sub(leading)?;
    let is_odd = exponent.last()? & 1 == 1;
    let is_small = exponent == [1];
    let fits = RSA_BITS.contains(&bits) && exponent.len() <= EXPONENT_BYTES && is_odd && !is_small;
    fits.then(|| VerifyingKey::rs256(modulus, exponent))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// The content of the DER element with this tag at the start, and what stands behind it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length)).flatten()
}
