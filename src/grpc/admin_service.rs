//! The calls of `order.admin.v1.OrderAdminService`.

mod asked;
mod cluster;
mod peer;
mod privacy;
mod told;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use self::asked::{Named, named, older_than, seen};
pub use self::peer::Peer;
use super::access;
use super::auth::{self, Authenticator, Tokens};
use super::forward::{self, Refusal, Routed};
use super::order_service::{Begun, MARGIN, OrderApiConfig, Origin, refused};
use super::page;
use super::scope::Scoped;
use super::status::{forbidden, to_status};
use super::validate::Checker;
use crate::actor::Orders;
use crate::cluster::Cluster;
use crate::domain::command::{OrderCommand, Repeatable, RequestContext};
use crate::domain::error::OrderError;
use crate::domain::ids::{CallKey, IdKey, OrderId, content_hash};
use crate::domain::repair::{BY_CHARS, Outcome, REASON_CHARS, REFERENCE_CHARS, Repair, RepairOrder};
use crate::ports::clock::Clock;
use crate::ports::vault::Custodian;
use crate::proto::admin as pb;
use crate::proto::admin::order_admin_service_server::OrderAdminServiceServer;
use crate::trace::{Asker, Name, Span};

/// Calls of operators in flight on this node.
const IN_FLIGHT: usize = 16;
/// Longest key of a call, in characters.
const KEY_CHARS: usize = 200;

/// The service as routes, for the listener that serves it.
pub type AdminRoutes = tonic::service::Routes;

/// The service.
#[derive(Clone)]
pub struct AdminApi {
    orders: Arc<Orders>,
    clock: Arc<dyn Clock>,
    key: IdKey,
    config: OrderApiConfig,
    /// Only requests from this machine are taken.
    only_here: bool,
    authenticator: Authenticator,
    /// For calls with a token, and for all from other machines; none = nobody has to prove anything.
    by_token: Option<Authenticator>,
    requests: Arc<Semaphore>,
    /// The nodes that share the orders; none = this one has them all.
    cluster: Option<Arc<Cluster>>,
    /// Whether this is what other nodes talk to.
    for_peers: bool,
    /// Who looks after the keys of personal data; none = they are not encrypted.
    custodian: Option<Arc<dyn Custodian>>,
}

impl AdminApi {
    /// Builds the service; `config` is that of the public one. With `only_here`, requests without a [`Peer`] on this
    /// machine are refused.
    pub fn new(
        orders: Arc<Orders>,
        clock: Arc<dyn Clock>,
        key: IdKey,
        config: OrderApiConfig,
        cluster: Option<Arc<Cluster>>,
        only_here: bool,
    ) -> Self {
        let requests = Arc::new(Semaphore::new(IN_FLIGHT));
        let authenticator = Authenticator::dev();
        let (by_token, for_peers, custodian) = (None, false, None);
        Self {
            orders,
            clock,
            key,
            config,
            only_here,
            authenticator,
            by_token,
            requests,
            cluster,
            for_peers,
            custodian,
        }
    }

