//! What the simulator sells, to whom, and which tokens misbehave: fixed, so that tests and samples can name it.

use rust_decimal::Decimal;
use uuid::{Uuid, uuid};

use crate::domain::ids::UserId;
use crate::domain::item::ProductRef;
use crate::domain::money::Currency;
use crate::ports::product::Product;

/// Units on sale at start of everything that is not rare.
pub const PLENTY: u64 = 1_000_000_000;

/// The product of the samples: it has one variant, [`SAMPLE_VARIANT`], at 44.99 USD.
pub const SAMPLE_PRODUCT: Uuid = uuid!("123e4567-e89b-12d3-a456-426614174001");
/// The variant of [`SAMPLE_PRODUCT`].
pub const SAMPLE_VARIANT: Uuid = uuid!("123e4567-e89b-12d3-a456-426614174002");
/// The user of the samples.
pub const SAMPLE_USER: UserId = UserId(uuid!("123e4567-e89b-12d3-a456-426614174000"));
/// A user who may not order.
pub const INACTIVE_USER: UserId = UserId(uuid!("20000000-0000-4000-8000-000000000099"));
/// Users of [`user`] that exist and are active: numbers 1 up to this one.
pub const USERS: u32 = 20;
/// The first 32 bits of ids of load users: every UUID that begins with them is an active user.
pub const LOAD_USER_PREFIX: u32 = 0x10ad_0000;

/// Number, for [`product`], of a product that is not active.
pub const INACTIVE_PRODUCT: u32 = 8;
/// Number of a product with nothing on sale.
pub const SOLD_OUT_PRODUCT: u32 = 9;
/// Number of a product with three units on sale.
pub const RARE_PRODUCT: u32 = 10;
/// Number of a product that costs 0.00 USD.
pub const FREE_PRODUCT: u32 = 11;
/// Number of a product that costs 99999.99 USD.
pub const EXPENSIVE_PRODUCT: u32 = 12;

/// A postal code that no address validates with.
pub const BAD_POSTAL_CODE: &str = "00000";

/// Declined with `CARD_DECLINED`.
pub const TOKEN_DECLINED: &str = "tok_declined";
/// Declined with `INSUFFICIENT_FUNDS`.
pub const TOKEN_INSUFFICIENT: &str = "tok_insufficient";
/// Declined with `EXPIRED_CARD`.
pub const TOKEN_EXPIRED: &str = "tok_expired";
/// Charged, but the first answer is lost.
pub const TOKEN_LOST_REPLY: &str = "tok_lost_reply";
/// Charged after two seconds; pending meanwhile.
pub const TOKEN_SLOW: &str = "tok_slow";
/// Never gets through, surely without effect.
pub const TOKEN_UNAVAILABLE: &str = "tok_unavailable";

/// One thing to sell and how many there are at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogueEntry {
    /// As the product service tells it.
    pub product: Product,
    /// Units at start.
    pub stock: u64,
}

/// The product with a number, 1 to 40, asked for without variant.
pub const fn product(number: u32) -> ProductRef {
    ProductRef { product_id: numbered(0x1000_0000, number), variant_id: None }
}

/// Variant 1, 2 or 3 of the product with a number.
pub const fn variant(number: u32, variant: u32) -> ProductRef {
    let id = numbered(0x1100_0000, number.saturating_mul(100).saturating_add(variant));
    ProductRef { product_id: product(number).product_id, variant_id: Some(id) }
}

/// The user with a number: active for 1 to [`USERS`].
pub const fn user(number: u32) -> UserId {
    UserId(numbered(0x2000_0000, number))
}

/// The load user with a number.
pub const fn load_user(number: u64) -> UserId {
    let head = (LOAD_USER_PREFIX as u128) << 96;
    UserId(Uuid::from_u128(head | (4 << 76) | (0b10 << 62) | number as u128))
}

/// `xxxxxxxx-0000-4000-8000-0000NNNNNNNN`, the number written in decimal digits.
const fn numbered(head: u32, number: u32) -> Uuid {
    let mut digits = 0u128;
    let mut rest = number;
    let mut shift = 0u32;
    while rest > 0 {
        digits |= ((rest % 10) as u128) << shift;
        rest /= 10;
        shift = shift.saturating_add(4);
    }
    Uuid::from_u128(((head as u128) << 96) | (4 << 76) | (0b10 << 62) | digits)
}

/// Whether a user exists, and if so whether active.
pub fn user_active(user: UserId) -> Option<bool> {
    if user == INACTIVE_USER {
        return Some(false);
    }
    let known = user == SAMPLE_USER
        || user.0.as_u128() >> 96 == u128::from(LOAD_USER_PREFIX)
        || (1..=USERS).any(|number| self::user(number) == user);
    known.then_some(true)
}

