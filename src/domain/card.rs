//! Payment card numbers: found in any text, however they are dressed up, so that they are refused or masked.

use std::borrow::Cow;
use std::ops::Range;

use unicode_normalization::UnicodeNormalization;

/// Fewest and most digits of a card number.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Most separators between two digits of one number, as in "4111 - 1111".
const WIDEST_GAP: usize = 3;

/// Most digits of an international telephone number (E.164).
const PHONE_DIGITS: usize = 15;

/// What stands in a text where a digit of a card number stood.
const MASK: char = '*';

/// Whether the text holds what looks like a payment card number: 13 to 19 digits, up to [`WIDEST_GAP`]
/// separators between two of them allowed, with the prefix and length of a known card brand and a correct Luhn check digit.
///
/// Digits of any script count, full-width and enclosed ones too, and what has no width is passed over; UUIDs and telephone
/// numbers that start with `+` do not count.
pub fn contains_card_number(text: &str) -> bool {
    !cannot_hold_card(text) && !found(text, true).is_empty()
}

/// The text with the digits of card numbers, and of what stands close by them, replaced by asterisks.
pub fn masked(text: &str) -> Cow<'_, str> {
    if cannot_hold_card(text) {
        return Cow::Borrowed(text);
    }
    let places = found(text, false);
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut whole = String::with_capacity(text.len());
    let mut end = 0usize;
    for place in places {
        whole.push_str(text.get(end..place.start).unwrap_or_default());
        whole.push(MASK);
        end = place.end;
    }
    whole.push_str(text.get(end..).unwrap_or_default());
    Cow::Owned(whole)
}

/// Seen at a glance, which is all that most texts cost, hexadecimal ids included.
fn cannot_hold_card(text: &str) -> bool {
    let fewest = *CARD_DIGITS.start();
    // What an escape stands for may be a digit.
    let is_plain = || !text.bytes().any(|byte| byte == b'\\');
    text.is_ascii()
        && (text.bytes().filter(u8::is_ascii_digit).count() < fewest
            || (is_plain() && longest_run(text) < fewest))
}

/// Most digits between which there are only separators, in a text without escapes in which each character is what it looks
/// like.
fn longest_run(text: &str) -> usize {
    let (mut longest, mut run, mut gap) = (0usize, 0usize, 0usize);
    for character in text.chars() {
        if character.is_ascii_digit() {
            run = run.saturating_add(1);
            longest = longest.max(run);
            gap = 0;
        } else if is_separator(character) && gap < WIDEST_GAP {
            gap = gap.saturating_add(1);
        } else {
            (run, gap) = (0, 0);
        }
    }
    longest
}

/// A character as it counts here, and the bytes that it stands in.
#[derive(Clone)]
struct Seen {
    character: char,
    place: Range<usize>,
}

/// The bytes of all digits of runs that hold a card number; of the first such run where that is enough.
fn found(text: &str, first_is_enough: bool) -> Vec<Range<usize>> {
    let characters = seen(text);
    let mut places = Vec::new();
    let mut run = DigitRun::default();
    let mut gap = 0usize;
    let mut rest = characters.as_slice();
    let mut previous = ' ';
    while let Some((seen, after)) = rest.split_first() {
        let character = seen.character;
        if let (false, Some(after)) = (previous.is_alphanumeric(), after_uuid(rest)) {
            std::mem::take(&mut run).close(&mut places);
            previous = '0';
            rest = after;
        } else {
            if let Some(digit) = digit_value(character) {
                if run.digits.is_empty() {
                    run.international = previous == '+';
                }
                if digit_value(previous).is_none() || run.digits.is_empty() {
                    run.starts.push(run.digits.len());
                }
                run.digits.push(digit);
                run.places.push(seen.place.clone());
                gap = 0;
            } else if is_separator(character) && !run.digits.is_empty() && gap < WIDEST_GAP {
                gap = gap.saturating_add(1);
            } else {
                std::mem::take(&mut run).close(&mut places);
            }
            previous = character;
            rest = after;
        }
        if first_is_enough && !places.is_empty() {
            return places;
        }
    }
    run.close(&mut places);
    places
}

