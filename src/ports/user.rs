//! Users: whether they may order, and whether an address can be delivered to.

use std::fmt::Debug;

use async_trait::async_trait;

use super::call::{CallContext, CallError};
use crate::domain::address::Address;
use crate::domain::ids::UserId;

/// Reasons of refusals by the user service.
pub mod reason {
    /// There is no such user.
    pub const USER_NOT_FOUND: &str = "USER_NOT_FOUND";
}

/// A user, as far as orders care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Whether the user may order.
    pub active: bool,
}

/// What is wrong with one field of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressProblem {
    /// Name of the field, as in the API (`postal_code`).
    pub field: String,
    /// For people; does not repeat the value.
    pub message: String,
}

/// The user service.
#[async_trait]
pub trait Users: Send + Sync + Debug {
    /// Looks a user up.
    ///
    /// # Errors
    /// Refused `USER_NOT_FOUND`.
    async fn get_user(&self, ctx: &CallContext, user: UserId) -> Result<User, CallError>;

    /// What is wrong with an address; empty means nothing is.
    ///
    /// # Errors
    /// Refused `USER_NOT_FOUND`.
    async fn validate_address(
        &self,
        ctx: &CallContext,
        user: UserId,
        address: &Address,
    ) -> Result<Vec<AddressProblem>, CallError>;
}
