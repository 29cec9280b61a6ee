//! Texts that are kept encrypted: how they are told from plain ones, and what is seen of them.
//!
//! Where the key of a text is not at hand, the text travels through the house as it is stored, and is stored again as it
//! came. Nobody outside sees it: it is shown as empty.

use std::borrow::Cow;

use super::address::Address;
use super::event::OrderEvent;
use super::order::Order;
use super::status::names;

/// What a sealed text begins with. No text of a request can hold a control character, so no plain text begins with it.
pub const MARK: char = '\u{10}';

/// What stands where a text could not be kept, because its user has no key (any more).
pub const NOT_KEPT: &str = "(not kept: there is no key for personal data)";

names! {
    /// Whether an order's names, address lines, telephone numbers, email addresses and notes can be shown.
    PersonalData {
        /// They are there.
        Available = "AVAILABLE",
        /// They are stored, but cannot be read: their key is missing, or they were tampered with.
        Unavailable = "UNAVAILABLE",
        /// They are gone for good.
        Erased = "ERASED",
    }
}

/// Whether the text is encrypted.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

/// The text as it may be shown: empty when it is encrypted.
pub fn shown(text: &str) -> &str {
    if is_sealed(text) { "" } else { text }
}

impl Address {
    /// Whether there is something to read in it. A sealed address has all its personal data in `first_name`.
    pub fn personal_data(&self) -> PersonalData {
        match self.first_name.as_str() {
            "" => PersonalData::Erased,
            name if is_sealed(name) => PersonalData::Unavailable,
            _ => PersonalData::Available,
        }
    }

    /// What is left when it is erased: the country, and the first three characters of the postal code.
    pub fn erased(&self) -> Self {
        Self {
            kind: self.kind,
            first_name: String::new(),
            last_name: String::new(),
            address_line1: String::new(),
            address_line2: None,
            city: String::new(),
            state: String::new(),
            postal_code: self.postal_code.chars().take(3).collect(),
            country: self.country,
            phone: None,
            email: None,
        }
    }
}

impl Order {
    /// What can be shown of it: the least of its parts.
    pub fn personal_data(&self) -> PersonalData {
        let of = |what| self.addresses.iter().any(|address| address.personal_data() == what);
        if of(PersonalData::Unavailable) || is_sealed(&self.notes) {
            PersonalData::Unavailable
        } else if of(PersonalData::Erased) {
            PersonalData::Erased
        } else {
            PersonalData::Available
        }
    }
}

impl OrderEvent {
    /// The text that a caller gave with it, where there may be one: personal data.
    pub fn note(&self) -> Option<&str> {
        match self {
            Self::StatusChanged { notes, .. } | Self::OrderReleased { notes } => Some(notes),
            Self::RefundGranted { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// As it may be shown: without a note that is encrypted.
    pub fn shown(&self) -> Cow<'_, Self> {
        if !self.note().is_some_and(is_sealed) {
            return Cow::Borrowed(self);
        }
        let mut shown = self.clone();
        if let Some(note) = shown.note_mut() {
            note.clear();
        }
        Cow::Owned(shown)
    }

    /// As [`Self::note`], to be replaced.
    pub fn note_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::StatusChanged { notes, .. } | Self::OrderReleased { notes } => Some(notes),
            Self::RefundGranted { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::domain::text::clean;

    #[test]
    fn no_text_of_a_request_is_taken_for_a_sealed_one() {
        let forged = format!("{MARK}e1:AAAA");
        assert!(is_sealed(&forged) && shown(&forged).is_empty());
        assert!(clean(&forged).is_err() && clean(&format!("a{MARK}")).is_err());
        assert_eq!(shown("e1:AAAA"), "e1:AAAA");
        assert!(!is_sealed(NOT_KEPT));
    }
}
