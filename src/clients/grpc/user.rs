//! Client of `user.v1`.

use async_trait::async_trait;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::{Caller, ClientConfig, ClientError, build, channel, unreadable};
use crate::clients::status::Kind;
use crate::domain::address::Address;
use crate::domain::ids::UserId;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::user::{AddressProblem, User, Users};
use crate::proto::user as wire;
use crate::proto::user::user_service_client::UserServiceClient;

/// For whom a call is made: the principal's name, the roles by name with commas between them, and the user they are.
const PRINCIPAL: &str = "x-order-principal-bin";
const ROLES: &str = "x-order-roles";
const USER: &str = "x-order-user";
/// Most problems of an address that are passed on.
const MAX_PROBLEMS: usize = 20;

/// The user service at a URL.
#[derive(Debug)]
pub struct UserClient(Caller<UserServiceClient<Channel>>);

impl UserClient {
    /// A client that connects when first used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self(build!(UserServiceClient, Collaborator::User, config)))
    }
}

/// The call with who it is made for, so that the user service can decide by that itself.
fn for_whom<M>(ctx: &CallContext, mut request: Request<M>) -> Request<M> {
    let Some(caller) = &ctx.caller else { return request };
    let metadata = request.metadata_mut();
    metadata.insert_bin(PRINCIPAL, MetadataValue::from_bytes(caller.principal.as_bytes()));
    let roles: Vec<&str> = caller.roles.iter().map(|role| role.name()).collect();
    if let Ok(roles) = roles.join(",").parse() {
        metadata.insert(ROLES, roles);
    }
    if let Some(Ok(user)) = caller.user.map(|user| user.to_string().parse()) {
        metadata.insert(USER, user);
    }
    request
}

#[async_trait]
impl Users for UserClient {
    async fn get_user(&self, ctx: &CallContext, user: UserId) -> Result<User, CallError> {
        const METHOD: &str = "user.GetUser";
        let message = wire::GetUserRequest { user_id: user.to_string() };
        let answer = self
            .0
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| {
                let request = for_whom(ctx, request);
                async move { client.get_user(request).await }
            })
            .await?;
        // An answer about someone else must never let an order through.
        if answer.id.parse() == Ok(user) {
            Ok(User { id: user, active: answer.active })
        } else {
            Err(unreadable(METHOD))
        }
    }

    async fn validate_address(
        &self,
        ctx: &CallContext,
        user: UserId,
        address: &Address,
    ) -> Result<Vec<AddressProblem>, CallError> {
        const METHOD: &str = "user.ValidateAddress";
        let message =
            wire::ValidateAddressRequest { user_id: user.to_string(), address: Some(address.into()) };
        let answer = self
            .0
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| {
                let request = for_whom(ctx, request);
                async move { client.validate_address(request).await }
            })
            .await?;
        let problems = answer.problems.into_iter().take(MAX_PROBLEMS);
        Ok(problems.map(|one| AddressProblem { field: one.field, message: one.message }).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::access::{Caller, Role};

    fn context(caller: Option<Caller>) -> CallContext {
        CallContext { request_id: "r".into(), trace: None, caller, timeout: Duration::from_secs(1) }
    }

    #[test]
    fn the_user_service_is_told_for_whom_it_is_asked() {
        let caller = Caller {
            principal: Arc::from("j\u{e9}r\u{f4}me"),
            roles: Arc::from([Role::Customer, Role::Support]),
            user: Some(UserId(Uuid::from_u128(7))),
            reason: Some(Arc::from("not told")),
            until: None,
        };
        let request = for_whom(&context(Some(caller)), Request::new(()));
        let told = request.metadata();
        let principal = told.get_bin(PRINCIPAL).unwrap().to_bytes().unwrap();
        assert_eq!(principal, "j\u{e9}r\u{f4}me".as_bytes());
        assert_eq!(told.get(ROLES).unwrap(), "customer,support");
        assert_eq!(told.get(USER).unwrap(), &Uuid::from_u128(7).to_string());
        assert_eq!(told.len(), 3, "nothing else is told");
        assert!(for_whom(&context(None), Request::new(())).metadata().is_empty());
    }
}
