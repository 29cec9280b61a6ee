//! Creating orders, from a request to the settled order: prices, identifiers, and what a request may leave out.

use order_service::clients::sim::catalogue;
use order_service::clients::sim::{FaultSpec, ReservationState};
use order_service::proto::order as pb;
use tonic::Code;

use crate::harness::api::{
    address_in, amount, assert_adds_up, by_id, by_number, fault, invalid, line, order_of, refused, returned,
    taken, units_out,
};
use crate::harness::node::{TestNode, sample_order};

#[tokio::test]
async fn the_sample_order_is_confirmed_and_paid() {
    let node = TestNode::start().await;
    let order = node.create(sample_order()).await;
    assert_eq!(order.status(), pb::OrderStatus::Confirmed);
    assert_eq!(order.payment_status(), pb::PaymentStatus::Paid);
    assert_eq!(
        [
            &order.subtotal,
            &order.discount_amount,
            &order.tax_amount,
            &order.shipping_amount,
            &order.total_amount
        ],
        ["89.98", "9.00", "7.19", "5.00", "93.17"]
    );
    let ledger = node.ledger(&order);
    assert_eq!(taken(&ledger), amount("93.17", 2));
    assert_eq!(ledger.reservations[0].state, ReservationState::Committed);
    assert_eq!(order.inventory_reservation_id, ledger.reservations[0].id);
    assert_eq!(node.get(&order.id).await, order);
    node.stop().await;
}

