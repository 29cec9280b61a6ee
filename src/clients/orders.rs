//! A client of our own API for the command line: plain calls, plain errors.

mod access;
mod edits;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use prost::Message;
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

pub use self::access::{Access, Bearer, Reason};
use super::code_name;
use crate::proto::order;
use crate::proto::order::order_service_client::OrderServiceClient;

/// Largest answer that is read, in bytes: a page of the largest orders.
pub(super) const MAX_ANSWER_BYTES: usize = 67_108_864;

/// How often a silent stream is checked.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A field that is wrong, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldViolation {
    /// Path of the field in the request.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A line that inventory cannot serve in full.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Shortage {
    /// The product.
    pub product_id: String,
    /// The variant, for products that have some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant_id: Option<String>,
    /// How many were asked for.
    pub requested_quantity: i32,
    /// How many there are.
    pub available_quantity: i32,
}

/// A refusal or failure of a call, taken apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApiError {
    /// Name of the gRPC code, such as `FAILED_PRECONDITION`.
    pub code: &'static str,
    /// The reason of the contract, such as `ORDER_NOT_FOUND`; the code where the server names none.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// What belongs to it.
    pub details: Box<ApiDetails>,
}

/// What belongs to an [`ApiError`], as far as the server told it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApiDetails {
    /// Fields that are wrong.
    pub violations: Vec<FieldViolation>,
    /// Lines that are short.
    pub shortages: Vec<Shortage>,
    /// Facts by name: `order_id`, `current_version`, ...
    pub metadata: BTreeMap<String, String>,
    /// Type and name of what was not found.
    pub resource: Option<(String, String)>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of our own making.
    pub fn local(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason: code.to_owned(), message: message.into(), ..Self::default() }
    }

    /// Whether the call may work when it is made again later.
    pub fn is_unavailable(&self) -> bool {
        self.code == "UNAVAILABLE"
    }

    /// Whether a limit was reached, so that the call may work later.
    pub fn is_overloaded(&self) -> bool {
        self.code == "RESOURCE_EXHAUSTED"
    }

    /// Whether what was asked for may have happened nevertheless.
    pub fn may_have_happened(&self) -> bool {
        matches!(self.code, "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "CANCELLED" | "UNKNOWN" | "INTERNAL")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ApiError {}

/// A connection to an order service.
pub struct OrdersClient {
    inner: OrderServiceClient<Channel>,
    server: String,
    timeout: Duration,
    access: Access,
}

impl OrdersClient {
    /// Connects to the first that answers of `servers`, each a URL or `HOST:PORT`, with commas between. Connecting to one
    /// and every call may take `timeout`. `access` is how calls prove who makes them, and the server who it is.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when one is no URL or would get a token in the clear, `UNAVAILABLE` when none answers.
    pub async fn connect(servers: &str, timeout: Duration, access: &Access) -> Result<Self, ApiError> {
        let mut unreached = None;
        for server in servers.split(',').map(str::trim) {
            let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
            let endpoint = endpoint(&server, timeout, access).map_err(|_| {
                let message =
                    format!("{server} is not the URL of a server; write it like http://127.0.0.1:50051");
                ApiError::local("INVALID_ARGUMENT", message)
            })?;
            access.fits(endpoint.uri()).map_err(|message| ApiError::local("INVALID_ARGUMENT", message))?;
            match endpoint.connect().await {
                Ok(channel) => {
                    let inner = OrderServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
                    return Ok(Self { inner, server, timeout, access: access.clone() });
                }
                Err(error) => {
                    unreached.get_or_insert_with(|| cannot_reach(&server, &error));
                }
            }
        }
        Err(unreached.unwrap_or_else(|| ApiError::local("INVALID_ARGUMENT", "no server is named")))
    }

    /// `CreateOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn create(&mut self, content: order::CreateOrderRequest) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.create_order(request).await;
        self.plain(answer)
    }

    /// `GetOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn get(&mut self, key: order::get_order_request::Key) -> Result<order::Order, ApiError> {
        let request = self.request(order::GetOrderRequest { key: Some(key), allow_stale: false });
        let answer = self.inner.get_order(request).await;
        self.plain(answer)
    }

    /// `UpdateOrderStatus`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn set_status(
        &mut self,
        content: order::UpdateOrderStatusRequest,
    ) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.update_order_status(request).await;
        self.plain(answer)
    }

    /// `CancelOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn cancel(&mut self, content: order::CancelOrderRequest) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.cancel_order(request).await;
        self.plain(answer)
    }

    /// `RefundOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn refund(&mut self, content: order::RefundOrderRequest) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.refund_order(request).await;
        self.plain(answer)
    }

    /// `HoldOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn hold(&mut self, content: order::HoldOrderRequest) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.hold_order(request).await;
        self.plain(answer)
    }

    /// `ReleaseOrder`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn release(&mut self, content: order::ReleaseOrderRequest) -> Result<order::Order, ApiError> {
        let request = self.request(content);
        let answer = self.inner.release_order(request).await;
        self.plain(answer)
    }

    /// `ListOrders`: one page.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn list(
        &mut self,
        content: order::ListOrdersRequest,
    ) -> Result<order::ListOrdersResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.list_orders(request).await;
        self.plain(answer)
    }

    /// `ListOrderEvents`: one page.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn events(
        &mut self,
        content: order::ListOrderEventsRequest,
    ) -> Result<order::ListOrderEventsResponse, ApiError> {
        let request = self.request(content);
        let answer = self.inner.list_order_events(request).await;
        self.plain(answer)
    }

    /// `ListPaymentTransactions`.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn payments(
        &mut self,
        order_id: String,
    ) -> Result<order::ListPaymentTransactionsResponse, ApiError> {
        let request = self.request(order::ListPaymentTransactionsRequest { order_id });
        let answer = self.inner.list_payment_transactions(request).await;
        self.plain(answer)
    }

    /// `WatchOrder`: the events behind `after_sequence`, stored ones first. The stream itself has no time limit.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub async fn watch(&mut self, order_id: String, after_sequence: i64) -> Result<Watch, ApiError> {
        let mut request = self.request(order::WatchOrderRequest { order_id, after_sequence });
        // The server would end the stream by then.
        request.metadata_mut().remove("grpc-timeout");
        let answer = tokio::time::timeout(self.timeout, self.inner.watch_order(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        Ok(Watch { stream: self.plain(answer)?, server: self.server.clone(), timeout: self.timeout })
    }

    fn request<T>(&self, content: T) -> Request<T> {
        let mut request = Request::new(content);
        request.set_timeout(self.timeout);
        self.access.put(request.metadata_mut());
        request
    }

    fn plain<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, ApiError> {
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| from_status(&status, &self.server, self.timeout))
    }
}

