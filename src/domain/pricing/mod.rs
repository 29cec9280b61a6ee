//! What an order costs: shipping, coupons and taxes behind one trait, and the price book that implements it.
//!
//! The law of every quote: a line is unit price x quantity; the coupon is spread over the lines; tax is rounded
//! per line; and `subtotal - discount + tax + shipping = total >= 0` to the last digit.

mod book;
mod quote;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub use self::book::{CouponDocument, CouponKind, PriceBook, PricingDocument, ShippingDocument, TaxDocument};
use super::Timestamp;
use super::address::Country;
use super::money::Currency;

/// Prices orders. Pure: the same request gives the same quote.
pub trait Pricing: Send + Sync {
    /// Prices an order.
    ///
    /// # Errors
    /// [`PricingError`] names what cannot be priced as asked.
    fn quote(&self, request: &QuoteRequest<'_>) -> Result<Quote, PricingError>;

    /// The payment methods an order may name, upper-case.
    fn payment_methods(&self) -> &[String];

    /// The shipping methods an order may name, upper-case, sorted.
    fn shipping_methods(&self) -> Vec<String>;
}

/// What to price.
#[derive(Clone, Copy, Debug)]
pub struct QuoteRequest<'a> {
    /// The currency of every amount, in and out.
    pub currency: Currency,
    /// At least one.
    pub lines: &'a [QuoteLine<'a>],
    /// Where the goods go; with `state`, it decides the tax.
    pub country: Country,
    /// Code or name of the state, in any case; empty where there is none.
    pub state: &'a str,
    /// Matched in upper case.
    pub shipping_method: &'a str,
    /// Matched in upper case.
    pub coupon: Option<&'a str>,
    /// Decides whether the coupon is valid.
    pub now: Timestamp,
}

/// One line to price.
#[derive(Clone, Copy, Debug)]
pub struct QuoteLine<'a> {
    /// Price of one: whole minor units, not negative.
    pub unit_price: Decimal,
    /// How many.
    pub quantity: u32,
    /// Picks the tax rate, in any case; an unknown class is taxed like the country or state at large.
    pub tax_class: &'a str,
}

/// A priced order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quote {
    /// As many lines as were asked about, in the same order.
    pub lines: Vec<QuotedLine>,
    /// The sums.
    pub totals: Totals,
    /// The coupon, if one was used.
    pub coupon: Option<CouponUse>,
}

/// A priced line; all amounts have the currency's digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotedLine {
    /// Unit price x quantity.
    pub subtotal: Decimal,
    /// Share of the coupon, at most `subtotal`.
    pub discount: Decimal,
    /// Tax on `subtotal - discount`, rounded half up.
    pub tax: Decimal,
}

/// The sums of an order; all amounts have the currency's digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Sum of the lines before discount and tax.
    pub subtotal: Decimal,
    /// What the coupon takes off.
    pub discount: Decimal,
    /// Sum of the lines' taxes.
    pub tax: Decimal,
    /// Price of the shipping method.
    pub shipping: Decimal,
    /// What is to be paid.
    pub total: Decimal,
}

impl Totals {
    /// `subtotal - discount + tax + shipping`; `None` on overflow.
    pub fn sum(&self) -> Option<Decimal> {
        self.subtotal.checked_sub(self.discount)?.checked_add(self.tax)?.checked_add(self.shipping)
    }

    /// Whether the law of money holds.
    pub fn add_up(&self) -> bool {
        self.sum() == Some(self.total) && self.total >= Decimal::ZERO
    }
}

/// The coupon a quote used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CouponUse {
    /// The code as the price book spells it.
    pub code: String,
    /// How many orders may use it; the quote does not count, claiming it does.
    pub use_limit: Option<u32>,
}

/// Why an order cannot be priced as asked. Codes are the price book's own, never the caller's text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PricingError {
    /// No such method.
    #[error("expected a shipping method of {known}")]
    ShippingUnknown {
        /// The methods there are.
        known: String,
    },
    /// The method has no price in the currency.
    #[error("shipping method {method} has no price in {currency}; choose another method or currency")]
    ShippingCurrency {
        /// The method.
        method: String,
        /// The order's currency.
        currency: Currency,
    },
    /// The method does not go there.
    #[error("shipping method {method} does not deliver to {country}; choose another method")]
    ShippingCountry {
        /// The method.
        method: String,
        /// Where the order goes.
        country: Country,
    },
    /// No such code.
    #[error("no coupon has this code")]
    CouponUnknown,
    /// Its time has passed.
    #[error("coupon {code} has expired")]
    CouponExpired {
        /// The coupon.
        code: String,
    },
    /// Its time has not come.
    #[error("coupon {code} is not valid yet")]
    CouponNotYetValid {
        /// The coupon.
        code: String,
    },
    /// The order is too small.
    #[error("coupon {code} needs items for at least {minimum}")]
    CouponMinimumSpend {
        /// The coupon.
        code: String,
        /// Amount and currency.
        minimum: String,
    },
    /// It is not offered in the currency.
    #[error("coupon {code} cannot be used in {currency}")]
    CouponCurrency {
        /// The coupon.
        code: String,
        /// The order's currency.
        currency: Currency,
    },
    /// There is nothing to price.
    #[error("expected at least one item")]
    NoItems,
    /// A price is negative, too large, or finer than the currency.
    #[error("item {number} has a unit price that is no amount in {currency}")]
    UnitPrice {
        /// The item, counted from 1.
        number: usize,
        /// The order's currency.
        currency: Currency,
    },
    /// Some amount is above [`MAX_AMOUNT`](super::money::MAX_AMOUNT).
    #[error("the order's amounts are too large; order less at once")]
    Overflow,
}

impl PricingError {
    /// The field of the request that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::ShippingUnknown { .. } | Self::ShippingCurrency { .. } | Self::ShippingCountry { .. } => {
                "shipping_method"
            }
            Self::CouponUnknown
            | Self::CouponExpired { .. }
            | Self::CouponNotYetValid { .. }
            | Self::CouponMinimumSpend { .. }
            | Self::CouponCurrency { .. } => "coupon_code",
            Self::NoItems | Self::UnitPrice { .. } | Self::Overflow => "items",
        }
    }

    /// Whether the coupon is to blame.
    pub fn is_coupon(&self) -> bool {
        self.field() == "coupon_code"
    }
}
