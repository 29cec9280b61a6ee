//! Good requests with some bad parts.

use uuid::Uuid;

use super::Chance;
use crate::domain::ids::IdKey;
use crate::grpc::page;
use crate::proto::order as pb;

/// Texts that were trouble somewhere.
const ODD: &[&str] = &[
    "",
    " ",
    "\u{0}",
    "\t",
    "a\nb",
    "\u{202e}desrever",
    "\u{2028}",
    "\u{feff}",
    "e\u{301}",
    "\u{1100}\u{1161}\u{11a8}",
    "\u{fb01}",
    "\u{10ffff}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "4111111111111111",
    "4111 1111-1111 1111",
    "\u{0664}111111111111111",
    "\u{ff14}111111111111111",
    "378282246310005",
    "-1",
    "0",
    "0.00",
    "1e9",
    "NaN",
    "99999999999999999999999999999999999999999999.99",
    "1.001",
    "0x10",
    "+1",
    "USD",
    "usd",
    "XAU",
    "DE",
    "usa",
    "ZZ",
    "ORD-0000000000",
    "ord-zzzzzzzzzz",
    "ORD-ILOU000000",
    "00000000-0000-0000-0000-000000000000",
    "123e4567e89b12d3a456426614174000",
    "{123e4567-e89b-12d3-a456-426614174000}",
    "' OR 1=1 --",
    "<script>",
    "../../etc/passwd",
    "a@b",
    "a@b.example",
    "@",
    "555-123-4567",
    "+49 (0) 30 1234",
];

/// Any text.
pub(super) fn text(chance: &mut Chance) -> String {
    match chance.below(6) {
        0 | 1 => chance.pick(ODD).to_owned(),
        2 => {
            let length = chance.below(40);
            (0..length).filter_map(|_| char::from_u32((chance.bits() % 0x11_0000) as u32)).collect()
        }
        // About as long as a limit.
        3 => {
            let limit = chance.pick(&[3, 20, 50, 64, 100, 200, 255, 256, 2_000]);
            chance.pick(&["a", "\u{e4}", "e\u{301}", "4"]).repeat(limit + chance.below(3) - 1)
        }
        4 => format!("{}{}", chance.pick(ODD), chance.pick(ODD)),
        _ => (0..chance.below(20)).map(|_| char::from(b' ' + chance.below(95) as u8)).collect(),
    }
}

/// Mostly this.
fn mostly(chance: &mut Chance, good: &str) -> String {
    if chance.percent(97) { good.to_owned() } else { text(chance) }
}

fn maybe(chance: &mut Chance, good: &str) -> String {
    if chance.percent(50) { String::new() } else { mostly(chance, good) }
}

fn id(chance: &mut Chance) -> String {
    let good = Uuid::from_u64_pair(chance.bits(), chance.bits()).to_string();
    mostly(chance, &good)
}

fn quantity(chance: &mut Chance) -> i32 {
    match chance.below(30) {
        0 => chance.pick(&[0, -1, i32::MIN, i32::MAX, 10_000, 9_999]),
        _ => 1 + chance.below(50) as i32,
    }
}

fn version(chance: &mut Chance) -> i64 {
    chance.pick(&[0, 0, 0, 0, 1, 7, i64::MAX, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1])
}

fn time(chance: &mut Chance) -> Option<prost_types::Timestamp> {
    let odd = [i64::MIN, i64::MAX, -62_135_596_800, -62_135_596_801, 253_402_300_799, 253_402_300_800, 0];
    match chance.below(20) {
        0 => {
            let nanos = chance.pick(&[0, -1, i32::MIN, i32::MAX, 999_999_999, 1_000_000_000]);
            Some(prost_types::Timestamp { seconds: chance.pick(&odd), nanos })
        }
        1..=9 => Some(prost_types::Timestamp { seconds: chance.below(4_000_000_000) as i64, nanos: 1_000 }),
        _ => None,
    }
}

fn line(chance: &mut Chance) -> pb::NewOrderItem {
    let same = "123e4567-e89b-12d3-a456-426614174001";
    let product_id = if chance.percent(30) { same.to_owned() } else { id(chance) };
    let variant_id = if chance.percent(50) { String::new() } else { id(chance) };
    pb::NewOrderItem { product_id, variant_id, quantity: quantity(chance) }
}

fn address(chance: &mut Chance) -> pb::OrderAddress {
    pb::OrderAddress {
        address_type: chance.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 77]),
        first_name: mostly(chance, "Jos\u{e9}"),
        last_name: mostly(chance, "Doe"),
        address_line1: mostly(chance, "123 Main St"),
        address_line2: maybe(chance, "Apt 4B"),
        city: mostly(chance, "New York"),
        state: mostly(chance, "NY"),
        postal_code: mostly(chance, "10001"),
        country: mostly(chance, "USA"),
        phone: maybe(chance, "555-123-4567"),
        email: maybe(chance, "john.doe@example.com"),
        ..pb::OrderAddress::default()
    }
}

