//! Shipping: labels.

use std::fmt::Debug;

use async_trait::async_trait;

use super::call::{CallContext, CallError};
use crate::domain::address::Address;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::StockLine;

/// Reasons of refusals by the shipping service.
pub mod reason {
    /// The label, or its key before it arrived, was voided.
    pub const LABEL_VOIDED: &str = "LABEL_VOIDED";
}

/// A label that a parcel can be sent with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// Who carries the parcel.
    pub carrier: String,
    /// The carrier's number for it.
    pub tracking_number: String,
    /// Where the label can be printed from.
    pub label_url: String,
}

/// The shipping service. Every call may be repeated with its key and then answers the same.
#[async_trait]
pub trait Shipping: Send + Sync + Debug {
    /// Makes a label.
    ///
    /// # Errors
    /// Refused `LABEL_VOIDED` when the key was voided before, or a reason of the carrier's.
    async fn create_label(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        method: &str,
        to: &Address,
        lines: &[StockLine],
    ) -> Result<Label, CallError>;

    /// Voids the label that `create_label` with this key made or will make. Voiding what never existed succeeds
    /// and leaves a tombstone: a late `create_label` with the key is refused.
    ///
    /// # Errors
    /// [`CallError`].
    async fn void_label(&self, ctx: &CallContext, key: &CallKey) -> Result<(), CallError>;
}
