//! Orders and commits for tests of stores, with every field filled.

use std::collections::BTreeMap;
use std::sync::Arc;

use order_service::domain::Timestamp;
use order_service::domain::access::Role;
use order_service::domain::address::{Address, AddressKind, Country};
use order_service::domain::amend::Amendment;
use order_service::domain::event::{OrderEvent, RecordedEvent};
use order_service::domain::ids::{CallKey, IdKey, OrderId, OrderNumber, UserId};
use order_service::domain::item::{OrderItem, ProductRef, StockLine};
use order_service::domain::money::Currency;
use order_service::domain::order::{Hold, LabelState, Order, Reservation, Shipment, StockState};
use order_service::domain::payment::{EntryKind, EntryState, LedgerEntry, PaymentToken};
use order_service::domain::pricing::Totals;
use order_service::domain::refund::{Grant, RefundedItem};
use order_service::domain::saga::{Direction, Failure, SagaKind, SagaProgress, StepName, Turn};
use order_service::domain::status::{CancelReason, OrderStatus, PaymentStatus};
use order_service::ports::store::{Chain, Commit, CouponMove, Owner, Touched, WriteGuard};
use uuid::Uuid;

pub(crate) const OWNER: Owner = Owner { epoch: 1, incarnation: 7 };

/// `n` microseconds after a fixed moment, which itself is not a whole millisecond.
pub(crate) fn at(n: i64) -> Timestamp {
    Timestamp::from_timestamp_micros(1_790_000_000_123_457 + n).unwrap()
}

pub(crate) fn key() -> IdKey {
    IdKey(b"test".to_vec())
}

pub(crate) fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(0xAAAA_0000 + n))
}

pub(crate) fn id(n: u64) -> OrderId {
    OrderId::for_request(&key(), user(u128::from(n % 7)), None, at(0), n)
}

fn money(text: &str) -> rust_decimal::Decimal {
    text.parse().unwrap()
}

fn item(id: OrderId, n: u64) -> OrderItem {
    OrderItem {
        id: id.part("item", n),
        product: ProductRef {
            product_id: Uuid::from_u128(u128::from(n)),
            variant_id: n.is_multiple_of(2).then(|| Uuid::from_u128(99)),
        },
        sku: format!("SKU-{n}"),
        name: format!("Tea \"{n}\" – ☕\\"),
        tax_class: String::from("standard"),
        quantity: 2,
        unit_price: money("10.50"),
        subtotal: money("21.00"),
        discount_amount: money("1.00"),
        tax_amount: money("3.80"),
        created_at: at(1),
        updated_at: at(2),
    }
}

fn address(kind: AddressKind) -> Address {
    let shipping = kind == AddressKind::Shipping;
    Address {
        kind,
        first_name: String::from("Zoë"),
        last_name: String::from("O'Neil"),
        address_line1: String::from("1 Main St"),
        address_line2: shipping.then(|| String::from("Floor 2")),
        city: String::from("Springfield"),
        state: String::new(),
        postal_code: String::from("12345"),
        country: Country::parse("DE").unwrap(),
        phone: shipping.then(|| String::from("+49 30 1")),
        email: (!shipping).then(|| String::from("z@example.org")),
    }
}

pub(crate) fn entry(id: OrderId, n: u64, state: EntryState) -> LedgerEntry {
    LedgerEntry {
        id: id.part("entry", n),
        kind: EntryKind::Charge,
        state,
        key: CallKey::new(id, 1, "charge", 0),
        transaction_id: if state == EntryState::Succeeded { String::from("tx-1") } else { String::new() },
        parent: None,
        method: String::from("CARD"),
        amount: money("47.60"),
        code: (state == EntryState::Failed).then(|| String::from("NO_FUNDS")),
        gateway_response: (state == EntryState::Succeeded).then(|| String::from("{\"a\":\"b\"}")),
        created_at: at(3),
    }
}

fn shipment(id: OrderId, n: u64) -> Shipment {
    Shipment {
        id: id.part("shipment", n),
        key: (n == 0).then(|| CallKey::new(id, 2, "label", 0)),
        state: LabelState::Requested,
        carrier: String::new(),
        tracking_number: String::new(),
        label_url: String::new(),
        created_at: at(4),
        updated_at: at(4),
    }
}

