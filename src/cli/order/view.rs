//! Orders, events and payments as JSON: the names of the API, amounts as text, short names of enums, RFC 3339 times.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::proto::order;

/// An order as JSON. Times that have not come are `null`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct OrderJson {
    pub(super) id: String,
    pub(super) user_id: String,
    pub(super) order_number: String,
    pub(super) status: String,
    pub(super) total_amount: String,
    pub(super) subtotal: String,
    pub(super) tax_amount: String,
    pub(super) shipping_amount: String,
    pub(super) discount_amount: String,
    pub(super) currency: String,
    pub(super) payment_method: String,
    pub(super) payment_status: String,
    pub(super) shipping_method: String,
    pub(super) notes: String,
    pub(super) created_at: Option<String>,
    pub(super) updated_at: Option<String>,
    pub(super) completed_at: Option<String>,
    pub(super) cancelled_at: Option<String>,
    pub(super) items: Vec<ItemJson>,
    pub(super) addresses: Vec<AddressJson>,
    pub(super) version: i64,
    pub(super) cancel_reason: String,
    pub(super) attention_reason: String,
    pub(super) balance: String,
    pub(super) personal_data: String,
    pub(super) allowed_next_statuses: Vec<String>,
    pub(super) shipments: Vec<ShipmentJson>,
    pub(super) hold: Option<HoldJson>,
    pub(super) coupon_code: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) inventory_reservation_id: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct ItemJson {
    pub(super) id: String,
    pub(super) order_id: String,
    pub(super) product_id: String,
    pub(super) variant_id: String,
    pub(super) sku: String,
    pub(super) name: String,
    pub(super) quantity: i32,
    pub(super) unit_price: String,
    pub(super) subtotal: String,
    pub(super) discount_amount: String,
    pub(super) tax_amount: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct AddressJson {
    pub(super) id: String,
    pub(super) order_id: String,
    pub(super) address_type: String,
    pub(super) first_name: String,
    pub(super) last_name: String,
    pub(super) address_line1: String,
    pub(super) address_line2: String,
    pub(super) city: String,
    pub(super) state: String,
    pub(super) postal_code: String,
    pub(super) country: String,
    pub(super) phone: String,
    pub(super) email: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct ShipmentJson {
    pub(super) id: String,
    pub(super) carrier: String,
    pub(super) tracking_number: String,
    pub(super) label_url: String,
    pub(super) label_status: String,
    pub(super) created_at: Option<String>,
    pub(super) updated_at: Option<String>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct HoldJson {
    pub(super) reason: String,
    pub(super) by: String,
    pub(super) until: Option<String>,
    pub(super) since: Option<String>,
}

/// An event as JSON; `status` is `null` but for `status_changed`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct EventJson {
    pub(super) order_id: String,
    pub(super) sequence: i64,
    pub(super) version: i64,
    pub(super) r#type: String,
    pub(super) at: Option<String>,
    pub(super) principal: String,
    pub(super) role: String,
    pub(super) reason: String,
    pub(super) request_id: String,
    pub(super) payload: Value,
    pub(super) status: Option<String>,
    pub(super) notes: String,
}

/// A call to the payment service as JSON.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct PaymentJson {
    pub(super) id: String,
    pub(super) order_id: String,
    pub(super) transaction_id: String,
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) payment_method: String,
    pub(super) amount: String,
    pub(super) currency: String,
    pub(super) parent_transaction_id: String,
    pub(super) decline_code: String,
    pub(super) gateway_response: Value,
    pub(super) key: String,
    pub(super) created_at: Option<String>,
    pub(super) updated_at: Option<String>,
}

