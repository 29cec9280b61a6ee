//! The calls of `order.v1.OrderService`.

mod changes;
mod edits;
mod in_flight;
mod listing;
mod risk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub use self::in_flight::InFlight;
use super::auth::{self, Authenticator};
use super::status::to_status;
use super::validate::{self, Checker, OrderKey, RequestLimits};
use super::{convert, watch};
use crate::actor::Orders;
use crate::domain::command::{Ask, Caller, OrderCommand, Repeatable, RequestContext};
use crate::domain::error::OrderError;
use crate::domain::ids::{IdKey, OrderId, content_hash};
use crate::domain::order::Order;
use crate::domain::pricing::Pricing;
use crate::domain::react;
use crate::domain::risk::RiskCheck;
use crate::ports::Collaborators;
use crate::ports::call::CallContext;
use crate::ports::clock::Clock;
use crate::proto::order as pb;
use crate::steps::prepare::prepare;

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
}

/// What every call begins with.
pub(super) struct Begun {
    pub(super) caller: Caller,
    pub(super) context: RequestContext,
    /// How long the caller may be kept waiting for a saga.
    pub(super) wait: Duration,
    pub(super) started: Instant,
    pub(super) method: &'static str,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Begun {
    pub(super) fn ask(
        &self,
        command: OrderCommand,
        expected_version: Option<i64>,
        repeatable: Option<Repeatable>,
    ) -> Ask {
        let (caller, context) = (self.caller.clone(), self.context.clone());
        Ask { caller, context, expected_version, repeatable, command }
    }

