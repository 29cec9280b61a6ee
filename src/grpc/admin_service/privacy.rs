//! What operators ask about personal data: erasing, encrypting, other keys.

use std::sync::Arc;

use tonic::Request;
use uuid::Uuid;

use super::super::order_service::Begun;
use super::{AdminApi, told, without_id};
use crate::domain::Timestamp;
use crate::domain::command::OrderCommand;
use crate::domain::error::OrderError;
use crate::domain::ids::{OrderId, UserId, content_hash};
use crate::domain::order::Order;
use crate::domain::repair::{BY_CHARS, REASON_CHARS, Repair, RepairOrder};
use crate::domain::status::OrderStatus;
use crate::grpc::convert::time;
use crate::grpc::forward::Refusal;
use crate::grpc::validate::Checker;
use crate::ports::store::{ListCursor, ListQuery, StoreError};
use crate::ports::vault::{Custodian, Erasure, KeyId};
use crate::proto::admin as pb;

/// Orders of a user that are erased by one call.
const ERASED_AT_ONCE: u32 = 50;

/// Where an order may still need its address.
const UNFINISHED: [OrderStatus; 5] = [
    OrderStatus::Pending,
    OrderStatus::Confirmed,
    OrderStatus::Processing,
    OrderStatus::Shipped,
    OrderStatus::Cancelling,
];

fn refused(what: impl Into<String>) -> OrderError {
    OrderError::RepairRefused { status: None, what: what.into() }
}