/// A PENDING order at version 1, as a creation stores it.
pub(crate) fn order(n: u64) -> Order {
    let id = id(n);
    Order {
        id,
        user_id: user(u128::from(n % 7)),
        order_number: OrderNumber::of(&key(), id, 0),
        status: OrderStatus::Pending,
        currency: Currency::from_code("EUR").unwrap(),
        totals: Totals {
            subtotal: money("42.00"),
            discount: money("2.00"),
            tax: money("7.60"),
            shipping: money("0.00"),
            total: money("47.60"),
        },
        payment_method: String::from("CARD"),
        payment_status: PaymentStatus::Pending,
        shipping_method: String::from("STANDARD"),
        notes: String::from("ring twice\nplease"),
        coupon_code: None,
        metadata: Arc::new(BTreeMap::from([(String::from("channel"), String::from("web \"1\""))])),
        reservation: Reservation::none(),
        additions: Arc::default(),
        amendment: None,
        items: Arc::new((1..=2).map(|n| item(id, n)).collect()),
        addresses: Arc::new(vec![address(AddressKind::Shipping), address(AddressKind::Billing)]),
        shipments: Arc::default(),
        payments: Arc::default(),
        grants: Arc::default(),
        hold: None,
        cancel_reason: None,
        request_hash: [n as u8; 16],
        requests: Arc::default(),
        failures: Arc::default(),
        saga_no: 1,
        version: 1,
        event_seq: 2,
        created_at: at(n as i64),
        updated_at: at(n as i64),
        completed_at: None,
        cancelled_at: None,
        attention: None,
    }
}

/// The Create saga of an order, at its first step.
pub(crate) fn saga(order: OrderId) -> SagaProgress {
    SagaProgress {
        order_id: order,
        no: 1,
        kind: SagaKind::Create,
        direction: Direction::Forward,
        step: Some(StepName::Reserve),
        tries: 0,
        resend: false,
        turn: None,
        ahead: false,
        next_at: None,
        started_at: at(10),
        sent_at: None,
        attention: None,
        last_error: None,
        failure: None,
        settled: false,
        notes: String::new(),
        principal: String::from("user:1"),
        role: Some(Role::Support),
        reason: Some("asked for it".into()),
        request_id: String::from("req-1"),
        trace_parent: None,
        token: Some(PaymentToken::new("tok_secret")),
    }
}

/// The same saga with every field set to something.
pub(crate) fn busy_saga(order: OrderId) -> SagaProgress {
    SagaProgress {
        direction: Direction::Backward,
        step: Some(StepName::Charge),
        tries: 3,
        resend: true,
        ahead: true,
        turn: Some(Turn { reason: CancelReason::CustomerRequest, notes: String::from("changed \"mind\"") }),
        next_at: Some(at(900)),
        sent_at: Some(at(800)),
        attention: Some(String::from("charge unknown for 10 min")),
        last_error: Some(String::from("timeout")),
        failure: Some(Failure::PaymentDeclined { code: String::from("NO_FUNDS") }),
        notes: String::from("bye"),
        trace_parent: Some(String::from("00-aa-bb-01")),
        ..saga(order)
    }
}

pub(crate) fn event(seq: i64, version: i64, event: OrderEvent) -> RecordedEvent {
    RecordedEvent {
        seq,
        version,
        at: at(seq),
        principal: String::from("user:1"),
        role: Some(Role::Support),
        reason: Some("asked for it".into()),
        request_id: Some(String::from("req-1")),
        event,
    }
}

/// The commit that creates `order`.
pub(crate) fn creation(order: Order) -> Commit {
    let created = OrderEvent::OrderCreated {
        order_number: order.order_number.as_str().to_owned(),
        currency: String::from("EUR"),
        totals: order.totals,
        lines: 2,
    };
    let started = OrderEvent::SagaStarted { saga: 1, kind: SagaKind::Create };
    Commit {
        guard: WriteGuard { version: 0, owner: OWNER, key: None },
        touched: Touched { items: true, addresses: true, shipments: true, payments_from: 0, timer: false },
        events: vec![event(1, 1, created), event(2, 1, started)],
        saga: Some(saga(order.id)),
        request: None,
        coupon: None,
        chain: Chain::default(),
        order: Arc::new(order),
    }
}

