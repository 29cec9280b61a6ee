//! The simulator as a gRPC server: the five services of `proto/`, and its own control.

mod control;
mod traced;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use self::traced::TracedLayer;
use super::Simulator;
use super::faults::MAX_DELAY;
use super::ledger::invalid;
use crate::clients::status::status_of;
use crate::clients::wire::{money, product_ref, read_lines, variant_text};
use crate::domain::ids::{CallKey, OrderId, UserId};
use crate::domain::money::format_amount;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::inventory::{Inventory, ReleaseOutcome, ReleaseTarget};
use crate::ports::payment::{GatewayFacts, PaymentToken, Payments, TransactionState};
use crate::ports::product::{Product, Products};
use crate::ports::shipping::Shipping;
use crate::ports::user::Users;
use crate::proto::inventory::inventory_service_server::{InventoryService, InventoryServiceServer};
use crate::proto::payment::payment_service_server::{PaymentService, PaymentServiceServer};
use crate::proto::product::product_service_server::{ProductService, ProductServiceServer};
use crate::proto::shipping::shipping_service_server::{ShippingService, ShippingServiceServer};
use crate::proto::simulator::simulator_service_server::SimulatorServiceServer;
use crate::proto::user::user_service_server::{UserService, UserServiceServer};
use crate::proto::{inventory, payment, product, shipping, user};

