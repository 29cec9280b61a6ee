//! Signatures: the one place that knows the crate that makes and checks them.

use std::fmt;

use jsonwebtoken::{DecodingKey, EncodingKey, crypto};

/// How a token is signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA, PKCS #1 v1.5, with SHA-256.
    Rs256,
    /// HMAC with SHA-256: by a shared secret.
    Hs256,
}

impl Algorithm {
    /// Those by public keys.
    pub const PUBLIC: [Self; 3] = [Self::Es256, Self::EdDsa, Self::Rs256];

    /// As `alg` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }

    fn theirs(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

/// A key that checks signatures of one algorithm only.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.algorithm.name())
    }
}

impl VerifyingKey {
    /// A point of P-256, uncompressed: 65 bytes.
    pub(super) fn es256(point: &[u8; 65]) -> Self {
        Self { algorithm: Algorithm::Es256, key: DecodingKey::from_ec_der(point) }
    }

    /// A point of Ed25519: 32 bytes.
    pub(super) fn eddsa(point: &[u8; 32]) -> Self {
        Self { algorithm: Algorithm::EdDsa, key: DecodingKey::from_ed_der(point) }
    }

    /// Modulus and exponent, most significant byte first.
    pub(super) fn rs256(modulus: &[u8], exponent: &[u8]) -> Self {
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Self { algorithm: Algorithm::Rs256, key }
    }

    /// A shared secret.
    pub(super) fn hs256(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::Hs256, key: DecodingKey::from_secret(secret) }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature` (base64url) is this key's over `signed`.
    pub(super) fn verifies(&self, signed: &str, signature: &str) -> bool {
        crypto::verify(signature, signed.as_bytes(), &self.key, self.algorithm.theirs()).unwrap_or(false)
    }
}

/// A key that signs.
pub(super) struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm.name())
    }
}

impl SigningKey {
    /// A private key of P-256 in PKCS #8.
    pub(super) fn es256(pkcs8: &[u8]) -> Self {
        Self { algorithm: Algorithm::Es256, key: EncodingKey::from_ec_der(pkcs8) }
    }

    /// A private key of Ed25519 in PKCS #8.
    pub(super) fn eddsa(pkcs8: &[u8]) -> Self {
        Self { algorithm: Algorithm::EdDsa, key: EncodingKey::from_ed_der(pkcs8) }
    }

    /// A shared secret.
    pub(super) fn hs256(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::Hs256, key: EncodingKey::from_secret(secret) }
    }

    /// The signature over `signed`, in base64url.
    ///
    /// # Errors
    /// When the key is none.
    pub(super) fn sign(&self, signed: &str) -> Result<String, String> {
        crypto::sign(signed.as_bytes(), &self.key, self.algorithm.theirs())
            .map_err(|error| format!("cannot sign: {error}"))
    }
}
