//! The price book: the document it is read from, its checks, and its look-ups.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::super::Timestamp;
use super::super::address::Country;
use super::super::money::{Currency, parse_amount};

/// Longest name of a method or coupon, in characters: the width of their columns.
const MAX_NAME: usize = 50;

/// Most digits after the point of a rate or percentage.
const MAX_RATE_DIGITS: u32 = 6;

/// Amounts by currency code.
type AmountsDocument = BTreeMap<String, String>;

/// `config/pricing.yaml`. Amounts, rates and times are text, so that no float ever comes near them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricingDocument {
    /// Rate where no rule fits, a fraction of 1; absent = 0.
    #[serde(default)]
    pub default_tax_rate: Option<String>,
    /// Tax rules; the most specific one that fits wins.
    #[serde(default)]
    pub tax: Vec<TaxDocument>,
    /// Shipping methods by name.
    pub shipping: BTreeMap<String, ShippingDocument>,
    /// Coupons by code.
    #[serde(default)]
    pub coupons: BTreeMap<String, CouponDocument>,
    /// Payment methods by name.
    pub payment_methods: Vec<String>,
}

/// One tax rule. Specific wins: state and class, then state, then class, then the country alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaxDocument {
    /// ISO 3166-1 alpha-2 or alpha-3.
    pub country: String,
    /// Code of the state as in ISO 3166-2 (`NY`); absent = everywhere in the country.
    #[serde(default)]
    pub state: Option<String>,
    /// Tax class; absent = all.
    #[serde(default)]
    pub class: Option<String>,
    /// A fraction of 1: `"0.08875"`; 0 to 1, at most 6 digits after the point.
    pub rate: String,
}

/// One shipping method.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShippingDocument {
    /// Price by currency; the method is not offered in others.
    pub price: AmountsDocument,
    /// From this value of the items, after the coupon, the method is free; by currency.
    #[serde(default)]
    pub free_from: AmountsDocument,
    /// Countries it delivers to; absent = all.
    #[serde(default)]
    pub countries: Option<Vec<String>>,
}

/// What a coupon takes off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CouponKind {
    /// A percentage of the items.
    Percent,
    /// A fixed amount, at most the value of the items.
    Fixed,
}

/// One coupon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CouponDocument {
    /// `percent` or `fixed`.
    pub kind: CouponKind,
    /// For `percent`: above 0, at most 100.
    #[serde(default)]
    pub percent: Option<String>,
    /// For `fixed`: amount by currency; the coupon is not offered in others.
    #[serde(default)]
    pub amounts: Option<AmountsDocument>,
    /// Least value of the items, by currency; if given, the coupon is not offered in other currencies.
    #[serde(default)]
    pub minimum_spend: Option<AmountsDocument>,
    /// First moment it can be used, RFC 3339.
    #[serde(default)]
    pub valid_from: Option<String>,
    /// First moment it can no longer be used, RFC 3339.
    #[serde(default)]
    pub valid_until: Option<String>,
    /// How many orders may use it; absent = any number.
    #[serde(default)]
    pub use_limit: Option<u32>,
}

/// Checked prices, rates and coupons.
#[derive(Clone, Debug)]
pub struct PriceBook {
    default_tax_rate: Decimal,
    tax: BTreeMap<Country, Vec<TaxRule>>,
    pub(super) shipping: BTreeMap<String, ShippingMethod>,
    pub(super) coupons: BTreeMap<String, Coupon>,
    pub(super) payment_methods: Vec<String>,
}

#[derive(Clone, PartialEq, Debug)]
struct TaxRule {
    /// Lower-case spellings of the state: `ny`, `us-ny`, `new york`. Empty = everywhere.
    states: Vec<String>,
    class: Option<String>,
    rate: Decimal,
}

impl TaxRule {
    fn fits(&self, state: &str, class: &str) -> bool {
        (self.states.is_empty() || self.states.iter().any(|spelling| spelling == state))
            && self.class.as_deref().is_none_or(|own| own == class)
    }

    /// Orders rules from general to specific.
    fn rank(&self) -> (bool, bool) {
        (!self.states.is_empty(), self.class.is_some())
    }
}

type Amounts = BTreeMap<Currency, Decimal>;

#[derive(Clone, Debug)]
pub(super) struct ShippingMethod {
    pub(super) price: Amounts,
    pub(super) free_from: Amounts,
    pub(super) countries: Option<Vec<Country>>,
}

