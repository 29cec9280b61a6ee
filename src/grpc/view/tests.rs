//! The tables are whole, and what they hide is hidden.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fields::{Field, Kind};
use super::*;
use crate::domain::amend::LineChange;
use crate::domain::item::{OrderItem, ProductRef, Shortage, StockLine};
use crate::domain::pricing::Totals;
use crate::domain::refund::RefundedItem;
use crate::domain::saga::Failure;
use crate::domain::status::OrderStatus;
use crate::proto::FILE_DESCRIPTOR_SET;

/// Every message of ours by its full name.
fn messages() -> BTreeMap<String, DescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut found = BTreeMap::new();
    for file in set.file.iter().filter(|file| file.package() == "order.v1") {
        for message in &file.message_type {
            found.insert(format!("order.v1.{}", message.name()), message.clone());
        }
    }
    found
}

/// What the RPCs of the public API answer with.
fn answers() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().filter(|file| file.package() == "order.v1").flat_map(|file| &file.service);
    let rpcs = services.flat_map(|service| &service.method);
    rpcs.map(|rpc| rpc.output_type().trim_start_matches('.').to_owned()).collect()
}

const ANSWERS: [&Message; 6] = [
    &fields::ORDER,
    &fields::STATUS,
    &fields::ORDERS,
    &fields::EVENTS,
    &fields::TRANSACTIONS,
    &fields::WATCHED,
];