/// A running `WatchOrder`.
pub struct Watch {
    stream: Streaming<order::WatchOrderResponse>,
    server: String,
    timeout: Duration,
}

impl Watch {
    /// The next event; none when the server ended the stream.
    ///
    /// # Errors
    /// What the server answers, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<order::WatchOrderResponse>, ApiError> {
        self.stream.message().await.map_err(|status| from_status(&status, &self.server, self.timeout))
    }
}

pub(super) fn endpoint(server: &str, timeout: Duration, access: &Access) -> Result<Endpoint, Box<dyn Error>> {
    let endpoint = Endpoint::from_shared(server.to_owned())?
        .connect_timeout(timeout)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    match endpoint.uri().scheme_str() {
        Some("http") => Ok(endpoint),
        Some("https") => Ok(endpoint.tls_config(access.tls())?),
        _ => Err("neither http nor https".into()),
    }
}

/// The innermost cause of an error: what went wrong, without the layers that passed it on.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

pub(super) fn cannot_reach(server: &str, error: &dyn Error) -> ApiError {
    let message = format!(
        "the order service at {server} cannot be reached ({}); start one with `order-service serve` or name \
         another with --server",
        root_cause(error)
    );
    ApiError::local("UNAVAILABLE", message)
}

pub(super) fn from_status(status: &Status, server: &str, timeout: Duration) -> ApiError {
    // A status with a source is not an answer of the server: the connection broke.
    if let Some(source) = Error::source(status)
        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal)
    {
        let cause = root_cause(source);
        let message =
            format!("the connection to {server} broke ({cause}); try again when the service is back");
        return ApiError::local("UNAVAILABLE", message);
    }
    let details = status.get_error_details();
    let code = code_name(status.code());
    let mut error = ApiError::local(code, status.message());
    let told = error.details.as_mut();
    if let Some(info) = details.error_info() {
        error.reason.clone_from(&info.reason);
        told.metadata = info.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    } else if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
        error.message =
            format!("{server} gave no answer within {timeout:?}; look at the order, or raise --timeout");
    } else if status.code() == Code::Unavailable {
        error.message = format!("{server} is not available ({}); try again later", status.message());
    } else if status.code() == Code::Unimplemented {
        error.message = format!("{server} does not offer this call; point --server at an order service");
    } else if error.message.is_empty() {
        error.message = format!("{server} answered {code}; look at its log");
    }
    if let Some(request) = details.bad_request() {
        let violations = request.field_violations.iter();
        told.violations = violations
            .map(|bad| FieldViolation { field: bad.field.clone(), description: bad.description.clone() })
            .collect();
    }
    if let Some(failure) = details.precondition_failure() {
        let violations = failure.violations.iter();
        told.violations.extend(
            violations.map(|bad| FieldViolation {
                field: bad.subject.clone(),
                description: bad.description.clone(),
            }),
        );
    }
    told.shortages = shortages(status.details());
    told.resource =
        details.resource_info().map(|info| (info.resource_type.clone(), info.resource_name.clone()));
    told.retry_after = details.retry_info().and_then(|info| info.retry_delay);
    error
}

