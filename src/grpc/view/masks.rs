//! What is left of a text that is shown in part. A text that was masked stays as it is when it is masked again.

use super::{Viewer, Whose, payload};

/// What takes the place of characters that are not shown.
const STAR: char = '*';
/// What takes the place of a text that is not shown.
const HIDDEN: &str = "***";
/// Digits of a phone number that are shown, its last ones.
const PHONE_DIGITS: usize = 3;
/// A phone number with fewer digits than this shows none.
const PHONE_LEAST: usize = 6;
/// Most characters of a postal code that are shown, and never more than half of it.
const POSTAL_CHARS: usize = 3;

/// How a text is shown in part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mask {
    /// `j***@example.com`.
    Email,
    /// Its last digits.
    Phone,
    /// Only that there is one.
    Line,
    /// Its beginning.
    PostalCode,
    /// A principal: whether it is the reader.
    Author,
    /// An event's JSON, by key.
    Payload,
}

impl Mask {
    pub(super) fn apply(self, text: &str, viewer: &Viewer, whose: Whose) -> String {
        match self {
            Self::Email => email(text),
            Self::Phone => phone(text),
            Self::Line => HIDDEN.to_owned(),
            Self::PostalCode => postal_code(text),
            Self::Author if whose.mine => text.to_owned(),
            Self::Author => HIDDEN.to_owned(),
            Self::Payload => payload::reduce(text, viewer, whose),
        }
    }
}

fn email(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((local, domain)) => {
            let first: String = local.chars().take(1).collect();
            format!("{first}{HIDDEN}@{domain}")
        }
        None => HIDDEN.to_owned(),
    }
}

fn phone(text: &str) -> String {
    // Those that were hidden before count, too.
    let is_digit = |c: char| c.is_ascii_digit() || c == STAR;
    let digits = text.chars().filter(|c| is_digit(*c)).count();
    let shown = if digits < PHONE_LEAST { 0 } else { PHONE_DIGITS };
    let mut left = digits.saturating_sub(shown);
    let hide = |c: char| {
        if c.is_alphanumeric() && !is_digit(c) {
            return STAR;
        }
        if is_digit(c) && left > 0 {
            left = left.saturating_sub(1);
            return STAR;
        }
        c
    };
    text.chars().map(hide).collect()
}

fn postal_code(text: &str) -> String {
    let chars = text.chars().count();
    let shown = POSTAL_CHARS.min(chars.checked_div(2).unwrap_or_default());
    text.chars().enumerate().map(|(place, c)| if place < shown { c } else { STAR }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_shown_and_masking_again_changes_nothing() {
        type Case = (fn(&str) -> String, &'static str, &'static str);
        let cases: [Case; 11] = [
            (email, "john.doe@example.com", "j***@example.com"),
            (email, "j@example.com", "j***@example.com"),
            (email, "\u{e9}milie@example.fr", "\u{e9}***@example.fr"),
            (email, "a@b@example.com", "a***@example.com"),
            (email, "no address", "***"),
            (phone, "+49 171 1234567", "+** *** ****567"),
            (phone, "112", "***"),
            (phone, "12345", "*****"),
            (postal_code, "94103", "94***"),
            (postal_code, "SW1A 2AA", "SW1*****"),
            (postal_code, "1", "*"),
        ];
        for (mask, text, masked) in cases {
            assert_eq!(mask(text), masked);
            assert_eq!(mask(masked), masked, "{text} is shown otherwise the second time");
        }
        // Letters in a phone number count as nothing that may be shown.
        assert_eq!(phone("+1 555 CALL 123456"), "+* *** **** ***456");
    }
}