    /// The service where callers have to prove who they are. Whoever is on the node's own machine may leave the token out:
    /// they could read its store and its keys, too, and have to help when no tokens are made.
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { by_token: Some(Authenticator::Jwt(tokens)), ..self }
    }

    /// The same service where personal data is encrypted.
    pub fn with_custodian(self, custodian: Option<Arc<dyn Custodian>>) -> Self {
        Self { custodian, ..self }
    }

    /// The same service for calls that other nodes forward, which they have checked.
    pub fn for_peers(&self) -> Self {
        Self {
            only_here: false,
            authenticator: Authenticator::peer(),
            by_token: None,
            requests: Arc::new(Semaphore::new(IN_FLIGHT)),
            for_peers: true,
            ..self.clone()
        }
    }

    /// Executes a request where its order is owned.
    async fn execute<R, F>(
        &self,
        begun: &Begun,
        request: Request<R>,
        local: impl Fn(R) -> F,
    ) -> Result<R::Answer, Refusal>
    where
        R: Routed,
        F: Future<Output = Result<R::Answer, OrderError>>,
    {
        let answer =
            forward::execute(self.cluster.as_ref(), &self.key, begun, request.into_inner(), local).await?;
        answer.read().map_err(|error| Refusal::Told(Box::new(Status::internal(error.to_string()))))
    }

    /// The service as routes; requests are at most so large.
    pub fn into_routes(self, max_message_bytes: usize) -> AdminRoutes {
        AdminRoutes::new(self.into_service(max_message_bytes))
    }

    /// The service; requests are at most so large.
    pub(super) fn into_service(self, max_message_bytes: usize) -> Scoped<OrderAdminServiceServer<Self>> {
        Scoped(OrderAdminServiceServer::new(self).max_decoding_message_size(max_message_bytes))
    }

    async fn begin<T>(&self, method: &'static str, request: &Request<T>) -> Result<Begun, Status> {
        let name = Name::Rpc("order.admin.v1.OrderAdminService", method);
        let is_here = request.extensions().get::<Peer>().is_some_and(|peer| peer.is_here());
        // Who calls from elsewhere is not known yet.
        let asker = if self.for_peers || is_here { Asker::Ours } else { Asker::Anybody };
        let (context, span) = auth::context(request.metadata(), asker, name);
        match self.admitted(method, request, is_here, context).await {
            Ok(begun) => Ok(Begun { span, ..begun }),
            Err(status) => Err(refused(span, status)),
        }
    }

    async fn admitted<T>(
        &self,
        method: &'static str,
        request: &Request<T>,
        is_here: bool,
        context: RequestContext,
    ) -> Result<Begun, Status> {
        if self.only_here && !is_here {
            let what =
                "repairs are taken from the node's own machine only; call from there, or set ops.repairs";
            return Err(forbidden(what));
        }
        let metadata = request.metadata();
        let has_token = metadata.as_ref().contains_key(AUTHORIZATION);
        let by_token = self.by_token.as_ref().filter(|_| has_token || !is_here);
        let authenticator = by_token.unwrap_or(&self.authenticator);
        let caller = authenticator.caller(metadata).await.map_err(|error| to_status(&error))?;
        let reach = access::OPERATORS.admit(method, &caller).map_err(|error| to_status(&error))?;
        let permit = Arc::clone(&self.requests).try_acquire_owned().map_err(|_full| {
            to_status(&OrderError::Overloaded { what: "this node has too many calls of operators in flight" })
        })?;
        let config = &self.config;
        let deadline = auth::deadline(metadata).unwrap_or(config.default_deadline).min(config.max_deadline);
        let started = Instant::now();
        Ok(Begun {
            origin: Origin { caller, context, via: self.for_peers.then(|| forward::view_of(metadata)) },
            reach,
            wait: deadline.saturating_sub(MARGIN),
            started,
            deadline: started.checked_add(deadline).unwrap_or(started),
            view: self.cluster.as_ref().filter(|_| self.for_peers).map(|cluster| cluster.view_version()),
            method,
            permit,
            span: Span::none(),
        })
    }

    async fn find(&self, order: Named) -> Result<OrderId, OrderError> {
        match order {
            Named::Id(id) => Ok(id),
            Named::Number(number) => {
                let found = self.orders.find(&number).await?;
                found.ok_or_else(|| OrderError::OrderNotFound { order: number.to_string() })
            }
        }
    }

    async fn explain(&self, request: pb::ExplainOrderRequest) -> Result<pb::OrderExplanation, OrderError> {
        let mut check = Checker::default();
        let order = named(&mut check, &request.order);
        check.finish()?;
        let id = self.find(order).await?;
        let found = self.orders.inspect(id).await?;
        found
            .map(|found| told::explanation(id, &found))
            .ok_or_else(|| OrderError::OrderNotFound { order: id.to_string() })
    }

    async fn stuck(
        &self,
        request: pb::ListStuckOrdersRequest,
    ) -> Result<pb::ListStuckOrdersResponse, OrderError> {
        let mut check = Checker::default();
        let limit = check.page_size(request.page_size, &self.config.limits);
        let older_than = older_than(&mut check, request.older_than.as_ref());
        let filter = content_hash("ListStuckOrders", &[&older_than.as_micros().to_be_bytes()]);
        let after = page::parse(&self.key, &filter, &request.page_token, &mut check.violations);
        check.finish()?;
        // All pages ask for sagas that began before the same moment.
        let now = self.clock.now();
        let age = chrono::Duration::from_std(older_than).unwrap_or_default();
        let before = now.checked_sub_signed(age).unwrap_or(now);
        let before =
            after.and_then(|(micros, _)| chrono::DateTime::from_timestamp_micros(micros)).unwrap_or(before);
        let behind = after.map(|(_, id)| OrderId(id));
        let mut found = self.orders.stuck(before, behind, limit.saturating_add(1)).await?;
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if more => page::token(&self.key, &filter, before.timestamp_micros(), last.id.0),
            _ => String::new(),
        };
        let orders = found.iter().map(told::stuck).collect();
        Ok(pb::ListStuckOrdersResponse { orders, next_page_token })
    }

    async fn retry(
        &self,
        begun: &Begun,
        request: pb::RetryStepRequest,
    ) -> Result<pb::RepairedOrder, OrderError> {
        let mut check = Checker::default();
        let order = named(&mut check, &request.order);
        let seen = seen(&mut check, &request.step, &request.direction);
        let reason = check.line("reason", &request.reason, false, REASON_CHARS);
        let by = check.line("by", &request.by, false, BY_CHARS);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("RetryStep", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        self.repair(
            begun,
            order,
            RepairOrder { repair: Repair::Retry(seen), reason, by },
            expected,
            repeatable,
        )
        .await
    }

    async fn skip(
        &self,
        begun: &Begun,
        request: pb::SkipStepRequest,
    ) -> Result<pb::RepairedOrder, OrderError> {
        let mut check = Checker::default();
        let order = named(&mut check, &request.order);
        let seen = seen(&mut check, &request.step, &request.direction);
        let reason = check.line("reason", &request.reason, true, REASON_CHARS);
        let by = check.line("by", &request.by, false, BY_CHARS);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("SkipStep", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        self.repair(
            begun,
            order,
            RepairOrder { repair: Repair::Skip(seen), reason, by },
            expected,
            repeatable,
        )
        .await
    }

    async fn resolve(
        &self,
        begun: &Begun,
        request: pb::ResolvePaymentRequest,
    ) -> Result<pb::RepairedOrder, OrderError> {
        let mut check = Checker::default();
        let order = named(&mut check, &request.order);
        let outcome = match request.outcome() {
            pb::PaymentOutcome::Charged => Some(Outcome::Charged),
            pb::PaymentOutcome::NotCharged => Some(Outcome::NotCharged),
            pb::PaymentOutcome::Refunded => Some(Outcome::Refunded),
            pb::PaymentOutcome::NotRefunded => Some(Outcome::NotRefunded),
            pb::PaymentOutcome::Unspecified => {
                check.bad("outcome", "expected CHARGED, NOT_CHARGED, REFUNDED or NOT_REFUNDED");
                None
            }
        };
        let reason = check.line("evidence", &request.evidence, true, REASON_CHARS);
        let by = check.line("by", &request.by, false, BY_CHARS);
        let reference = check.line("reference", &request.reference, false, REFERENCE_CHARS);
        if outcome.is_some_and(Outcome::happened) && reference.is_empty() {
            check.bad("reference", "expected the payment service's reference of what happened");
        }
        let key = check.line("key", &request.key, false, KEY_CHARS);
        let expected = check.expected_version(request.expected_version);
        let hash = content_hash("ResolvePayment", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let Some(outcome) = outcome else { return Err(OrderError::Invalid(Vec::new())) };
        let reference = (!reference.is_empty()).then_some(reference);
        let key = (!key.is_empty()).then(|| CallKey::from_text(key));
        let repair = Repair::Settle { outcome, reference, key };
        self.repair(begun, order, RepairOrder { repair, reason, by }, expected, repeatable).await
    }

    async fn unquarantine(
        &self,
        begun: &Begun,
        request: pb::UnquarantineOrderRequest,
    ) -> Result<pb::RepairedOrder, OrderError> {
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        let reason = check.line("reason", &request.reason, true, REASON_CHARS);
        let by = check.line("by", &request.by, false, BY_CHARS);
        let hash = content_hash("UnquarantineOrder", &[&without_id(&request, |r| &mut r.request_id)]);
        let repeatable = check.repeatable(&request.request_id, hash);
        check.finish()?;
        let wanted = RepairOrder { repair: Repair::Unquarantine, reason, by };
        let ask = begun.ask(OrderCommand::Repair(wanted), None, repeatable);
        let order = self.orders.unquarantine(id, ask, begun.wait()).await?;
        Ok(told::repaired(&order))
    }

    async fn repair(
        &self,
        begun: &Begun,
        order: Named,
        wanted: RepairOrder,
        expected: Option<i64>,
        repeatable: Option<Repeatable>,
    ) -> Result<pb::RepairedOrder, OrderError> {
        let id = self.find(order).await?;
        let ask = begun.ask(OrderCommand::Repair(wanted), expected, repeatable);
        let order = self.orders.ask(id, ask, begun.wait(), false).await?;
        Ok(told::repaired(&order))
    }
}

fn without_id<M: Message + Clone>(request: &M, id: fn(&mut M) -> &mut String) -> Vec<u8> {
    let mut content = request.clone();
    id(&mut content).clear();
    content.encode_to_vec()
}

#[tonic::async_trait]
impl pb::order_admin_service_server::OrderAdminService for AdminApi {
    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        let begun = self.begin("ListNodes", &request).await?;
        let answer = self.nodes().await;
        begun.end_whole(answer)
    }

    async fn list_slots(
        &self,
        request: Request<pb::ListSlotsRequest>,
    ) -> Result<Response<pb::ListSlotsResponse>, Status> {
        let begun = self.begin("ListSlots", &request).await?;
        let answer = self.slots().await;
        begun.end_whole(answer)
    }

    type DrainNodeStream = cluster::DrainStream;

    async fn drain_node(
        &self,
        request: Request<pb::DrainNodeRequest>,
    ) -> Result<Response<Self::DrainNodeStream>, Status> {
        let begun = self.begin("DrainNode", &request).await?;
        let answer = self.drain(request.into_inner()).await;
        begun.end_whole(answer)
    }

    async fn plan_cluster(
        &self,
        request: Request<pb::PlanClusterRequest>,
    ) -> Result<Response<pb::PlanClusterResponse>, Status> {
        let begun = self.begin("PlanCluster", &request).await?;
        let answer = self.plan(request.into_inner()).await;
        begun.end_whole(answer)
    }

    async fn explain_order(
        &self,
        request: Request<pb::ExplainOrderRequest>,
    ) -> Result<Response<pb::OrderExplanation>, Status> {
        let begun = self.begin("ExplainOrder", &request).await?;
        let answer = self.execute(&begun, request, |request| self.explain(request)).await;
        begun.end_whole(answer)
    }

    async fn list_stuck_orders(
        &self,
        request: Request<pb::ListStuckOrdersRequest>,
    ) -> Result<Response<pb::ListStuckOrdersResponse>, Status> {
        let begun = self.begin("ListStuckOrders", &request).await?;
        let answer = self.stuck(request.into_inner()).await;
        begun.end_whole(answer)
    }

    async fn retry_step(
        &self,
        request: Request<pb::RetryStepRequest>,
    ) -> Result<Response<pb::RepairedOrder>, Status> {
        let begun = self.begin("RetryStep", &request).await?;
        let answer = self.execute(&begun, request, |request| self.retry(&begun, request)).await;
        begun.end_whole(answer)
    }

    async fn skip_step(
        &self,
        request: Request<pb::SkipStepRequest>,
    ) -> Result<Response<pb::RepairedOrder>, Status> {
        let begun = self.begin("SkipStep", &request).await?;
        let answer = self.execute(&begun, request, |request| self.skip(&begun, request)).await;
        begun.end_whole(answer)
    }

    async fn resolve_payment(
        &self,
        request: Request<pb::ResolvePaymentRequest>,
    ) -> Result<Response<pb::RepairedOrder>, Status> {
        let begun = self.begin("ResolvePayment", &request).await?;
        let answer = self.execute(&begun, request, |request| self.resolve(&begun, request)).await;
        begun.end_whole(answer)
    }

    async fn unquarantine_order(
        &self,
        request: Request<pb::UnquarantineOrderRequest>,
    ) -> Result<Response<pb::RepairedOrder>, Status> {
        let begun = self.begin("UnquarantineOrder", &request).await?;
        let answer = self.execute(&begun, request, |request| self.unquarantine(&begun, request)).await;
        begun.end_whole(answer)
    }

    async fn erase_user(
        &self,
        request: Request<pb::EraseUserRequest>,
    ) -> Result<Response<pb::EraseUserResponse>, Status> {
        let begun = self.begin("EraseUser", &request).await?;
        let answer = self.erase(&begun, request.into_inner()).await;
        begun.end_whole(answer)
    }

    async fn rewrite_personal_data(
        &self,
        request: Request<pb::RewritePersonalDataRequest>,
    ) -> Result<Response<pb::RepairedOrder>, Status> {
        let begun = self.begin("RewritePersonalData", &request).await?;
        let answer = self.execute(&begun, request, |request| self.rewrite(&begun, request)).await;
        begun.end_whole(answer)
    }

    async fn rotate_keys(
        &self,
        request: Request<pb::RotateKeysRequest>,
    ) -> Result<Response<pb::RotateKeysResponse>, Status> {
        let begun = self.begin("RotateKeys", &request).await?;
        let answer = self.rotate(request.into_inner()).await;
        begun.end_whole(answer)
    }

    async fn encrypt_existing(
        &self,
        request: Request<pb::EncryptExistingRequest>,
    ) -> Result<Response<pb::EncryptExistingResponse>, Status> {
        let begun = self.begin("EncryptExisting", &request).await?;
        let answer = self.encrypt(&begun, request.into_inner()).await;
        begun.end_whole(answer)
    }
}

#[cfg(test)]
mod tests;