/// The characters in their compatibility forms, without those of no width. What a program wrote as an escape, `\u{a0}`,
/// is the character that it stands for.
fn seen(text: &str) -> Vec<Seen> {
    let mut all = Vec::with_capacity(text.len());
    let mut rest = text.char_indices();
    while let Some((start, character)) = rest.next() {
        let mut end = start.saturating_add(character.len_utf8());
        if character.is_ascii() {
            let mut character = character;
            if character == '\\'
                && let Some((escaped, length)) = escape(text.get(start..).unwrap_or_default())
            {
                (character, end) = (escaped, start.saturating_add(length));
                while rest.offset() < end && rest.next().is_some() {}
            }
            if !is_invisible(character) {
                all.push(Seen { character, place: start..end });
            }
            continue;
        }
        let forms = std::iter::once(character).nfkc().filter(|character| !is_invisible(*character));
        // One that stands for several is one place, which is masked once.
        for (nth, character) in forms.enumerate() {
            let place = if nth == 0 { start..end } else { end..end };
            all.push(Seen { character, place });
        }
    }
    all
}

/// The character that `\u{…}` or `\\u{…}` at the beginning of `text` stands for, and the length of that.
fn escape(text: &str) -> Option<(char, usize)> {
    const LONGEST: usize = 6;
    let body = text.trim_start_matches('\\').strip_prefix("u{")?;
    let (digits, _) = body.split_once('}')?;
    if digits.is_empty() || digits.len() > LONGEST {
        return None;
    }
    let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    let ahead = text.len().saturating_sub(body.len());
    let plain = std::iter::once(character).nfkc().next().unwrap_or(character);
    Some((plain, ahead.saturating_add(digits.len()).saturating_add(1)))
}

/// Digits with few separators between two of them.
#[derive(Default)]
struct DigitRun {
    digits: Vec<u8>,
    places: Vec<Range<usize>>,
    /// Where groups of adjacent digits begin.
    starts: Vec<usize>,
    /// Whether a plus sign stands before the first digit.
    international: bool,
}

impl DigitRun {
    /// Tells the places of all digits if there is a card number among them: next to one stand its expiry date and code.
    fn close(self, places: &mut Vec<Range<usize>>) {
        if self.holds_card() {
            places.extend(self.places.into_iter().filter(|place| !place.is_empty()));
        }
    }

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
fn after_uuid(text: &[Seen]) -> Option<&[Seen]> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let ends = |rest: &[Seen]| !rest.first().is_some_and(|next| next.character.is_alphanumeric());
    if let Some((head, rest)) = text.split_at_checked(36)
        && ends(rest)
        && head.iter().enumerate().all(|(place, seen)| match DASHES.contains(&place) {
            true => seen.character == '-',
            false => seen.character.is_ascii_hexdigit(),
        })
    {
        return Some(rest);
    }
    // 32 digits without any letter are rather two card numbers than a UUID.
    let (head, rest) = text.split_at_checked(32)?;
    let plain = ends(rest)
        && head.iter().all(|seen| seen.character.is_ascii_hexdigit())
        && head.iter().any(|seen| seen.character.is_ascii_alphabetic());
    plain.then_some(rest)
}

/// The zeros of all scripts whose digits have no compatibility form in ASCII; their other digits follow.
const ZEROS: [u32; 61] = [
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0DE6,
    0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0,
    0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0x104A0, 0x10D30, 0x11066,
    0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950,
    0x11C50, 0x11D50, 0x11DA0, 0x11F50, 0x16A60, 0x16AC0, 0x16B50, 0x1E140, 0x1E2F0, 0x1E4F0, 0x1E950,
    0x10D40,
];

/// The value of a decimal digit. Compatibility forms (full-width and the like) are ASCII by now.
fn digit_value(character: char) -> Option<u8> {
    if character.is_ascii() {
        return u8::try_from(character.to_digit(10)?).ok();
    }
    let code = u32::from(character);
    let value = ZEROS.iter().filter_map(|zero| code.checked_sub(*zero)).find(|value| *value <= 9)?;
    u8::try_from(value).ok()
}

/// Blanks, dashes, dots and strokes; no-break blanks and full-width forms are plain by now.
fn is_separator(character: char) -> bool {
    matches!(
        character,
        '-' | '.' | ',' | '_' | '/' | '\u{2010}'
            ..='\u{2015}' | '\u{2212}' | '\u{B7}' | '\u{2022}' | '\u{30FB}'
    ) || character.is_whitespace()
}

/// Characters of no width, and marks upon a digit, which could hide a number.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{00AD}'
            | '\u{0300}'..='\u{036F}'
            | '\u{061C}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{20D0}'..='\u{20FF}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{E0000}'..='\u{E01EF}'
    )
}

#[cfg(test)]
mod tests;