#[derive(Clone, Debug)]
pub(super) enum Reduction {
    /// A fraction of 1.
    Share(Decimal),
    Fixed(Amounts),
}

#[derive(Clone, Debug)]
pub(super) struct Coupon {
    pub(super) reduction: Reduction,
    pub(super) minimum_spend: Option<Amounts>,
    pub(super) valid_from: Option<Timestamp>,
    pub(super) valid_until: Option<Timestamp>,
    pub(super) use_limit: Option<u32>,
}

/// How method names and coupon codes are matched.
pub(super) fn normal_name(name: &str) -> String {
    name.trim().to_uppercase()
}

impl PriceBook {
    /// Checks a document.
    ///
    /// # Errors
    /// A sentence that names the first key that is wrong and what was expected.
    pub fn from_document(document: PricingDocument) -> Result<Self, String> {
        let default_tax_rate = match &document.default_tax_rate {
            Some(text) => fraction("default_tax_rate", text, Decimal::ONE)?,
            None => Decimal::ZERO,
        };
        let mut tax: BTreeMap<Country, Vec<TaxRule>> = BTreeMap::new();
        for (index, rule) in document.tax.iter().enumerate() {
            let key = format!("tax[{index}]");
            let country = country(&format!("{key}.country"), &rule.country)?;
            let rule = tax_rule(&key, country, rule)?;
            let rules = tax.entry(country).or_default();
            if rules.iter().any(|other| other.states == rule.states && other.class == rule.class) {
                return Err(format!("{key}: repeats the country, state and class of an earlier rule"));
            }
            rules.push(rule);
        }
        let shipping = named("shipping", document.shipping, shipping_method)?;
        if shipping.is_empty() {
            return Err(String::from("shipping: expected at least one method"));
        }
        let coupons = named("coupons", document.coupons, coupon)?;
        let mut payment_methods = Vec::with_capacity(document.payment_methods.len());
        for (index, method) in document.payment_methods.iter().enumerate() {
            let key = format!("payment_methods[{index}]");
            let method = name(&key, method)?;
            if payment_methods.contains(&method) {
                return Err(format!("{key}: {method} stands here twice"));
            }
            payment_methods.push(method);
        }
        if payment_methods.is_empty() {
            return Err(String::from("payment_methods: expected at least one method"));
        }
        Ok(Self { default_tax_rate, tax, shipping, coupons, payment_methods })
    }

    /// The tax rate, a fraction of 1, of the most specific rule that fits, else the default.
    pub fn tax_rate(&self, country: Country, state: &str, class: &str) -> Decimal {
        let state = state.trim().to_lowercase();
        let class = class.trim().to_lowercase();
        let rules = self.tax.get(&country).map(Vec::as_slice).unwrap_or_default();
        let best = rules.iter().filter(|rule| rule.fits(&state, &class)).max_by_key(|rule| rule.rank());
        best.map_or(self.default_tax_rate, |rule| rule.rate)
    }
}

/// Checks every entry of a map and gives it its upper-case name.
fn named<From, To>(
    key: &str,
    entries: BTreeMap<String, From>,
    check: impl Fn(&str, From) -> Result<To, String>,
) -> Result<BTreeMap<String, To>, String> {
    let mut checked = BTreeMap::new();
    for (entry, value) in entries {
        let key = format!("{key}.{entry}");
        let value = check(&key, value)?;
        if checked.insert(name(&key, &entry)?, value).is_some() {
            return Err(format!("{key}: differs from another name only in case"));
        }
    }
    Ok(checked)
}

fn name(key: &str, text: &str) -> Result<String, String> {
    let name = normal_name(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(format!("{key}: expected a name of 1 to {MAX_NAME} letters, digits, '_' and '-'"));
    }
    Ok(name)
}

fn country(key: &str, text: &str) -> Result<Country, String> {
    Country::parse(text)
        .ok_or_else(|| format!("{key}: expected an ISO 3166-1 alpha-2 or alpha-3 code, found {text:?}"))
}

/// A number from 0 to `most`.
fn fraction(key: &str, text: &str, most: Decimal) -> Result<Decimal, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match Decimal::from_str_exact(text) {
        Ok(rate) if plain && rate <= most && rate.scale() <= MAX_RATE_DIGITS => Ok(rate),
        _ => Err(format!(
            "{key}: expected a number from 0 to {most} with at most {MAX_RATE_DIGITS} digits after the point, \
             found {text:?}"
        )),
    }
}

