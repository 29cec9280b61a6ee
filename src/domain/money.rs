//! Currencies and amounts: parsing, showing, rounding and sharing out. Decimal throughout, never a float.

use std::fmt;

use rust_decimal::{Decimal, RoundingStrategy};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest amount that is accepted or computed: 999,999,999,999,999.9999, the most a `NUMERIC(19,4)` holds.
pub const MAX_AMOUNT: Decimal = Decimal::from_parts(0x89E7_FFFF, 0x8AC7_2304, 0, false, 4);

/// Most digits before the decimal point in an amount, leading zeros aside.
const MAX_WHOLE_DIGITS: usize = 15;

/// An active ISO 4217 currency that has minor-unit digits.
///
/// Fund codes such as `CLF` count; metals, test codes and withdrawn currencies do not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The United States dollar, 2 digits.
    pub const USD: Self = Self(iso_currency::Currency::USD);

    /// The currency with this code: exactly three upper-case letters. `None` for anything that cannot be paid in:
    /// no such code, withdrawn (`HRK`), no minor unit (`XAU`, `XXX`), or a mere unit of account (`XAD`).
    pub fn from_code(code: &str) -> Option<Self> {
        use iso_currency::Currency as Iso;
        let currency = Iso::from_code(code)?;
        // ISO 4217 lists VES beside VED; the crate takes it for withdrawn.
        let withdrawn = currency.is_superseded().is_some() && currency != Iso::VES;
        if withdrawn || currency.is_special() || currency.exponent().is_none() {
            return None;
        }
        Some(Self(currency))
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Digits after the decimal point: 0 (`JPY`) to 4 (`CLF`).
    pub fn digits(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }

    /// Nothing, with the currency's digits.
    pub fn zero(self) -> Decimal {
        Decimal::new(0, self.digits())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::from_code(&code).ok_or_else(|| D::Error::custom("expected an active ISO 4217 currency code"))
    }
}

/// Why a text is not an amount. None of these repeats the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MoneyError {
    /// Signs, blanks, exponents, separators or no digits at all.
    #[error("expected a plain decimal number such as 12.50, without sign, exponent or separators")]
    NotPlain,
    /// Below zero.
    #[error("expected an amount that is not negative")]
    Negative,
    /// More digits after the point than the currency has.
    #[error("expected at most {allowed} digits after the decimal point for {currency}, found {found}")]
    TooManyDigits {
        /// The currency.
        currency: Currency,
        /// Its digits.
        allowed: u32,
        /// Digits in the text.
        found: usize,
    },
    /// Above [`MAX_AMOUNT`].
    #[error("expected at most 15 digits before the decimal point")]
    TooLarge,
}

/// Reads an amount in plain decimal notation; the result has exactly the currency's digits.
///
/// # Errors
/// [`MoneyError`] says what is wrong. More digits than the currency has are refused, not rounded.
pub fn parse_amount(text: &str, currency: Currency) -> Result<Decimal, MoneyError> {
    let negative = text.strip_prefix('-');
    let unsigned = negative.unwrap_or(text);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((_, "")) => return Err(MoneyError::NotPlain),
        Some(parts) => parts,
        None => (unsigned, ""),
    };
    let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) {
        return Err(MoneyError::NotPlain);
    }
    if negative.is_some() {
        return Err(MoneyError::Negative);
    }
    let allowed = currency.digits();
    if fraction.len() > allowed as usize {
        return Err(MoneyError::TooManyDigits { currency, allowed, found: fraction.len() });
    }
    if whole.trim_start_matches('0').len() > MAX_WHOLE_DIGITS {
        return Err(MoneyError::TooLarge);
    }
    let mut amount = Decimal::from_str_exact(unsigned).map_err(|_| MoneyError::TooLarge)?;
    amount.rescale(allowed);
    Ok(amount)
}

/// Writes an amount with exactly the currency's digits (`"99.99"`, `"1200"`, `"3.250"`); finer digits are rounded.
pub fn format_amount(amount: Decimal, currency: Currency) -> String {
    let rounded = round_half_up(amount, currency);
    format!("{rounded:.digits$}", digits = currency.digits() as usize)
}

/// Rounds to the currency's digits, midpoints away from zero; the result has exactly that scale.
pub fn round_half_up(amount: Decimal, currency: Currency) -> Decimal {
    let digits = currency.digits();
    let mut rounded = amount.round_dp_with_strategy(digits, RoundingStrategy::MidpointAwayFromZero);
    if rounded.is_zero() {
        return currency.zero(); // never "-0.00"
    }
    rounded.rescale(digits);
    rounded
}

