//! Text that people type: cleaned, measured, and kept free of card numbers.

use std::fmt;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

pub use super::card::contains_card_number;

/// Why a text is refused. None of these repeats the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// A control, line-separator or text-direction character.
    #[error("expected no control characters")]
    Control,
    /// Nothing but blanks.
    #[error("expected a value, found none")]
    Empty,
    /// More Unicode scalar values than allowed.
    #[error("expected at most {max} characters, found {found}")]
    TooLong {
        /// The bound, inclusive.
        max: usize,
        /// What was counted.
        found: usize,
    },
}

/// Which rule a field broke; the error layer maps each to a reason of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ViolationReason {
    /// Missing, malformed or out of bounds.
    InvalidField,
    /// Holds a payment card number.
    CardNumber,
    /// A currency that is not supported.
    Currency,
    /// A coupon that does not apply.
    Coupon,
}

/// One field of a request that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Path of the field as the request spells it, such as `shipping_address.city`.
    pub field: String,
    /// The rule it broke.
    pub reason: ViolationReason,
    /// What was expected, a phrase such as `expected at most 100 characters, found 140`. Never the value itself.
    pub expected: String,
}

impl Violation {
    /// A field that is missing, malformed or out of bounds.
    pub fn invalid(field: impl Into<String>, expected: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: ViolationReason::InvalidField, expected: expected.to_string() }
    }

    /// A field that holds a payment card number.
    pub fn card_number(field: impl Into<String>) -> Self {
        let expected = String::from("expected text without a payment card number");
        Self { field: field.into(), reason: ViolationReason::CardNumber, expected }
    }
}

/// What a text field may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldRule {
    /// Whether it must hold something.
    pub required: bool,
    /// Most Unicode scalar values, after cleaning.
    pub max_chars: usize,
}

/// Trims, normalizes to NFC, and refuses control characters.
///
/// # Errors
/// [`TextError::Control`] for any control character inside the text (line feeds and tabs too), Unicode line and
/// paragraph separators, and the bidirectional embeddings, overrides and isolates.
pub fn clean(text: &str) -> Result<String, TextError> {
    let trimmed = text.trim();
    if trimmed.chars().any(is_refused) {
        return Err(TextError::Control);
    }
    // Most texts are as they should be, which is seen at a glance.
    match is_nfc_quick(trimmed.chars()) {
        IsNormalized::Yes => Ok(trimmed.to_owned()),
        IsNormalized::No | IsNormalized::Maybe => Ok(trimmed.nfc().collect()),
    }
}

fn is_refused(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Checks the length of a text in Unicode scalar values.
///
/// # Errors
/// [`TextError::TooLong`] above `max_chars`.
pub fn check(text: &str, max_chars: usize) -> Result<(), TextError> {
    let found = text.chars().count();
    if found > max_chars {
        return Err(TextError::TooLong { max: max_chars, found });
    }
    Ok(())
}

/// As [`check`], and the text must not be empty.
///
/// # Errors
/// [`TextError::Empty`] and [`TextError::TooLong`].
pub fn check_required(text: &str, max_chars: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    check(text, max_chars)
}

/// Cleans and checks one field. `None` when it broke a rule, which is then the last of `violations`.
///
/// A field that is not required and holds nothing comes back as an empty text.
pub fn clean_field(
    field: &str,
    text: &str,
    rule: FieldRule,
    violations: &mut Vec<Violation>,
) -> Option<String> {
    let checked = clean(text).and_then(|text| {
        if rule.required { check_required(&text, rule.max_chars) } else { check(&text, rule.max_chars) }?;
        Ok(text)
    });
    match checked {
        Ok(text) if contains_card_number(&text) => {
            violations.push(Violation::card_number(field));
            None
        }
        Ok(text) => Some(text),
        Err(error) => {
            violations.push(Violation::invalid(field, error));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cleans_text() {
        assert_eq!(clean("  Jose\u{301}  ").unwrap(), "José");
        assert_eq!(clean("").unwrap(), "");
        for text in ["a\0b", "a\tb", "a\nb", "a\u{85}b", "a\u{2028}b", "a\u{202E}b", "a\u{2067}b", "a\u{7f}b"]
        {
            assert_eq!(clean(text), Err(TextError::Control), "{text:?}");
        }
        assert_eq!(clean("one\ntwo"), Err(TextError::Control));
        assert_eq!(clean("one\ttwo"), Err(TextError::Control));
    }

    #[test]
    fn counts_scalar_values() {
        assert_eq!(check("ééé", 3), Ok(()));
        assert_eq!(check("abcd", 3), Err(TextError::TooLong { max: 3, found: 4 }));
        assert_eq!(check_required("", 3), Err(TextError::Empty));
        assert_eq!(
            TextError::TooLong { max: 3, found: 4 }.to_string(),
            "expected at most 3 characters, found 4"
        );
    }

    #[test]
    fn reports_one_violation_for_a_field() {
        let rule = FieldRule { required: true, max_chars: 40 };
        let mut violations = Vec::new();
        assert_eq!(clean_field("a", " x ", rule, &mut violations), Some("x".to_owned()));
        assert_eq!(clean_field("b", " ", rule, &mut violations), None);
        assert_eq!(clean_field("c", "my card 4111111111111111", rule, &mut violations), None);
        let reasons: Vec<_> =
            violations.iter().map(|violation| (&*violation.field, violation.reason)).collect();
        assert_eq!(reasons, [("b", ViolationReason::InvalidField), ("c", ViolationReason::CardNumber)]);
    }

    proptest! {
        #[test]
        fn cleaning_is_idempotent(text in ".{0,40}") {
            if let Ok(once) = clean(&text) {
                prop_assert_eq!(clean(&once).unwrap(), once);
            }
        }
    }
}
