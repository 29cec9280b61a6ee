//! How values look on the wires of the collaborators; used by their clients and by the simulator's server.

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::domain::address::Address;
use crate::domain::item::{ProductRef, Shortage, StockLine};
use crate::domain::money::{Currency, parse_amount};
use crate::proto;

/// A variant's id; empty for none.
pub(super) fn variant_text(product: &ProductRef) -> String {
    product.variant_id.map(|id| id.to_string()).unwrap_or_default()
}

/// Reads a product reference; `None` when an id is no UUID.
pub(super) fn product_ref(product_id: &str, variant_id: &str) -> Option<ProductRef> {
    let variant_id = match variant_id {
        "" => None,
        text => Some(Uuid::try_parse(text).ok()?),
    };
    Some(ProductRef { product_id: Uuid::try_parse(product_id).ok()?, variant_id })
}

/// Reads an amount and its currency; `None` when either is not to be had.
pub(super) fn money(amount: &str, currency: &str) -> Option<(Decimal, Currency)> {
    let currency = Currency::from_code(currency)?;
    Some((parse_amount(amount, currency).ok()?, currency))
}

/// Both directions of a line of some package.
macro_rules! lines {
    ($($message:ty),+) => {
        $(impl From<&StockLine> for $message {
            fn from(line: &StockLine) -> Self {
                Self {
                    product_id: line.product.product_id.to_string(),
                    variant_id: variant_text(&line.product),
                    quantity: line.quantity,
                }
            }
        }

        impl ReadLine for $message {
            fn read(&self) -> Option<StockLine> {
                let product = product_ref(&self.product_id, &self.variant_id)?;
                Some(StockLine { product, quantity: self.quantity })
            }
        })+
    };
}

/// A line of some package, to be read.
pub(super) trait ReadLine {
    /// The line; `None` when an id is no UUID.
    fn read(&self) -> Option<StockLine>;
}

lines!(proto::inventory::StockLine, proto::shipping::ParcelLine);

/// Lines for the wire.
pub(super) fn write_lines<L: for<'a> From<&'a StockLine>>(lines: &[StockLine]) -> Vec<L> {
    lines.iter().map(L::from).collect()
}

/// Lines from the wire; `None` when an id is no UUID.
pub(super) fn read_lines<L: ReadLine>(lines: &[L]) -> Option<Vec<StockLine>> {
    lines.iter().map(L::read).collect()
}

impl From<&Shortage> for proto::inventory::Shortage {
    fn from(shortage: &Shortage) -> Self {
        Self {
            product_id: shortage.product.product_id.to_string(),
            variant_id: variant_text(&shortage.product),
            requested_quantity: shortage.requested_quantity,
            available_quantity: shortage.available_quantity,
        }
    }
}

/// Reads a shortage; `None` when an id is no UUID.
pub(super) fn shortage(message: &proto::inventory::Shortage) -> Option<Shortage> {
    Some(Shortage {
        product: product_ref(&message.product_id, &message.variant_id)?,
        requested_quantity: message.requested_quantity,
        available_quantity: message.available_quantity,
    })
}

/// Addresses of packages that have the same fields.
macro_rules! addresses {
    ($($message:ty),+) => {
        $(impl From<&Address> for $message {
            fn from(address: &Address) -> Self {
                Self {
                    first_name: address.first_name.clone(),
                    last_name: address.last_name.clone(),
                    address_line1: address.address_line1.clone(),
                    address_line2: address.address_line2.clone().unwrap_or_default(),
                    city: address.city.clone(),
                    state: address.state.clone(),
                    postal_code: address.postal_code.clone(),
                    country: address.country.to_string(),
                    phone: address.phone.clone().unwrap_or_default(),
                    email: address.email.clone().unwrap_or_default(),
                }
            }
        })+
    };
}

addresses!(proto::user::Address, proto::shipping::Address);