/// Largest message that is accepted or sent, in bytes: 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Most calls at a time on one connection.
const MAX_STREAMS: u32 = 4096;
/// Longest a call can last: any delay, and a little.
const MAX_CALL: Duration = MAX_DELAY.saturating_add(Duration::from_secs(5));
/// How often an idle connection is asked whether its peer still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves `simulator` on `listener` until `shutdown` is ready; then calls in flight are finished.
///
/// # Errors
/// What tonic says when it cannot go on serving.
pub async fn serve(
    simulator: Arc<Simulator>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let api = Api(simulator);
    macro_rules! limited {
        ($server:ident) => {
            $server::new(api.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    Server::builder()
        .layer(TracedLayer)
        .timeout(MAX_CALL)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(limited!(InventoryServiceServer))
        .add_service(limited!(ProductServiceServer))
        .add_service(limited!(UserServiceServer))
        .add_service(limited!(PaymentServiceServer))
        .add_service(limited!(ShippingServiceServer))
        .add_service(limited!(SimulatorServiceServer))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown)
        .await
}

/// All services; each answers from the same simulator.
#[derive(Clone, Debug)]
struct Api(Arc<Simulator>);

/// The caller's deadline is kept by tonic, which drops the call when it passes.
fn context() -> CallContext {
    CallContext { request_id: String::new(), trace: None, caller: None, timeout: MAX_CALL }
}

type Answer<T> = Result<Response<T>, Status>;

/// Turns an outcome into an answer of `service`.
fn answer<T, R>(
    service: Collaborator,
    outcome: Result<T, CallError>,
    write: impl FnOnce(T) -> R,
) -> Result<Response<R>, Status> {
    outcome.map(|done| Response::new(write(done))).map_err(|error| status_of(service, &error))
}

/// What a message field must be to be used, or a refusal that names it.
fn need<T>(service: Collaborator, value: Option<T>, problem: &str) -> Result<T, Status> {
    value.ok_or_else(|| status_of(service, &invalid(problem)))
}

const LINES: &str = "product_id and variant_id of every line must be UUIDs";
const ORDER: &str = "order_id must be a UUID";
const USER: &str = "user_id must be a UUID";
const MONEY: &str = "amount must be a decimal with the digits of its currency";

#[tonic::async_trait]
impl InventoryService for Api {
    async fn check_availability(
        &self,
        request: Request<inventory::CheckAvailabilityRequest>,
    ) -> Answer<inventory::CheckAvailabilityResponse> {
        const ME: Collaborator = Collaborator::Inventory;
        let lines = need(ME, read_lines(&request.get_ref().lines), LINES)?;
        let outcome = self.0.check_availability(&context(), &lines).await;
        answer(ME, outcome, |shortages| inventory::CheckAvailabilityResponse {
            shortages: shortages.iter().map(Into::into).collect(),
        })
    }

    async fn reserve(
        &self,
        request: Request<inventory::ReserveRequest>,
    ) -> Answer<inventory::ReserveResponse> {
        const ME: Collaborator = Collaborator::Inventory;
        let request = request.into_inner();
        let order: OrderId = need(ME, request.order_id.parse().ok(), ORDER)?;
        let lines = need(ME, read_lines(&request.lines), LINES)?;
        let ttl = request.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let ttl = need(ME, ttl, "ttl is missing or negative")?;
        let key = CallKey::from_text(request.key);
        let outcome = self.0.reserve(&context(), &key, order, &lines, ttl).await;
        answer(ME, outcome, |reservation_id| inventory::ReserveResponse { reservation_id })
    }

    async fn commit(&self, request: Request<inventory::CommitRequest>) -> Answer<inventory::CommitResponse> {
        let inventory::CommitRequest { key, reservation_id } = request.into_inner();
        let outcome = self.0.commit(&context(), &CallKey::from_text(key), &reservation_id).await;
        answer(Collaborator::Inventory, outcome, |()| inventory::CommitResponse {})
    }

    async fn release(
        &self,
        request: Request<inventory::ReleaseRequest>,
    ) -> Answer<inventory::ReleaseResponse> {
        use inventory::release_request::Target;
        use inventory::release_response::Outcome;
        const ME: Collaborator = Collaborator::Inventory;
        let request = request.into_inner();
        let target = match need(ME, request.target, "target is missing")? {
            Target::ReservationId(id) => ReleaseTarget::Reservation(id),
            Target::ReserveKey(key) => ReleaseTarget::ReserveKey(CallKey::from_text(key)),
        };
        let outcome = self.0.release(&context(), &CallKey::from_text(request.key), &target).await;
        answer(ME, outcome, |outcome| {
            let (outcome, reservation_id) = match outcome {
                ReleaseOutcome::Released => (Outcome::Released, String::new()),
                ReleaseOutcome::NothingHeld => (Outcome::NothingHeld, String::new()),
                ReleaseOutcome::Committed { reservation_id } => (Outcome::Committed, reservation_id),
            };
            inventory::ReleaseResponse { outcome: outcome.into(), reservation_id }
        })
    }

    async fn restock(
        &self,
        request: Request<inventory::RestockRequest>,
    ) -> Answer<inventory::RestockResponse> {
        const ME: Collaborator = Collaborator::Inventory;
        let request = request.into_inner();
        let lines = need(ME, read_lines(&request.lines), LINES)?;
        let key = CallKey::from_text(request.key);
        let outcome = self.0.restock(&context(), &key, &request.reservation_id, &lines).await;
        answer(ME, outcome, |()| inventory::RestockResponse {})
    }
}

fn write_product(product: Product) -> product::Product {
    product::Product {
        product: Some(product::ProductRef {
            product_id: product.product.product_id.to_string(),
            variant_id: variant_text(&product.product),
        }),
        sku: product.sku,
        name: product.name,
        unit_price: format_amount(product.unit_price, product.currency),
        currency: product.currency.code().to_owned(),
        tax_class: product.tax_class,
        active: product.active,
    }
}

#[tonic::async_trait]
impl ProductService for Api {
    async fn batch_get_products(
        &self,
        request: Request<product::BatchGetProductsRequest>,
    ) -> Answer<product::BatchGetProductsResponse> {
        const ME: Collaborator = Collaborator::Product;
        let wanted = request.get_ref().products.iter();
        let refs: Option<Vec<_>> = wanted.map(|one| product_ref(&one.product_id, &one.variant_id)).collect();
        let refs = need(ME, refs, "product_id and variant_id must be UUIDs")?;
        let outcome = self.0.batch_get(&context(), &refs).await;
        answer(ME, outcome, |products| product::BatchGetProductsResponse {
            products: products.into_iter().map(write_product).collect(),
        })
    }
}

#[tonic::async_trait]
impl UserService for Api {
    async fn get_user(&self, request: Request<user::GetUserRequest>) -> Answer<user::User> {
        const ME: Collaborator = Collaborator::User;
        let id: UserId = need(ME, request.get_ref().user_id.parse().ok(), USER)?;
        let outcome = self.0.get_user(&context(), id).await;
        answer(ME, outcome, |found| user::User { id: found.id.to_string(), active: found.active })
    }

    async fn validate_address(
        &self,
        request: Request<user::ValidateAddressRequest>,
    ) -> Answer<user::ValidateAddressResponse> {
        use user::validate_address_response::Problem;
        const ME: Collaborator = Collaborator::User;
        let request = request.into_inner();
        let id: UserId = need(ME, request.user_id.parse().ok(), USER)?;
        let address = need(ME, request.address, "address is missing")?;
        let outcome = self.0.validate_postal_code(&context(), id, &address.postal_code).await;
        answer(ME, outcome, |problems| user::ValidateAddressResponse {
            problems: problems
                .into_iter()
                .map(|problem| Problem { field: problem.field, message: problem.message })
                .collect(),
        })
    }
}

fn write_facts(facts: GatewayFacts) -> payment::GatewayFacts {
    let GatewayFacts { authorization_code, card_brand, last4, avs_result } = facts;
    payment::GatewayFacts { authorization_code, card_brand, last4, avs_result }
}

#[tonic::async_trait]
impl PaymentService for Api {
    async fn charge(&self, request: Request<payment::ChargeRequest>) -> Answer<payment::ChargeResponse> {
        const ME: Collaborator = Collaborator::Payment;
        let request = request.into_inner();
        let order: OrderId = need(ME, request.order_id.parse().ok(), ORDER)?;
        let (amount, currency) = need(ME, money(&request.amount, &request.currency), MONEY)?;
        let key = CallKey::from_text(request.key);
        let token = (!request.token.is_empty()).then(|| PaymentToken::new(request.token));
        let outcome =
            self.0.charge(&context(), &key, order, amount, currency, &request.method, token.as_ref()).await;
        answer(ME, outcome, |charged| payment::ChargeResponse {
            transaction_id: charged.transaction_id,
            gateway: Some(write_facts(charged.gateway)),
        })
    }

    async fn get_transaction(
        &self,
        request: Request<payment::GetTransactionRequest>,
    ) -> Answer<payment::Transaction> {
        use payment::transaction::State;
        let request = request.into_inner();
        let key = CallKey::from_text(request.key);
        let outcome = if request.close_if_not_found {
            self.0.close_transaction(&context(), &key).await
        } else {
            self.0.get_transaction(&context(), &key).await
        };
        answer(Collaborator::Payment, outcome, |state| {
            let mut found = payment::Transaction::default();
            match state {
                TransactionState::NotFound => found.set_state(State::NotFound),
                TransactionState::Pending => found.set_state(State::Pending),
                TransactionState::Succeeded(charged) => {
                    found.set_state(State::Succeeded);
                    found.transaction_id = charged.transaction_id;
                    found.gateway = Some(write_facts(charged.gateway));
                }
                TransactionState::Declined { code } => {
                    found.set_state(State::Declined);
                    found.decline_code = code;
                }
            }
            found
        })
    }

    async fn refund(&self, request: Request<payment::RefundRequest>) -> Answer<payment::RefundResponse> {
        const ME: Collaborator = Collaborator::Payment;
        let request = request.into_inner();
        let (amount, currency) = need(ME, money(&request.amount, &request.currency), MONEY)?;
        let key = CallKey::from_text(request.key);
        let outcome = self.0.refund(&context(), &key, &request.transaction_id, amount, currency).await;
        answer(ME, outcome, |refunded| payment::RefundResponse { refund_id: refunded.refund_id })
    }
}

#[tonic::async_trait]
impl ShippingService for Api {
    async fn create_label(&self, request: Request<shipping::CreateLabelRequest>) -> Answer<shipping::Label> {
        const ME: Collaborator = Collaborator::Shipping;
        let request = request.into_inner();
        let order: OrderId = need(ME, request.order_id.parse().ok(), ORDER)?;
        let lines = need(ME, read_lines(&request.lines), LINES)?;
        need(ME, request.to, "to is missing")?;
        let key = CallKey::from_text(request.key);
        let outcome = self.0.label_for(&context(), &key, order, &request.method, &lines).await;
        answer(ME, outcome, |label| shipping::Label {
            carrier: label.carrier,
            tracking_number: label.tracking_number,
            label_url: label.label_url,
        })
    }

    async fn void_label(
        &self,
        request: Request<shipping::VoidLabelRequest>,
    ) -> Answer<shipping::VoidLabelResponse> {
        let key = CallKey::from_text(request.into_inner().key);
        let outcome = self.0.void_label(&context(), &key).await;
        answer(Collaborator::Shipping, outcome, |()| shipping::VoidLabelResponse {})
    }
}