fn amounts(key: &str, document: &AmountsDocument) -> Result<Amounts, String> {
    let mut amounts = Amounts::new();
    for (code, text) in document {
        let currency = Currency::from_code(&code.to_ascii_uppercase())
            .ok_or_else(|| format!("{key}.{code}: expected an active ISO 4217 currency code"))?;
        let amount = parse_amount(text, currency).map_err(|error| format!("{key}.{code}: {error}"))?;
        if amounts.insert(currency, amount).is_some() {
            return Err(format!("{key}.{code}: the currency stands here twice"));
        }
    }
    Ok(amounts)
}

fn non_empty(key: &str, amounts: Amounts) -> Result<Amounts, String> {
    if amounts.is_empty() {
        return Err(format!("{key}: expected at least one currency"));
    }
    Ok(amounts)
}

fn time(key: &str, text: Option<&str>) -> Result<Option<Timestamp>, String> {
    text.map(|text| {
        text.parse::<Timestamp>().map_err(|_| {
            format!("{key}: expected an RFC 3339 time such as 2030-01-31T00:00:00Z, found {text:?}")
        })
    })
    .transpose()
}

fn tax_rule(key: &str, country: Country, document: &TaxDocument) -> Result<TaxRule, String> {
    let states = match &document.state {
        None => Vec::new(),
        Some(state) => {
            let code = format!("{country}-{}", state.to_ascii_uppercase());
            let subdivision = rust_iso3166::iso3166_2::from_code(&code).ok_or_else(|| {
                format!("{key}.state: expected an ISO 3166-2 code of {country}, found {state:?}")
            })?;
            vec![state.to_lowercase(), code.to_lowercase(), subdivision.name.to_lowercase()]
        }
    };
    let class = document.class.as_ref().map(|class| class.trim().to_lowercase());
    if class.as_deref() == Some("") {
        return Err(format!("{key}.class: expected a class, or leave the key out for all classes"));
    }
    Ok(TaxRule { states, class, rate: fraction(&format!("{key}.rate"), &document.rate, Decimal::ONE)? })
}

fn shipping_method(key: &str, document: ShippingDocument) -> Result<ShippingMethod, String> {
    let price_key = format!("{key}.price");
    let price = non_empty(&price_key, amounts(&price_key, &document.price)?)?;
    let free_from = amounts(&format!("{key}.free_from"), &document.free_from)?;
    if let Some(currency) = free_from.keys().find(|currency| !price.contains_key(currency)) {
        return Err(format!("{key}.free_from.{currency}: the method has no price in this currency"));
    }
    let listed = document.countries.map(|codes| {
        codes.iter().map(|code| country(&format!("{key}.countries"), code)).collect::<Result<Vec<_>, _>>()
    });
    Ok(ShippingMethod { price, free_from, countries: listed.transpose()? })
}

