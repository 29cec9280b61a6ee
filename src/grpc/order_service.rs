//! The calls of `order.v1.OrderService`.

mod admit;
mod begun;
mod changes;
mod create;
mod edits;
mod in_flight;
mod listing;
mod reads;
mod risk;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

pub(super) use self::begun::{Begun, Origin, refused};
#[cfg(test)]
pub(super) use self::create::creation_hash;
pub use self::in_flight::InFlight;
use super::auth::{self, Authenticator, Tokens};
use super::forward::{self, Refusal, Routed};
use super::quota::Gate;
use super::shed::Shed;
use super::status::to_status;
use super::validate::{self, Checker, OrderKey, RequestLimits};
use super::{access, convert, watch};
use crate::actor::Orders;
use crate::cluster::Cluster;
use crate::domain::command::RequestContext;
use crate::domain::error::OrderError;
use crate::domain::ids::IdKey;
use crate::domain::pricing::Pricing;
use crate::domain::risk::RiskCheck;
use crate::ports::Collaborators;
use crate::ports::call::CallContext;
use crate::ports::clock::Clock;
use crate::proto::answer::{self, Answer};
use crate::proto::order as pb;
use crate::proto::served::order_service_server::OrderService;
use crate::trace::{Asker, Name, Span};

/// An answer is given at least this long before the caller's deadline.
pub(super) const MARGIN: Duration = Duration::from_millis(200);

/// Limits of the API.
#[derive(Clone, Debug)]
pub struct OrderApiConfig {
    /// Longest wait for a saga to settle before the order is answered as it stands.
    pub create_wait: Duration,
    /// Deadline of a call that brings none.
    pub default_deadline: Duration,
    /// Longest deadline.
    pub max_deadline: Duration,
    /// Longest wait for a collaborator's answer to a question.
    pub call_timeout: Duration,
    /// Requests in flight on this node.
    pub max_concurrent_requests: usize,
    /// Open watch streams on this node.
    pub max_watchers: usize,
    /// How patient the service is with who watches.
    pub watch: watch::WatchLimits,
    /// Limits of a request's content.
    pub limits: RequestLimits,
}

/// The service.
#[derive(Clone)]
pub struct OrderApi {
    orders: Arc<Orders>,
    collaborators: Collaborators,
    pricing: Arc<dyn Pricing>,
    risk: Arc<dyn RiskCheck>,
    clock: Arc<dyn Clock>,
    key: IdKey,
    config: OrderApiConfig,
    authenticator: Authenticator,
    requests: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    stop: CancellationToken,
    /// The nodes that share the orders; none = this one has them all.
    cluster: Option<Arc<Cluster>>,
    /// Whether this is what other nodes talk to.
    for_peers: bool,
    /// How often callers may call; none = however often.
    gate: Option<Gate>,
    shed: Shed,
}

impl OrderApi {
    /// Builds the service. `stop` ends its streams.
    pub fn new(
        orders: Arc<Orders>,
        collaborators: Collaborators,
        pricing: Arc<dyn Pricing>,
        risk: Arc<dyn RiskCheck>,
        key: IdKey,
        config: OrderApiConfig,
        stop: CancellationToken,
    ) -> Self {
        let clock = orders.clock();
        let requests = Arc::new(Semaphore::new(config.max_concurrent_requests));
        let watchers = Arc::new(Semaphore::new(config.max_watchers));
        let authenticator = Authenticator::dev();
        Self {
            orders,
            collaborators,
            pricing,
            risk,
            clock,
            key,
            config,
            authenticator,
            requests,
            watchers,
            stop,
            cluster: None,
            for_peers: false,
            gate: None,
            shed: Shed::new(Duration::ZERO),
        }
    }