fn compare(message: &Message, described: &BTreeMap<String, DescriptorProto>) {
    let proto = &described[message.name];
    let has = |field: &Field| (field.tag as i32, field.name);
    let rows: BTreeSet<(i32, &str)> = message.fields.iter().map(has).collect();
    let wanted: BTreeSet<(i32, &str)> =
        proto.field.iter().map(|field| (field.number(), field.name())).collect();
    assert_eq!(rows, wanted, "{}: every field needs one row", message.name);
    assert_eq!(rows.len(), message.fields.len(), "{}: a field has two rows", message.name);
    for field in message.fields {
        let described_as = proto.field.iter().find(|one| one.number() == field.tag as i32).unwrap();
        let nested = described_as.type_name().trim_start_matches('.');
        match field.kind {
            Kind::Message(inner) => {
                assert_eq!(nested, inner.name);
                compare(inner, described);
            }
            // What is shown whole must not hold fields that a table hides.
            Kind::Plain => assert!(!described.contains_key(nested), "{}.{}", message.name, field.name),
            Kind::Text(_) => assert_eq!(described_as.r#type(), Type::String),
        }
        let masked = field.see.contains(&See::Masked);
        assert!(!masked || matches!(field.kind, Kind::Text(_)), "{}.{}", message.name, field.name);
    }
}

#[test]
fn every_field_of_every_answer_has_a_row() {
    let described = messages();
    let tables: BTreeSet<String> = ANSWERS.iter().map(|message| message.name.to_owned()).collect();
    assert_eq!(tables, answers(), "every answer needs a table");
    for message in ANSWERS {
        compare(message, &described);
    }
}

/// The facts and their fields, read off the source: `snake_case` kind and keys.
fn facts() -> BTreeMap<String, BTreeSet<String>> {
    let source = include_str!("../../domain/event.rs");
    let body = source.split_once("pub enum OrderEvent {").unwrap().1.split_once("\n}").unwrap().0;
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut kind = String::new();
    for line in body.lines() {
        if let Some(name) = line.strip_prefix("    ").and_then(|line| line.strip_suffix(" {")) {
            kind.clear();
            for c in name.chars() {
                if c.is_uppercase() && !kind.is_empty() {
                    kind.push('_');
                }
                kind.extend(c.to_lowercase());
            }
            found.insert(kind.clone(), BTreeSet::new());
        } else if let Some(field) = line.strip_prefix("        ").filter(|line| !line.starts_with(['/', '#']))
        {
            let key = field.split_once(':').unwrap().0.to_owned();
            found.get_mut(&kind).unwrap().insert(key);
        }
    }
    found
}

#[test]
fn every_key_of_every_event_has_a_row() {
    let rows: BTreeMap<String, BTreeSet<String>> = payload::EVENTS
        .iter()
        .map(|(kind, keys)| ((*kind).to_owned(), keys.iter().map(|(key, _)| (*key).to_owned()).collect()))
        .collect();
    assert_eq!(rows.len(), payload::EVENTS.len(), "an event has two rows");
    let facts = facts();
    assert!(facts.len() > 30 && facts["charged"].contains("gateway_response"), "{facts:?}");
    assert_eq!(rows, facts);
}

/// Every key below, at any depth.
fn keys_of(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.keys().cloned());
            object.values().for_each(|value| keys_of(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| keys_of(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_inside_of_an_event_has_a_row() {
    let product = ProductRef { product_id: USER, variant_id: Some(USER) };
    let item = OrderItem {
        id: USER,
        product,
        sku: "S".into(),
        name: "N".into(),
        tax_class: "standard".into(),
        quantity: 1,
        unit_price: Decimal::ONE,
        subtotal: Decimal::ONE,
        discount_amount: Decimal::ZERO,
        tax_amount: Decimal::ZERO,
        created_at: chrono::DateTime::UNIX_EPOCH,
        updated_at: chrono::DateTime::UNIX_EPOCH,
    };
    let one = Decimal::ONE;
    let totals = Totals { subtotal: one, discount: one, tax: one, shipping: one, total: one };
    let shortages = vec![Shortage { product, requested_quantity: 2, available_quantity: 1 }];
    let code = "CODE".to_owned();
    let inside = json!([
        LineChange { place: 0, before: Some(item.clone()), after: Some(item) },
        totals,
        RefundedItem { item_id: USER, quantity: 1, amount: one },
        StockLine { product, quantity: 1 },
        Failure::OutOfStock { shortages },
        Failure::PaymentDeclined { code: code.clone() },
        Failure::DependencyUnavailable { dependency: code.clone() },
        Failure::Refused { dependency: code.clone(), reason: code },
        Failure::Cancelled,
    ]);
    let mut keys = BTreeSet::new();
    keys_of(&inside, &mut keys);
    let rows: BTreeSet<String> = payload::INSIDE.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(rows, keys);
}

const USER: Uuid = Uuid::from_u128(7);

fn viewer(roles: &[Role], reach: Reach) -> Viewer {
    let caller = Caller {
        principal: Arc::from("reader"),
        roles: Arc::from(roles),
        user: Some(UserId(USER)),
        reason: None,
        until: None,
    };
    Viewer::new(&caller, reach)
}

fn reader(roles: &[Role]) -> Viewer {
    viewer(roles, Reach::All)
}

fn order(user: Uuid) -> pb::Order {
    pb::Order {
        id: "an id".into(),
        user_id: user.to_string(),
        total_amount: "99.99".into(),
        payment_status: pb::PaymentStatus::Paid.into(),
        notes: "ring twice".into(),
        attention_reason: "payment refused".into(),
        inventory_reservation_id: "r-1".into(),
        allowed_next_statuses: vec![2, 7],
        metadata: [("gift".to_owned(), "yes".to_owned())].into(),
        items: vec![pb::OrderItem { sku: "S".into(), unit_price: "9.99".into(), ..Default::default() }],
        addresses: vec![pb::OrderAddress {
            first_name: "John".into(),
            address_line1: "1 Main St".into(),
            city: "Springfield".into(),
            postal_code: "94103".into(),
            country: "US".into(),
            phone: "+1 555 0123456".into(),
            email: "john@example.com".into(),
            ..Default::default()
        }],
        hold: Some(pb::Hold { reason: "velocity".into(), by: "fraud-check".into(), ..Default::default() }),
        version: 3,
        ..Default::default()
    }
}

fn seen(order: &pb::Order, viewer: &Viewer) -> pb::Order {
    let local = Answer::from(order.clone()).seen_by(viewer);
    let forwarded = Answer::<pb::Order>::Bytes(order.encode_to_vec().into()).seen_by(viewer);
    let once = local.read().unwrap();
    assert_eq!(once, forwarded.read().unwrap(), "a forwarded answer is seen otherwise");
    let twice = Answer::from(once.clone()).seen_by(viewer).read().unwrap();
    assert_eq!(once, twice, "it is seen otherwise the second time");
    once
}

#[test]
fn service_and_admin_see_all() {
    for role in [Role::Service, Role::Admin] {
        assert_eq!(seen(&order(USER), &reader(&[role])), order(USER));
    }
}

#[test]
fn nobody_without_a_role_sees_anything() {
    assert_eq!(seen(&order(USER), &reader(&[])), pb::Order::default());
}

#[test]
fn support_sees_masked_contact_data() {
    let told = seen(&order(Uuid::nil()), &reader(&[Role::Support]));
    let address = &told.addresses[0];
    assert_eq!(
        (address.email.as_str(), address.phone.as_str(), address.address_line1.as_str()),
        ("j***@example.com", "+* *** ****456", "***")
    );
    assert_eq!(
        (address.city.as_str(), address.postal_code.as_str(), address.country.as_str()),
        ("Springfield", "94***", "US")
    );
    assert_eq!((told.total_amount.as_str(), told.metadata.len()), ("99.99", 0));
    assert_eq!(told.hold.unwrap().reason, "velocity");
}

#[test]
fn the_warehouse_sees_no_money() {
    let told = seen(&order(Uuid::nil()), &reader(&[Role::Warehouse]));
    assert_eq!((told.total_amount.as_str(), told.payment_status), ("", 0));
    assert_eq!((told.items[0].sku.as_str(), told.items[0].unit_price.as_str()), ("S", ""));
    assert_eq!((told.addresses[0].address_line1.as_str(), told.notes.as_str()), ("1 Main St", "ring twice"));
    assert_eq!((told.addresses[0].email.as_str(), told.attention_reason.as_str()), ("", ""));
    assert_eq!(told.allowed_next_statuses, [2, 7]);
    // What it has put on hold itself.
    let mut held = order(Uuid::nil());
    held.hold.as_mut().unwrap().by = "reader".into();
    assert_eq!(seen(&held, &reader(&[Role::Warehouse])).hold.unwrap().reason, "velocity");
    assert_eq!(told.hold.unwrap().reason, "");
}

#[test]
fn finance_sees_no_address() {
    let told = seen(&order(Uuid::nil()), &reader(&[Role::Finance]));
    let address = &told.addresses[0];
    let left = pb::OrderAddress { postal_code: "94103".into(), country: "US".into(), ..Default::default() };
    assert_eq!(*address, left);
    assert_eq!((told.total_amount.as_str(), told.notes.as_str()), ("99.99", ""));
}

#[test]
fn a_customer_sees_all_but_what_is_internal() {
    let told = seen(&order(USER), &viewer(&[Role::Customer], Reach::Own(Some(UserId(USER)))));
    let hold = Some(pb::Hold::default());
    let left = pb::Order {
        attention_reason: String::new(),
        inventory_reservation_id: String::new(),
        hold,
        ..order(USER)
    };
    assert_eq!(told, left);
}

#[test]
fn several_roles_see_the_union_and_a_customer_counts_for_own_orders_only() {
    let both = reader(&[Role::Support, Role::Finance]);
    let told = seen(&order(Uuid::nil()), &both);
    assert_eq!(
        (told.addresses[0].postal_code.as_str(), told.addresses[0].phone.as_str()),
        ("94103", "+* *** ****456")
    );
    let shopping = reader(&[Role::Customer, Role::Warehouse]);
    assert_eq!(seen(&order(Uuid::nil()), &shopping).total_amount, "", "another's order");
    assert_eq!(seen(&order(USER), &shopping).total_amount, "99.99", "an own order");
}

#[test]
fn fields_that_no_table_knows_are_hidden() {
    let mut bytes = order(USER).encode_to_vec();
    // Field 200, as a text and as a number; a newer node may send such a thing.
    bytes.extend(b"\xc2\x0c\x06secret\xc0\x0c\x2a");
    let viewer = viewer(&[Role::Customer], Reach::Own(Some(UserId(USER))));
    let Answer::Bytes(told) = Answer::<pb::Order>::Bytes(bytes.into()).seen_by(&viewer) else { panic!() };
    assert!(!told.windows(6).any(|window| window == b"secret"));
    assert_eq!(pb::Order::decode(&*told).unwrap().total_amount, "99.99");
    // What cannot be read to its end is shown up to there.
    let cut = Answer::<pb::Order>::Bytes(Bytes::from_static(b"\x0a\x01x\x12\x7fy")).seen_by(&viewer);
    assert_eq!(cut.read().unwrap(), pb::Order { id: "x".into(), ..Default::default() });
}

fn event(principal: &str, payload: &Value) -> pb::OrderEvent {
    pb::OrderEvent {
        principal: principal.into(),
        notes: "said".into(),
        request_id: "r-1".into(),
        r#type: payload["type"].as_str().unwrap_or_default().into(),
        payload_json: payload.to_string(),
        ..Default::default()
    }
}

fn seen_event(principal: &str, payload: &Value, viewer: &Viewer) -> (pb::OrderEvent, Value) {
    let events = vec![event(principal, payload)];
    let answer = pb::ListOrderEventsResponse { events, next_page_token: "next".into() };
    let mut told = answer.seen_by(viewer);
    assert_eq!(told.next_page_token, "next");
    let told = told.events.remove(0);
    let payload = serde_json::from_str(&told.payload_json).unwrap_or(Value::Null);
    (told, payload)
}

#[test]
fn events_tell_each_role_what_it_needs() {
    let charged = json!({"type": "charged", "key": "k", "transaction_id": "t", "amount": "99.99",
        "gateway_response": "{\"last4\":\"4242\"}", "new": "unknown"});
    let customer = viewer(&[Role::Customer], Reach::Own(Some(UserId(USER))));
    let cases = [
        (reader(&[Role::Warehouse]), json!({"type": "charged"})),
        (reader(&[Role::Support]), json!({"type": "charged", "transaction_id": "t", "amount": "99.99"})),
        (
            reader(&[Role::Finance]),
            json!({"type": "charged", "key": "k", "transaction_id": "t", "amount": "99.99",
                "gateway_response": "{\"last4\":\"4242\"}"}),
        ),
        (
            customer.clone(),
            json!({"type": "charged", "transaction_id": "t", "amount": "99.99",
                "gateway_response": "{\"last4\":\"4242\"}"}),
        ),
    ];
    for (viewer, left) in cases {
        assert_eq!(seen_event("somebody", &charged, &viewer).1, left, "{viewer:?}");
    }
    let changed = json!({"type": "items_changed", "before": {"total": "1.00"}, "totals": {"total": "2.00"},
        "changes": [{"place": 0, "after": {"sku": "S", "quantity": 2, "unit_price": "1.00", "new": "unknown"}}]});
    assert_eq!(
        seen_event("somebody", &changed, &reader(&[Role::Warehouse])).1,
        json!({"type": "items_changed", "changes": [{"place": 0, "after": {"sku": "S", "quantity": 2}}]})
    );
    assert_eq!(
        seen_event("somebody", &json!({"type": "new", "key": 1}), &customer).1,
        json!({"type": "new"})
    );
    assert_eq!(seen_event("somebody", &json!("no object"), &customer).1, Value::Null);
}

#[test]
fn a_customer_is_not_told_which_person_did_what() {
    let customer = viewer(&[Role::Customer], Reach::Own(Some(UserId(USER))));
    let changed = json!({"type": "status_changed", "from": "PENDING", "to": "CANCELLED", "notes": "said"});
    let (told, payload) = seen_event("somebody", &changed, &customer);
    assert_eq!((told.principal.as_str(), told.notes.as_str(), told.request_id.as_str()), ("***", "", ""));
    assert_eq!(payload.get("notes"), None);
    let (told, payload) = seen_event("reader", &changed, &customer);
    assert_eq!(
        (told.principal.as_str(), told.notes.as_str(), told.request_id.as_str()),
        ("reader", "said", "r-1")
    );
    assert_eq!(payload, changed);
}

#[test]
fn refusals_hide_what_the_order_hides() {
    let held = || OrderError::OnHold { status: OrderStatus::Pending, reason: "velocity".into() };
    let declined = || OrderError::PaymentDeclined { code: "STOLEN_CARD".into(), order_id: "an id".into() };
    for (role, reason, code) in [
        (Role::Customer, false, true),
        (Role::Support, true, true),
        (Role::Warehouse, false, false),
        (Role::Finance, false, true),
        (Role::Admin, true, true),
    ] {
        let reach = if role == Role::Customer { Reach::Own(Some(UserId(USER))) } else { Reach::All };
        let viewer = viewer(&[role], reach);
        assert_eq!(viewer.refusal(held()).to_string().contains("velocity"), reason, "{role:?}");
        assert_eq!(viewer.refusal(declined()).to_string().contains("STOLEN_CARD"), code, "{role:?}");
    }
}