/// Country, state and postal code; method; coupon; lines; subtotal, discount, tax, shipping, total; digits.
type Priced =
    ([&'static str; 3], &'static str, &'static str, &'static [(u32, i32)], [&'static str; 5], usize);

#[tokio::test]
async fn totals_add_up_to_the_last_digit_of_each_currency() {
    let node = TestNode::start().await;
    let us = ["USA", "NY", "10001"];
    let rows: &[Priced] = &[
        (us, "STANDARD", "", &[(15, 3), (14, 1)], ["10.00", "0.00", "0.89", "5.00", "15.89"], 2),
        (us, "STANDARD", "SUMMER10", &[(15, 3), (14, 1)], ["10.00", "1.00", "0.80", "5.00", "14.80"], 2),
        (us, "EXPRESS", "welcome5", &[(4, 1)], ["34.00", "5.00", "2.57", "15.00", "46.57"], 2),
        (
            ["DEU", "", "10115"],
            "STANDARD",
            "WELCOME5",
            &[(17, 2), (18, 1)],
            ["29.77", "5.00", "1.73", "4.90", "31.40"],
            2,
        ),
        (
            ["JPN", "", "100-0001"],
            "STANDARD",
            "SUMMER10",
            &[(30, 3), (31, 1)],
            ["4064", "406", "322", "600", "4580"],
            0,
        ),
        (
            ["AE", "", ""],
            "EXPRESS",
            "",
            &[(35, 3), (37, 1)],
            ["148.755", "0.000", "7.438", "4.000", "160.193"],
            3,
        ),
    ];
    for ([country, state, postal], method, coupon, lines, expected, digits) in rows {
        let order = node
            .create(pb::CreateOrderRequest {
                shipping_address: Some(address_in(country, state, postal)),
                billing_address: None,
                shipping_method: (*method).into(),
                coupon_code: (*coupon).into(),
                ..order_of(lines)
            })
            .await;
        let found = [
            &order.subtotal,
            &order.discount_amount,
            &order.tax_amount,
            &order.shipping_amount,
            &order.total_amount,
        ];
        assert_eq!(found, *expected, "{country} {coupon}");
        assert_adds_up(&order, *digits);
        assert_eq!(taken(&node.ledger(&order)), amount(&order.total_amount, *digits));
        assert_eq!(order.coupon_code, coupon.to_uppercase());
    }
    node.stop().await;
}

#[tokio::test]
async fn coupons_that_do_not_apply_are_refused_and_nothing_moves() {
    let node = TestNode::start().await;
    let yen = pb::CreateOrderRequest {
        shipping_address: Some(address_in("JP", "", "100-0001")),
        billing_address: None,
        ..order_of(&[(30, 20)])
    };
    for (coupon, request) in [
        ("EXPIRED20", order_of(&[(4, 1)])),
        ("FUTURE15", order_of(&[(4, 1)])),
        ("WELCOME5", order_of(&[(15, 3)])),
        ("WELCOME5", yen),
        ("NO-SUCH-COUPON", order_of(&[(4, 1)])),
    ] {
        let request = pb::CreateOrderRequest { coupon_code: coupon.into(), ..request };
        invalid(node.client().create_order(request).await, "COUPON_INVALID", &["coupon_code"]);
        node.assert_untouched(coupon).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_coupon_with_a_limit_is_given_back_by_orders_that_end() {
    let node = TestNode::start().await;
    let limited = || pb::CreateOrderRequest { coupon_code: "LIMITED1".into(), ..order_of(&[(4, 1)]) };
    // A declined order gives its use back.
    let declined = pb::CreateOrderRequest { payment_token: "tok_declined".into(), ..limited() };
    refused(node.client().create_order(declined).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
    let first = node.create(limited()).await;
    assert_eq!(first.discount_amount, "3.40");
    invalid(node.client().create_order(limited()).await, "COUPON_INVALID", &["coupon_code"]);
    // One order with the coupon, one without a trace.
    assert_eq!(node.orders().await.len(), 2);
    node.cancel(&first.id).await.unwrap();
    assert_eq!(node.create(limited()).await.status(), pb::OrderStatus::Confirmed);
    node.stop().await;
}

#[tokio::test]
async fn a_free_order_is_paid_without_a_charge() {
    let node = TestNode::start().await;
    let request = pb::CreateOrderRequest {
        coupon_code: "FREEALL".into(),
        shipping_method: "PICKUP".into(),
        payment_token: "tok_declined".into(),
        ..sample_order()
    };
    let order = node.create(request).await;
    assert_eq!(
        (order.status(), order.payment_status()),
        (pb::OrderStatus::Confirmed, pb::PaymentStatus::Paid)
    );
    assert_eq!(order.total_amount, "0.00");
    assert_adds_up(&order, 2);
    assert!(node.ledger(&order).charges.is_empty());
    let order = node.cancel(&order.id).await.unwrap();
    assert_eq!(order.status(), pb::OrderStatus::Cancelled);
    node.assert_unwound(&order);
    node.stop().await;
}

#[tokio::test]
async fn what_is_left_out_is_filled_in() {
    let node = TestNode::start().await;
    let product = line(catalogue::product(1), 2);
    let request = pb::CreateOrderRequest {
        billing_address: None,
        coupon_code: String::new(),
        notes: "  Cafe\u{301}, ring twice ".into(),
        metadata: [("source".to_owned(), "web".to_owned())].into(),
        items: vec![product.clone(), line(catalogue::product(3), 1), product],
        ..sample_order()
    };
    let order = node.create(request).await;
    // Lines of one product are one line, where the first stood.
    let lines: Vec<_> = order.items.iter().map(|item| (item.sku.as_str(), item.quantity)).collect();
    assert_eq!(lines, [("BOOK-001", 4), ("MUG-003", 1)]);
    assert!(order.items.iter().all(|item| item.order_id == order.id && !item.id.is_empty()));
    assert_eq!(order.currency, "USD");
    assert_eq!(order.notes, "Café, ring twice");
    assert_eq!(order.metadata["source"], "web");
    let [shipping, billing] = order.addresses.as_slice() else { panic!("{:?}", order.addresses) };
    assert_eq!(shipping.address_type(), pb::AddressType::Shipping);
    assert_eq!(billing.address_type(), pb::AddressType::Billing);
    assert_eq!(shipping.country, "US");
    assert_ne!(shipping.id, billing.id);
    let same =
        pb::OrderAddress { id: shipping.id.clone(), address_type: shipping.address_type, ..billing.clone() };
    assert_eq!(&same, shipping);
    node.stop().await;
}

#[tokio::test]
async fn validate_only_answers_the_order_as_it_would_be_and_moves_nothing() {
    let node = TestNode::start().await;
    let request = pb::CreateOrderRequest { validate_only: true, ..sample_order() };
    let preview = node.create(request.clone()).await;
    assert_eq!((preview.total_amount.as_str(), preview.version), ("93.17", 0));
    assert_eq!(preview.status(), pb::OrderStatus::Pending);
    refused(node.client().get_order(by_id(&preview.id)).await, Code::NotFound, "ORDER_NOT_FOUND");
    node.assert_untouched("validate_only").await;
    // It refuses what the real one would refuse.
    let short = pb::CreateOrderRequest { validate_only: true, ..order_of(&[(9, 1)]) };
    refused(node.client().create_order(short).await, Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
    // And it takes no request id away.
    let order = node.create(pb::CreateOrderRequest { validate_only: false, ..request }).await;
    assert_eq!((order.id, order.order_number), (preview.id, preview.order_number));
    node.stop().await;
}

#[tokio::test]
async fn another_total_than_expected_is_refused_before_anything_moves() {
    let node = TestNode::start().await;
    for wrong in ["93.18", "0", "93.16"] {
        let request = pb::CreateOrderRequest { expected_total: wrong.into(), ..sample_order() };
        let refusal =
            refused(node.client().create_order(request).await, Code::FailedPrecondition, "PRICE_CHANGED");
        assert_eq!(refusal.metadata["actual_total"], "93.17");
        node.assert_untouched(wrong).await;
    }
    for bad in ["93.170", "abc", "-93.17", "9e1", "1,000.00", "."] {
        let request = pb::CreateOrderRequest { expected_total: bad.into(), ..sample_order() };
        invalid(node.client().create_order(request).await, "INVALID_FIELD", &["expected_total"]);
        node.assert_untouched(bad).await;
    }
    let request = pb::CreateOrderRequest { expected_total: "93.17".into(), ..sample_order() };
    assert_eq!(node.create(request).await.status(), pb::OrderStatus::Confirmed);
    node.stop().await;
}

#[tokio::test]
async fn declined_payments_keep_a_cancelled_order_and_nothing_else() {
    let node = TestNode::start().await;
    for (token, code) in [
        ("tok_declined", "CARD_DECLINED"),
        ("tok_insufficient", "INSUFFICIENT_FUNDS"),
        ("tok_expired", "EXPIRED_CARD"),
    ] {
        let before = node.stock(catalogue::product(4));
        let request = pb::CreateOrderRequest { payment_token: token.into(), ..order_of(&[(4, 2)]) };
        let answer = node.client().create_order(request.clone()).await;
        let refusal = refused(answer, Code::FailedPrecondition, "PAYMENT_DECLINED");
        assert_eq!(refusal.metadata["decline_code"], code);
        let order = node.get(&refusal.metadata["order_id"]).await;
        assert_eq!(
            (order.status(), order.payment_status()),
            (pb::OrderStatus::Cancelled, pb::PaymentStatus::Failed)
        );
        assert_eq!(order.cancel_reason, "PAYMENT_DECLINED");
        assert!(order.cancelled_at.is_some());
        node.assert_unwound(&order);
        assert_eq!(node.stock(catalogue::product(4)), before);
        // The same again is answered the same, and tried no second time.
        let again =
            refused(node.client().create_order(request).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
        assert_eq!(again.metadata, refusal.metadata);
        assert_eq!(node.ledger(&order).charges.len(), 1);
    }
    node.stop().await;
}

#[tokio::test]
async fn too_little_stock_is_told_item_by_item() {
    let node = TestNode::start().await;
    // At the check: nothing is stored.
    let answer = node.client().create_order(order_of(&[(9, 1), (4, 1), (10, 5)])).await;
    let refusal = refused(answer, Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
    let mut short: Vec<_> = refusal
        .shortages
        .iter()
        .map(|item| (item.product_id.clone(), item.requested_quantity, item.available_quantity))
        .collect();
    short.sort();
    let id = |number| catalogue::product(number).product_id.to_string();
    assert_eq!(short, [(id(9), 1, 0), (id(10), 5, 3)]);
    assert!(!refusal.metadata.contains_key("order_id"));
    node.assert_untouched("sold out").await;
    // At the reservation: the order is kept as CANCELLED.
    fault(&node, "inventory.Reserve", FaultSpec { out_of_stock_rate: 1.0, ..FaultSpec::default() });
    let request = sample_order();
    let answer = node.client().create_order(request.clone()).await;
    let refusal = refused(answer, Code::FailedPrecondition, "INVENTORY_UNAVAILABLE");
    let item = &refusal.shortages[0];
    assert_eq!((item.requested_quantity, item.available_quantity), (2, 0));
    assert_eq!(item.variant_id, request.items[0].variant_id);
    let order = node.get(&refusal.metadata["order_id"]).await;
    assert_eq!((order.status(), order.cancel_reason.as_str()), (pb::OrderStatus::Cancelled, "OUT_OF_STOCK"));
    let ledger = node.ledger(&order);
    assert_eq!((ledger.charges.len(), units_out(&ledger), returned(&ledger)), (0, 0, amount("0", 0)));
    node.stop().await;
}

#[tokio::test]
async fn ids_and_numbers_have_the_layout_of_the_contract() {
    let node = TestNode::start().await;
    let mut slots = Vec::new();
    for request_id in [uuid::Uuid::now_v7().to_string(), "checkout 42".to_owned(), String::new()] {
        let request = pb::CreateOrderRequest { request_id: request_id.clone(), ..sample_order() };
        let order = node.create(request).await;
        let id = uuid::Uuid::parse_str(&order.id).unwrap();
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        assert_eq!(id.to_string(), order.id);
        let millis = (id.as_u128() >> 80) as u64;
        if let Ok(request_id) = uuid::Uuid::parse_str(&request_id) {
            assert_eq!(millis, (request_id.as_u128() >> 80) as u64);
        } else if request_id.is_empty() {
            let created = order.created_at.unwrap();
            let created = (created.seconds * 1000) as u64 + (created.nanos / 1_000_000) as u64;
            assert!((created - 10_000..=created).contains(&millis), "{millis} {created}");
        }
        let slot = (id.as_u128() >> 64) as u64 & 0xFFF;
        slots.push(slot);
        let digits = order.order_number.strip_prefix("ORD-").unwrap();
        assert_eq!(digits.len(), 10);
        let value = digits.chars().fold(0u64, |value, digit| {
            value << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".find(digit).unwrap() as u64
        });
        assert_eq!(value >> 38, slot);
        for number in [order.order_number.clone(), order.order_number.to_lowercase()] {
            assert_eq!(node.client().get_order(by_number(&number)).await.unwrap().into_inner(), order);
        }
    }
    assert!(slots.iter().all(|slot| *slot == slots[0]), "one user, one slot");
    node.stop().await;
}
