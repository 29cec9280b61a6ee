//! Where orders are kept: implementations of [`crate::ports::store::OrderStore`].

mod bind;
pub mod committer;
mod coupon_rules;
mod evidence;
mod fields;
mod links;
pub mod postgres;
mod rows;
pub mod sqlite;
mod written;

/// A migration that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub description: String,
}