fn coupon(key: &str, document: CouponDocument) -> Result<Coupon, String> {
    let reduction = match (document.kind, &document.percent, &document.amounts) {
        (CouponKind::Percent, Some(percent), None) => {
            let percent_key = format!("{key}.percent");
            let percent = fraction(&percent_key, percent, Decimal::ONE_HUNDRED)?;
            if percent.is_zero() {
                return Err(format!("{percent_key}: expected more than 0"));
            }
            let share = percent.checked_div(Decimal::ONE_HUNDRED);
            Reduction::Share(share.ok_or_else(|| format!("{percent_key}: cannot be computed with"))?)
        }
        (CouponKind::Fixed, None, Some(document)) => {
            let amounts_key = format!("{key}.amounts");
            Reduction::Fixed(non_empty(&amounts_key, amounts(&amounts_key, document)?)?)
        }
        (CouponKind::Percent, ..) => return Err(format!("{key}: kind percent takes percent and no amounts")),
        (CouponKind::Fixed, ..) => return Err(format!("{key}: kind fixed takes amounts and no percent")),
    };
    let spend_key = format!("{key}.minimum_spend");
    let minimum_spend = match &document.minimum_spend {
        Some(document) => Some(non_empty(&spend_key, amounts(&spend_key, document)?)?),
        None => None,
    };
    let valid_from = time(&format!("{key}.valid_from"), document.valid_from.as_deref())?;
    let valid_until = time(&format!("{key}.valid_until"), document.valid_until.as_deref())?;
    if let (Some(from), Some(until)) = (valid_from, valid_until)
        && from >= until
    {
        return Err(format!("{key}.valid_until: expected a time after valid_from"));
    }
    if document.use_limit == Some(0) {
        return Err(format!("{key}.use_limit: expected at least 1, or leave the key out for no limit"));
    }
    Ok(Coupon { reduction, minimum_spend, valid_from, valid_until, use_limit: document.use_limit })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use serde_json::{Value, json};

    use super::super::quote::tests::shipped_book;
    use super::*;

    /// What is said about a small good document once `pointer` holds `value`.
    fn complaint(pointer: &str, value: Value) -> String {
        let mut document = json!({
            "default_tax_rate": "0",
            "tax": [{"country": "US", "state": "NY", "class": "food", "rate": "0"}, {"country": "US", "rate": "0.1"}],
            "shipping": {"STANDARD": {"price": {"USD": "5"}, "free_from": {"USD": "50"}, "countries": ["US"]}},
            "coupons": {
                "TEN": {"kind": "percent", "percent": "10"},
                "FIVE": {"kind": "fixed", "amounts": {"USD": "5"}, "minimum_spend": {"USD": "5"},
                         "valid_from": "2020-01-01T00:00:00Z", "valid_until": "2030-01-01T00:00:00Z"},
            },
            "payment_methods": ["CARD", "CASH"],
        });
        *document.pointer_mut(pointer).unwrap() = value;
        PriceBook::from_document(serde_json::from_value(document).unwrap()).err().unwrap_or_default()
    }

    #[test]
    fn complaints_name_the_key() {
        assert_eq!(complaint("/default_tax_rate", json!("0.1")), "");
        for (pointer, value, key) in [
            ("/default_tax_rate", json!("1.1"), "default_tax_rate:"),
            ("/tax/0/country", json!("XX"), "tax[0].country:"),
            ("/tax/0/state", json!("ZZ"), "tax[0].state:"),
            ("/tax/0/class", json!(" "), "tax[0].class:"),
            ("/tax/1/rate", json!("-0.1"), "tax[1].rate:"),
            ("/tax/1/rate", json!("0.0000001"), "tax[1].rate:"),
            ("/tax/1", json!({"country": "USA", "state": "ny", "class": "FOOD", "rate": "0"}), "tax[1]:"),
            ("/shipping", json!({}), "shipping:"),
            ("/shipping/STANDARD/price", json!({}), "shipping.STANDARD.price:"),
            ("/shipping/STANDARD/price/USD", json!("5.001"), "shipping.STANDARD.price.USD:"),
            ("/shipping/STANDARD/free_from", json!({"EUR": "5"}), "shipping.STANDARD.free_from.EUR:"),
            ("/shipping/STANDARD/countries", json!(["Q"]), "shipping.STANDARD.countries:"),
            ("/coupons/TEN/percent", json!("101"), "coupons.TEN.percent:"),
            ("/coupons/TEN/percent", json!("0"), "coupons.TEN.percent:"),
            ("/coupons/TEN/percent", Value::Null, "coupons.TEN:"),
            ("/coupons/FIVE/amounts", json!({"XXX": "5"}), "coupons.FIVE.amounts.XXX:"),
            ("/coupons/FIVE/minimum_spend", json!({}), "coupons.FIVE.minimum_spend:"),
            ("/coupons/FIVE/valid_from", json!("soon"), "coupons.FIVE.valid_from:"),
            ("/coupons/FIVE/valid_from", json!("2031-01-01T00:00:00Z"), "coupons.FIVE.valid_until:"),
            (
                "/coupons/TEN",
                json!({"kind": "percent", "percent": "1", "use_limit": 0}),
                "coupons.TEN.use_limit:",
            ),
            ("/payment_methods", json!([]), "payment_methods:"),
            ("/payment_methods/1", json!("card"), "payment_methods[1]:"),
            ("/payment_methods/1", json!("a b"), "payment_methods[1]:"),
        ] {
            let complaint = complaint(pointer, value);
            assert!(complaint.starts_with(key), "{pointer}: {complaint}");
        }
    }

    #[test]
    fn the_class_exempt_is_never_taxed_where_rules_are_shipped() {
        let book = shipped_book();
        for (country, rules) in &book.tax {
            for rule in rules {
                let state = rule.states.first().map(String::as_str).unwrap_or_default();
                assert!(book.tax_rate(*country, state, "exempt").is_zero(), "{country} {state}");
            }
        }
    }
}
