//! Which requests are executed by the owner of an order, and how they name it.

use super::forward::Routed;
use crate::domain::ids::{IdKey, OrderId, OrderNumber, UserId};
use crate::proto::admin;
use crate::proto::order as pb;

/// The slot in an id as a caller writes it.
fn of_id(id: &str) -> Option<u16> {
    id.trim().parse().ok().map(OrderId::slot)
}

/// As [`of_id`], also of an order number.
fn of_name(name: &str) -> Option<u16> {
    OrderNumber::parse(name).map_or_else(|| of_id(name), |number| number.slot())
}

impl Routed for pb::CreateOrderRequest {
    type Answer = pb::Order;
    const PATH: &'static str = "/order.v1.OrderService/CreateOrder";

    fn slot(&self, key: &IdKey) -> Option<u16> {
        let user: UserId = self.user_id.trim().parse().ok()?;
        Some(OrderId::slot_of(key, user))
    }

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

/// Requests that name an order in a field, by what reads a slot off it.
macro_rules! routed {
    ($($request:path => $answer:path, $service:literal / $method:literal, $field:ident by $of:ident;)+) => {
        $(impl Routed for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/", $service, "/", $method);

            fn slot(&self, _key: &IdKey) -> Option<u16> {
                $of(&self.$field)
            }

            fn request_id(&mut self) -> Option<&mut String> {
                Some(&mut self.request_id)
            }
        })+
    };
}

routed! {
    pb::UpdateOrderStatusRequest => pb::Order, "order.v1.OrderService" / "UpdateOrderStatus", id by of_id;
    pb::CancelOrderRequest => pb::Order, "order.v1.OrderService" / "CancelOrder", id by of_id;
    pb::RefundOrderRequest => pb::Order, "order.v1.OrderService" / "RefundOrder", id by of_id;
    pb::AddOrderItemRequest => pb::Order, "order.v1.OrderService" / "AddOrderItem", order_id by of_id;
    pb::UpdateOrderItemRequest => pb::Order, "order.v1.OrderService" / "UpdateOrderItem", order_id by of_id;
    pb::RemoveOrderItemRequest => pb::Order, "order.v1.OrderService" / "RemoveOrderItem", order_id by of_id;
    pb::AddShipmentRequest => pb::Order, "order.v1.OrderService" / "AddShipment", id by of_id;
    pb::HoldOrderRequest => pb::Order, "order.v1.OrderService" / "HoldOrder", id by of_id;
    pb::ReleaseOrderRequest => pb::Order, "order.v1.OrderService" / "ReleaseOrder", id by of_id;
    admin::RetryStepRequest => admin::RepairedOrder,
        "order.admin.v1.OrderAdminService" / "RetryStep", order by of_name;
    admin::SkipStepRequest => admin::RepairedOrder,
        "order.admin.v1.OrderAdminService" / "SkipStep", order by of_name;
    admin::ResolvePaymentRequest => admin::RepairedOrder,
        "order.admin.v1.OrderAdminService" / "ResolvePayment", order by of_name;
    admin::UnquarantineOrderRequest => admin::RepairedOrder,
        "order.admin.v1.OrderAdminService" / "UnquarantineOrder", order_id by of_id;
    admin::RewritePersonalDataRequest => admin::RepairedOrder,
        "order.admin.v1.OrderAdminService" / "RewritePersonalData", order_id by of_id;
}

impl Routed for admin::ExplainOrderRequest {
    type Answer = admin::OrderExplanation;
    const PATH: &'static str = "/order.admin.v1.OrderAdminService/ExplainOrder";

    fn slot(&self, _key: &IdKey) -> Option<u16> {
        of_name(&self.order)
    }

    fn request_id(&mut self) -> Option<&mut String> {
        None
    }
}