    /// The service of a node that shares the orders with others.
    pub fn with_cluster(self, cluster: Arc<Cluster>) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// The service for callers who have to prove who they are.
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { authenticator: Authenticator::Jwt(tokens), ..self }
    }

    /// The service that lets no more in than this, and no changes while those before them have waited for `shed_after`
    /// (zero = however long).
    pub fn with_gate(self, gate: Gate, shed_after: Duration) -> Self {
        Self { gate: Some(gate), shed: Shed::new(shed_after), ..self }
    }

    /// The same service for calls that other nodes forward: it believes what they say of their callers, and executes such
    /// calls here or not at all.
    pub fn for_peers(&self) -> Self {
        Self {
            authenticator: Authenticator::peer(),
            requests: Arc::new(Semaphore::new(self.config.max_concurrent_requests)),
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
    ) -> Result<Answer<R::Answer>, Refusal>
    where
        R: Routed,
        F: Future<Output = Result<R::Answer, OrderError>>,
    {
        let local = &local;
        let local = |request| async move {
            self.shed.admit(|| self.orders.oldest_wait())?;
            local(request).await
        };
        forward::execute(self.cluster.as_ref(), &self.key, begun, request.into_inner(), local).await
    }

    /// The requests that are being answered, to wait for the last one.
    pub fn in_flight(&self) -> InFlight {
        let (requests, watchers) = (Arc::clone(&self.requests), Arc::clone(&self.watchers));
        let OrderApiConfig { max_concurrent_requests: all, max_watchers: all_watchers, .. } = self.config;
        InFlight { requests, all, watchers, all_watchers }
    }

    async fn begin(&self, method: &'static str, metadata: &MetadataMap) -> Result<Begun, Status> {
        let asker = if self.for_peers { Asker::Ours } else { Asker::Anybody };
        let (context, mut span) = auth::context(metadata, asker, Name::Rpc("order.v1.OrderService", method));
        let begun = self.admitted(method, metadata, context, &mut span).await;
        begun.map_err(|status| refused(span, status))
    }

    async fn admitted(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        context: RequestContext,
        span: &mut Span,
    ) -> Result<Begun, Status> {
        // Whoever waits here for keys of a token takes no place of those who are known.
        let caller = self.authenticator.caller(metadata).await.map_err(|error| to_status(&error))?;
        let permit = Arc::clone(&self.requests).try_acquire_owned().map_err(|_full| {
            to_status(&OrderError::Overloaded { what: "this node has too many requests in flight" })
        })?;
        // What another node forwards was counted there. What is not allowed counts as well.
        if let Some(gate) = self.gate.as_ref().filter(|_| !self.for_peers) {
            gate.call(&self.key, &caller, method).await.map_err(|error| to_status(&error))?;
        }
        let reach = access::ORDERS.admit(method, &caller).map_err(|error| to_status(&error))?;
        let config = &self.config;
        let deadline = auth::deadline(metadata).unwrap_or(config.default_deadline).min(config.max_deadline);
        let started = Instant::now();
        Ok(Begun {
            origin: Origin { caller, context, via: self.for_peers.then(|| forward::view_of(metadata)) },
            reach,
            wait: config.create_wait.min(deadline.saturating_sub(MARGIN)),
            started,
            deadline: started.checked_add(deadline).unwrap_or(started),
            view: self.cluster.as_ref().filter(|_| self.for_peers).map(|cluster| cluster.view_version()),
            method,
            permit,
            span: mem::take(span),
        })
    }

    fn call_context(&self, begun: &Begun) -> CallContext {
        CallContext {
            request_id: begun.origin.context.request_id.to_string(),
            trace: begun.origin.context.trace.clone(),
            caller: Some(begun.origin.caller.clone()),
            timeout: self.config.call_timeout,
        }
    }
}

#[tonic::async_trait]
impl OrderService for OrderApi {
    async fn create_order(
        &self,
        request: Request<pb::CreateOrderRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("CreateOrder", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.create(&begun, request)).await;
        begun.end(answer)
    }

    async fn get_order(
        &self,
        request: Request<pb::GetOrderRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("GetOrder", request.metadata()).await?;
        let mut check = Checker::default();
        let key = validate::order_key(&mut check, request.get_ref());
        let may_be_stale = request.get_ref().allow_stale;
        let mut age = None;
        let answer = match check.finish() {
            Ok(()) => self.show(begun.reach, key, may_be_stale).await.map(|seen| {
                age = seen.age.filter(|_| may_be_stale);
                answer::Order::Bytes(seen.what)
            }),
            Err(error) => Err(error),
        };
        let mut response = begun.end(answer)?;
        reads::tell_age(&mut response, age);
        Ok(response)
    }

    async fn get_order_status(
        &self,
        request: Request<pb::GetOrderStatusRequest>,
    ) -> Result<Response<pb::GetOrderStatusResponse>, Status> {
        let begun = self.begin("GetOrderStatus", request.metadata()).await?;
        let mut check = Checker::default();
        let key = validate::status_key(&mut check, request.get_ref());
        let mut age = None;
        let answer = match check.finish() {
            Ok(()) => self.glance(begun.reach, key).await.map(|seen| {
                age = seen.age;
                convert::order_status(&seen.what)
            }),
            Err(error) => Err(error),
        };
        let mut response = begun.end(answer)?;
        reads::tell_age(&mut response, age);
        Ok(response)
    }

