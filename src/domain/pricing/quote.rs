//! Pricing an order from the price book.

use rust_decimal::Decimal;

use super::super::money::{self, Currency, MAX_AMOUNT, format_amount, round_half_up};
use super::book::{Coupon, PriceBook, Reduction, normal_name};
use super::{CouponUse, Pricing, PricingError, Quote, QuoteLine, QuoteRequest, QuotedLine, Totals};

impl Pricing for PriceBook {
    fn quote(&self, request: &QuoteRequest<'_>) -> Result<Quote, PricingError> {
        let currency = request.currency;
        let subtotals = line_subtotals(request.lines, currency)?;
        let subtotal = sum(&subtotals, currency)?;
        let (discount, coupon) = self.discount(request, subtotal)?;
        let shares = money::spread(discount, &subtotals, currency).ok_or(PricingError::Overflow)?;
        let goods = subtotal.checked_sub(discount).ok_or(PricingError::Overflow)?;
        let shipping = self.shipping_price(request, goods)?;

        let mut lines = Vec::with_capacity(request.lines.len());
        for ((line, subtotal), discount) in request.lines.iter().zip(subtotals).zip(shares) {
            let rate = self.tax_rate(request.country, request.state, line.tax_class);
            let taxed = subtotal.checked_sub(discount).ok_or(PricingError::Overflow)?;
            let exact = taxed.checked_mul(rate).ok_or(PricingError::Overflow)?;
            lines.push(QuotedLine { subtotal, discount, tax: round_half_up(exact, currency) });
        }
        let taxes: Vec<Decimal> = lines.iter().map(|line| line.tax).collect();
        let tax = sum(&taxes, currency)?;
        let total = sum(&[goods, tax, shipping], currency)?;
        Ok(Quote { lines, totals: Totals { subtotal, discount, tax, shipping, total }, coupon })
    }

    fn payment_methods(&self) -> &[String] {
        &self.payment_methods
    }

    fn shipping_methods(&self) -> Vec<String> {
        self.shipping.keys().cloned().collect()
    }
}

impl PriceBook {
    /// What the coupon takes off a subtotal, and the coupon.
    fn discount(
        &self,
        request: &QuoteRequest<'_>,
        subtotal: Decimal,
    ) -> Result<(Decimal, Option<CouponUse>), PricingError> {
        let currency = request.currency;
        let Some(text) = request.coupon else {
            return Ok((currency.zero(), None));
        };
        let code = normal_name(text);
        let coupon = self.coupons.get(&code).ok_or(PricingError::CouponUnknown)?;
        check_validity(&code, coupon, request, subtotal)?;
        let discount = match &coupon.reduction {
            Reduction::Share(share) => subtotal.checked_mul(*share).ok_or(PricingError::Overflow)?,
            Reduction::Fixed(amounts) => match amounts.get(&currency) {
                Some(amount) => (*amount).min(subtotal),
                None => return Err(PricingError::CouponCurrency { code, currency }),
            },
        };
        let used = CouponUse { code, use_limit: coupon.use_limit };
        Ok((round_half_up(discount, currency), Some(used)))
    }

    /// The price of the shipping method for items worth `goods` after the coupon.
    fn shipping_price(&self, request: &QuoteRequest<'_>, goods: Decimal) -> Result<Decimal, PricingError> {
        let currency = request.currency;
        let name = normal_name(request.shipping_method);
        let Some(method) = self.shipping.get(&name) else {
            return Err(PricingError::ShippingUnknown { known: self.shipping_methods().join(", ") });
        };
        if method.countries.as_ref().is_some_and(|countries| !countries.contains(&request.country)) {
            return Err(PricingError::ShippingCountry { method: name, country: request.country });
        }
        let Some(price) = method.price.get(&currency) else {
            return Err(PricingError::ShippingCurrency { method: name, currency });
        };
        let free = method.free_from.get(&currency).is_some_and(|threshold| goods >= *threshold);
        Ok(if free { currency.zero() } else { *price })
    }
}

