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
        let country = |kind| draft.addresses.iter().find(|address| address.kind == kind).map(|address| address.country);
        if self.countries && country(AddressKind::Shipping) != country(AddressKind::Billing) {
            return Some("countries: billing and shipping differ".to_owned());
        }
        None
    }
}
