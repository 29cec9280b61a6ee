//! Key-encryption keys of this process, from its configuration. A service for keys (KMS) would be another [`KeyWrapper`].

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};

use crate::ports::vault::{KeyBytes, KeyWrapper, WrapError, Wrapped};

/// What a wrapped key is bound to, ahead of its context.
const FORM: &[u8] = b"order-service data key 1";

/// The current key and those before it.
pub struct LocalKeks {
    current: String,
    proof: Vec<u8>,
    keks: BTreeMap<String, LessSafeKey>,
}

impl fmt::Debug for LocalKeks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeks").field("current", &self.current).finish_non_exhaustive()
    }
}

impl LocalKeks {
    /// `current` wraps; `old` ones only unwrap. None if the library refuses a key.
    pub fn new(current: (String, KeyBytes), old: Vec<(String, KeyBytes)>) -> Option<Self> {
        let (current, bytes) = current;
        let proof_key = hmac::Key::new(hmac::HMAC_SHA256, &bytes.0);
        let proof = hmac::sign(&proof_key, b"order-service proof of a key-encryption key").as_ref().to_vec();
        let mut keks = BTreeMap::new();
        for (id, bytes) in old.into_iter().chain([(current.clone(), bytes)]) {
            keks.insert(id, LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes.0).ok()?));
        }
        Some(Self { current, proof, keks })
    }
}

fn bound_to(kek_id: &str, context: &[u8]) -> Vec<u8> {
    let mut bound = FORM.to_vec();
    bound.extend_from_slice(&u32::try_from(kek_id.len()).unwrap_or(u32::MAX).to_be_bytes());
    bound.extend_from_slice(kek_id.as_bytes());
    bound.extend_from_slice(context);
    bound
}

#[async_trait]
impl KeyWrapper for LocalKeks {
    fn current(&self) -> &str {
        &self.current
    }

    async fn wrap(&self, key: &KeyBytes, context: &[u8]) -> Result<Wrapped, WrapError> {
        let failed = || WrapError::Unreachable(String::from("there are no random bytes"));
        let kek = self.keks.get(&self.current).ok_or_else(|| WrapError::UnknownKek(self.current.clone()))?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| failed())?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&key.0);
        let aad = Aad::from(bound_to(&self.current, context));
        let body = bytes.get_mut(NONCE_LEN..).unwrap_or_default();
        let tag = kek
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, body)
            .map_err(|_| failed())?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(Wrapped { kek_id: self.current.clone(), bytes })
    }

    async fn unwrap(&self, wrapped: &Wrapped, context: &[u8]) -> Result<KeyBytes, WrapError> {
        let misfit = || WrapError::DoesNotFit(wrapped.kek_id.clone());
        let kek =
            self.keks.get(&wrapped.kek_id).ok_or_else(|| WrapError::UnknownKek(wrapped.kek_id.clone()))?;
        let mut bytes = wrapped.bytes.clone();
        let (nonce, body) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(misfit)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| misfit())?;
        let aad = Aad::from(bound_to(&wrapped.kek_id, context));
        let plain = kek.open_in_place(nonce, aad, body).map_err(|_| misfit())?;
        let key = <[u8; 32]>::try_from(&*plain).map(KeyBytes).map_err(|_| misfit());
        zeroize::Zeroize::zeroize(&mut bytes);
        key
    }

    async fn proof(&self) -> Result<Vec<u8>, WrapError> {
        Ok(self.proof.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn keks(current: (&str, u8), old: &[(&str, u8)]) -> LocalKeks {
        let named = |(id, byte): (&str, u8)| (id.to_owned(), KeyBytes([byte; 32]));
        LocalKeks::new(named(current), old.iter().copied().map(named).collect()).unwrap()
    }

    #[tokio::test]
    async fn what_one_wraps_only_its_like_unwraps_for_the_same_context() {
        let one = keks(("a", 1), &[]);
        let wrapped = one.wrap(&KeyBytes([7; 32]), b"user 1").await.unwrap();
        assert_eq!(one.unwrap(&wrapped, b"user 1").await.unwrap().0, [7; 32]);
        let misfit = Err(WrapError::DoesNotFit(String::from("a")));
        let unwrapped = async |by: &LocalKeks, what: &Wrapped, context: &[u8]| {
            by.unwrap(what, context).await.map(|key| key.0)
        };
        assert_eq!(unwrapped(&one, &wrapped, b"user 2").await, misfit);
        assert_eq!(unwrapped(&keks(("a", 2), &[]), &wrapped, b"user 1").await, misfit);
        let unknown = Err(WrapError::UnknownKek(String::from("a")));
        assert_eq!(unwrapped(&keks(("b", 1), &[]), &wrapped, b"user 1").await, unknown);
        let renamed = Wrapped { kek_id: String::from("b"), ..wrapped.clone() };
        let both = keks(("b", 1), &[("a", 1)]);
        assert!(unwrapped(&both, &renamed, b"user 1").await.is_err());
        assert_eq!(unwrapped(&both, &wrapped, b"user 1").await, Ok([7; 32]));
        assert_ne!(one.proof().await, keks(("a", 2), &[]).proof().await);
        assert!(!format!("{one:?} {wrapped:?} {:?}", KeyBytes([1; 32])).contains("1, 1"));
    }
}
