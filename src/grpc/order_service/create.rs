//! CreateOrder: checked, priced, admitted, then handed to the order's actor.

use std::collections::BTreeMap;

use prost::Message;
use uuid::Uuid;

use super::{Begun, OrderApi};
use crate::domain::command::OrderCommand;
use crate::domain::error::OrderError;
use crate::domain::ids::{OrderId, content_hash};
use crate::domain::react;
use crate::grpc::quota::Underway;
use crate::grpc::validate::{self, Checker};
use crate::grpc::{access, convert};
use crate::proto::order as pb;
use crate::steps::prepare::prepare;

impl OrderApi {
    pub(super) async fn create(
        &self,
        begun: &Begun,
        request: pb::CreateOrderRequest,
    ) -> Result<pb::Order, OrderError> {
        let now = self.clock.now();
        let mut check = Checker::default();
        let hash = creation_hash(&request);
        let repeatable = check.repeatable(&request.request_id, hash);
        let mut wish = validate::wish(&mut check, &request, &self.config.limits, &*self.pricing);
        check.finish()?;
        access::may_order_for(begun.reach, wish.user_id)?;
        let random = Uuid::new_v4().as_u128() as u64;
        let request_id = repeatable.as_ref().map(|repeatable| repeatable.request_id.as_str());
        wish.id = OrderId::for_request(&self.key, wish.user_id, request_id, now, random);
        wish.request_hash = hash;
        let (id, user_id) = (wish.id, wish.user_id);
        let may_repeat = repeatable.is_some() && !request.validate_only;
        let rejoin = OrderCommand::Rejoin { user_id, request_hash: hash };
        let rejoin = begun.ask(rejoin, None, None);
        // A creation that is a repeat is refused by the store, so only what costs nothing is asked ahead.
        if may_repeat
            && self.orders.is_near(id).await
            && let Some(order) = self.orders.rejoin(id, rejoin.clone(), begun.wait()).await?
        {
            return Ok(convert::order(&order));
        }
        let context = self.call_context(begun);
        let prepared = async {
            self.admit_coupon(begun, &wish).await?;
            let prepared = prepare(&self.collaborators, &*self.pricing, &self.key, &context, wish, now);
            let draft = prepared.await?;
            let admitted = self.admit(begun, &draft, request.validate_only).await?;
            Ok((draft, admitted))
        };
        let (mut draft, admitted) = match prepared.await {
            Ok(admitted) => admitted,
            // What was fine when it was asked for first may not be any more: its answer stays the same.
            Err(error) if may_repeat => {
                let wait = begun.wait();
                let known = self.orders.rejoin(id, rejoin, wait).await?;
                return known.map(|order| convert::order(&order)).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        if request.validate_only {
            return Ok(convert::order(&react::preview(&draft, now)));
        }
        draft.risk = match self.risk_of(&draft, now).await {
            Ok(risk) => risk,
            Err(error) => {
                admitted.into_iter().for_each(Underway::answered);
                return Err(error);
            }
        };
        let ask = begun.ask(OrderCommand::Create(Box::new(draft)), None, repeatable);
        let wait = begun.wait();
        let answer = self.orders.ask(id, ask, wait, true).await;
        admitted.into_iter().for_each(Underway::answered);
        Ok(convert::order(&*answer?))
    }
}

/// Hash of a creation's content: everything but the request id, metadata in a fixed order.
pub(crate) fn creation_hash(request: &pb::CreateOrderRequest) -> [u8; 16] {
    let mut content = request.clone();
    content.request_id.clear();
    let metadata: BTreeMap<String, String> = content.metadata.drain().collect();
    let mut parts = vec![content.encode_to_vec()];
    parts.extend(metadata.into_iter().flat_map(|(key, value)| [key.into_bytes(), value.into_bytes()]));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    content_hash("CreateOrder", &parts)
}
