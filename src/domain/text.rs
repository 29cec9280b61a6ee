//! Text that people type: cleaned, measured, and kept free of card numbers.

use std::fmt;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

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

/// Fewest and most digits of a card number.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Most separators between two digits of one number, as in "4111 - 1111".
const WIDEST_GAP: usize = 3;

/// Most digits of an international telephone number (E.164).
const PHONE_DIGITS: usize = 15;

/// Whether the text holds what looks like a payment card number: 13 to 19 digits, up to [`WIDEST_GAP`]
/// separators between two of them allowed, with the prefix and length of a known card brand and a correct Luhn check digit.
///
/// Digits of other scripts and full-width ones count; UUIDs and telephone numbers that start with `+` do not.
pub fn contains_card_number(text: &str) -> bool {
    if text.is_ascii() && text.bytes().filter(u8::is_ascii_digit).count() < *CARD_DIGITS.start() {
        return false;
    }
    let characters: Vec<char> = text.nfkc().filter(|character| !is_invisible(*character)).collect();
    let mut run = DigitRun::default();
    let mut gap = 0usize;
    let mut rest = characters.as_slice();
    let mut previous = ' ';
    while let Some((&character, after)) = rest.split_first() {
        if let (false, Some(after)) = (previous.is_alphanumeric(), after_uuid(rest)) {
            if run.holds_card() {
                return true;
            }
            run = DigitRun::default();
            previous = '0';
            rest = after;
            continue;
        }
        if let Some(digit) = digit_value(character) {
            if run.digits.is_empty() {
                run.international = previous == '+';
            }
            if digit_value(previous).is_none() || run.digits.is_empty() {
                run.starts.push(run.digits.len());
            }
            run.digits.push(digit);
            gap = 0;
        } else if is_separator(character) && !run.digits.is_empty() && gap < WIDEST_GAP {
            gap = gap.saturating_add(1);
        } else {
            if run.holds_card() {
                return true;
            }
            run = DigitRun::default();
        }
        previous = character;
        rest = after;
    }
    run.holds_card()
}

/// Digits with few separators between two of them.
#[derive(Default)]
struct DigitRun {
    digits: Vec<u8>,
    /// Where groups of adjacent digits begin.
    starts: Vec<usize>,
    /// Whether a plus sign stands before the first digit.
    international: bool,
}

impl DigitRun {
    /// Whether some whole groups of this run form a card number, so that neighbors such as an expiry date or a
    /// quantity do not hide it.
    fn holds_card(&self) -> bool {
        if self.digits.len() < *CARD_DIGITS.start()
            || (self.international && self.digits.len() <= PHONE_DIGITS)
        {
            return false;
        }
        self.starts.iter().enumerate().any(|(group, start)| {
            let ends = self.starts.iter().skip(group.saturating_add(1)).copied();
            ends.chain([self.digits.len()])
                .map(|end| self.digits.get(*start..end).unwrap_or_default())
                .take_while(|digits| digits.len() <= *CARD_DIGITS.end())
                .any(is_card_number)
        })
    }
}

fn is_card_number(digits: &[u8]) -> bool {
    CARD_DIGITS.contains(&digits.len()) && has_card_prefix(digits) && passes_luhn(digits)
}

/// Prefixes and lengths of Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay and Maestro.
fn has_card_prefix(digits: &[u8]) -> bool {
    let first = |count: usize| {
        digits
            .iter()
            .take(count)
            .fold(0u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(*digit)))
    };
    matches!(
        (first(4), digits.len()),
        (4000..=4999, 13 | 16 | 19)
            | (5100..=5599 | 2221..=2720, 16)
            | (3400..=3499 | 3700..=3799, 15)
            | (6011 | 6440..=6599, 16..=19)
            | (3528..=3589, 16..=19)
            | (3000..=3059 | 3600..=3699 | 3800..=3999, 14..=19)
            | (6200..=6299, 16..=19)
            | (5000..=5099 | 5600..=5899 | 6304 | 6390 | 6700..=6799, 13..=19)
    )
}

fn passes_luhn(digits: &[u8]) -> bool {
    let sum = digits.iter().rev().enumerate().fold(0u32, |sum, (place, digit)| {
        let digit = u32::from(*digit);
        let doubled = digit.saturating_mul(2);
        sum.saturating_add(match place % 2 {
            0 => digit,
            _ if doubled > 9 => doubled.saturating_sub(9),
            _ => doubled,
        })
    });
    sum % 10 == 0
}

