//! The calls that change what an order is made of.

use super::{ApiError, OrdersClient};
use crate::proto::order;

impl OrdersClient {
    /// `AddOrderItem`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn add_item(&mut self, content: order::AddOrderItemRequest) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.add_order_item(request).await;
        self.plain(answer)
    }

    /// `UpdateOrderItem`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn update_item(
        &mut self,
        content: order::UpdateOrderItemRequest,
    ) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.update_order_item(request).await;
        self.plain(answer)
    }

    /// `RemoveOrderItem`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn remove_item(
        &mut self,
        content: order::RemoveOrderItemRequest,
    ) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.remove_order_item(request).await;
        self.plain(answer)
    }

    /// `AddShipment`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn add_shipment(
        &mut self,
        content: order::AddShipmentRequest,
    ) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.add_shipment(request).await;
        self.plain(answer)
    }
}