fn unavailable(error: &StoreError) -> OrderError {
    tracing::error!(%error, "what an operator asked about personal data could not be done");
    OrderError::StorageUnavailable
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn cursor(token: &str) -> Option<ListCursor> {
    let (at, id) = token.split_once('.')?;
    let created_at = Timestamp::from_timestamp_micros(at.parse().ok()?)?;
    Some(ListCursor { created_at, id: OrderId(Uuid::try_parse(id).ok()?) })
}

impl AdminApi {
    fn keys(&self) -> Result<&Arc<dyn Custodian>, OrderError> {
        self.custodian.as_ref().ok_or_else(|| {
            refused("personal data is not encrypted here, so there are no keys; set privacy.mode to encrypt")
        })
    }

    pub(super) async fn erase(
        &self,
        begun: &Begun,
        request: pb::EraseUserRequest,
    ) -> Result<pb::EraseUserResponse, OrderError> {
        let mut check = Checker::default();
        let user = check.user_id("user_id", &request.user_id);
        let reason = check.line("reason", &request.reason, true, REASON_CHARS);
        let by = check.line("by", &request.by, false, BY_CHARS);
        let after = cursor(&request.page_token);
        if after.is_none() && !request.page_token.is_empty() {
            check.bad("page_token", "expected the next_page_token of an earlier answer");
        }
        check.finish()?;
        let custodian = self.keys()?;
        let at = self.clock.now();
        let mut answer = pb::EraseUserResponse { at: Some(time(at)), ..Default::default() };
        if after.is_none() {
            if !request.force {
                self.no_unfinished_orders(user).await?;
            }
            let principal = begun.origin.caller.principal.to_string();
            let erasure = Erasure { user, at, principal, by: by.clone(), reason: reason.clone() };
            let destroyed = custodian.destroy(erasure).await.map_err(|error| unavailable(&error))?;
            answer.destroyed_keys = destroyed.iter().map(KeyId::to_string).collect();
        }
        let mut page = self.page_of(user, Vec::new(), after, ERASED_AT_ONCE.saturating_add(1)).await?;
        let size = usize::try_from(ERASED_AT_ONCE).unwrap_or(usize::MAX);
        let more = page.len() > size;
        page.truncate(size);
        for order in &page {
            self.erase_order(begun, custodian, order, (&reason, &by), &mut answer).await?;
        }
        // What was fetched while the keys were being destroyed goes as well.
        custodian.forget(user);
        if let Some(last) = page.last().filter(|_| more) {
            answer.next_page_token = format!("{}.{}", last.created_at.timestamp_micros(), last.id);
        }
        Ok(answer)
    }

    async fn erase_order(
        &self,
        begun: &Begun,
        custodian: &Arc<dyn Custodian>,
        order: &Order,
        (reason, by): (&str, &str),
        answer: &mut pb::EraseUserResponse,
    ) -> Result<(), OrderError> {
        let tried =
            custodian.attempt(order.id).await.map_err(|error| unavailable(&error))?.unwrap_or_default();
        answer.orders = answer.orders.saturating_add(1);
        answer.sealed_texts = answer.sealed_texts.saturating_add(count(tried.sealed));
        answer.opened_texts = answer.opened_texts.saturating_add(count(tried.opened));
        answer.plain_texts = answer.plain_texts.saturating_add(count(tried.plain));
        answer.plain_history_texts = answer.plain_history_texts.saturating_add(count(tried.plain_history));
        // First what is stored, so that no node that loads the order now brings it back.
        let done = match custodian.take_out(order.id).await {
            Ok(()) => self.have_rewritten(begun, order.id, true, (reason, by)).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = done {
            tracing::warn!(order_id = %order.id, error, "personal data could not be taken out of an order");
            answer.failed_orders.push(order.id.to_string());
        }
        Ok(())
    }

    /// Has an order rewritten where it is owned.
    async fn have_rewritten(
        &self,
        begun: &Begun,
        order: OrderId,
        erase: bool,
        (reason, by): (&str, &str),
    ) -> Result<(), String> {
        let request = pb::RewritePersonalDataRequest {
            order_id: order.to_string(),
            erase,
            reason: reason.to_owned(),
            by: by.to_owned(),
            request_id: String::new(),
        };
        let done = self.execute(begun, Request::new(request), |request| self.rewrite(begun, request)).await;
        done.map(drop).map_err(|refusal| match refusal {
            Refusal::Told(status) => status.message().to_owned(),
            Refusal::Own(error) => error.to_string(),
        })
    }

    async fn no_unfinished_orders(&self, user: UserId) -> Result<(), OrderError> {
        let open = self.page_of(user, UNFINISHED.to_vec(), None, 10).await?;
        if open.is_empty() {
            return Ok(());
        }
        let names: Vec<String> =
            open.iter().map(|order| format!("{} {}", order.order_number, order.status)).collect();
        Err(refused(format!(
            "the user has orders that are not finished ({}); let them end or cancel them, or use force",
            names.join(", ")
        )))
    }

    async fn page_of(
        &self,
        user: UserId,
        statuses: Vec<OrderStatus>,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<Vec<Arc<Order>>, OrderError> {
        let query = ListQuery {
            user_id: Some(user),
            statuses,
            created_after: None,
            created_before: None,
            oldest_first: true,
            after,
            limit,
        };
        self.orders.list(&query).await
    }

    pub(super) async fn rewrite(
        &self,
        begun: &Begun,
        request: pb::RewritePersonalDataRequest,
    ) -> Result<pb::RepairedOrder, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        let reason = check.line("reason", &request.reason, true, REASON_CHARS);
        let by = check.line("by", &request.by, false, BY_CHARS);
        let hash = content_hash("RewritePersonalData", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let custodian = self.keys()?;
        let repair = if request.erase { Repair::ErasePersonalData } else { Repair::EncryptPersonalData };
        let wanted = RepairOrder { repair, reason, by };
        let ask = begun.ask(OrderCommand::Repair(wanted), None, repeatable);
        let order = self.orders.ask(id, ask, begun.wait(), false).await?;
        if request.erase {
            // The keys may have been destroyed through another node.
            custodian.forget(order.user_id);
        }
        Ok(told::repaired(&order))
    }

    pub(super) async fn rotate(
        &self,
        request: pb::RotateKeysRequest,
    ) -> Result<pb::RotateKeysResponse, OrderError> {
        let mut check = Checker::default();
        let limit = check.page_size(request.page_size, &self.config.limits);
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                let id = u64::from_str_radix(token, 16).ok().map(|id| KeyId(id.cast_signed()));
                if id.is_none() {
                    check.bad("page_token", "expected the next_page_token of an earlier answer");
                }
                id
            }
        };
        check.finish()?;
        let page = self.keys()?.rotate(after, limit).await.map_err(|error| unavailable(&error))?;
        Ok(pb::RotateKeysResponse {
            rewrapped: count(page.rewrapped),
            failed: count(page.failed),
            next_page_token: page.last.map(|last| last.to_string()).unwrap_or_default(),
        })
    }

    pub(super) async fn encrypt(
        &self,
        begun: &Begun,
        request: pb::EncryptExistingRequest,
    ) -> Result<pb::EncryptExistingResponse, OrderError> {
        let mut check = Checker::default();
        let limit = check.page_size(request.page_size, &self.config.limits);
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(check.order_id("page_token", token)),
        };
        check.finish()?;
        let page = self.keys()?.plain_orders(after, limit).await.map_err(|error| unavailable(&error))?;
        let mut answer = pb::EncryptExistingResponse {
            looked_at: count(page.looked_at),
            next_page_token: page.last.map(|last| last.to_string()).unwrap_or_default(),
            ..Default::default()
        };
        for order in page.orders {
            let done = self.have_rewritten(begun, order, false, ("stored as plain text", "")).await;
            match done {
                Ok(()) => answer.encrypted = answer.encrypted.saturating_add(1),
                Err(error) => {
                    tracing::warn!(order_id = %order, error, "an order could not be stored anew");
                    answer.failed_orders.push(order.to_string());
                }
            }
        }
        Ok(answer)
    }
}
