//! Whether a new order is held before it is paid, for a person to look at.

use std::fmt::Debug;
use std::time::Duration;

use rust_decimal::Decimal;

use super::address::AddressKind;
use super::command::Draft;
use super::money::{Currency, format_amount};

/// In whose name such a hold is put on.
pub const PRINCIPAL: &str = "fraud-check";

/// How much of a user's past a check wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    /// How far back.
    pub window: Duration,
    /// Orders are counted up to this many, 1...
    pub at_most: u32,
}

/// The hook before payment. It is asked once, with the finished draft, and before anything is stored or has moved.
pub trait RiskCheck: Send + Sync + Debug {
    /// The part of the user's past that [`Self::assess`] wants to be told; none costs nothing.
    fn past(&self) -> Option<Past>;

    /// Why the order is to be held, in at most 200 characters without personal data; none lets it be paid. `orders` counts
    /// the user's earlier orders as [`Self::past`] wants; 0 when it does not want any.
    fn assess(&self, draft: &Draft, orders: u32) -> Option<String>;
}

/// The rules that come with the service. The default has none.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RiskRules {
    /// A total of at least so much in this currency is held.
    pub amounts: Vec<(Currency, Decimal)>,
    /// One who ordered so often within the window is held from then on; none = however often.
    pub orders: Option<Past>,
    /// Held when billing and shipping country differ.
    pub countries: bool,
}

impl RiskCheck for RiskRules {
    fn past(&self) -> Option<Past> {
        self.orders
    }

    fn assess(&self, draft: &Draft, orders: u32) -> Option<String> {
        let (total, currency) = (draft.totals.total, draft.currency);
        let limit = self.amounts.iter().find(|(of, from)| *of == currency && total >= *from);
        if let Some((_, from)) = limit {
            let (total, from) = (format_amount(total, currency), format_amount(*from, currency));
            return Some(format!("amount: {total} {currency} reaches {from}"));
        }
        if let Some(past) = self.orders.filter(|past| orders >= past.at_most) {
            let seconds = past.window.as_secs();
            return Some(format!("velocity: {} orders within {seconds} s before it", past.at_most));
        }
        let country =
            |kind| draft.addresses.iter().find(|address| address.kind == kind).map(|address| address.country);
        if self.countries && country(AddressKind::Shipping) != country(AddressKind::Billing) {
            return Some("countries: billing and shipping differ".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::super::address::{Address, Country};
    use super::super::ids::{IdKey, OrderId, OrderNumber, UserId};
    use super::super::pricing::Totals;
    use super::*;

    fn draft(total: &str, currency: &str, countries: [&str; 2]) -> Draft {
        let (key, user) = (IdKey(b"test".to_vec()), UserId(Uuid::nil()));
        let id = OrderId::for_request(&key, user, None, chrono::DateTime::UNIX_EPOCH, 1);
        let amount = total.parse().unwrap();
        let address = |kind, country: &str| Address {
            kind,
            first_name: String::new(),
            last_name: String::new(),
            address_line1: String::new(),
            address_line2: None,
            city: String::new(),
            state: String::new(),
            postal_code: String::new(),
            country: Country::parse(country).unwrap(),
            phone: None,
            email: None,
        };
        let [shipping, billing] = countries;
        Draft {
            id,
            order_number: OrderNumber::of(&key, id, 0),
            user_id: user,
            currency: Currency::from_code(currency).unwrap(),
            totals: Totals {
                subtotal: amount,
                discount: Decimal::ZERO,
                tax: Decimal::ZERO,
                shipping: Decimal::ZERO,
                total: amount,
            },
            items: Vec::new(),
            addresses: vec![address(AddressKind::Shipping, shipping), address(AddressKind::Billing, billing)],
            payment_method: String::new(),
            payment_token: None,
            shipping_method: String::new(),
            notes: String::new(),
            coupon: None,
            metadata: BTreeMap::new(),
            request_hash: [1; 16],
            risk: None,
        }
    }

    fn currency(code: &str) -> Currency {
        Currency::from_code(code).unwrap()
    }

    #[test]
    fn by_default_nothing_is_asked_and_nothing_held() {
        let rules = RiskRules::default();
        assert_eq!(rules.past(), None);
        assert_eq!(rules.assess(&draft("999999.99", "USD", ["US", "DE"]), 1_000), None);
    }

    #[test]
    fn each_rule_holds_from_its_limit_on() {
        let window = Duration::from_secs(3_600);
        let past = Past { window, at_most: 3 };
        let amounts = vec![(currency("USD"), Decimal::from(100)), (currency("JPY"), Decimal::from(9_000))];
        let rules = RiskRules { amounts, orders: Some(past), countries: true };
        assert_eq!(rules.past(), Some(past));
        for (total, code, countries, orders, rule) in [
            ("99.99", "USD", ["US", "US"], 2, None),
            ("100.00", "USD", ["US", "US"], 0, Some("amount: 100.00 USD reaches 100.00")),
            ("8999", "JPY", ["JP", "JP"], 0, None),
            ("9000", "JPY", ["JP", "JP"], 0, Some("amount: 9000 JPY reaches 9000")),
            // No limit in this currency.
            ("5000.00", "EUR", ["DE", "DE"], 0, None),
            ("1.00", "USD", ["US", "US"], 3, Some("velocity: 3 orders within 3600 s before it")),
            ("1.00", "USD", ["US", "CA"], 0, Some("countries: billing and shipping differ")),
        ] {
            let found = rules.assess(&draft(total, code, countries), orders);
            assert_eq!(found.as_deref(), rule, "{total} {code} {countries:?} {orders}");
        }
    }
}
