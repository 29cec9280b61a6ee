//! The calls that answer in pages.

use super::{Begun, OrderApi, OrderKey};
use crate::domain::error::OrderError;
use crate::domain::ids::content_hash;
use crate::domain::reach::Reach;
use crate::grpc::validate::Checker;
use crate::grpc::{convert, page};
use crate::ports::store::ListQuery;
use crate::proto::order as pb;

impl OrderApi {
    pub(super) async fn list(
        &self,
        begun: &Begun,
        request: pb::ListOrdersRequest,
    ) -> Result<pb::ListOrdersResponse, OrderError> {
        let mut check = Checker::default();
        let limit = check.page_size(request.page_size, &self.config.limits);
        let asked = (!request.user_id.is_empty()).then(|| check.user_id("user_id", &request.user_id));
        let (user_id, none_at_all) = match begun.reach {
            Reach::All => (asked, false),
            // Left out, it is the caller. Another user has no orders, as far as the caller can tell.
            Reach::Own(own) => {
                (asked.or(own), own.is_none() || asked.is_some_and(|asked| Some(asked) != own))
            }
        };
        let mut statuses = Vec::new();
        for (index, number) in request.statuses.iter().enumerate() {
            statuses.extend(check.status(&format!("statuses[{index}]"), *number));
        }
        statuses.sort();
        statuses.dedup();
        let oldest_first = match request.order_by.trim() {
            "" | "created_at desc" => false,
            "created_at" | "created_at asc" => true,
            _ => {
                check.bad("order_by", "expected \"created_at desc\" or \"created_at\"");
                false
            }
        };
        let created_after = check.time("created_after", request.created_after.as_ref());
        let created_before = check.time("created_before", request.created_before.as_ref());
        // Bound to what is asked, however it is written.
        let mut asked =
            format!("{user_id:?} {statuses:?} {created_after:?} {created_before:?} {oldest_first}");
        if begun.reach.is_own() {
            asked.push_str(" own");
        }
        let filter = content_hash("ListOrders", &[asked.as_bytes()]);
        let after = page::parse(&self.key, &filter, &request.page_token, &mut check.violations);
        check.finish()?;
        if none_at_all {
            return Ok(pb::ListOrdersResponse::default());
        }
        let query = ListQuery {
            user_id,
            statuses,
            created_after,
            created_before,
            oldest_first,
            after: after.and_then(page::cursor),
            // One more than asked for tells whether there is a next page.
            limit: limit.saturating_add(1),
        };
        let mut orders = self.orders.list(&query).await?;
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = orders.len() > size;
        orders.truncate(size);
        let next_page_token = match orders.last() {
            Some(last) if more => {
                page::token(&self.key, &filter, last.created_at.timestamp_micros(), last.id.0)
            }
            _ => String::new(),
        };
        let orders = orders.iter().map(|order| convert::order(order)).collect();
        Ok(pb::ListOrdersResponse { orders, next_page_token })
    }

    pub(super) async fn list_events(
        &self,
        begun: &Begun,
        request: pb::ListOrderEventsRequest,
    ) -> Result<pb::ListOrderEventsResponse, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        let limit = check.page_size(request.page_size, &self.config.limits);
        if request.after_sequence < 0 {
            check.bad("after_sequence", "expected 0 or a sequence");
        }
        let start = request.after_sequence.to_be_bytes();
        let filter = content_hash("ListOrderEvents", &[id.0.as_bytes(), &start]);
        let after = page::parse(&self.key, &filter, &request.page_token, &mut check.violations);
        check.finish()?;
        self.look_up(begun.reach, OrderKey::Id(id)).await?;
        let after_seq = after.map_or(request.after_sequence, |(seq, _)| seq);
        let mut events = self.orders.events(id, after_seq, limit.saturating_add(1)).await?;
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = events.len() > size;
        events.truncate(size);
        let next_page_token = match events.last() {
            Some(last) if more => page::token(&self.key, &filter, last.seq, id.0),
            _ => String::new(),
        };
        let events = events.iter().map(|event| convert::event(id, event)).collect();
        Ok(pb::ListOrderEventsResponse { events, next_page_token })
    }
}