impl From<order::Order> for OrderJson {
    fn from(order: order::Order) -> Self {
        let personal_data = short(order.personal_data().as_str_name(), "PERSONAL_DATA_");
        Self {
            personal_data,
            status: short_status(order.status),
            payment_status: short_payment_status(order.payment_status),
            created_at: time(order.created_at),
            updated_at: time(order.updated_at),
            completed_at: time(order.completed_at),
            cancelled_at: time(order.cancelled_at),
            items: order.items.into_iter().map(ItemJson::from).collect(),
            addresses: order.addresses.into_iter().map(AddressJson::from).collect(),
            allowed_next_statuses: order.allowed_next_statuses.into_iter().map(short_status).collect(),
            shipments: order.shipments.into_iter().map(ShipmentJson::from).collect(),
            hold: order.hold.map(HoldJson::from),
            metadata: order.metadata.into_iter().collect(),
            id: order.id,
            user_id: order.user_id,
            order_number: order.order_number,
            total_amount: order.total_amount,
            subtotal: order.subtotal,
            tax_amount: order.tax_amount,
            shipping_amount: order.shipping_amount,
            discount_amount: order.discount_amount,
            currency: order.currency,
            payment_method: order.payment_method,
            shipping_method: order.shipping_method,
            notes: order.notes,
            version: order.version,
            cancel_reason: order.cancel_reason,
            attention_reason: order.attention_reason,
            balance: order.balance,
            coupon_code: order.coupon_code,
            inventory_reservation_id: order.inventory_reservation_id,
        }
    }
}

impl From<order::OrderItem> for ItemJson {
    fn from(item: order::OrderItem) -> Self {
        Self {
            id: item.id,
            order_id: item.order_id,
            product_id: item.product_id,
            variant_id: item.variant_id,
            sku: item.sku,
            name: item.name,
            quantity: item.quantity,
            unit_price: item.unit_price,
            subtotal: item.subtotal,
            discount_amount: item.discount_amount,
            tax_amount: item.tax_amount,
        }
    }
}

impl From<order::OrderAddress> for AddressJson {
    fn from(address: order::OrderAddress) -> Self {
        let name = order::AddressType::try_from(address.address_type).unwrap_or_default().as_str_name();
        Self {
            address_type: short(name, "ADDRESS_TYPE_"),
            id: address.id,
            order_id: address.order_id,
            first_name: address.first_name,
            last_name: address.last_name,
            address_line1: address.address_line1,
            address_line2: address.address_line2,
            city: address.city,
            state: address.state,
            postal_code: address.postal_code,
            country: address.country,
            phone: address.phone,
            email: address.email,
        }
    }
}

impl From<order::Shipment> for ShipmentJson {
    fn from(shipment: order::Shipment) -> Self {
        Self {
            id: shipment.id,
            carrier: shipment.carrier,
            tracking_number: shipment.tracking_number,
            label_url: shipment.label_url,
            label_status: shipment.label_status,
            created_at: time(shipment.created_at),
            updated_at: time(shipment.updated_at),
        }
    }
}

impl From<order::Hold> for HoldJson {
    fn from(hold: order::Hold) -> Self {
        Self { reason: hold.reason, by: hold.by, until: time(hold.until), since: time(hold.since) }
    }
}

impl From<order::OrderEvent> for EventJson {
    fn from(event: order::OrderEvent) -> Self {
        let is_named = event.status != i32::from(order::OrderStatus::Unspecified);
        Self {
            status: is_named.then(|| short_status(event.status)),
            at: time(event.at),
            payload: embedded(event.payload_json),
            order_id: event.order_id,
            sequence: event.sequence,
            version: event.version,
            r#type: event.r#type,
            principal: event.principal,
            role: event.role,
            reason: event.reason,
            request_id: event.request_id,
            notes: event.notes,
        }
    }
}

impl From<order::PaymentTransaction> for PaymentJson {
    fn from(payment: order::PaymentTransaction) -> Self {
        Self {
            gateway_response: embedded(payment.gateway_response),
            created_at: time(payment.created_at),
            updated_at: time(payment.updated_at),
            id: payment.id,
            order_id: payment.order_id,
            transaction_id: payment.transaction_id,
            kind: payment.kind,
            status: payment.status,
            payment_method: payment.payment_method,
            amount: payment.amount,
            currency: payment.currency,
            parent_transaction_id: payment.parent_transaction_id,
            decline_code: payment.decline_code,
            key: payment.key,
        }
    }
}

