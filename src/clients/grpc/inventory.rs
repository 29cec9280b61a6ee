//! Client of `inventory.v1`.

use std::time::Duration;

use async_trait::async_trait;
use prost_types::Duration as WireDuration;
use tonic::transport::Channel;

use super::{Caller, ClientConfig, ClientError, bounded_id, build, channel, unreadable};
use crate::clients::status::Kind;
use crate::clients::wire::{shortage, write_lines};
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::{Shortage, StockLine};
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::inventory::{Inventory, ReleaseOutcome, ReleaseTarget};
use crate::proto::inventory as wire;
use crate::proto::inventory::inventory_service_client::InventoryServiceClient;

/// The inventory service at a URL.
#[derive(Debug)]
pub struct InventoryClient(Caller<InventoryServiceClient<Channel>>);

impl InventoryClient {
    /// A client that connects when first used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self(build!(InventoryServiceClient, Collaborator::Inventory, config)))
    }
}

#[async_trait]
impl Inventory for InventoryClient {
    async fn check_availability(
        &self,
        ctx: &CallContext,
        lines: &[StockLine],
    ) -> Result<Vec<Shortage>, CallError> {
        const METHOD: &str = "inventory.CheckAvailability";
        let message = wire::CheckAvailabilityRequest { lines: write_lines(lines) };
        let answer = self
            .0
            .call(ctx, Kind::Read, METHOD, message, |mut client, request| async move {
                client.check_availability(request).await
            })
            .await?;
        let shortages: Option<Vec<_>> = answer.shortages.iter().map(shortage).collect();
        shortages.ok_or_else(|| unreadable(METHOD))
    }

    async fn reserve(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        lines: &[StockLine],
        ttl: Duration,
    ) -> Result<String, CallError> {
        const METHOD: &str = "inventory.Reserve";
        let message = wire::ReserveRequest {
            key: key.to_string(),
            order_id: order.to_string(),
            lines: write_lines(lines),
            ttl: WireDuration::try_from(ttl).ok(),
        };
        let answer = self
            .0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.reserve(request).await
            })
            .await?;
        bounded_id(answer.reservation_id, METHOD)
    }

    async fn commit(&self, ctx: &CallContext, key: &CallKey, reservation_id: &str) -> Result<(), CallError> {
        const METHOD: &str = "inventory.Commit";
        let message = wire::CommitRequest { key: key.to_string(), reservation_id: reservation_id.to_owned() };
        self.0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.commit(request).await
            })
            .await
            .map(|wire::CommitResponse {}| ())
    }

    async fn release(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        target: &ReleaseTarget,
    ) -> Result<ReleaseOutcome, CallError> {
        use wire::release_request::Target;
        use wire::release_response::Outcome;
        const METHOD: &str = "inventory.Release";
        let target = match target {
            ReleaseTarget::Reservation(id) => Target::ReservationId(id.clone()),
            ReleaseTarget::ReserveKey(key) => Target::ReserveKey(key.to_string()),
        };
        let message = wire::ReleaseRequest { key: key.to_string(), target: Some(target) };
        let answer = self
            .0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.release(request).await
            })
            .await?;
        match answer.outcome() {
            Outcome::Released => Ok(ReleaseOutcome::Released),
            Outcome::NothingHeld => Ok(ReleaseOutcome::NothingHeld),
            Outcome::Committed => {
                let reservation_id = bounded_id(answer.reservation_id, METHOD)?;
                Ok(ReleaseOutcome::Committed { reservation_id })
            }
            Outcome::Unspecified => Err(unreadable(METHOD)),
        }
    }

    async fn restock(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        reservation_id: &str,
        lines: &[StockLine],
    ) -> Result<(), CallError> {
        const METHOD: &str = "inventory.Restock";
        let message = wire::RestockRequest {
            key: key.to_string(),
            reservation_id: reservation_id.to_owned(),
            lines: write_lines(lines),
        };
        self.0
            .call(ctx, Kind::Effect, METHOD, message, |mut client, request| async move {
                client.restock(request).await
            })
            .await
            .map(|wire::RestockResponse {}| ())
    }
}
