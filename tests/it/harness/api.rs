//! What tests of the API share: refusals taken apart, waiting with an end, orders brought where a test needs them.

use std::collections::HashMap;
use std::time::Duration;

use order_service::clients::sim::catalogue;
use order_service::clients::sim::{
    ChargeState, FaultSpec, FaultTarget, LabelState, OrderLedger, ReservationState, StockTotals,
};
use order_service::domain::ids::OrderId;
use order_service::domain::item::ProductRef;
use order_service::proto::order as pb;
use prost::Message;
use rust_decimal::Decimal;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use super::node::{TestNode, sample_order};

/// Short pauses between tries, and tries without end, so that a fault stops an order for as long as it is set.
pub const QUICK: &[(&str, &str)] = &[
    ("ORDER__SAGA__RETRY_INITIAL", "5ms"),
    ("ORDER__SAGA__RETRY_MAX", "20ms"),
    ("ORDER__SAGA__FORWARD_TRIES", "1000"),
    ("ORDER__SAGA__CHARGE_SETTLE_LAG", "50ms"),
    ("ORDER__SAGA__STEP_TIMEOUT", "20s"),
];

/// `QUICK` and more.
pub fn quick<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(more).copied().collect()
}

pub use super::wait::eventually;

/// A refusal as a caller reads it.
#[derive(Debug)]
pub struct Refusal {
    /// Of the `ErrorInfo`.
    pub metadata: HashMap<String, String>,
    /// Fields of the `BadRequest`, sorted.
    pub fields: Vec<String>,
    /// Whether there is a `RetryInfo` with a delay.
    pub retry: bool,
    /// Type and name of the `ResourceInfo`.
    pub resource: Option<(String, String)>,
    /// Of `order.v1.InventoryUnavailable`.
    pub shortages: Vec<pb::ItemShortage>,
}

/// Takes a refusal apart; it must have this code, and exactly one `ErrorInfo`, with this reason.
#[track_caller]
pub fn read_refusal(status: &Status, code: Code, reason: &str) -> Refusal {
    let packed = tonic_types::Status::decode(status.details()).unwrap();
    assert_eq!(packed.message, status.message());
    assert_eq!(packed.code, status.code() as i32);
    let of_type = |name: &str| packed.details.iter().filter(|any| any.type_url.ends_with(name)).count();
    assert_eq!(of_type("google.rpc.ErrorInfo"), 1, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(
        (status.code(), info.reason.as_str(), info.domain.as_str()),
        (code, reason, "order.v1"),
        "{status:?}"
    );
    assert!(!status.message().is_empty());
    let mut fields: Vec<String> = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|violation| violation.field.clone()).collect())
        .unwrap_or_default();
    fields.sort();
    let shortages = packed.details.iter().find(|any| any.type_url.ends_with("order.v1.InventoryUnavailable"));
    Refusal {
        metadata: info.metadata.clone(),
        fields,
        retry: details
            .retry_info()
            .is_some_and(|retry| retry.retry_delay.is_some_and(|delay| !delay.is_zero())),
        resource: details
            .resource_info()
            .map(|resource| (resource.resource_type.clone(), resource.resource_name.clone())),
        shortages: shortages
            .map(|any| pb::InventoryUnavailable::decode(any.value.as_slice()).unwrap().items)
            .unwrap_or_default(),
    }
}

/// As [`read_refusal`], of an answer that must not be good.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: Code, reason: &str) -> Refusal {
    read_refusal(&answer.unwrap_err(), code, reason)
}

/// A violation of these fields and no others.
#[track_caller]
pub fn invalid<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, reason: &str, fields: &[&str]) {
    let refusal = refused(answer, Code::InvalidArgument, reason);
    assert_eq!(refusal.fields, fields);
    assert!(!refusal.retry, "the same request will not get better");
}

/// A line.
pub fn line(product: ProductRef, quantity: i32) -> pb::NewOrderItem {
    pb::NewOrderItem {
        product_id: product.product_id.to_string(),
        variant_id: product.variant_id.map(|id| id.to_string()).unwrap_or_default(),
        quantity,
    }
}

/// The sample order with these lines, and no coupon.
pub fn order_of(lines: &[(u32, i32)]) -> pb::CreateOrderRequest {
    let items = lines.iter().map(|(number, quantity)| line(catalogue::product(*number), *quantity)).collect();
    pb::CreateOrderRequest { items, coupon_code: String::new(), ..sample_order() }
}

/// The sample's address, elsewhere.
pub fn address_in(country: &str, state: &str, postal_code: &str) -> pb::OrderAddress {
    pb::OrderAddress {
        country: country.into(),
        state: state.into(),
        postal_code: postal_code.into(),
        ..sample_order().shipping_address.unwrap()
    }
}