struct Row {
    number: u32,
    variant: u32,
    sku: &'static str,
    name: &'static str,
    price: &'static str,
    currency: &'static str,
    tax_class: &'static str,
    active: bool,
    stock: u64,
}

// A table reads better with its columns unnamed.
#[allow(clippy::too_many_arguments)]
const fn row(
    number: u32,
    variant: u32,
    sku: &'static str,
    name: &'static str,
    price: &'static str,
    currency: &'static str,
    tax_class: &'static str,
    active: bool,
    stock: u64,
) -> Row {
    Row { number, variant, sku, name, price, currency, tax_class, active, stock }
}

/// Product number, variant number (0: none), SKU, name, price, currency, tax class, active, stock.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(1, 0, "BOOK-001", "Field Guide to Birds", "18.50", "USD", "reduced", true, PLENTY),
    row(2, 1, "TSHIRT-002-S", "T-Shirt - Small", "19.99", "USD", "standard", true, PLENTY),
    row(2, 2, "TSHIRT-002-M", "T-Shirt - Medium", "19.99", "USD", "standard", true, PLENTY),
    row(2, 3, "TSHIRT-002-L", "T-Shirt - Large", "21.99", "USD", "standard", true, PLENTY),
    row(3, 0, "MUG-003", "Coffee Mug", "9.95", "USD", "standard", true, PLENTY),
    row(4, 0, "LAMP-004", "Desk Lamp", "34.00", "USD", "standard", true, PLENTY),
    row(5, 0, "COFFEE-005", "Coffee Beans 1 kg", "14.25", "USD", "food", true, PLENTY),
    row(6, 0, "EBOOK-006", "E-Book Reader License", "7.77", "USD", "digital", true, PLENTY),
    row(7, 0, "GIFT-007", "Gift Card", "50.00", "USD", "exempt", true, PLENTY),
    row(8, 0, "RADIO-008", "Discontinued Radio", "59.90", "USD", "standard", false, PLENTY),
    row(9, 0, "SOLDOUT-009", "Sold-Out Poster", "12.00", "USD", "standard", true, 0),
    row(10, 0, "RARE-010", "Rare Print (three left)", "80.00", "USD", "standard", true, 3),
    row(11, 0, "SAMPLE-011", "Free Sample", "0.00", "USD", "standard", true, PLENTY),
    row(12, 0, "WATCH-012", "Very Expensive Watch", "99999.99", "USD", "standard", true, PLENTY),
    row(13, 1, "SHOE-013-40", "Shoe - 40", "89.90", "USD", "standard", true, PLENTY),
    row(13, 2, "SHOE-013-42", "Shoe - 42", "89.90", "USD", "standard", true, PLENTY),
    row(14, 0, "CENT-014", "Single Screw", "0.01", "USD", "standard", true, PLENTY),
    row(15, 0, "THIRD-015", "Candle", "3.33", "USD", "standard", true, PLENTY),
    row(16, 0, "MILK-016", "Oat Milk", "2.49", "USD", "food", true, PLENTY),
    row(17, 0, "BUCH-017", "Paperback Novel", "12.99", "EUR", "reduced", true, PLENTY),
    row(18, 0, "BROT-018", "Rye Bread", "3.79", "EUR", "food", true, PLENTY),
    row(19, 1, "RAD-019-RED", "Bicycle - Red", "649.00", "EUR", "standard", true, PLENTY),
    row(19, 2, "RAD-019-BLUE", "Bicycle - Blue", "649.00", "EUR", "standard", true, PLENTY),
    row(20, 0, "HELM-020", "Bicycle Helmet", "59.95", "EUR", "standard", true, PLENTY),
    row(21, 0, "KURS-021", "Online Course", "129.00", "EUR", "digital", true, PLENTY),
    row(22, 0, "STAMP-022", "Postage Stamps", "8.50", "EUR", "exempt", true, PLENTY),
    row(23, 0, "PEN-023", "Fountain Pen", "24.90", "EUR", "standard", true, PLENTY),
    row(24, 0, "TEA-024", "Breakfast Tea", "4.75", "GBP", "food", true, PLENTY),
    row(25, 0, "UMBR-025", "Umbrella", "22.50", "GBP", "standard", true, PLENTY),
    row(26, 1, "SCARF-026-GRN", "Scarf - Green", "35.00", "GBP", "standard", true, PLENTY),
    row(26, 2, "SCARF-026-NVY", "Scarf - Navy", "35.00", "GBP", "standard", true, PLENTY),
    row(27, 0, "NEWS-027", "Magazine", "5.99", "GBP", "exempt", true, PLENTY),
    row(28, 0, "ALBUM-028", "Music Album (download)", "9.99", "GBP", "digital", true, PLENTY),
    row(29, 0, "KETTLE-029", "Kettle", "44.49", "GBP", "standard", true, PLENTY),
    row(30, 0, "MANGA-030", "Comic Volume 1", "528", "JPY", "standard", true, PLENTY),
    row(31, 0, "RICE-031", "Rice 5 kg", "2480", "JPY", "reduced", true, PLENTY),
    row(32, 0, "CAMERA-032", "Camera", "128000", "JPY", "standard", true, PLENTY),
    row(33, 1, "YUKATA-033-M", "Yukata - M", "6600", "JPY", "standard", true, PLENTY),
    row(33, 2, "YUKATA-033-L", "Yukata - L", "6600", "JPY", "standard", true, PLENTY),
    row(34, 0, "GAME-034", "Game (download)", "7150", "JPY", "digital", true, PLENTY),
    row(35, 0, "DATES-035", "Dates 500 g", "1.250", "KWD", "food", true, PLENTY),
    row(36, 0, "OUD-036", "Oud Perfume", "18.750", "KWD", "standard", true, PLENTY),
    row(37, 0, "RUG-037", "Rug", "145.005", "KWD", "standard", true, PLENTY),
    row(38, 0, "SPICE-038", "Spice Box", "0.375", "KWD", "food", true, PLENTY),
    row(39, 0, "LIC-039", "Software License", "9.990", "KWD", "digital", true, PLENTY),
    row(40, 0, "CABLE-040", "USB Cable", "6.49", "USD", "standard", true, PLENTY),
];

