//! The form of an encrypted text, and the encryption itself: AES-256 in Galois/counter mode.
//!
//! `U+0010`, `e1:`, then in base64: the name of the data key (8 bytes), a random nonce (12), the encrypted bytes, and the
//! tag (16). What a text is bound to is not in it and has to be the same when it is read: form, table, column, row, order
//! and user. Moved anywhere else it cannot be read.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::domain::ids::{OrderId, UserId};
use crate::domain::sealed::MARK;
use crate::ports::vault::{KeyBytes, KeyId};

/// This form; another one gets another name.
const FORM: &str = "e1:";
const KEY_ID_LEN: usize = 8;
const TAG_LEN: usize = 16;

/// Where a text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The column; in a column of JSON with the field.
    pub column: &'static str,
    /// The order.
    pub order: OrderId,
    /// Which of the order's rows: a sequence or number, or what kind of address.
    pub row: i64,
}

/// Why a sealed text cannot be read although its key is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// It has no form that is known here.
    #[error("an encrypted text has no known form")]
    Form,
    /// It was changed, or stands where it does not belong.
    #[error("an encrypted text was changed or moved")]
    Tampered,
}

/// The source of random bytes failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there are no random bytes to encrypt with")]
pub struct NoRandomness;

/// A user's key, ready for use. Its bytes are overwritten when it is dropped.
pub struct DataKey {
    id: KeyId,
    user: UserId,
    key: LessSafeKey,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl DataKey {
    /// From its bytes; none if the library refuses them.
    pub fn new(id: KeyId, user: UserId, bytes: &KeyBytes) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes.0).ok()?);
        Some(Self { id, user, key })
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whose it is.
    pub fn user(&self) -> UserId {
        self.user
    }

    /// Encrypts a text for its place, by a random nonce.
    ///
    /// # Errors
    /// When there is no randomness; then nothing may be stored.
    pub fn seal(&self, place: &Place, text: &str) -> Result<String, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| NoRandomness)?;
        self.seal_by(nonce, place, text)
    }

    fn seal_by(&self, nonce: [u8; NONCE_LEN], place: &Place, text: &str) -> Result<String, NoRandomness> {
        let head = KEY_ID_LEN.saturating_add(NONCE_LEN);
        let mut bytes = Vec::with_capacity(head.saturating_add(text.len()).saturating_add(TAG_LEN));
        bytes.extend_from_slice(&self.id.0.to_be_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(text.as_bytes());
        let body = bytes.get_mut(head..).unwrap_or_default();
        let aad = Aad::from(self.bound_to(place));
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, body)
            .map_err(|_| NoRandomness)?;
        bytes.extend_from_slice(tag.as_ref());
        let mut sealed = String::with_capacity(bytes.len().saturating_mul(4).div_ceil(3).saturating_add(8));
        sealed.push(MARK);
        sealed.push_str(FORM);
        STANDARD_NO_PAD.encode_string(&bytes, &mut sealed);
        Ok(sealed)
    }

    /// Decrypts a text that stands at `place`.
    ///
    /// # Errors
    /// When it is not as this key has written it for that place.
    pub fn open(&self, place: &Place, sealed: &str) -> Result<String, OpenError> {
        let mut bytes = decode(sealed).ok_or(OpenError::Form)?;
        let (id, rest) = bytes.split_at_mut_checked(KEY_ID_LEN).ok_or(OpenError::Form)?;
        let (nonce, body) = rest.split_at_mut_checked(NONCE_LEN).ok_or(OpenError::Form)?;
        if id != self.id.0.to_be_bytes() {
            return Err(OpenError::Tampered);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Form)?;
        let aad = Aad::from(self.bound_to(place));
        let plain = self.key.open_in_place(nonce, aad, body).map_err(|_| OpenError::Tampered)?;
        std::str::from_utf8(plain).map(str::to_owned).map_err(|_| OpenError::Tampered)
    }

    /// What the text is bound to, each part behind its length.
    fn bound_to(&self, place: &Place) -> Vec<u8> {
        let mut bound = Vec::with_capacity(96);
        for part in [FORM, place.table, place.column] {
            bound.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            bound.extend_from_slice(part.as_bytes());
        }
        bound.extend_from_slice(&place.row.to_be_bytes());
        bound.extend_from_slice(place.order.0.as_bytes());
        bound.extend_from_slice(self.user.0.as_bytes());
        bound
    }
}

/// The name of the key that a sealed text needs; none when it has no known form.
pub fn key_of(sealed: &str) -> Option<KeyId> {
    // The first eleven characters are the first eight bytes.
    let body = sealed.strip_prefix(MARK)?.strip_prefix(FORM)?;
    let bytes = STANDARD_NO_PAD.decode(body.get(..12)?).ok()?;
    let id = bytes.get(..KEY_ID_LEN)?;
    Some(KeyId(i64::from_be_bytes(id.try_into().ok()?)))
}

fn decode(sealed: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(sealed.strip_prefix(MARK)?.strip_prefix(FORM)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use uuid::Uuid;

    use super::*;

    fn key(id: i64, user: u128, byte: u8) -> DataKey {
        DataKey::new(KeyId(id), UserId(Uuid::from_u128(user)), &KeyBytes([byte; 32])).unwrap()
    }

    fn place() -> Place {
        Place { table: "order_addresses", column: "first_name", order: OrderId(Uuid::from_u128(7)), row: 1 }
    }

    #[test]
    fn the_form_is_pinned() {
        let sealed = key(0x0102_0304_0506_0708, 9, 3).seal_by([5; 12], &place(), "Ada Lovelace").unwrap();
        assert_eq!(sealed, KNOWN);
        assert_eq!(key_of(&sealed), Some(KeyId(0x0102_0304_0506_0708)));
        let opened = key(0x0102_0304_0506_0708, 9, 3).open(&place(), KNOWN);
        assert_eq!(opened.as_deref(), Ok("Ada Lovelace"));
    }

    /// Computed by another implementation of AES-256-GCM.
    const KNOWN: &str = "\u{10}e1:AQIDBAUGBwgFBQUFBQUFBQUFBQVXRr5E/rNhJMZvqWbWCpX8h3W6Eb4coySM+dnJ";

    #[test]
    fn two_texts_never_look_alike() {
        let key = key(1, 9, 3);
        let (one, other) = (key.seal(&place(), "same").unwrap(), key.seal(&place(), "same").unwrap());
        assert_ne!(one, other);
        assert_eq!(key.open(&place(), &one), key.open(&place(), &other));
    }

    #[test]
    fn what_was_moved_or_changed_is_not_read() {
        let ours = key(1, 9, 3);
        let sealed = ours.seal(&place(), "Grace").unwrap();
        let at = place();
        for elsewhere in [
            Place { table: "orders", ..at },
            Place { column: "last_name", ..at },
            Place { order: OrderId(Uuid::from_u128(8)), ..at },
            Place { row: 2, ..at },
        ] {
            assert_eq!(ours.open(&elsewhere, &sealed), Err(OpenError::Tampered), "{elsewhere:?}");
        }
        // The same bytes under the name of another user, another name, another key.
        for other in [key(1, 8, 3), key(2, 9, 3), key(1, 9, 4)] {
            assert_eq!(other.open(&at, &sealed), Err(OpenError::Tampered));
        }
        // Every character that stands for something.
        for index in 4..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(ours.open(&at, &changed).is_err(), "{index}");
        }
        for cut in 0..sealed.len() {
            assert!(ours.open(&at, &sealed[..cut]).is_err(), "{cut}");
        }
        assert_eq!(key_of("e1:AAAAAAAAAAAAAAAA"), None);
    }
}