/// `amount` as a count of minor units; `None` when negative, not whole, or too large.
fn minor_units(amount: Decimal, currency: Currency) -> Option<u128> {
    let mut scaled = amount;
    scaled.rescale(currency.digits());
    if scaled != amount || scaled.scale() != currency.digits() {
        return None;
    }
    u128::try_from(scaled.mantissa()).ok()
}

/// Whether `amount` is something an order can hold: whole minor units, 0 to [`MAX_AMOUNT`].
pub fn is_amount(amount: Decimal, currency: Currency) -> bool {
    minor_units(amount, currency).is_some() && amount <= MAX_AMOUNT
}

/// Shares `total` out in proportion to `weights`, by largest remainder, in whole minor units.
///
/// The shares sum to `total` exactly; equal remainders go to the lowest index; with `total` up to the sum of the
/// weights no share exceeds its weight. `None` when it cannot be done: a negative value or a fraction of a minor
/// unit in `total` or `weights`, nothing to share a nonzero total over, or overflow.
pub fn spread(total: Decimal, weights: &[Decimal], currency: Currency) -> Option<Vec<Decimal>> {
    let total = minor_units(total, currency)?;
    let weights =
        weights.iter().map(|weight| minor_units(*weight, currency)).collect::<Option<Vec<u128>>>()?;
    let sum = weights.iter().try_fold(0u128, |sum, weight| sum.checked_add(*weight))?;
    if total == 0 {
        return Some(vec![currency.zero(); weights.len()]);
    }
    // (index, units, remainder); a sum of zero ends here.
    let mut shares = Vec::with_capacity(weights.len());
    let mut left = total;
    for (index, weight) in weights.iter().enumerate() {
        let product = total.checked_mul(*weight)?;
        let units = product.checked_div(sum)?;
        left = left.checked_sub(units)?;
        shares.push((index, units, product.checked_rem(sum)?));
    }
    // Fewer units are left than there are nonzero remainders, so a line that got its exact share gets no more.
    shares.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(&b.0)));
    for share in &mut shares {
        if left == 0 {
            break;
        }
        share.1 = share.1.checked_add(1)?;
        left = left.checked_sub(1)?;
    }
    if left != 0 {
        return None;
    }
    shares.sort_by_key(|share| share.0);
    shares
        .into_iter()
        .map(|(_, units, _)| {
            let units = i128::try_from(units).ok()?;
            Decimal::try_from_i128_with_scale(units, currency.digits()).ok()
        })
        .collect()
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

    fn currency(code: &str) -> Currency {
        Currency::from_code(code).unwrap()
    }

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn knows_the_digits_of_active_currencies() {
        for (code, digits) in [
            ("USD", 2),
            ("EUR", 2),
            ("JPY", 0),
            ("KRW", 0),
            ("ISK", 0),
            ("UGX", 0),
            ("KWD", 3),
            ("BHD", 3),
            ("TND", 3),
            ("CLF", 4),
            ("UYW", 4),
            ("MGA", 2),
            ("VES", 2),
            ("VED", 2),
            ("ZWG", 2),
            ("XCG", 2),
        ] {
            assert_eq!(currency(code).digits(), digits, "{code}");
            assert_eq!(currency(code).to_string(), code);
        }
    }

    #[test]
    fn refuses_what_cannot_be_paid_in() {
        for code in [
            "XAU",
            "XAG",
            "XTS",
            "XXX",
            "XDR",
            "XAD",
            "HRK",
            "SLL",
            "ZWL",
            "CUC",
            "DEM",
            "ANG",
            "usd",
            "US",
            "USDX",
            "",
            "€€€",
        ] {
            assert_eq!(Currency::from_code(code), None, "{code}");
        }
        assert!(serde_json::from_str::<Currency>("\"HRK\"").is_err());
        assert_eq!(serde_json::to_string(&Currency::USD).unwrap(), "\"USD\"");
    }

    #[test]
    fn reads_plain_amounts_only() {
        let usd = Currency::USD;
        for (text, shown) in
            [("99.99", "99.99"), ("7", "7.00"), ("7.5", "7.50"), ("0", "0.00"), ("007", "7.00")]
        {
            let amount = parse_amount(text, usd).unwrap();
            assert_eq!(amount.scale(), 2);
            assert_eq!(format_amount(amount, usd), shown);
        }
        for text in
            ["", " ", "+1", "1e3", "1,000.00", ".5", "5.", "1.2.3", " 1", "0x1", "１", "1_0", "NaN", "--1"]
        {
            assert_eq!(parse_amount(text, usd), Err(MoneyError::NotPlain), "{text}");
        }
        assert_eq!(parse_amount("-1", usd), Err(MoneyError::Negative));
        assert!(matches!(parse_amount("1.000", usd), Err(MoneyError::TooManyDigits { found: 3, .. })));
        assert!(matches!(parse_amount("1.0", currency("JPY")), Err(MoneyError::TooManyDigits { .. })));
        assert_eq!(parse_amount("1000000000000000", usd), Err(MoneyError::TooLarge));
        assert_eq!(parse_amount(&"9".repeat(200), usd), Err(MoneyError::TooLarge));
        assert_eq!(parse_amount("999999999999999.9999", currency("CLF")), Ok(MAX_AMOUNT));
    }

    #[test]
    fn shows_exactly_the_digits() {
        assert_eq!(format_amount(decimal("1200"), currency("JPY")), "1200");
        assert_eq!(format_amount(decimal("3.25"), currency("KWD")), "3.250");
        assert_eq!(format_amount(decimal("-0.001"), Currency::USD), "0.00");
        assert_eq!(format_amount(Decimal::MAX, Currency::USD), "79228162514264337593543950335.00");
    }

    #[test]
    fn rounds_midpoints_away_from_zero() {
        for (from, to) in [("1.005", "1.01"), ("1.0049", "1.00"), ("-1.005", "-1.01"), ("2", "2.00")] {
            assert_eq!(round_half_up(decimal(from), Currency::USD).to_string(), to);
        }
    }

    #[test]
    fn spreads_by_largest_remainder_then_lowest_index() {
        let share = |total: &str, weights: &[&str]| {
            let weights: Vec<Decimal> = weights.iter().map(|weight| decimal(weight)).collect();
            let shares = spread(decimal(total), &weights, Currency::USD)?;
            Some(shares.iter().map(Decimal::to_string).collect::<Vec<_>>())
        };
        let expect = |shares: &[&str]| Some(shares.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(share("1.00", &["1", "1", "1"]), expect(&["0.34", "0.33", "0.33"]));
        assert_eq!(share("0.02", &["1", "1", "1"]), expect(&["0.01", "0.01", "0.00"]));
        assert_eq!(share("0.05", &["0.01", "0.04", "0"]), expect(&["0.01", "0.04", "0.00"]));
        assert_eq!(share("0", &["0", "0"]), expect(&["0.00", "0.00"]));
        assert_eq!(share("0", &[]), expect(&[]));
        assert_eq!(share("1", &[]), None);
        assert_eq!(share("1", &["0", "0"]), None);
        assert_eq!(share("0.001", &["1"]), None);
        assert_eq!(share("-1", &["1"]), None);
        assert_eq!(share("1", &["-1", "2"]), None);
    }

    fn any_currency() -> impl Strategy<Value = Currency> {
        prop::sample::select(vec!["JPY", "USD", "KWD", "CLF"]).prop_map(currency)
    }

    proptest! {
        #[test]
        fn spread_is_exact_and_bounded(
            currency in any_currency(),
            units in prop::collection::vec(0u64..=9_999_999_999_999_999_999, 1..30),
            part in 0u64..=1_000_000,
        ) {
            let amount = |units: u128| {
                Decimal::try_from_i128_with_scale(units as i128, currency.digits()).unwrap()
            };
            let sum: u128 = units.iter().map(|unit| u128::from(*unit)).sum();
            let total = (sum / 1_000_000 * u128::from(part)).min(9_999_999_999_999_999_999);
            let weights: Vec<Decimal> = units.iter().map(|unit| amount(u128::from(*unit))).collect();
            let shares = spread(amount(total), &weights, currency).unwrap();
            prop_assert_eq!(shares.len(), weights.len());
            prop_assert_eq!(shares.iter().sum::<Decimal>(), amount(total));
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!(*share >= Decimal::ZERO && share <= weight);
                prop_assert_eq!(share.scale(), currency.digits());
            }
        }

        #[test]
        fn amounts_survive_a_round_trip(currency in any_currency(), units in 0i64..=999_999_999_999_999) {
            let amount = Decimal::new(units, currency.digits());
            let text = format_amount(amount, currency);
            let back = parse_amount(&text, currency).unwrap();
            prop_assert_eq!(back, amount);
            prop_assert_eq!(format_amount(back, currency), text);
            prop_assert!(is_amount(back, currency));
        }

        #[test]
        fn parsing_never_panics_and_stays_in_bounds(currency in any_currency(), text in "[-0-9.e ]{0,40}|.{0,12}") {
            if let Ok(amount) = parse_amount(&text, currency) {
                prop_assert!(is_amount(amount, currency));
            }
        }
    }
}
