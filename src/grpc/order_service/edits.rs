//! The calls that change an order's items.

use super::changes::without_id;
use super::{Begun, OrderApi, OrderKey};
use crate::domain::amend;
use crate::domain::command::{OrderCommand, Repeatable};
use crate::domain::error::OrderError;
use crate::domain::ids::{OrderId, content_hash};
use crate::domain::item::StockLine;
use crate::domain::order::Order;
use crate::domain::reach::Reach;
use crate::grpc::convert;
use crate::grpc::validate::{self, Checker};
use crate::proto::order as pb;
use crate::steps::edit::{EditWish, LineLimits, prepare_edit};

/// How often an edit is made anew because the order changed while it was being priced.
const ATTEMPTS: u32 = 3;

/// A checked call.
struct Asked {
    id: OrderId,
    wish: Option<EditWish>,
    expected: Option<i64>,
    repeatable: Option<Repeatable>,
    validate_only: bool,
}

impl OrderApi {
    pub(super) async fn add_item(
        &self,
        begun: &Begun,
        request: pb::AddOrderItemRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        let line: Option<StockLine> = match &request.item {
            Some(item) => validate::line(&mut check, "item", item, &self.config.limits),
            None => {
                check.bad("item", "expected a product and how many of it");
                None
            }
        };
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("AddOrderItem", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let (wish, validate_only) = (line.map(EditWish::Add), request.validate_only);
        self.edit(begun, Asked { id, wish, expected, repeatable, validate_only }).await
    }

    pub(super) async fn update_item(
        &self,
        begun: &Begun,
        request: pb::UpdateOrderItemRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        let item = check.uuid("item_id", &request.item_id);
        let quantity = check.quantity("quantity", request.quantity, &self.config.limits);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("UpdateOrderItem", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let wish = item.zip(quantity).map(|(item, quantity)| EditWish::Set(item, quantity));
        let validate_only = request.validate_only;
        self.edit(begun, Asked { id, wish, expected, repeatable, validate_only }).await
    }

    pub(super) async fn remove_item(
        &self,
        begun: &Begun,
        request: pb::RemoveOrderItemRequest,
    ) -> Result<pb::Order, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        let item = check.uuid("item_id", &request.item_id);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("RemoveOrderItem", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let (wish, validate_only) = (item.map(EditWish::Remove), request.validate_only);
        self.edit(begun, Asked { id, wish, expected, repeatable, validate_only }).await
    }

    async fn edit(&self, begun: &Begun, asked: Asked) -> Result<pb::Order, OrderError> {
        let Asked { id, wish, expected, repeatable, validate_only } = asked;
        let Some(wish) = wish else { return Err(OrderError::Invalid(Vec::new())) };
        let mut attempt = 0u32;
        loop {
            attempt = attempt.saturating_add(1);
            let order = self.look_up(begun.reach, OrderKey::Id(id)).await?;
            let edit =
                self.prepare(begun, &order, wish, expected, repeatable.as_ref(), validate_only).await?;
            if validate_only {
                return Ok(convert::order(&amend::preview(&order, &edit, self.clock.now())?));
            }
            let ask = begun.ask(OrderCommand::Edit(Box::new(edit)), expected, repeatable.clone());
            let wait = begun.wait();
            match self.change(id, ask, wait).await {
                // Unless it is another change that runs: then so it stays.
                Err(OrderError::Busy { .. }) if attempt < ATTEMPTS && self.has_moved(&order).await => {}
                answer => return answer,
            }
        }
    }

    /// The priced edit. One that is a repeat needs no price: its answer is known.
    async fn prepare(
        &self,
        begun: &Begun,
        order: &Order,
        wish: EditWish,
        expected: Option<i64>,
        repeatable: Option<&Repeatable>,
        validate_only: bool,
    ) -> Result<amend::Edit, OrderError> {
        let is_repeat =
            |asked: &Repeatable| order.requests.iter().any(|known| known.request_id == asked.request_id);
        if !validate_only && repeatable.is_some_and(is_repeat) {
            let (items, totals) = (order.items.to_vec(), order.totals);
            return Ok(amend::Edit { base: items.clone(), items, totals });
        }
        if let Some(expected) = expected.filter(|expected| *expected != order.version) {
            return Err(OrderError::VersionMismatch { expected, current: order.version });
        }
        let now = self.clock.now();
        amend::editable(order, now)?;
        let limits = &self.config.limits;
        let limits = LineLimits { lines: limits.items_per_order, quantity: limits.max_quantity };
        let context = self.call_context(begun);
        prepare_edit(&self.collaborators, &*self.pricing, &context, limits, order, wish, now).await
    }

    /// Whether the order has other items than it had.
    async fn has_moved(&self, before: &Order) -> bool {
        let now = self.look_up(Reach::All, OrderKey::Id(before.id)).await;
        now.is_ok_and(|now| now.items != before.items)
    }
}
