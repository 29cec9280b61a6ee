//! The simulated product and user services: what is in the catalogue.

use async_trait::async_trait;

use super::Simulator;
use super::catalogue::{BAD_POSTAL_CODE, user_active};
use super::faults::Method;
use super::ledger::{MAX_LINES, invalid};
use crate::domain::address::Address;
use crate::domain::ids::UserId;
use crate::domain::item::ProductRef;
use crate::ports::call::{CallContext, CallError};
use crate::ports::product::{Product, Products};
use crate::ports::user::{AddressProblem, User, Users, reason};

#[async_trait]
impl Products for Simulator {
    async fn batch_get(&self, ctx: &CallContext, refs: &[ProductRef]) -> Result<Vec<Product>, CallError> {
        let refs = refs.to_vec();
        self.call(ctx, Method::BatchGetProducts, move |core, plan| {
            if refs.is_empty() || refs.len() > MAX_LINES {
                return Err(invalid("products must have 1 to 200 entries"));
            }
            plan.fail_here()?;
            Ok(refs.iter().filter_map(|wanted| core.products.get(wanted)).cloned().collect())
        })
        .await
    }
}

fn find(user: UserId) -> Result<User, CallError> {
    let active =
        user_active(user).ok_or_else(|| CallError::refused(reason::USER_NOT_FOUND, "no such user"))?;
    Ok(User { id: user, active })
}

impl Simulator {
    /// Checks an address; only its postal code is of interest here.
    pub(super) async fn validate_postal_code(
        &self,
        ctx: &CallContext,
        user: UserId,
        postal_code: &str,
    ) -> Result<Vec<AddressProblem>, CallError> {
        let bad = postal_code == BAD_POSTAL_CODE;
        self.call(ctx, Method::ValidateAddress, move |_, plan| {
            find(user)?;
            plan.fail_here()?;
            let problem = || AddressProblem {
                field: "postal_code".to_owned(),
                message: "no such postal code".to_owned(),
            };
            Ok(bad.then(problem).into_iter().collect())
        })
        .await
    }
}

#[async_trait]
impl Users for Simulator {
    async fn get_user(&self, ctx: &CallContext, user: UserId) -> Result<User, CallError> {
        self.call(ctx, Method::GetUser, move |_, plan| {
            let found = find(user)?;
            plan.fail_here()?;
            Ok(found)
        })
        .await
    }

    async fn validate_address(
        &self,
        ctx: &CallContext,
        user: UserId,
        address: &Address,
    ) -> Result<Vec<AddressProblem>, CallError> {
        self.validate_postal_code(ctx, user, &address.postal_code).await
    }
}
