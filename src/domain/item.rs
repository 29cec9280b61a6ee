//! Lines of an order.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;

/// Names a sellable thing: a product, and its variant where it has some.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ProductRef {
    /// The product.
    pub product_id: Uuid,
    /// The variant, for products that have variants.
    pub variant_id: Option<Uuid>,
}

/// One line: a snapshot of the product as it was when the line was priced.
///
/// `tax` is part of the line because tax is rounded per line; the columns of the order hold the sums.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OrderItem {
    /// Derived from the order id and the line's number.
    pub id: Uuid,
    /// What was bought.
    pub product: ProductRef,
    /// At most 100 characters.
    pub sku: String,
    /// At most 255 characters.
    pub name: String,
    /// The class that picked the tax rate.
    pub tax_class: String,
    /// 1..=9999.
    pub quantity: u32,
    /// Price of one, in the order's currency.
    pub unit_price: Decimal,
    /// `unit_price` x `quantity`.
    pub subtotal: Decimal,
    /// This line's share of the coupon, `0 <= discount_amount <= subtotal`.
    pub discount_amount: Decimal,
    /// Tax on `subtotal - discount_amount`, rounded half up.
    pub tax_amount: Decimal,
    /// When the line was added.
    pub created_at: Timestamp,
    /// When the line last changed.
    pub updated_at: Timestamp,
}

/// A quantity of something, as inventory counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StockLine {
    /// What.
    pub product: ProductRef,
    /// How many, at least 1.
    pub quantity: u32,
}

/// A line that inventory cannot serve in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shortage {
    /// What.
    pub product: ProductRef,
    /// How many were asked for.
    pub requested_quantity: u32,
    /// How many there are.
    pub available_quantity: u32,
}