/// The commit that takes `before` to the next version with `change`, one event and no other rows.
pub(crate) fn update(before: &Order, change: impl FnOnce(&mut Order)) -> Commit {
    let mut after = before.clone();
    after.version += 1;
    after.event_seq += 1;
    after.updated_at = at(1_000 + after.version);
    change(&mut after);
    let happened = OrderEvent::StockUnsent { key: CallKey::new(after.id, 1, "reserve", 0) };
    Commit {
        guard: WriteGuard { version: before.version, owner: OWNER, key: None },
        touched: Touched {
            items: false,
            addresses: false,
            shipments: false,
            payments_from: before.payments.len(),
            timer: false,
        },
        events: vec![event(after.event_seq, after.version, happened)],
        saga: None,
        request: None,
        coupon: None,
        chain: Chain::default(),
        order: Arc::new(after),
    }
}

/// Changes everything about an order that can change.
pub(crate) fn change_all(order: &mut Order) {
    let id = order.id;
    order.status = OrderStatus::Delivered;
    order.totals.subtotal = money("63.00");
    order.totals.total = money("12345678901234.5678");
    order.totals.discount = money("3.00");
    order.totals.tax = money("11.40");
    order.totals.shipping = money("4.99");
    order.payment_status = PaymentStatus::Paid;
    order.notes = String::from("leave at the door");
    order.coupon_code = Some(String::from("TEA10"));
    order.reservation = Reservation {
        state: StockState::Committed,
        id: Some(String::from("res-1")),
        key: Some(CallKey::new(id, 1, "reserve", 0)),
        renewed_at: Some(at(66)),
        lines: Some(vec![StockLine { product: order.items[0].product, quantity: 1 }]),
    };
    order.additions = Arc::new(vec![Reservation {
        state: StockState::Requested,
        id: None,
        key: Some(CallKey::new(id, 3, "reserve", 1)),
        lines: Some(vec![StockLine { product: order.items[1].product, quantity: 2 }]),
        renewed_at: Some(at(67)),
    }]);
    order.amendment =
        Some(Arc::new(Amendment { saga: 3, items: vec![item(id, 4)], totals: order.totals, applied: true }));
    // Out of the order of their ids, which are hashes: the store has to keep the order given here.
    order.items = Arc::new([5, 2, 9, 1, 7].into_iter().map(|n| item(id, n)).collect());
    let mut addresses = order.addresses.as_ref().clone();
    addresses[0].city = String::from("Köln");
    order.addresses = Arc::new(addresses);
    order.shipments = Arc::new((0..4).map(|n| shipment(id, n)).collect());
    order.payments = Arc::new(
        [EntryState::Requested, EntryState::Unknown, EntryState::Failed, EntryState::Succeeded]
            .into_iter()
            .zip(0..)
            .map(|(state, n)| entry(id, n, state))
            .collect(),
    );
    let part =
        |n, quantity, amount| RefundedItem { item_id: item(id, n).id, quantity, amount: money(amount) };
    order.grants = Arc::new(vec![
        Grant { saga: 2, amount: money("0.30"), items: Vec::new() },
        Grant { saga: 3, amount: money("23.80"), items: vec![part(5, 1, "11.90"), part(9, 1, "11.90")] },
    ]);
    order.hold = Some(Hold {
        reason: String::from("fraud?"),
        by: String::from("ops"),
        until: Some(at(77)),
        since: at(70),
    });
    order.cancel_reason = Some(CancelReason::Expired);
    order.saga_no = 3;
    order.completed_at = Some(at(501));
    order.cancelled_at = Some(at(502));
}

pub(crate) fn claim_coupon(mut commit: Commit, code: &str, use_limit: Option<u32>) -> Commit {
    commit.coupon = Some(CouponMove::Claim { code: code.to_owned(), use_limit });
    commit
}

pub(crate) fn release_coupon(mut commit: Commit, code: &str) -> Commit {
    commit.coupon = Some(CouponMove::Release { code: code.to_owned() });
    commit
}