/// The id of an order on the wire.
pub fn id_of(order: &pb::Order) -> OrderId {
    order.id.parse().unwrap()
}

/// A request for an order by id.
pub fn by_id(id: &str) -> pb::GetOrderRequest {
    pb::GetOrderRequest { key: Some(pb::get_order_request::Key::Id(id.to_owned())), allow_stale: false }
}

/// A request for an order by number.
pub fn by_number(number: &str) -> pb::GetOrderRequest {
    let key = pb::get_order_request::Key::OrderNumber(number.to_owned());
    pb::GetOrderRequest { key: Some(key), allow_stale: false }
}

/// A connection of its own.
pub async fn channel(node: &TestNode) -> Channel {
    let address = format!("http://{}", node.node().grpc_address());
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

/// What a fault does to a method such as `payment.Charge`, and to nothing else.
pub fn fault(node: &TestNode, method: &str, spec: FaultSpec) {
    node.simulator().set_faults(true, vec![(FaultTarget::parse(method).unwrap(), spec)]).unwrap();
}

/// No faults any more.
pub fn no_faults(node: &TestNode) {
    node.simulator().set_faults(true, Vec::new()).unwrap();
}

/// Calls never get there.
pub fn down() -> FaultSpec {
    FaultSpec { unavailable: true, ..FaultSpec::default() }
}

/// Calls take this long.
pub fn slow(delay: Duration) -> FaultSpec {
    FaultSpec { delay, ..FaultSpec::default() }
}

impl TestNode {
    /// Creates an order that must be taken.
    pub async fn create(&self, request: pb::CreateOrderRequest) -> pb::Order {
        self.client().create_order(request).await.unwrap().into_inner()
    }

    /// Creates an order, or not.
    pub async fn try_create(&self, request: pb::CreateOrderRequest) -> Result<pb::Order, Status> {
        Ok(self.client().create_order(request).await?.into_inner())
    }

    /// An order as it stands.
    pub async fn get(&self, id: &str) -> pb::Order {
        self.client().get_order(by_id(id)).await.unwrap().into_inner()
    }

    /// Asks for a status.
    pub async fn ask_status(&self, id: &str, status: pb::OrderStatus) -> Result<pb::Order, Status> {
        let request =
            pb::UpdateOrderStatusRequest { id: id.to_owned(), status: status.into(), ..Default::default() };
        Ok(self.client().update_order_status(request).await?.into_inner())
    }

    /// Asks for an end.
    pub async fn cancel(&self, id: &str) -> Result<pb::Order, Status> {
        let request = pb::CancelOrderRequest { id: id.to_owned(), ..Default::default() };
        Ok(self.client().cancel_order(request).await?.into_inner())
    }

    /// Asks for this much of the money back; for all of it when that is empty.
    pub async fn refund(&self, id: &str, amount: &str) -> Result<pb::Order, Status> {
        let request =
            pb::RefundOrderRequest { id: id.to_owned(), amount: amount.into(), ..Default::default() };
        Ok(self.client().refund_order(request).await?.into_inner())
    }

    /// Puts an order on hold until it is released.
    pub async fn hold(&self, id: &str, reason: &str) -> Result<pb::Order, Status> {
        let request = pb::HoldOrderRequest { id: id.to_owned(), reason: reason.into(), ..Default::default() };
        Ok(self.client().hold_order(request).await?.into_inner())
    }

    /// Ends a hold.
    pub async fn release(&self, id: &str) -> Result<pb::Order, Status> {
        let request = pb::ReleaseOrderRequest { id: id.to_owned(), ..Default::default() };
        Ok(self.client().release_order(request).await?.into_inner())
    }

    /// Waits until an order has this status.
    pub async fn until(&self, id: &str, status: pb::OrderStatus) -> pb::Order {
        let look = || async { Some(self.get(id).await).filter(|order| order.status() == status) };
        eventually(status.as_str_name(), look).await
    }

    /// All events of an order with few of them.
    pub async fn events(&self, id: &str) -> Vec<pb::OrderEvent> {
        let request =
            pb::ListOrderEventsRequest { order_id: id.to_owned(), page_size: 200, ..Default::default() };
        self.client().list_order_events(request).await.unwrap().into_inner().events
    }

    /// Waits until an order has an event of this type.
    pub async fn until_event(&self, id: &str, kind: &str) -> pb::OrderEvent {
        let look = || async {
            let event = self.events(id).await.into_iter().find(|event| event.r#type == kind)?;
            // It is stored a moment before the order that has it is shown.
            (self.get(id).await.version >= event.version).then_some(event)
        };
        eventually(kind, look).await
    }

    /// A page of all orders.
    pub async fn orders(&self) -> Vec<pb::Order> {
        let request = pb::ListOrdersRequest { page_size: 200, ..Default::default() };
        self.client().list_orders(request).await.unwrap().into_inner().orders
    }

    /// A new order walked to this status along the table. The last two need nothing to be down.
    pub async fn order_at(&self, status: pb::OrderStatus) -> pb::Order {
        use pb::OrderStatus::{Cancelled, Confirmed, Delivered, Processing, Returned, Shipped};
        let mut order = self.create(sample_order()).await;
        assert_eq!(order.status(), Confirmed);
        let path: &[pb::OrderStatus] = match status {
            Confirmed => &[],
            Processing => &[Processing],
            Shipped => &[Processing, Shipped],
            Delivered => &[Processing, Shipped, Delivered],
            Returned => &[Processing, Shipped, Returned],
            Cancelled => &[Cancelled],
            other => panic!("no walk leads to {}", other.as_str_name()),
        };
        for next in path {
            order = self.ask_status(&order.id, *next).await.unwrap();
            assert_eq!(order.status(), *next);
        }
        order
    }

    /// What the collaborators did for an order.
    pub fn ledger(&self, order: &pb::Order) -> OrderLedger {
        self.simulator().order_ledger(id_of(order))
    }

    /// Where the units of a product are.
    pub fn stock(&self, product: ProductRef) -> StockTotals {
        self.simulator().stock().into_iter().find(|totals| totals.product == product).unwrap()
    }

    /// Nothing is stored, nobody was charged, nothing is held, and no actor is left behind.
    pub async fn assert_untouched(&self, why: &str) {
        assert_eq!(self.orders().await.len(), 0, "stored: {why}");
        assert_eq!(self.simulator().ledger_page(0, 1).orders.len(), 0, "moved: {why}");
        eventually(why, || async { (self.node().orders().counts().live == 0).then_some(()) }).await;
    }

    /// All money is back, no unit is out and no label lives.
    #[track_caller]
    pub fn assert_unwound(&self, order: &pb::Order) {
        let ledger = self.ledger(order);
        assert_eq!(taken(&ledger), returned(&ledger), "money: {ledger:?}");
        assert_eq!(units_out(&ledger), 0, "stock: {ledger:?}");
        assert!(ledger.labels.iter().all(|label| label.state != LabelState::Created), "labels: {ledger:?}");
    }
}

/// Money taken for an order.
pub fn taken(ledger: &OrderLedger) -> Decimal {
    let done = ledger.charges.iter().filter(|charge| charge.state == ChargeState::Succeeded);
    done.map(|charge| charge.amount).sum()
}

/// Money given back.
pub fn returned(ledger: &OrderLedger) -> Decimal {
    ledger.refunds.iter().map(|refund| refund.amount).sum()
}

/// Units that are held for an order or gone with it.
pub fn units_out(ledger: &OrderLedger) -> u64 {
    let live = ledger.reservations.iter().filter(|reservation| {
        matches!(reservation.state, ReservationState::Held | ReservationState::Committed)
    });
    live.map(|reservation| {
        let sum = |units: &[order_service::clients::sim::Units]| {
            units.iter().map(|line| line.quantity).sum::<u64>()
        };
        sum(&reservation.lines) - sum(&reservation.restocked)
    })
    .sum()
}

/// An amount on the wire: it must have exactly this many digits after the point.
#[track_caller]
pub fn amount(text: &str, digits: usize) -> Decimal {
    let found = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    assert_eq!(found, digits, "{text}");
    text.parse().unwrap()
}

/// The law of money, as a caller can check it.
#[track_caller]
pub fn assert_adds_up(order: &pb::Order, digits: usize) {
    let of = |text: &str| amount(text, digits);
    let sum =
        |part: fn(&pb::OrderItem) -> &String| order.items.iter().map(|item| of(part(item))).sum::<Decimal>();
    for item in &order.items {
        assert_eq!(of(&item.unit_price) * Decimal::from(item.quantity), of(&item.subtotal));
        assert!(of(&item.discount_amount) <= of(&item.subtotal));
    }
    assert_eq!(sum(|item| &item.subtotal), of(&order.subtotal));
    assert_eq!(sum(|item| &item.discount_amount), of(&order.discount_amount));
    assert_eq!(sum(|item| &item.tax_amount), of(&order.tax_amount));
    let total =
        of(&order.subtotal) - of(&order.discount_amount) + of(&order.tax_amount) + of(&order.shipping_amount);
    assert_eq!(total, of(&order.total_amount));
    assert!(total >= Decimal::ZERO);
}
