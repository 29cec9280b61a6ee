//! Client of `user.v1`.

use async_trait::async_trait;
use tonic::transport::Channel;

use super::{Caller, ClientConfig, ClientError, build, channel, unreadable};
use crate::clients::status::Kind;
use crate::domain::address::Address;
use crate::domain::ids::UserId;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::user::{AddressProblem, User, Users};
use crate::proto::user as wire;
use crate::proto::user::user_service_client::UserServiceClient;

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

#[async_trait]
impl Users for UserClient {
    async fn get_user(&self, ctx: &CallContext, user: UserId) -> Result<User, CallError> {
        const METHOD: &str = "user.GetUser";
        let message = wire::GetUserRequest { user_id: user.to_string() };
        let answer = self
            .0
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| async move {
                client.get_user(request).await
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
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| async move {
                client.validate_address(request).await
            })
            .await?;
        let problems = answer.problems.into_iter().take(MAX_PROBLEMS);
        Ok(problems.map(|one| AddressProblem { field: one.field, message: one.message }).collect())
    }
}