    async fn update_order_status(
        &self,
        request: Request<pb::UpdateOrderStatusRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let mut begun = self.begin("UpdateOrderStatus", request.metadata()).await?;
        // It is the same as CancelOrder, which is open to others, and to other orders.
        if request.get_ref().status() == pb::OrderStatus::Cancelled {
            match access::ORDERS.admit("CancelOrder", &begun.origin.caller) {
                Ok(reach) => begun.reach = reach,
                Err(error) => return begun.end(Err::<answer::Order, _>(error)),
            }
        }
        let answer = self.execute(&begun, request, |request| self.update_status(&begun, request)).await;
        begun.end(answer)
    }

    async fn cancel_order(
        &self,
        request: Request<pb::CancelOrderRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("CancelOrder", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.cancel(&begun, request)).await;
        begun.end(answer)
    }

    async fn refund_order(
        &self,
        request: Request<pb::RefundOrderRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("RefundOrder", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.refund(&begun, request)).await;
        begun.end(answer)
    }

    async fn add_order_item(
        &self,
        request: Request<pb::AddOrderItemRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("AddOrderItem", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.add_item(&begun, request)).await;
        begun.end(answer)
    }

    async fn update_order_item(
        &self,
        request: Request<pb::UpdateOrderItemRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("UpdateOrderItem", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.update_item(&begun, request)).await;
        begun.end(answer)
    }

    async fn remove_order_item(
        &self,
        request: Request<pb::RemoveOrderItemRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("RemoveOrderItem", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.remove_item(&begun, request)).await;
        begun.end(answer)
    }

    async fn add_shipment(
        &self,
        request: Request<pb::AddShipmentRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("AddShipment", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.ship_more(&begun, request)).await;
        begun.end(answer)
    }

    async fn hold_order(
        &self,
        request: Request<pb::HoldOrderRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("HoldOrder", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.hold(&begun, request)).await;
        begun.end(answer)
    }

    async fn release_order(
        &self,
        request: Request<pb::ReleaseOrderRequest>,
    ) -> Result<Response<answer::Order>, Status> {
        let begun = self.begin("ReleaseOrder", request.metadata()).await?;
        let answer = self.execute(&begun, request, |request| self.release(&begun, request)).await;
        begun.end(answer)
    }

    async fn list_orders(
        &self,
        request: Request<pb::ListOrdersRequest>,
    ) -> Result<Response<pb::ListOrdersResponse>, Status> {
        let begun = self.begin("ListOrders", request.metadata()).await?;
        let answer = self.list(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn list_order_events(
        &self,
        request: Request<pb::ListOrderEventsRequest>,
    ) -> Result<Response<pb::ListOrderEventsResponse>, Status> {
        let begun = self.begin("ListOrderEvents", request.metadata()).await?;
        let answer = self.list_events(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn list_payment_transactions(
        &self,
        request: Request<pb::ListPaymentTransactionsRequest>,
    ) -> Result<Response<pb::ListPaymentTransactionsResponse>, Status> {
        let begun = self.begin("ListPaymentTransactions", request.metadata()).await?;
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.get_ref().order_id);
        let answer = match check.finish() {
            Ok(()) => self.look_up(begun.reach, OrderKey::Id(id)).await.map(|order| {
                pb::ListPaymentTransactionsResponse { transactions: convert::transactions(&order) }
            }),
            Err(error) => Err(error),
        };
        begun.end(answer)
    }

    type WatchOrderStream = watch::Stream;

    async fn watch_order(
        &self,
        request: Request<pb::WatchOrderRequest>,
    ) -> Result<Response<watch::Stream>, Status> {
        let begun = self.begin("WatchOrder", request.metadata()).await?;
        let request = request.into_inner();
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        if request.after_sequence < 0 {
            check.bad("after_sequence", "expected 0 or a sequence");
        }
        let checked = match check.finish() {
            Ok(()) => self.look_up(begun.reach, OrderKey::Id(id)).await,
            Err(error) => Err(error),
        };
        let answer = checked.and_then(|order| {
            let permit = Arc::clone(&self.watchers)
                .try_acquire_owned()
                .map_err(|_full| OrderError::Overloaded { what: "this node has too many watchers" })?;
            let watched = watch::Watched {
                orders: Arc::clone(&self.orders),
                cluster: self.cluster.clone(),
                order,
                after_seq: request.after_sequence,
                limits: self.config.watch,
                viewer: begun.viewer(),
                origin: begun.origin.clone(),
                proven_for: begun.proven_for(self.clock.now()),
            };
            Ok(watch::stream(watched, permit, self.stop.clone()))
        });
        begun.end(answer)
    }
}
