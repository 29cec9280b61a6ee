//! Orders as callers name them. One that the caller does not get at is none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use prost::Message;
use tonic::Response;

use super::OrderApi;
use crate::domain::error::OrderError;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::reach::Reach;
use crate::grpc::validate::OrderKey;
use crate::grpc::{convert, headers};
use crate::ports::seen::{Glance, Seen};

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

    /// Where an order stands that the caller gets at.
    pub(super) async fn glance(&self, reach: Reach, key: OrderKey) -> Result<Seen<Glance>, OrderError> {
        let id = self.id_of(&key).await?;
        let seen = self.orders.glance(id).await;
        let seen = seen.map_err(|error| self.hide(reach, id, &key, error))?;
        seen.filter(|seen| reach.covers(seen.what.user_id)).ok_or_else(|| not_found(&key))
    }

    /// An order that the caller gets at, as the bytes of its whole message.
    pub(super) async fn show(
        &self,
        reach: Reach,
        key: OrderKey,
        may_be_stale: bool,
    ) -> Result<Seen<Bytes>, OrderError> {
        let id = self.id_of(&key).await?;
        let may = |order: &Order| reach.covers(order.user_id);
        let encode = |order: &Order| Bytes::from(convert::order(order).encode_to_vec());
        let shown = match may_be_stale {
            true => {
                let seen = self.orders.view_stale(id).await;
                seen.map(|seen| {
                    seen.filter(|seen| may(&seen.what)).map(|seen| seen.map(|order| encode(&order)))
                })
            }
            false => self.orders.show(id, may, encode).await.map(|shown| shown.map(Seen::now)),
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

/// Says how old the answer is, where it may be old and that is known.
pub(super) fn tell_age<T>(response: &mut Response<T>, age: Option<Duration>) {
    if let Some(age) = age {
        // Rounded up: it is no older than that.
        let millis = u64::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        let told = if millis == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(millis) };
        response.metadata_mut().as_mut().insert(&headers::AGE, told);
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
