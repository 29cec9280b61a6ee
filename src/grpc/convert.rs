//! Orders and their parts as messages.

use prost_types::Timestamp as PbTimestamp;

use crate::domain::Timestamp;
use crate::domain::access::Role;
use crate::domain::address::{Address, AddressKind};
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::ids::OrderId;
use crate::domain::money::format_amount;
use crate::domain::order::{Order, Shipment};
use crate::domain::payment::{balance, stories};
use crate::domain::sealed::{PersonalData, shown};
use crate::domain::status::{OrderStatus, PaymentStatus};
use crate::ports::seen::Glance;
use crate::proto::order as pb;

/// A time as a message.
pub(super) fn time(at: Timestamp) -> PbTimestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0);
    PbTimestamp { seconds: at.timestamp(), nanos }
}

/// A status as its number.
pub(super) fn status_to_pb(status: OrderStatus) -> pb::OrderStatus {
    match status {
        OrderStatus::Pending => pb::OrderStatus::Pending,
        OrderStatus::Confirmed => pb::OrderStatus::Confirmed,
        OrderStatus::Processing => pb::OrderStatus::Processing,
        OrderStatus::Shipped => pb::OrderStatus::Shipped,
        OrderStatus::Delivered => pb::OrderStatus::Delivered,
        OrderStatus::Cancelling => pb::OrderStatus::Cancelling,
        OrderStatus::Cancelled => pb::OrderStatus::Cancelled,
        OrderStatus::Returned => pb::OrderStatus::Returned,
    }
}

/// The status with this number; none for an unknown or unspecified one.
pub(super) fn status_from_pb(number: i32) -> Option<OrderStatus> {
    OrderStatus::ALL.iter().copied().find(|status| status_to_pb(*status) as i32 == number)
}

pub(super) fn payment_status(status: PaymentStatus) -> pb::PaymentStatus {
    match status {
        PaymentStatus::Pending => pb::PaymentStatus::Pending,
        PaymentStatus::Authorized => pb::PaymentStatus::Authorized,
        PaymentStatus::Paid => pb::PaymentStatus::Paid,
        PaymentStatus::Failed => pb::PaymentStatus::Failed,
        PaymentStatus::Unknown => pb::PaymentStatus::Unknown,
        PaymentStatus::RefundPending => pb::PaymentStatus::RefundPending,
        PaymentStatus::PartiallyRefunded => pb::PaymentStatus::PartiallyRefunded,
        PaymentStatus::Refunded => pb::PaymentStatus::Refunded,
        PaymentStatus::RefundFailed => pb::PaymentStatus::RefundFailed,
    }
}

/// An order as a message.
pub(super) fn order(order: &Order) -> pb::Order {
    let currency = order.currency;
    let money = |amount| format_amount(amount, currency);
    let id = order.id.to_string();
    pb::Order {
        user_id: order.user_id.to_string(),
        order_number: order.order_number.to_string(),
        status: status_to_pb(order.status).into(),
        total_amount: money(order.totals.total),
        subtotal: money(order.totals.subtotal),
        tax_amount: money(order.totals.tax),
        shipping_amount: money(order.totals.shipping),
        discount_amount: money(order.totals.discount),
        currency: currency.code().to_owned(),
        payment_method: order.payment_method.clone(),
        payment_status: payment_status(order.payment_status).into(),
        shipping_method: order.shipping_method.clone(),
        notes: shown(&order.notes).to_owned(),
        created_at: Some(time(order.created_at)),
        updated_at: Some(time(order.updated_at)),
        completed_at: order.completed_at.map(time),
        cancelled_at: order.cancelled_at.map(time),
        items: order
            .items
            .iter()
            .map(|item| pb::OrderItem {
                id: item.id.to_string(),
                order_id: id.clone(),
                product_id: item.product.product_id.to_string(),
                variant_id: item.product.variant_id.map(|id| id.to_string()).unwrap_or_default(),
                sku: item.sku.clone(),
                name: item.name.clone(),
                quantity: i32::try_from(item.quantity).unwrap_or(i32::MAX),
                unit_price: money(item.unit_price),
                subtotal: money(item.subtotal),
                discount_amount: money(item.discount_amount),
                tax_amount: money(item.tax_amount),
            })
            .collect(),
        addresses: order.addresses.iter().map(|one| address(order.id, one)).collect(),
        version: order.version,
        cancel_reason: order.cancel_reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        allowed_next_statuses: order
            .status
            .allowed_next()
            .into_iter()
            .map(|status| status_to_pb(status).into())
            .collect(),
        shipments: order.shipments.iter().map(shipment).collect(),
        hold: order.hold.as_ref().map(|hold| pb::Hold {
            reason: hold.reason.clone(),
            by: hold.by.clone(),
            until: hold.until.map(time),
            since: Some(time(hold.since)),
        }),
        coupon_code: order.coupon_code.clone().unwrap_or_default(),
        metadata: order.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        inventory_reservation_id: order.reservation.id.clone().unwrap_or_default(),
        attention_reason: order.attention.clone().unwrap_or_default(),
        balance: money(balance(order)),
        personal_data: personal_data(order).into(),
        id,
    }
}

