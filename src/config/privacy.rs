//! `privacy`: personal data at rest.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::read::{Reader, SECOND, hours};

/// 32 bytes of key that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes([u8; 32]);

impl SecretBytes {
    /// The key itself, for the one who needs it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What is done with personal data at rest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PrivacyMode {
    /// Stored as plain text.
    #[default]
    Off,
    /// Encrypted.
    Encrypt,
}

/// `privacy`: personal data at rest.
#[derive(Clone, Debug)]
pub struct PrivacyConfig {
    /// What is done with it.
    pub mode: PrivacyMode,
    /// Wraps the keys of users; none = nothing can be encrypted or read.
    pub kek: Option<SecretBytes>,
    /// Its name, 1..=64 characters.
    pub kek_id: String,
    /// Keys from before, by name.
    pub old_keks: Vec<(String, SecretBytes)>,
    /// Users whose keys are kept in memory.
    pub keep_users: u64,
    /// How long.
    pub keep_for: Duration,
    /// Makes the pseudonyms of exports.
    pub export_secret: Option<SecretBytes>,
}

pub(super) fn read(r: &mut Reader<'_>) -> PrivacyConfig {
    PrivacyConfig {
        mode: r.choice("privacy.mode", &[("off", PrivacyMode::Off), ("encrypt", PrivacyMode::Encrypt)]),
        kek: r.optional("privacy.kek", secret_bytes),
        kek_id: r.parsed("privacy.kek_id", kek_id, String::new),
        old_keks: r.parsed("privacy.old_keks", old_keks, Vec::new),
        keep_users: r.number("privacy.keep_users", 1..=10_000_000),
        keep_for: r.duration("privacy.keep_for", SECOND..=hours(24)),
        export_secret: r.optional("privacy.export_secret", secret_bytes),
    }
}

/// 32 bytes as base64, with or without padding, or as hex.
fn secret_bytes(text: &str) -> Result<SecretBytes, String> {
    let text = text.trim();
    let hex = || -> Option<Vec<u8>> {
        let bytes = text.as_bytes();
        (bytes.len() == 64).then_some(())?;
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        bytes.chunks(2).map(pair).collect()
    };
    let base64 = [STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD];
    let decoded = hex().or_else(|| base64.iter().find_map(|form| form.decode(text).ok()));
    decoded
        .and_then(|bytes| bytes.try_into().ok())
        .map(SecretBytes)
        .ok_or_else(|| "is not 32 bytes in base64 or hex; make one with: openssl rand -base64 32".to_owned())
}

fn kek_id(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("is not a name; use 1 to 64 letters, digits, dots, colons, slashes, hyphens or underscores"
        .to_owned())
}

fn old_keks(text: &str) -> Result<Vec<(String, SecretBytes)>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let one = |one: &str| {
        let (id, secret) = one.trim().split_once('=').ok_or("is not a list; write it like kek-1=SECRET")?;
        Ok((kek_id(id.trim())?, secret_bytes(secret)?))
    };
    text.split([',', '\n']).map(one).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_come_as_base64_or_hex() {
        let bytes = SecretBytes([0xA7; 32]);
        let hex = "a7".repeat(32);
        let base64 = STANDARD.encode([0xA7; 32]);
        for good in [&hex, &base64, &base64.trim_end_matches('=').to_owned(), &format!(" {base64}\n")] {
            assert_eq!(secret_bytes(good).as_ref(), Ok(&bytes), "{good}");
        }
        for bad in ["@@", &hex[2..], &STANDARD.encode([1; 31]), "0000"] {
            let told = secret_bytes(bad).unwrap_err();
            assert!(told.contains("openssl rand") && !told.contains(bad), "{told}");
        }
        assert_eq!(old_keks(&format!("a={base64}, b={hex}")).unwrap().len(), 2);
        assert!(old_keks(" ").unwrap().is_empty() && old_keks("a").is_err() && old_keks("=x").is_err());
        assert_eq!(format!("{bytes:?}"), "***");
    }
}