/// Everything that is sold.
pub fn entries() -> Vec<CatalogueEntry> {
    let sample = ProductRef { product_id: SAMPLE_PRODUCT, variant_id: Some(SAMPLE_VARIANT) };
    let first = row(
        0,
        0,
        "PROD-001-VAR-002",
        "Product Name - Variant Name",
        "44.99",
        "USD",
        "standard",
        true,
        PLENTY,
    );
    let rest = ROWS.iter().map(|row| {
        let named = if row.variant == 0 { product(row.number) } else { variant(row.number, row.variant) };
        (named, row)
    });
    std::iter::once((sample, &first)).chain(rest).filter_map(|(named, row)| entry(named, row)).collect()
}

/// `None` only for a misspelled row; a test counts the rows.
fn entry(product: ProductRef, row: &Row) -> Option<CatalogueEntry> {
    let product = Product {
        product,
        sku: row.sku.to_owned(),
        name: row.name.to_owned(),
        unit_price: Decimal::from_str_exact(row.price).ok()?,
        currency: Currency::from_code(row.currency)?,
        tax_class: row.tax_class.to_owned(),
        active: row.active,
    };
    Some(CatalogueEntry { product, stock: row.stock })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::money::is_amount;

    #[test]
    fn every_row_is_sound() {
        let entries = entries();
        assert_eq!(entries.len(), ROWS.len() + 1);
        let refs: HashSet<_> = entries.iter().map(|entry| entry.product.product).collect();
        let skus: HashSet<_> = entries.iter().map(|entry| entry.product.sku.clone()).collect();
        assert_eq!((refs.len(), skus.len()), (entries.len(), entries.len()));
        for entry in &entries {
            let Product { unit_price, currency, sku, .. } = &entry.product;
            assert!(is_amount(*unit_price, *currency), "{sku}");
            assert_eq!(unit_price.scale(), currency.digits(), "{sku}");
        }
    }

    #[test]
    fn ids_read_as_documented() {
        assert_eq!(product(7).product_id.to_string(), "10000000-0000-4000-8000-000000000007");
        assert_eq!(product(40).product_id.to_string(), "10000000-0000-4000-8000-000000000040");
        let shoe = variant(13, 2).variant_id.map(|id| id.to_string());
        assert_eq!(shoe.as_deref(), Some("11000000-0000-4000-8000-000000001302"));
        assert_eq!(user(99), INACTIVE_USER);
    }

    #[test]
    fn users() {
        assert_eq!(user_active(SAMPLE_USER), Some(true));
        assert_eq!(user_active(user(20)), Some(true));
        assert_eq!(user_active(user(21)), None);
        assert_eq!(user_active(INACTIVE_USER), Some(false));
        assert_eq!(user_active(load_user(123_456_789)), Some(true));
        assert_eq!(user_active(UserId(uuid!("10ad0001-0000-4000-8000-000000000000"))), None);
    }
}