fn personal_data(order: &Order) -> pb::PersonalData {
    match order.personal_data() {
        PersonalData::Available => pb::PersonalData::Available,
        PersonalData::Unavailable => pb::PersonalData::Unavailable,
        PersonalData::Erased => pb::PersonalData::Erased,
    }
}

fn address(order: OrderId, address: &Address) -> pb::OrderAddress {
    let (kind, name) = match address.kind {
        AddressKind::Shipping => (pb::AddressType::Shipping, "shipping_address"),
        AddressKind::Billing => (pb::AddressType::Billing, "billing_address"),
    };
    pb::OrderAddress {
        id: order.part(name, 0).to_string(),
        order_id: order.to_string(),
        address_type: kind.into(),
        // One that is sealed has all its personal data there.
        first_name: shown(&address.first_name).to_owned(),
        last_name: address.last_name.clone(),
        address_line1: address.address_line1.clone(),
        address_line2: address.address_line2.clone().unwrap_or_default(),
        city: address.city.clone(),
        state: address.state.clone(),
        postal_code: address.postal_code.clone(),
        country: address.country.code().to_owned(),
        phone: address.phone.clone().unwrap_or_default(),
        email: address.email.clone().unwrap_or_default(),
    }
}

fn shipment(shipment: &Shipment) -> pb::Shipment {
    pb::Shipment {
        id: shipment.id.to_string(),
        carrier: shipment.carrier.clone(),
        tracking_number: shipment.tracking_number.clone(),
        label_url: shipment.label_url.clone(),
        label_status: shipment.state.as_str().to_owned(),
        created_at: Some(time(shipment.created_at)),
        updated_at: Some(time(shipment.updated_at)),
    }
}

/// An event as a message.
pub(super) fn event(order: OrderId, recorded: &RecordedEvent) -> pb::OrderEvent {
    let (status, notes) = match &recorded.event {
        OrderEvent::StatusChanged { to, notes, .. } => (status_to_pb(*to), shown(notes).to_owned()),
        OrderEvent::OrderCreated { .. } => (pb::OrderStatus::Pending, String::new()),
        _ => (pb::OrderStatus::Unspecified, String::new()),
    };
    pb::OrderEvent {
        order_id: order.to_string(),
        sequence: recorded.seq,
        version: recorded.version,
        r#type: recorded.event.kind().to_owned(),
        at: Some(time(recorded.at)),
        principal: recorded.principal.clone(),
        request_id: recorded.request_id.clone().unwrap_or_default(),
        payload_json: serde_json::to_string(&*recorded.event.shown()).unwrap_or_default(),
        status: status.into(),
        notes,
        role: recorded.role.map(Role::name).unwrap_or_default().to_owned(),
        reason: recorded.reason.as_deref().unwrap_or_default().to_owned(),
    }
}

/// The ledger of an order as one transaction a call.
pub(super) fn transactions(order: &Order) -> Vec<pb::PaymentTransaction> {
    stories(&order.payments)
        .into_iter()
        .map(|story| pb::PaymentTransaction {
            id: story.first.id.to_string(),
            order_id: order.id.to_string(),
            transaction_id: story.last.transaction_id.clone(),
            kind: story.last.kind.as_str().to_owned(),
            status: story.last.state.as_str().to_owned(),
            payment_method: story.last.method.clone(),
            amount: format_amount(story.last.amount, order.currency),
            currency: order.currency.code().to_owned(),
            decline_code: story.last.code.clone().unwrap_or_default(),
            gateway_response: story.last.gateway_response.clone().unwrap_or_default(),
            key: story.last.key.to_string(),
            created_at: Some(time(story.first.created_at)),
            updated_at: Some(time(story.last.created_at)),
            parent_transaction_id: story.last.parent.clone().unwrap_or_default(),
        })
        .collect()
}

/// The short answer about an order.
pub(super) fn order_status(order: &Glance) -> pb::GetOrderStatusResponse {
    pb::GetOrderStatusResponse {
        id: order.id.to_string(),
        order_number: order.order_number.to_string(),
        status: status_to_pb(order.status).into(),
        payment_status: payment_status(order.payment_status).into(),
        version: order.version,
        updated_at: Some(time(order.updated_at)),
    }
}