/// The short items among the details of a status, which the standard details cannot hold.
fn shortages(details: &[u8]) -> Vec<Shortage> {
    let details = tonic_types::Status::decode(details).map(|status| status.details).unwrap_or_default();
    let found = details.iter().find(|detail| detail.type_url.ends_with("/order.v1.InventoryUnavailable"));
    let decoded = found.and_then(|detail| order::InventoryUnavailable::decode(detail.value.as_slice()).ok());
    let items = decoded.map(|decoded| decoded.items).unwrap_or_default().into_iter();
    items
        .map(|item| Shortage {
            product_id: item.product_id,
            variant_id: Some(item.variant_id).filter(|id| !id.is_empty()),
            requested_quantity: item.requested_quantity,
            available_quantity: item.available_quantity,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn decode(code: Code, message: &str, details: ErrorDetails) -> ApiError {
        let status = Status::with_error_details(code, message, details);
        from_status(&status, "http://h:1", Duration::from_secs(5))
    }

    #[test]
    fn details_are_taken_apart() {
        let mut details = ErrorDetails::new();
        let metadata = [("order_id".to_owned(), "o".to_owned())];
        details.set_error_info("INVENTORY_UNAVAILABLE", "order.v1", metadata);
        details.set_retry_info(Some(Duration::from_secs(1)));
        details.set_resource_info("order", "o", "", "");
        details.add_bad_request_violation("items", "too many");
        let error = decode(Code::FailedPrecondition, "some items are not available", details);
        assert_eq!((error.code, error.reason.as_str()), ("FAILED_PRECONDITION", "INVENTORY_UNAVAILABLE"));
        assert_eq!(error.details.metadata.keys().collect::<Vec<_>>(), ["order_id"]);
        assert_eq!(error.details.violations.first().unwrap().field, "items");
        assert_eq!(error.details.resource, Some(("order".to_owned(), "o".to_owned())));
        assert_eq!(error.details.retry_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn short_items_are_found_among_the_details() {
        let item = order::ItemShortage {
            product_id: "p".into(),
            variant_id: String::new(),
            requested_quantity: 5,
            available_quantity: 2,
        };
        let value = order::InventoryUnavailable { items: vec![item] }.encode_to_vec();
        let type_url = "type.googleapis.com/order.v1.InventoryUnavailable".to_owned();
        let details = vec![prost_types::Any { type_url, value }];
        let packed = tonic_types::Status { code: 9, message: String::new(), details }.encode_to_vec();
        let found = shortages(&packed);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].variant_id, None);
        assert_eq!((found[0].requested_quantity, found[0].available_quantity), (5, 2));
        assert!(shortages(b"nonsense").is_empty());
    }

    #[test]
    fn errors_without_details_say_what_to_do() {
        let error = decode(Code::DeadlineExceeded, "Timeout expired", ErrorDetails::new());
        assert!(error.message.contains("within 5s") && error.may_have_happened(), "{error}");
        let error = decode(Code::Unimplemented, "", ErrorDetails::new());
        assert_eq!(error.reason, "UNIMPLEMENTED");
        assert!(error.message.contains("--server"), "{error}");
    }

    #[tokio::test]
    async fn nobody_listens() {
        let error = OrdersClient::connect("127.0.0.1:1", Duration::from_secs(5), &Access::default())
            .await
            .err()
            .unwrap();
        assert!(error.is_unavailable() && error.message.contains("order-service serve"), "{error}");
        let error =
            OrdersClient::connect("ftp://h", Duration::from_secs(5), &Access::default()).await.err().unwrap();
        assert_eq!(error.code, "INVALID_ARGUMENT");
    }
}
