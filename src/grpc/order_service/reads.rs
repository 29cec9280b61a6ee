//! Orders as callers name them. One that the caller does not get at is none.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::OrderApi;
use crate::domain::error::OrderError;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::reach::Reach;
use crate::grpc::convert;
use crate::grpc::validate::OrderKey;

impl OrderApi {
    /// The id that a caller means.
    async fn id_of(&self, key: &OrderKey) -> Result<OrderId, OrderError> {
        match key {
            OrderKey::Id(id) => Ok(*id),
            OrderKey::Number(number) => self.orders.find(number).await?.ok_or_else(|| not_found(key)),
        }
    }

    /// An order that the caller gets at.
    pub(super) async fn look_up(&self, reach: Reach, key: OrderKey) -> Result<Arc<Order>, OrderError> {
        let id = self.id_of(&key).await?;
        let order = self.orders.view(id).await;
        let order = order.map_err(|error| self.hide(reach, id, &key, error))?;
        order.filter(|order| reach.covers(order.user_id)).ok_or_else(|| not_found(&key))
    }

    /// An order that the caller gets at, as the bytes of its whole message.
    pub(super) async fn show(
        &self,
        reach: Reach,
        key: OrderKey,
        may_be_stale: bool,
    ) -> Result<Bytes, OrderError> {
        let id = self.id_of(&key).await?;
        let may = |order: &Order| reach.covers(order.user_id);
        let encode = |order: &Order| Bytes::from(convert::order(order).encode_to_vec());
        let shown = match may_be_stale {
            true => {
                let order = self.orders.view_stale(id).await;
                order.map(|order| order.filter(|order| may(order)).map(|order| encode(&order)))
            }
            false => self.orders.show(id, may, encode).await,
        };
        shown.map_err(|error| self.hide(reach, id, &key, error))?.ok_or_else(|| not_found(&key))
    }

    /// Of an order that cannot be read, a stranger must not be told either that it is there.
    pub(super) fn hide(&self, reach: Reach, id: OrderId, key: &OrderKey, error: OrderError) -> OrderError {
        match error {
            OrderError::Quarantined if reach.excludes(&self.key, id) => not_found(key),
            error => error,
        }
    }
}

/// That there is no such order, by the name that the caller has used.
fn not_found(key: &OrderKey) -> OrderError {
    let order = match key {
        OrderKey::Id(id) => id.to_string(),
        OrderKey::Number(number) => number.to_string(),
    };
    OrderError::OrderNotFound { order }
}