fn check_validity(
    code: &str,
    coupon: &Coupon,
    request: &QuoteRequest<'_>,
    subtotal: Decimal,
) -> Result<(), PricingError> {
    let code = String::from(code);
    let currency = request.currency;
    if coupon.valid_from.is_some_and(|from| request.now < from) {
        return Err(PricingError::CouponNotYetValid { code });
    }
    if coupon.valid_until.is_some_and(|until| request.now >= until) {
        return Err(PricingError::CouponExpired { code });
    }
    match coupon.minimum_spend.as_ref().map(|amounts| amounts.get(&currency)) {
        Some(None) => Err(PricingError::CouponCurrency { code, currency }),
        Some(Some(minimum)) if subtotal < *minimum => {
            let minimum = format!("{} {currency}", format_amount(*minimum, currency));
            Err(PricingError::CouponMinimumSpend { code, minimum })
        }
        _ => Ok(()),
    }
}

fn line_subtotals(lines: &[QuoteLine<'_>], currency: Currency) -> Result<Vec<Decimal>, PricingError> {
    if lines.is_empty() {
        return Err(PricingError::NoItems);
    }
    lines
        .iter()
        .zip(1..)
        .map(|(line, number)| {
            if !money::is_amount(line.unit_price, currency) {
                return Err(PricingError::UnitPrice { number, currency });
            }
            let subtotal =
                line.unit_price.checked_mul(Decimal::from(line.quantity)).ok_or(PricingError::Overflow)?;
            bounded(round_half_up(subtotal, currency))
        })
        .collect()
}

/// A sum with the currency's digits.
fn sum(amounts: &[Decimal], currency: Currency) -> Result<Decimal, PricingError> {
    let sum = amounts.iter().try_fold(currency.zero(), |sum, amount| sum.checked_add(*amount));
    bounded(sum.ok_or(PricingError::Overflow)?)
}

fn bounded(amount: Decimal) -> Result<Decimal, PricingError> {
    if amount > MAX_AMOUNT {
        return Err(PricingError::Overflow);
    }
    Ok(amount)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use config::{Config, File, FileFormat};
    use proptest::prelude::*;

    use super::super::super::Timestamp;
    use super::super::super::address::Country;
    use super::super::PricingDocument;
    use super::*;

    /// The price book that comes with the service.
    pub(in super::super) fn shipped_book() -> PriceBook {
        let text = include_str!("../../../config/pricing.yaml");
        let source = Config::builder().add_source(File::from_str(text, FileFormat::Yaml)).build().unwrap();
        PriceBook::from_document(source.try_deserialize::<PricingDocument>().unwrap()).unwrap()
    }

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn now() -> Timestamp {
        "2024-05-03T12:00:00Z".parse().unwrap()
    }

    fn request<'a>(lines: &'a [QuoteLine<'a>], coupon: Option<&'a str>) -> QuoteRequest<'a> {
        QuoteRequest {
            currency: Currency::USD,
            lines,
            country: Country::parse("USA").unwrap(),
            state: "NY",
            shipping_method: "STANDARD",
            coupon,
            now: now(),
        }
    }

    fn line(unit_price: &str, quantity: u32) -> QuoteLine<'static> {
        QuoteLine { unit_price: decimal(unit_price), quantity, tax_class: "standard" }
    }

    #[test]
    fn prices_the_sample_of_the_design() {
        let lines = [line("44.99", 2)];
        let quote = shipped_book().quote(&request(&lines, Some("summer10"))).unwrap();
        let json = serde_json::to_value(quote.totals).unwrap();
        let expected = serde_json::json!({
            "subtotal": "89.98", "discount": "9.00", "tax": "7.19", "shipping": "5.00", "total": "93.17",
        });
        assert_eq!(json, expected);
        assert_eq!(quote.coupon, Some(CouponUse { code: "SUMMER10".into(), use_limit: None }));
        assert!(quote.totals.add_up());
    }

    #[test]
    fn a_free_order_costs_nothing() {
        let lines = [line("44.99", 2), line("0", 1)];
        let quote = shipped_book()
            .quote(&QuoteRequest { shipping_method: "pickup", ..request(&lines, Some("FREEALL")) });
        assert_eq!(quote.unwrap().totals.total.to_string(), "0.00");
    }

    #[test]
    fn free_shipping_counts_what_is_left_after_the_coupon() {
        let shipping = |price: &str, coupon| {
            let lines = [line(price, 1)];
            shipped_book().quote(&request(&lines, coupon)).unwrap().totals.shipping.to_string()
        };
        assert_eq!(shipping("99.99", None), "5.00");
        assert_eq!(shipping("100.00", None), "0.00");
        assert_eq!(shipping("100.00", Some("SUMMER10")), "5.00");
    }

    #[test]
    fn refuses_what_it_cannot_price() {
        let book = shipped_book();
        let lines = [line("10.00", 1)];
        let sample = request(&lines, None);
        let brazil = Country::parse("BR").unwrap();
        let peso = Currency::from_code("PHP").unwrap();
        let yen = Currency::from_code("JPY").unwrap();
        let whole = [line("1000", 5)];
        let coupon = |code| QuoteRequest { coupon: Some(code), ..sample };
        for (request, field, part) in [
            (QuoteRequest { shipping_method: "TELEPORT", ..sample }, "shipping_method", "EXPRESS, OVERNIGHT"),
            (
                QuoteRequest { shipping_method: "OVERNIGHT", country: brazil, ..sample },
                "shipping_method",
                "BR",
            ),
            (QuoteRequest { currency: peso, ..sample }, "shipping_method", "PHP"),
            (coupon("NOPE"), "coupon_code", "no coupon"),
            (coupon(""), "coupon_code", "no coupon"),
            (coupon("EXPIRED20"), "coupon_code", "expired"),
            (coupon("FUTURE15"), "coupon_code", "not valid yet"),
            (coupon("WELCOME5"), "coupon_code", "25.00 USD"),
            (QuoteRequest { currency: yen, lines: &whole, ..coupon("WELCOME5") }, "coupon_code", "JPY"),
            (QuoteRequest { lines: &[], ..sample }, "items", "at least one"),
            (QuoteRequest { lines: &[line("-1", 1)], ..sample }, "items", "item 1"),
            (QuoteRequest { lines: &[line("1", 1), line("0.001", 1)], ..sample }, "items", "item 2"),
            (QuoteRequest { lines: &[line("999999999999999", 2)], ..sample }, "items", "too large"),
            (QuoteRequest { lines: &[line("999999999999999", 1); 2], ..sample }, "items", "too large"),
            (QuoteRequest { lines: &[line("999999999999999", 1)], ..sample }, "items", "too large"),
        ] {
            let error = book.quote(&request).unwrap_err();
            assert_eq!(error.field(), field, "{error}");
            assert_eq!(error.is_coupon(), field == "coupon_code");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn validity_includes_its_first_moment_and_not_its_last() {
        let book = shipped_book();
        let lines = [line("10.00", 1)];
        let at = |code, time: &str| {
            book.quote(&QuoteRequest { now: time.parse().unwrap(), ..request(&lines, Some(code)) }).is_ok()
        };
        assert!(at("FUTURE15", "2099-01-01T00:00:00Z"));
        assert!(!at("FUTURE15", "2098-12-31T23:59:59Z"));
        assert!(at("EXPIRED20", "2020-08-31T23:59:59Z"));
        assert!(!at("EXPIRED20", "2020-09-01T00:00:00Z"));
    }

    #[test]
    fn the_most_specific_tax_rule_wins() {
        let book = shipped_book();
        let rate = |country: &str, state: &str, class: &str| {
            book.tax_rate(Country::parse(country).unwrap(), state, class).to_string()
        };
        assert_eq!(rate("US", "NY", "standard"), "0.08875");
        assert_eq!(rate("US", "new york", "Standard"), "0.08875");
        assert_eq!(rate("US", "us-ny", "unheard-of"), "0.08875");
        assert_eq!(rate("US", "NY", "FOOD"), "0");
        assert_eq!(rate("US", "OR", "standard"), "0");
        assert_eq!(rate("DE", "", "standard"), "0.19");
        assert_eq!(rate("DE", "Bayern", "food"), "0.07");
        assert_eq!(rate("AQ", "", "standard"), "0");
    }

    #[test]
    fn names_the_methods() {
        let book = shipped_book();
        assert_eq!(book.shipping_methods(), ["EXPRESS", "OVERNIGHT", "PICKUP", "STANDARD"]);
        assert!(book.payment_methods().contains(&"CREDIT_CARD".to_owned()));
        let limits = |code: &str| book.coupons[code].use_limit;
        assert_eq!((limits("LIMITED1"), limits("LIMITED3"), limits("SUMMER10")), (Some(1), Some(3), None));
    }

    /// A book with one percent and one fixed coupon, and rates of three kinds.
    fn small_book(percent: &str, fixed: &str, rate: &str, currency: &str) -> PriceBook {
        let shipping = serde_json::json!({currency: "7"});
        let document = serde_json::json!({
            "tax": [{"country": "US", "rate": rate}, {"country": "US", "class": "exempt", "rate": "0"}],
            "shipping": {"POST": {"price": shipping}},
            "coupons": {
                "PERCENT": {"kind": "percent", "percent": percent},
                "FIXED": {"kind": "fixed", "amounts": {currency: fixed}},
            },
            "payment_methods": ["CARD"],
        });
        PriceBook::from_document(serde_json::from_value(document).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn the_law_of_money_holds(
            code in prop::sample::select(vec!["JPY", "USD", "KWD"]),
            coupon in prop::sample::select(vec![None, Some("PERCENT"), Some("FIXED")]),
            percent in 1u32..=1_000_000,
            fixed in 0i64..=100_000_000,
            rate in 0u32..=1_000_000,
            items in prop::collection::vec((0i64..=100_000_000, 1u32..=9999, any::<bool>()), 1..40),
        ) {
            let currency = Currency::from_code(code).unwrap();
            let amount = |units: i64| Decimal::new(units, currency.digits());
            let percent = Decimal::new(i64::from(percent), 4).to_string();
            let rate = Decimal::new(i64::from(rate), 6).to_string();
            let book = small_book(&percent, &amount(fixed).to_string(), &rate, code);
            let lines: Vec<QuoteLine<'_>> = items
                .iter()
                .map(|(units, quantity, exempt)| QuoteLine {
                    unit_price: amount(*units),
                    quantity: *quantity,
                    tax_class: if *exempt { "exempt" } else { "standard" },
                })
                .collect();
            let asked = QuoteRequest { currency, shipping_method: "post", ..request(&lines, coupon) };
            let quote = book.quote(&asked).unwrap();
            let totals = quote.totals;
            prop_assert!(totals.add_up(), "{:?}", totals);
            prop_assert_eq!(quote.lines.len(), lines.len());
            let sum = |part: fn(&QuotedLine) -> Decimal| quote.lines.iter().map(part).sum::<Decimal>();
            prop_assert_eq!(sum(|line| line.subtotal), totals.subtotal);
            prop_assert_eq!(sum(|line| line.discount), totals.discount);
            prop_assert_eq!(sum(|line| line.tax), totals.tax);
            for (quoted, line) in quote.lines.iter().zip(&lines) {
                prop_assert_eq!(quoted.subtotal, line.unit_price * Decimal::from(line.quantity));
                prop_assert!(quoted.discount >= Decimal::ZERO && quoted.discount <= quoted.subtotal);
                let exact = (quoted.subtotal - quoted.discount)
                    * if line.tax_class == "exempt" { Decimal::ZERO } else { decimal(&rate) };
                prop_assert!((quoted.tax - exact).abs() * Decimal::TWO <= Decimal::new(1, currency.digits()));
            }
            for part in [totals.subtotal, totals.discount, totals.tax, totals.shipping, totals.total] {
                prop_assert!(money::is_amount(part, currency));
                prop_assert_eq!(part.scale(), currency.digits());
            }
            match coupon {
                None => prop_assert!(totals.discount.is_zero() && quote.coupon.is_none()),
                Some("FIXED") => prop_assert_eq!(totals.discount, amount(fixed).min(totals.subtotal)),
                Some(_) => {
                    let exact = totals.subtotal * decimal(&percent) / Decimal::ONE_HUNDRED;
                    prop_assert_eq!(totals.discount, round_half_up(exact, currency));
                }
            }
        }
    }
}