    /// Ends the call: counts it, and puts the answer or the refusal on the wire.
    pub(super) fn end<T>(self, answer: Result<T, OrderError>) -> Result<Response<T>, Status> {
        drop(self.permit);
        let answer = answer.map_err(|error| to_status(&error));
        let code = answer.as_ref().map_or_else(|status| status.code(), |_| tonic::Code::Ok);
        metrics::histogram!("order_grpc_seconds", "method" => self.method, "code" => code_name(code))
            .record(self.started.elapsed().as_secs_f64());
        tracing::debug!(method = self.method, request_id = %self.context.request_id, ?code, "answered");
        let request_id = self.context.request_id.parse();
        match answer {
            Ok(answer) => {
                let mut response = Response::new(answer);
                if let Ok(request_id) = request_id {
                    response.metadata_mut().insert(auth::REQUEST_ID, request_id);
                }
                Ok(response)
            }
            Err(mut status) => {
                if let Ok(request_id) = request_id {
                    status.metadata_mut().insert(auth::REQUEST_ID, request_id);
                }
                Err(status)
            }
        }
    }
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        _ => "OTHER",
    }
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
        }
    }

    /// The requests that are being answered, to wait for the last one.
    pub fn in_flight(&self) -> InFlight {
        InFlight { requests: Arc::clone(&self.requests), all: self.config.max_concurrent_requests }
    }

    fn begin(&self, method: &'static str, metadata: &MetadataMap) -> Result<Begun, Status> {
        let permit = Arc::clone(&self.requests).try_acquire_owned().map_err(|_full| {
            to_status(&OrderError::Overloaded { what: "this node has too many requests in flight" })
        })?;
        let config = &self.config;
        let deadline = auth::deadline(metadata).unwrap_or(config.default_deadline).min(config.max_deadline);
        Ok(Begun {
            caller: self.authenticator.caller(metadata),
            context: auth::context(metadata),
            wait: config.create_wait.min(deadline.saturating_sub(MARGIN)),
            started: Instant::now(),
            method,
            permit,
        })
    }

    async fn create(&self, begun: &Begun, request: pb::CreateOrderRequest) -> Result<pb::Order, OrderError> {
        let now = self.clock.now();
        let mut check = Checker::default();
        let hash = creation_hash(&request);
        let repeatable = check.repeatable(&request.request_id, hash);
        let mut wish = validate::wish(&mut check, &request, &self.config.limits, &*self.pricing);
        check.finish()?;
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
            && let Some(order) = self.orders.rejoin(id, rejoin.clone(), begun.wait).await?
        {
            return Ok(convert::order(&order));
        }
        let context = self.call_context(begun);
        let prepared = prepare(&self.collaborators, &*self.pricing, &self.key, &context, wish, now);
        let mut draft = match prepared.await {
            Ok(draft) => draft,
            // What was fine when it was asked for first may not be any more: its answer stays the same.
            Err(error) if may_repeat => {
                let wait = begun.wait.saturating_sub(begun.started.elapsed());
                let known = self.orders.rejoin(id, rejoin, wait).await?;
                return known.map(|order| convert::order(&order)).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        if request.validate_only {
            return Ok(convert::order(&react::preview(&draft, now)));
        }
        draft.risk = self.risk_of(&draft, now).await?;
        let ask = begun.ask(OrderCommand::Create(Box::new(draft)), None, repeatable);
        let wait = begun.wait.saturating_sub(begun.started.elapsed());
        let order = self.orders.ask(id, ask, wait, true).await?;
        Ok(convert::order(&order))
    }

    fn call_context(&self, begun: &Begun) -> CallContext {
        CallContext {
            request_id: begun.context.request_id.to_string(),
            trace_parent: begun.context.trace_parent.as_deref().map(str::to_owned),
            timeout: self.config.call_timeout,
        }
    }

    async fn look_up(&self, key: OrderKey, may_be_stale: bool) -> Result<Arc<Order>, OrderError> {
        let (id, name) = match key {
            OrderKey::Id(id) => (Some(id), id.to_string()),
            OrderKey::Number(number) => (self.orders.find(&number).await?, number.to_string()),
        };
        let order = match id {
            Some(id) if may_be_stale => self.orders.view_stale(id).await?,
            Some(id) => self.orders.view(id).await?,
            None => None,
        };
        order.ok_or(OrderError::OrderNotFound { order: name })
    }
}

/// Hash of a creation's content: everything but the request id, metadata in a fixed order.
fn creation_hash(request: &pb::CreateOrderRequest) -> [u8; 16] {
    let mut content = request.clone();
    content.request_id.clear();
    let metadata: BTreeMap<String, String> = content.metadata.drain().collect();
    let mut parts = vec![content.encode_to_vec()];
    parts.extend(metadata.into_iter().flat_map(|(key, value)| [key.into_bytes(), value.into_bytes()]));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    content_hash("CreateOrder", &parts)
}

#[tonic::async_trait]
impl pb::order_service_server::OrderService for OrderApi {
    async fn create_order(
        &self,
        request: Request<pb::CreateOrderRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("CreateOrder", request.metadata())?;
        let answer = self.create(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn get_order(&self, request: Request<pb::GetOrderRequest>) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("GetOrder", request.metadata())?;
        let mut check = Checker::default();
        let key = validate::order_key(&mut check, request.get_ref());
        let may_be_stale = request.get_ref().allow_stale;
        let answer = match check.finish() {
            Ok(()) => self.look_up(key, may_be_stale).await.map(|order| convert::order(&order)),
            Err(error) => Err(error),
        };
        begun.end(answer)
    }

    async fn get_order_status(
        &self,
        request: Request<pb::GetOrderStatusRequest>,
    ) -> Result<Response<pb::GetOrderStatusResponse>, Status> {
        let begun = self.begin("GetOrderStatus", request.metadata())?;
        let mut check = Checker::default();
        let key = validate::status_key(&mut check, request.get_ref());
        let answer = match check.finish() {
            Ok(()) => self.look_up(key, false).await.map(|order| convert::order_status(&order)),
            Err(error) => Err(error),
        };
        begun.end(answer)
    }

    async fn update_order_status(
        &self,
        request: Request<pb::UpdateOrderStatusRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("UpdateOrderStatus", request.metadata())?;
        let answer = self.update_status(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn cancel_order(
        &self,
        request: Request<pb::CancelOrderRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("CancelOrder", request.metadata())?;
        let answer = self.cancel(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn refund_order(
        &self,
        request: Request<pb::RefundOrderRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("RefundOrder", request.metadata())?;
        let answer = self.refund(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn add_order_item(
        &self,
        request: Request<pb::AddOrderItemRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("AddOrderItem", request.metadata())?;
        let answer = self.add_item(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn update_order_item(
        &self,
        request: Request<pb::UpdateOrderItemRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("UpdateOrderItem", request.metadata())?;
        let answer = self.update_item(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn remove_order_item(
        &self,
        request: Request<pb::RemoveOrderItemRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("RemoveOrderItem", request.metadata())?;
        let answer = self.remove_item(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn add_shipment(
        &self,
        request: Request<pb::AddShipmentRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("AddShipment", request.metadata())?;
        let answer = self.ship_more(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn hold_order(
        &self,
        request: Request<pb::HoldOrderRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("HoldOrder", request.metadata())?;
        let answer = self.hold(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn release_order(
        &self,
        request: Request<pb::ReleaseOrderRequest>,
    ) -> Result<Response<pb::Order>, Status> {
        let begun = self.begin("ReleaseOrder", request.metadata())?;
        let answer = self.release(&begun, request.into_inner()).await;
        begun.end(answer)
    }

    async fn list_orders(
        &self,
        request: Request<pb::ListOrdersRequest>,
    ) -> Result<Response<pb::ListOrdersResponse>, Status> {
        let begun = self.begin("ListOrders", request.metadata())?;
        let answer = self.list(request.into_inner()).await;
        begun.end(answer)
    }

    async fn list_order_events(
        &self,
        request: Request<pb::ListOrderEventsRequest>,
    ) -> Result<Response<pb::ListOrderEventsResponse>, Status> {
        let begun = self.begin("ListOrderEvents", request.metadata())?;
        let answer = self.list_events(request.into_inner()).await;
        begun.end(answer)
    }

    async fn list_payment_transactions(
        &self,
        request: Request<pb::ListPaymentTransactionsRequest>,
    ) -> Result<Response<pb::ListPaymentTransactionsResponse>, Status> {
        let begun = self.begin("ListPaymentTransactions", request.metadata())?;
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.get_ref().order_id);
        let answer = match check.finish() {
            Ok(()) => self.look_up(OrderKey::Id(id), false).await.map(|order| {
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
        let begun = self.begin("WatchOrder", request.metadata())?;
        let request = request.into_inner();
        let mut check = Checker::default();
        let id = check.order_id("order_id", &request.order_id);
        if request.after_sequence < 0 {
            check.bad("after_sequence", "expected 0 or a sequence");
        }
        let checked = match check.finish() {
            Ok(()) => self.look_up(OrderKey::Id(id), false).await,
            Err(error) => Err(error),
        };
        let answer = checked.and_then(|order| {
            let permit = Arc::clone(&self.watchers)
                .try_acquire_owned()
                .map_err(|_full| OrderError::Overloaded { what: "this node has too many watchers" })?;
            let (orders, limits, stop) = (Arc::clone(&self.orders), self.config.watch, self.stop.clone());
            Ok(watch::stream(orders, order, request.after_sequence, limits, permit, stop))
        });
        begun.end(answer)
    }
}