/// JSON inside of text, taken out; text that is no JSON stays text, empty text is `null`.
fn embedded(text: String) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// RFC 3339 in UTC with as many digits as needed; none when there is no such time.
fn time(timestamp: Option<Timestamp>) -> Option<String> {
    let timestamp = timestamp?;
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    let time = DateTime::<Utc>::from_timestamp(timestamp.seconds, nanos)?;
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

/// `CONFIRMED` for `ORDER_STATUS_CONFIRMED`.
pub(super) fn short_status(status: i32) -> String {
    short(order::OrderStatus::try_from(status).unwrap_or_default().as_str_name(), "ORDER_STATUS_")
}

fn short_payment_status(status: i32) -> String {
    short(order::PaymentStatus::try_from(status).unwrap_or_default().as_str_name(), "PAYMENT_STATUS_")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An order with something in every field that tables and JSON show.
    pub(in crate::cli::order) fn sample() -> order::Order {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let address = |kind: order::AddressType, line: &str| order::OrderAddress {
            address_type: kind.into(),
            first_name: "John".into(),
            last_name: "Doe".into(),
            address_line1: line.into(),
            city: "New York".into(),
            state: "NY".into(),
            postal_code: "10001".into(),
            country: "US".into(),
            ..Default::default()
        };
        order::Order {
            id: "01900000-0000-7000-8000-000000000001".into(),
            user_id: "123e4567-e89b-12d3-a456-426614174000".into(),
            order_number: "ORD-7K3M9Q2XYZ".into(),
            status: order::OrderStatus::Confirmed.into(),
            total_amount: "93.17".into(),
            subtotal: "89.98".into(),
            tax_amount: "7.19".into(),
            shipping_amount: "5.00".into(),
            discount_amount: "9.00".into(),
            currency: "USD".into(),
            payment_method: "CREDIT_CARD".into(),
            payment_status: order::PaymentStatus::Paid.into(),
            shipping_method: "STANDARD".into(),
            notes: "leave at\u{1b}[31m door".into(),
            created_at: at(1_714_737_600),
            updated_at: Some(Timestamp { seconds: 1_714_737_600, nanos: 123_456_000 }),
            items: vec![order::OrderItem {
                sku: "PROD-001-VAR-002".into(),
                name: "Product Name - Variant Name".into(),
                quantity: 2,
                unit_price: "44.99".into(),
                subtotal: "89.98".into(),
                discount_amount: "9.00".into(),
                tax_amount: "7.19".into(),
                ..Default::default()
            }],
            addresses: vec![
                address(order::AddressType::Shipping, "123 Main St"),
                address(order::AddressType::Billing, "1 Other St"),
            ],
            version: 7,
            allowed_next_statuses: vec![
                order::OrderStatus::Processing.into(),
                order::OrderStatus::Cancelled.into(),
            ],
            coupon_code: "SUMMER10".into(),
            metadata: [("channel".to_owned(), "web".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn json_is_that_of_the_api_and_reads_back() {
        let json = OrderJson::from(sample());
        let text = serde_json::to_string(&json).unwrap();
        assert_eq!(serde_json::from_str::<OrderJson>(&text).unwrap(), json);
        let value: Value = serde_json::from_str(&text).unwrap();
        for (pointer, expected) in [
            ("/status", "CONFIRMED"),
            ("/payment_status", "PAID"),
            ("/total_amount", "93.17"),
            ("/created_at", "2024-05-03T12:00:00Z"),
            ("/updated_at", "2024-05-03T12:00:00.123456Z"),
            ("/addresses/0/address_type", "SHIPPING"),
            ("/addresses/1/address_type", "BILLING"),
            ("/allowed_next_statuses/0", "PROCESSING"),
            ("/items/0/unit_price", "44.99"),
            ("/metadata/channel", "web"),
        ] {
            assert_eq!(value.pointer(pointer).and_then(Value::as_str), Some(expected), "{pointer}");
        }
        assert_eq!(value.pointer("/cancelled_at"), Some(&Value::Null));
        assert_eq!(value.pointer("/items/0/quantity"), Some(&Value::from(2)));
        // The names of the design come first, in its order.
        let start = r#"{"id":"01900000-0000-7000-8000-000000000001","user_id":"#;
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn payloads_are_objects_and_statuses_of_other_events_null() {
        let event = order::OrderEvent { payload_json: r#"{"a":1}"#.into(), ..Default::default() };
        let json = EventJson::from(event);
        assert_eq!((json.payload.pointer("/a"), json.status), (Some(&Value::from(1)), None));
        assert_eq!(embedded(String::new()), Value::Null);
        assert_eq!(embedded("x".into()), Value::from("x"));
    }
}
