//! The table of errors as callers meet it: code, one `ErrorInfo`, and the details that the row names.

use order_service::clients::sim::catalogue;
use order_service::proto::order as pb;
use sqlx::{Connection, SqliteConnection};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::api::{
    address_in, by_id, down, fault, invalid, line, no_faults, order_of, quick, read_refusal, refused,
};
use crate::harness::node::{TestNode, sample_order};

const CARD: &str = "4111 1111 1111 1111";

/// A creation that is refused before anything is stored.
struct Row {
    request: pb::CreateOrderRequest,
    code: Code,
    reason: &'static str,
    fields: &'static [&'static str],
    resource: Option<(&'static str, String)>,
}

fn bad(
    reason: &'static str,
    fields: &'static [&'static str],
    change: impl FnOnce(&mut pb::CreateOrderRequest),
) -> Row {
    let mut request = sample_order();
    change(&mut request);
    Row { request, code: Code::InvalidArgument, reason, fields, resource: None }
}

fn missing(
    reason: &'static str,
    kind: &'static str,
    name: &str,
    change: impl FnOnce(&mut pb::CreateOrderRequest),
) -> Row {
    let resource = Some((kind, name.to_owned()));
    Row { code: Code::NotFound, resource, ..bad(reason, &[], change) }
}

#[tokio::test]
async fn refusals_before_anything_is_stored() {
    let node = TestNode::start().await;
    let unknown = "123e4567-e89b-12d3-a456-42661417ffff";
    let inactive = catalogue::INACTIVE_USER.to_string();
    let no_variant = catalogue::SAMPLE_PRODUCT.to_string();
    let rows = [
        bad("INVALID_FIELD", &["user_id"], |r| r.user_id = "me".into()),
        bad("CURRENCY_UNSUPPORTED", &["currency"], |r| r.currency = "XXX".into()),
        bad("CURRENCY_UNSUPPORTED", &["currency"], |r| r.currency = "HRK".into()),
        bad("CURRENCY_UNSUPPORTED", &["currency"], |r| r.currency = "dollars".into()),
        bad("CURRENCY_UNSUPPORTED", &["currency"], |r| r.currency = "EUR".into()),
        bad("CURRENCY_UNSUPPORTED", &["items"], |r| {
            r.items = vec![line(catalogue::product(1), 1), line(catalogue::product(17), 1)];
        }),
        bad("COUPON_INVALID", &["coupon_code"], |r| r.coupon_code = "EXPIRED20".into()),
        bad("CARD_NUMBER_REFUSED", &["notes"], |r| r.notes = format!("my card is {CARD}, thanks")),
        // A leaked card number outranks whatever else is wrong.
        bad("CARD_NUMBER_REFUSED", &["currency", "notes", "user_id"], |r| {
            (r.notes, r.currency, r.user_id) = (CARD.into(), "XXX".into(), "me".into());
        }),
        bad("INVALID_FIELD", &["items[0].product_id"], |r| r.items = vec![line(catalogue::product(8), 1)]),
        bad("INVALID_FIELD", &["billing_address.postal_code", "shipping_address.postal_code"], |r| {
            r.shipping_address = Some(address_in("US", "NY", "00000"));
            r.billing_address = Some(address_in("US", "CA", "00000"));
        }),
        bad("INVALID_FIELD", &["shipping_method"], |r| {
            r.shipping_address = Some(address_in("BR", "SP", "01000-000"));
            r.shipping_method = "OVERNIGHT".into();
        }),
        missing("USER_NOT_FOUND", "user.v1.User", unknown, |r| r.user_id = unknown.into()),
        missing("USER_NOT_FOUND", "user.v1.User", &inactive, |r| r.user_id = inactive.clone()),
        missing("PRODUCT_NOT_FOUND", "product.v1.Product", unknown, |r| {
            r.items[0] =
                pb::NewOrderItem { product_id: unknown.into(), variant_id: String::new(), quantity: 1 };
        }),
        missing("PRODUCT_NOT_FOUND", "product.v1.Product", &no_variant, |r| r.items[0].variant_id.clear()),
    ];
    for Row { request, code, reason, fields, resource } in rows {
        let what = format!("{reason} {fields:?}");
        let refusal = refused(node.client().create_order(request).await, code, reason);
        assert_eq!(refusal.fields, fields);
        let told = refusal.resource.as_ref().map(|(kind, name)| (kind.as_str(), name.clone()));
        assert_eq!(told, resource, "{what}");
        assert!(!refusal.retry, "{what}");
        node.assert_untouched(&what).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn all_bad_fields_are_told_at_once_and_each_once() {
    let node = TestNode::start().await;
    let long = "x".repeat(300);
    let mut request = sample_order();
    request.request_id = "x".repeat(65);
    request.user_id.clear();
    request.items = vec![
        line(catalogue::product(1), 0),
        line(catalogue::product(1), -1),
        line(catalogue::product(1), 5000),
    ];
    request.items.push(pb::NewOrderItem { product_id: "1".into(), variant_id: "2".into(), quantity: 10_000 });
    request.items.push(line(catalogue::product(1), 5000));
    let address = request.shipping_address.as_mut().unwrap();
    (address.city, address.country, address.email) = (String::new(), "Mars".into(), "nobody".into());
    (address.address_type, address.phone) = (pb::AddressType::Billing.into(), "call me".into());
    request.billing_address.as_mut().unwrap().address_type = 7;
    (request.payment_method, request.shipping_method) = ("BARTER".into(), String::new());
    (request.expected_total, request.coupon_code) = ("12,50".into(), long.clone());
    request.payment_token = long.clone();
    request.metadata = [(long.clone(), format!("{long}\u{1}"))].into();
    invalid(
        node.client().create_order(request).await,
        "INVALID_FIELD",
        &[
            "billing_address.address_type",
            "coupon_code",
            "expected_total",
            "items[0].quantity",
            "items[1].quantity",
            "items[3].product_id",
            "items[3].quantity",
            "items[3].variant_id",
            "items[4].quantity",
            "metadata[0]",
            "payment_method",
            "payment_token",
            "request_id",
            "shipping_address.address_type",
            "shipping_address.city",
            "shipping_address.country",
            "shipping_address.email",
            "shipping_address.phone",
            "shipping_method",
            "user_id",
        ],
    );
    let request = pb::CreateOrderRequest::default();
    invalid(
        node.client().create_order(request).await,
        "INVALID_FIELD",
        &["items", "payment_method", "shipping_address", "shipping_method", "user_id"],
    );
    node.assert_untouched("bad fields").await;
    let list = pb::ListOrdersRequest {
        user_id: "x".into(),
        statuses: vec![1, 99, 0],
        created_after: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
        created_before: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        page_size: -1,
        page_token: "x".into(),
        order_by: "total_amount".into(),
    };
    invalid(
        node.client().list_orders(list).await,
        "INVALID_FIELD",
        &[
            "created_after",
            "created_before",
            "order_by",
            "page_size",
            "page_token",
            "statuses[1]",
            "statuses[2]",
            "user_id",
        ],
    );
    let events = pb::ListOrderEventsRequest {
        after_sequence: -1,
        page_size: -1,
        page_token: "x".into(),
        ..Default::default()
    };
    invalid(
        node.client().list_order_events(events).await,
        "INVALID_FIELD",
        &["after_sequence", "order_id", "page_size", "page_token"],
    );
    let update = pb::UpdateOrderStatusRequest {
        notes: "\u{0}".into(),
        expected_version: -1,
        request_id: "x".repeat(65),
        ..Default::default()
    };
    let fields = &["expected_version", "id", "notes", "request_id", "status"];
    invalid(node.client().update_order_status(update).await, "INVALID_FIELD", fields);
    let cancel =
        pb::CancelOrderRequest { reason: CARD.into(), expected_version: i64::MIN, ..Default::default() };
    invalid(
        node.client().cancel_order(cancel).await,
        "CARD_NUMBER_REFUSED",
        &["expected_version", "id", "reason"],
    );
    let key = pb::GetOrderRequest::default();
    invalid(node.client().get_order(key).await, "INVALID_FIELD", &["key"]);
    let watch = pb::WatchOrderRequest { order_id: String::new(), after_sequence: -1 };
    let refusal = read_refusal(
        &node.client().watch_order(watch).await.map(drop).unwrap_err(),
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    assert_eq!(refusal.fields, ["after_sequence", "order_id"]);
    node.stop().await;
}

#[tokio::test]
async fn a_collaborator_that_is_away_is_named() {
    let node = TestNode::start_with(&quick(&[("ORDER__SAGA__FORWARD_TRIES", "2")])).await;
    for (method, dependency) in [
        ("user.GetUser", "user"),
        ("user.ValidateAddress", "user"),
        ("product.BatchGetProducts", "product"),
        ("inventory.CheckAvailability", "inventory"),
    ] {
        fault(&node, method, down());
        let answer = node.client().create_order(sample_order()).await;
        let refusal = refused(answer, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
        assert_eq!(refusal.metadata["dependency"], dependency);
        assert!(refusal.retry && !refusal.metadata.contains_key("order_id"));
        node.assert_untouched(method).await;
    }
    for (method, dependency) in [("inventory.Reserve", "inventory"), ("payment.Charge", "payment")] {
        fault(&node, method, down());
        let request = sample_order();
        let answer = node.client().create_order(request.clone()).await;
        let refusal = refused(answer, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
        assert_eq!(refusal.metadata["dependency"], dependency);
        assert!(refusal.retry);
        let order = node.get(&refusal.metadata["order_id"]).await;
        assert_eq!(
            (order.status(), order.cancel_reason.as_str()),
            (pb::OrderStatus::Cancelled, "DEPENDENCY_UNAVAILABLE")
        );
        node.assert_unwound(&order);
        // The same request keeps its answer; a new one is a new try.
        no_faults(&node);
        let again =
            refused(node.client().create_order(request).await, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
        assert_eq!(again.metadata, refusal.metadata);
        assert_eq!(node.create(sample_order()).await.status(), pb::OrderStatus::Confirmed);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_is_told_without_its_words() {
    let node = TestNode::start_with(&[("ORDER__CACHE__URL", "none:")]).await;
    let order = node.create(sample_order()).await;
    let mut database =
        SqliteConnection::connect(&format!("sqlite:{}", node.database().display())).await.unwrap();
    let rename = |from: &str, to: &str| sqlx::AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
    sqlx::query(rename("orders", "gone")).execute(&mut database).await.unwrap();
    let other = "018f3e1c-0000-7000-8000-000000000000";
    let mut client = node.client();
    let cancel = pb::CancelOrderRequest { id: other.into(), ..Default::default() };
    for error in [
        client.get_order(by_id(other)).await.unwrap_err(),
        client.list_orders(pb::ListOrdersRequest::default()).await.unwrap_err(),
        client.create_order(sample_order()).await.unwrap_err(),
        client.cancel_order(cancel).await.unwrap_err(),
        node.ask_status(&order.id, pb::OrderStatus::Processing).await.unwrap_err(),
    ] {
        assert!(read_refusal(&error, Code::Unavailable, "STORAGE_UNAVAILABLE").retry);
        let told = format!("{} {:?}", error.message(), error.details()).to_lowercase();
        for word in ["sql", "table", "select", "no such"] {
            assert!(!told.contains(word), "{told}");
        }
    }
    sqlx::query(rename("gone", "orders")).execute(&mut database).await.unwrap();
    assert_eq!(node.get(&order.id).await, order);
    // What was refused did not happen, and can be done now.
    let look = || async { node.ask_status(&order.id, pb::OrderStatus::Processing).await.ok() };
    let order = crate::harness::api::eventually("the store's return", look).await;
    assert_eq!(order.status(), pb::OrderStatus::Processing);
    assert_eq!(node.ledger(&order).labels.len(), 1);
    assert_eq!(node.orders().await.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_request_id_and_a_trace_come_back_and_bad_ones_are_replaced() {
    let node = TestNode::start().await;
    let mut request = tonic::Request::new(order_of(&[(4, 1)]));
    request.metadata_mut().insert("x-request-id", "caller-7".parse().unwrap());
    let answer = node.client().create_order(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "caller-7");
    let events = node.events(&answer.get_ref().id).await;
    assert!(events.iter().all(|event| event.request_id == "caller-7"), "{events:?}");
    let mut request = tonic::Request::new(by_id("nonsense"));
    request.metadata_mut().insert("x-request-id", "x".repeat(65).parse().unwrap());
    let error = node.client().get_order(request).await.unwrap_err();
    let made_up = error.metadata().get("x-request-id").unwrap().to_str().unwrap();
    assert!(uuid::Uuid::parse_str(made_up).is_ok(), "{made_up}");
    node.stop().await;
}

/// Clients give up on trailers over 8 KiB, and then see no reason at all.
#[tokio::test]
async fn a_very_long_list_of_bad_fields_fits_into_an_answer() {
    let node = TestNode::start().await;
    let items = vec![pb::NewOrderItem { product_id: "?".into(), variant_id: "?".into(), quantity: 0 }; 200];
    let status =
        node.client().create_order(pb::CreateOrderRequest { items, ..sample_order() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.details().len() < 5_500, "{} bytes", status.details().len());
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let (last, told) = violations.split_last().unwrap();
    assert!(told.len() > 30 && told.iter().all(|violation| violation.field.starts_with("items[")));
    assert_eq!(last.field, "(more)");
    assert!(last.description.starts_with(&format!("{} further", 600 - told.len())), "{}", last.description);
    node.stop().await;
}
