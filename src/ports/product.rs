//! Products: what they are called and what they cost.

use std::fmt::Debug;

use async_trait::async_trait;
use rust_decimal::Decimal;

use super::call::{CallContext, CallError};
use crate::domain::item::ProductRef;
use crate::domain::money::Currency;

/// A product as it is sold now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Product {
    /// What was asked for.
    pub product: ProductRef,
    /// Stock keeping unit.
    pub sku: String,
    /// For people, variant included.
    pub name: String,
    /// Price of one in `currency`, with no more digits than the currency has; zero or more.
    pub unit_price: Decimal,
    /// The currency of the price.
    pub currency: Currency,
    /// Picks the tax rate.
    pub tax_class: String,
    /// Whether it may be sold.
    pub active: bool,
}

/// The product service.
#[async_trait]
pub trait Products: Send + Sync + Debug {
    /// The products asked for, in any order. Unknown ones are absent, and so is a product that has variants when
    /// it is asked for without one of them.
    ///
    /// # Errors
    /// [`CallError`]; a read, so `Unknown` means no more than "no answer".
    async fn batch_get(&self, ctx: &CallContext, refs: &[ProductRef]) -> Result<Vec<Product>, CallError>;
}
