//! The calls that ask for a change of an order that exists.

use std::time::Duration;

use prost::Message;

use super::{Begun, OrderApi, OrderKey};
use crate::domain::command::{Ask, OrderCommand};
use crate::domain::error::OrderError;
use crate::domain::ids::{OrderId, content_hash};
use crate::grpc::convert;
use crate::grpc::validate::{self, Checker};
use crate::proto::order as pb;

impl OrderApi {
    pub(super) async fn update_status(
        &self,
        begun: &Begun,
        request: pb::UpdateOrderStatusRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("id", &request.id);
        let to = check.target_status(request.status);
        let tracking = check.tracking(request.tracking.as_ref(), to);
        let notes = check.note("notes", &request.notes, self.config.limits.notes_chars);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("UpdateOrderStatus", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let Some(to) = to else { return Err(OrderError::Invalid(Vec::new())) };
        let ask = begun.ask(OrderCommand::SetStatus { to, notes, tracking }, expected, repeatable);
        self.change(id, ask, begun.wait()).await
    }

    pub(super) async fn cancel(
        &self,
        begun: &Begun,
        request: pb::CancelOrderRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("id", &request.id);
        let notes = check.note("reason", &request.reason, self.config.limits.notes_chars);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("CancelOrder", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let ask = begun.ask(OrderCommand::Cancel { notes }, expected, repeatable);
        self.change(id, ask, begun.wait()).await
    }

    pub(super) async fn refund(
        &self,
        begun: &Begun,
        request: pb::RefundOrderRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let limits = &self.config.limits;
        let id = check.order_id("id", &request.id);
        let wish = validate::refund_wish(&mut check, &request, limits);
        let reason = check.note("reason", &request.reason, limits.notes_chars);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("RefundOrder", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let ask = begun.ask(OrderCommand::Refund { wish, reason }, expected, repeatable);
        self.change(id, ask, begun.wait()).await
    }

    pub(super) async fn ship_more(
        &self,
        begun: &Begun,
        request: pb::AddShipmentRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("id", &request.id);
        let tracking = check.tracking(request.tracking.as_ref(), None);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("AddShipment", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let ask = begun.ask(OrderCommand::AddShipment { tracking }, expected, repeatable);
        self.change(id, ask, begun.wait()).await
    }

    pub(super) async fn hold(
        &self,
        begun: &Begun,
        request: pb::HoldOrderRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("id", &request.id);
        let reason = check.hold_reason("reason", &request.reason);
        let until = check.time("until", request.until.as_ref());
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("HoldOrder", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let ask = begun.ask(OrderCommand::Hold { reason, until }, expected, repeatable);
        self.change(id, ask, begun.wait()).await
    }

    pub(super) async fn release(
        &self,
        begun: &Begun,
        request: pb::ReleaseOrderRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("id", &request.id);
        let notes = check.note("notes", &request.notes, self.config.limits.notes_chars);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("ReleaseOrder", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let ask = begun.ask(OrderCommand::Release { notes }, expected, repeatable);
        self.change(id, ask, begun.wait()).await
    }

    pub(super) async fn change(
        &self,
        id: OrderId,
        ask: Ask,
        wait: Duration,
    ) -> Result<pb::Order, OrderError> {
        let reach = ask.reach;
        let order = self.orders.ask(id, ask, wait, false).await;
        let order = order.map_err(|error| self.hide(reach, id, &OrderKey::Id(id), error))?;
        Ok(convert::order(&order))
    }
}

pub(super) fn without_id<M: Message + Clone>(request: &M, id: fn(&mut M) -> &mut String) -> Vec<u8> {
    let mut content = request.clone();
    id(&mut content).clear();
    content.encode_to_vec()
}
