//! Card numbers in all their dresses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use proptest::prelude::*;

use super::*;

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
        "4111,1111,1111,1111",
        "4111\u{2003}1111\u{3000}1111\u{1680}1111",
        "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏",
        "④①①①①①①①①①①①①①①①",
        "4\u{FE0F}\u{20E3}1\u{FE0F}\u{20E3}11111111111111",
        "៤១១១១១១១១១១១១១១១",
        "4111·1111·1111·1111",
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

#[test]
fn masks_card_numbers_and_what_stands_by_them() {
    for (given, expected) in [
        ("", ""),
        ("order 12345 of 2026-11-26", "order 12345 of 2026-11-26"),
        ("card=4111111111111111,", "card=****************,"),
        ("pay 4111 1111 1111 1111 12/27 123 now", "pay **** **** **** **** **/** *** now"),
        ("４１１１-1111-1111-1111", "****-****-****-****"),
        ("4111\\u{a0}1111\\u{a0}1111\\u{a0}1111", "****\\u{a0}****\\u{a0}****\\u{a0}****"),
        ("é 4111111111111111 é 5555555555554444 é", "é **************** é **************** é"),
        ("123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
    ] {
        assert_eq!(masked(given), expected);
        assert!(!contains_card_number(&masked(given)));
    }
    assert!(matches!(masked("nothing here"), Cow::Borrowed(_)));
}

/// A number of one of the brands, with its check digit.
fn card() -> impl Strategy<Value = Vec<u8>> {
    let brands = prop::sample::select(vec![
        ("4", 16),
        ("4", 13),
        ("4", 19),
        ("51", 16),
        ("2221", 16),
        ("34", 15),
        ("37", 15),
        ("6011", 16),
        ("3528", 16),
        ("36", 14),
        ("62", 16),
        ("6759", 18),
    ]);
    (brands, prop::collection::vec(0u8..10, 19)).prop_map(|((prefix, length), rest)| {
        let mut digits: Vec<u8> = prefix.bytes().map(|byte| byte - b'0').collect();
        digits.extend(rest);
        digits.truncate(length - 1);
        let check = (0..10).find(|check| passes_luhn(&[digits.as_slice(), &[*check]].concat())).unwrap();
        digits.push(check);
        digits
    })
}

proptest! {
    #[test]
    fn a_card_is_found_in_any_script_with_any_separators(
        digits in card(),
        zeros in prop::collection::vec(prop::sample::select(vec!['0', '０', '٠', '०', '០', '𝟘']), 19),
        gaps in prop::collection::vec("[ \u{a0}\u{2009}._/,\u{2011}-]{0,3}", 19),
        hidden in prop::sample::select(vec!["", "\u{200b}", "\u{ad}", "\u{2060}"]),
        before in "[a-z: ]{0,8}[a-z:]",
        after in "[a-z:][a-z: ]{0,8}",
    ) {
        let mut text = before;
        for ((digit, zero), gap) in digits.iter().zip(&zeros).zip(&gaps) {
            text.push(char::from_u32(u32::from(*zero) + u32::from(*digit)).unwrap());
            text.push_str(hidden);
            text.push_str(gap);
        }
        text.push_str(&after);
        prop_assert!(contains_card_number(&text), "{}", text);
        let masked = masked(&text);
        prop_assert!(!masked.chars().any(|c| digit_value(c).is_some() || c.is_numeric()), "{}", masked);
    }

    #[test]
    fn nothing_makes_it_panic_and_what_is_masked_holds_no_card(text in "\\PC{0,80}", digits in "[0-9 \\\\u{}-]{0,60}") {
        for text in [text.as_str(), digits.as_str()] {
            prop_assert!(!contains_card_number(&masked(text)), "{}", text);
        }
    }

    #[test]
    fn a_glance_passes_over_no_card(
        digits in card(),
        gaps in prop::collection::vec("[ ._/,-]{0,4}", 19),
        before in "[ -~]{0,40}",
        after in "[ -~]{0,40}",
    ) {
        let dressed: String = digits.iter().zip(&gaps).map(|(digit, gap)| format!("{digit}{gap}")).collect();
        for text in [format!("{before}{dressed}{after}"), before, after] {
            prop_assert!(found(&text, true).is_empty() || !cannot_hold_card(&text), "{}", text);
        }
    }

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
}