/// What follows the UUID at the beginning of `text`, dashed or plain; `None` when there is no UUID.
fn after_uuid(text: &[char]) -> Option<&[char]> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let ends = |rest: &[char]| !rest.first().is_some_and(|next| next.is_alphanumeric());
    if let Some((head, rest)) = text.split_at_checked(36)
        && ends(rest)
        && head.iter().enumerate().all(|(place, character)| match DASHES.contains(&place) {
            true => *character == '-',
            false => character.is_ascii_hexdigit(),
        })
    {
        return Some(rest);
    }
    // 32 digits without any letter are rather two card numbers than a UUID.
    let (head, rest) = text.split_at_checked(32)?;
    let plain = ends(rest)
        && head.iter().all(char::is_ascii_hexdigit)
        && head.iter().any(|character| character.is_ascii_alphabetic());
    plain.then_some(rest)
}

/// The value of a decimal digit. Compatibility forms (full-width and the like) are ASCII by now.
fn digit_value(character: char) -> Option<u8> {
    /// Zeros of Arabic, Persian, Devanagari, Bengali and Thai.
    const ZEROS: [u32; 5] = [0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50];
    let value = character.to_digit(10).or_else(|| {
        let code = u32::from(character);
        ZEROS.iter().filter_map(|zero| code.checked_sub(*zero)).find(|value| *value <= 9)
    })?;
    u8::try_from(value).ok()
}

/// Blanks and dashes; no-break blanks and full-width forms are plain by now.
fn is_separator(character: char) -> bool {
    matches!(character, ' ' | '-' | '.' | '_' | '/' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

/// Characters of no width, which could hide a number.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{00AD}' | '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}')
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

    #[test]
    fn finds_card_numbers() {
        for text in [
            "4111111111111111",
            "pay with 4111 1111 1111 1111 please",
            "4111-1111-1111-1111",
            "card4242424242424242x",
            "2 x 4242 4242 4242 4242 12/27",
            "1 4242 4242 4242 4242 123",
            "4222222222222",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "6205500000000000004",
            "6759649826438453",
            "４１１１１１１１１１１１１１１１",
            "٤١١١١١١١١١١١١١١١",
            "4\u{200B}111111111111111",
            "4111\u{A0}1111\u{2011}1111 1111",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "4111  1111  1111  1111",
            "4111 - 1111 - 1111 - 1111",
            "5555.5555.5555.4444",
            "4111_1111_1111_1111",
            "4111/1111/1111/1111",
        ] {
            assert!(contains_card_number(text), "{text}");
        }
    }

    #[test]
    fn leaves_other_numbers_alone() {
        for text in [
            "",
            "555-123-4567",
            "+49 1512 3456785",
            "+4915123456785",
            "123e4567-e89b-12d3-a456-426614174000",
            "41111111-1111-1111-0000-000000000000",
            "order 00000000-0000-4000-8000-000000000000.",
            "4111111111111112",
            "4111 --- 1111 --- 1111 --- 1111",
            "41111111111111110000000",
            "192.168.100.200, 10.0.0.1 and 2026-11-22 12.30",
            "0000000000000000",
            "9999999999999995",
            "2024-05-03T12:00:00Z",
            "019a3c1e4111111111111111deadbeef",
        ] {
            assert!(!contains_card_number(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_uuid_is_a_card_number(bits in any::<u128>(), digits in "[0-9]{8}-[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{12}") {
            let id = uuid::Uuid::from_u128(bits);
            prop_assert!(!contains_card_number(&id.to_string()), "{}", id);
            let text = format!("see {digits}, please");
            prop_assert!(!contains_card_number(&text), "{}", text);
        }

        #[test]
        fn a_card_number_is_found_in_any_text(before in "[^0-9+]{0,20}", after in "[^0-9]{0,20}") {
            prop_assume!(!before.chars().chain(after.chars()).any(char::is_numeric));
            let text = format!("{before} 4111-1111-1111-1111 {after}");
            prop_assert!(contains_card_number(&text));
        }

        #[test]
        fn cleaning_is_idempotent(text in ".{0,40}") {
            if let Ok(once) = clean(&text) {
                prop_assert_eq!(clean(&once).unwrap(), once);
            }
        }
    }
}