pub(super) fn create(chance: &mut Chance) -> pb::CreateOrderRequest {
    let lines = if chance.percent(2) { 195 + chance.below(10) } else { 1 + chance.below(3) };
    let keys = if chance.percent(3) { 31 + chance.below(3) } else { chance.below(3) };
    pb::CreateOrderRequest {
        request_id: maybe(chance, "018f3f5e-0000-7000-8000-000000000000"),
        user_id: id(chance),
        items: (0..lines).map(|_| line(chance)).collect(),
        shipping_address: chance.percent(97).then(|| address(chance)),
        billing_address: chance.percent(50).then(|| address(chance)),
        payment_method: mostly(chance, "CREDIT_CARD"),
        payment_token: maybe(chance, "tok_visa"),
        shipping_method: mostly(chance, "standard"),
        notes: maybe(chance, "Please leave it at the door"),
        coupon_code: maybe(chance, "summer10"),
        currency: maybe(chance, "USD"),
        expected_total: maybe(chance, "93.17"),
        metadata: (0..keys)
            .map(|key| (mostly(chance, &format!("key{key}")), maybe(chance, "value")))
            .collect(),
        validate_only: chance.percent(50),
    }
}

fn tracking(chance: &mut Chance) -> Option<pb::Tracking> {
    let good = pb::Tracking { carrier: maybe(chance, "UPS"), tracking_number: mostly(chance, "1Z999") };
    chance.percent(30).then_some(good)
}

pub(super) fn update_status(chance: &mut Chance) -> pb::UpdateOrderStatusRequest {
    pb::UpdateOrderStatusRequest {
        id: id(chance),
        status: chance.pick(&[0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8, 9, -1, i32::MAX]),
        notes: maybe(chance, "as told on the phone"),
        tracking: tracking(chance),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
    }
}

pub(super) fn refund(chance: &mut Chance) -> pb::RefundOrderRequest {
    let items = if chance.percent(2) { 199 + chance.below(3) } else { chance.below(3) };
    pb::RefundOrderRequest {
        id: id(chance),
        amount: if items > 0 && chance.percent(90) { String::new() } else { maybe(chance, "12.50") },
        items: (0..items)
            .map(|_| pb::RefundItem { item_id: id(chance), quantity: quantity(chance) })
            .collect(),
        reason: maybe(chance, "broken"),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
    }
}

pub(super) fn add_item(chance: &mut Chance) -> pb::AddOrderItemRequest {
    pb::AddOrderItemRequest {
        order_id: id(chance),
        item: chance.percent(95).then(|| line(chance)),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
        validate_only: chance.percent(50),
    }
}

pub(super) fn update_item(chance: &mut Chance) -> pb::UpdateOrderItemRequest {
    pb::UpdateOrderItemRequest {
        order_id: id(chance),
        item_id: id(chance),
        quantity: quantity(chance),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
        validate_only: chance.percent(50),
    }
}

pub(super) fn remove_item(chance: &mut Chance) -> pb::RemoveOrderItemRequest {
    pb::RemoveOrderItemRequest {
        order_id: id(chance),
        item_id: id(chance),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
        validate_only: chance.percent(50),
    }
}

pub(super) fn hold(chance: &mut Chance) -> pb::HoldOrderRequest {
    pb::HoldOrderRequest {
        id: id(chance),
        reason: mostly(chance, "looks odd"),
        until: time(chance),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
    }
}

pub(super) fn ship(chance: &mut Chance) -> pb::AddShipmentRequest {
    pb::AddShipmentRequest {
        id: id(chance),
        tracking: tracking(chance),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
    }
}

pub(super) fn cancel(chance: &mut Chance) -> pb::CancelOrderRequest {
    pb::CancelOrderRequest {
        id: id(chance),
        reason: maybe(chance, "changed my mind"),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
    }
}

pub(super) fn release(chance: &mut Chance) -> pb::ReleaseOrderRequest {
    pb::ReleaseOrderRequest {
        id: id(chance),
        notes: maybe(chance, "it is fine"),
        expected_version: version(chance),
        request_id: maybe(chance, "one"),
    }
}

pub(super) fn get(chance: &mut Chance) -> pb::GetOrderRequest {
    use pb::get_order_request::Key;
    let key = match chance.below(5) {
        0 => None,
        1 | 2 => Some(Key::Id(id(chance))),
        _ => Some(Key::OrderNumber(mostly(chance, "ORD-0123456789"))),
    };
    pb::GetOrderRequest { key, allow_stale: chance.percent(50) }
}

pub(super) fn get_status(chance: &mut Chance) -> pb::GetOrderStatusRequest {
    use pb::get_order_status_request::Key;
    let key = match chance.below(5) {
        0 => None,
        1 | 2 => Some(Key::Id(id(chance))),
        _ => Some(Key::OrderNumber(mostly(chance, "ORD-0123456789"))),
    };
    pb::GetOrderStatusRequest { key }
}

/// Where the one token points that is good.
pub(super) const PLACE: (i64, Uuid) = (0xABC, Uuid::max());

fn good_token(key: &IdKey) -> String {
    page::token(key, &[0; 16], PLACE.0, PLACE.1)
}

pub(super) fn list(chance: &mut Chance) -> pb::ListOrdersRequest {
    let key = IdKey(b"a key for requests by chance".to_vec());
    pb::ListOrdersRequest {
        user_id: if chance.percent(50) { String::new() } else { id(chance) },
        statuses: (0..chance.below(3)).map(|_| chance.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 0, 9])).collect(),
        created_after: time(chance),
        created_before: time(chance),
        page_size: chance.pick(&[0, 0, 1, 50, 200, 201, i32::MAX, -1, i32::MIN, 7]),
        page_token: maybe(chance, &good_token(&key)),
        order_by: maybe(chance, "created_at"),
    }
}
