//! What a request may hold, and that nothing is left of one that holds more.

use order_service::clients::sim::catalogue;
use order_service::proto::order as pb;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::harness::api::{by_id, by_number, channel, invalid, line, read_refusal};
use crate::harness::node::{TestNode, sample_order};

type Create = pb::CreateOrderRequest;

fn shipping(request: &mut Create) -> &mut pb::OrderAddress {
    request.shipping_address.as_mut().unwrap()
}

fn billing(request: &mut Create) -> &mut pb::OrderAddress {
    request.billing_address.as_mut().unwrap()
}

/// Path, most characters, and where it stands.
type TextField = (&'static str, usize, fn(&mut Create, String));

/// Every free text of a creation.
const TEXTS: &[TextField] = &[
    ("request_id", 64, |r, text| r.request_id = text),
    ("notes", 2000, |r, text| r.notes = text),
    ("payment_token", 256, |r, text| r.payment_token = text),
    ("shipping_address.first_name", 100, |r, text| shipping(r).first_name = text),
    ("shipping_address.last_name", 100, |r, text| shipping(r).last_name = text),
    ("shipping_address.address_line1", 255, |r, text| shipping(r).address_line1 = text),
    ("shipping_address.address_line2", 255, |r, text| shipping(r).address_line2 = text),
    ("shipping_address.city", 100, |r, text| shipping(r).city = text),
    ("shipping_address.state", 100, |r, text| shipping(r).state = text),
    ("shipping_address.postal_code", 20, |r, text| shipping(r).postal_code = text),
    ("billing_address.first_name", 100, |r, text| billing(r).first_name = text),
    ("billing_address.address_line2", 255, |r, text| billing(r).address_line2 = text),
    ("billing_address.city", 100, |r, text| billing(r).city = text),
    ("metadata[0]", 256, |r, text| r.metadata = [("key".to_owned(), text)].into()),
    ("metadata[0]", 256, |r, text| r.metadata = [(text, "value".to_owned())].into()),
];

/// Texts with a form of their own, which no long text of one letter has.
const CODES: &[TextField] = &[
    ("shipping_address.phone", 20, |r, text| shipping(r).phone = text),
    ("shipping_address.email", 255, |r, text| shipping(r).email = text),
    ("shipping_address.country", 3, |r, text| shipping(r).country = text),
    ("billing_address.phone", 20, |r, text| billing(r).phone = text),
    ("billing_address.country", 3, |r, text| billing(r).country = text),
    ("payment_method", 50, |r, text| r.payment_method = text),
    ("shipping_method", 50, |r, text| r.shipping_method = text),
    ("coupon_code", 50, |r, text| r.coupon_code = text),
    ("currency", 3, |r, text| r.currency = text),
];

fn with(set: fn(&mut Create, String), text: impl Into<String>) -> Create {
    let mut request = sample_order();
    set(&mut request, text.into());
    request
}

#[tokio::test]
async fn texts_are_as_long_as_their_columns_and_no_longer() {
    let node = TestNode::start().await;
    for (field, most, set) in TEXTS.iter().chain(CODES) {
        let answer = node.client().create_order(with(*set, "ä".repeat(most + 1))).await;
        let reason = if *field == "currency" { "CURRENCY_UNSUPPORTED" } else { "INVALID_FIELD" };
        invalid(answer, reason, &[field]);
    }
    node.assert_untouched("too long").await;
    for (field, most, set) in TEXTS {
        // Metadata is measured in bytes.
        let ascii = field.starts_with("metadata") || *field == "payment_token";
        let letter = if ascii { "a" } else { "ä" };
        let request = Create { validate_only: true, ..with(*set, format!("  {} ", letter.repeat(*most))) };
        if field.starts_with("metadata") {
            continue;
        }
        node.create(request).await;
    }
    for (key, value) in [("k".repeat(256), "v".repeat(256)), ("ä".repeat(128), "€".repeat(85))] {
        let request = Create { metadata: [(key.clone(), value.clone())].into(), ..sample_order() };
        assert_eq!(node.create(request).await.metadata[&key], value);
    }
    node.stop().await;
}

#[tokio::test]
async fn control_characters_and_card_numbers_are_refused_everywhere() {
    let node = TestNode::start().await;
    for (field, _, set) in TEXTS.iter().chain(CODES) {
        for hidden in ["\u{0}", "\u{7}", "\u{1b}", "\u{7f}", "\u{85}", "\u{2028}", "\u{202e}", "\t", "\n"] {
            let answer = node.client().create_order(with(*set, format!("a{hidden}b"))).await;
            let reason = if *field == "currency" { "CURRENCY_UNSUPPORTED" } else { "INVALID_FIELD" };
            invalid(answer, reason, &[field]);
        }
        for card in ["4111111111111111", "4111-1111-1111-1111", "378282246310005"] {
            let answer = node.client().create_order(with(*set, card)).await;
            // The name of a key is a text like any other.
            invalid(answer, "CARD_NUMBER_REFUSED", &[field]);
        }
    }
    node.assert_untouched("control characters and card numbers").await;
    node.stop().await;
}

#[tokio::test]
async fn a_refusal_does_not_repeat_the_text() {
    let node = TestNode::start().await;
    let secret = "4111111111111111";
    for (_, _, set) in TEXTS {
        for text in [secret.to_owned(), format!("{secret}\u{1}")] {
            let error = node.client().create_order(with(*set, text)).await.unwrap_err();
            let details = String::from_utf8_lossy(error.details()).into_owned();
            assert!(!error.message().contains(secret) && !details.contains(secret), "{error:?}");
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn required_texts_and_addresses_may_not_be_left_out() {
    let node = TestNode::start().await;
    let required = ["first_name", "last_name", "address_line1", "city", "state", "postal_code"];
    for (field, _, set) in TEXTS {
        let needed = field.split_once('.').is_some_and(|(_, name)| required.contains(&name));
        if needed {
            invalid(node.client().create_order(with(*set, " ")).await, "INVALID_FIELD", &[field]);
        }
    }
    let request = Create { shipping_address: None, billing_address: None, ..sample_order() };
    invalid(node.client().create_order(request).await, "INVALID_FIELD", &["shipping_address"]);
    let empty = Create { billing_address: Some(pb::OrderAddress::default()), ..sample_order() };
    let error = node.client().create_order(empty).await.unwrap_err();
    let refusal = read_refusal(&error, Code::InvalidArgument, "INVALID_FIELD");
    assert!(refusal.fields.iter().all(|field| field.starts_with("billing_address.")), "{refusal:?}");
    assert_eq!(refusal.fields.len(), 5, "{refusal:?}");
    node.assert_untouched("left out").await;
    node.stop().await;
}

#[tokio::test]
async fn quantities_and_lines_have_bounds() {
    let node = TestNode::start().await;
    let book = catalogue::product(1);
    for quantity in [0, -1, 10_000, i32::MAX, i32::MIN] {
        let request = Create { items: vec![line(book, quantity)], ..sample_order() };
        invalid(node.client().create_order(request).await, "INVALID_FIELD", &["items[0].quantity"]);
    }
    let merged = Create { items: vec![line(book, 9_999), line(book, 1)], ..sample_order() };
    invalid(node.client().create_order(merged).await, "INVALID_FIELD", &["items[1].quantity"]);
    for count in [0, 201, 1000] {
        let request = Create { items: vec![line(book, 1); count], ..sample_order() };
        invalid(node.client().create_order(request).await, "INVALID_FIELD", &["items"]);
    }
    for id in [
        "",
        "1",
        "123e4567e89b12d3a456426614174001",
        "{123e4567-e89b-12d3-a456-426614174001}",
        "123e4567-e89b-12d3-a456-42661417400g",
    ] {
        let item = pb::NewOrderItem { product_id: id.into(), variant_id: String::new(), quantity: 1 };
        let request = Create { items: vec![item], ..sample_order() };
        invalid(node.client().create_order(request).await, "INVALID_FIELD", &["items[0].product_id"]);
    }
    // What no column can hold is no price.
    let dear = Create { items: vec![line(catalogue::product(12), 9_999)], ..sample_order() };
    let keys =
        Create { metadata: (0..33).map(|n| (n.to_string(), String::new())).collect(), ..sample_order() };
    invalid(node.client().create_order(keys).await, "INVALID_FIELD", &["metadata"]);
    node.assert_untouched("bounds").await;
    // And these are just inside.
    assert_eq!(node.create(dear).await.subtotal, "999899900.01");
    let most = Create { items: vec![line(book, 9_999)], ..sample_order() };
    assert_eq!(node.create(most).await.items[0].quantity, 9_999);
    let many = Create { items: vec![line(book, 49); 200], ..sample_order() };
    assert_eq!(node.create(many).await.items[0].quantity, 9_800);
    let keys =
        Create { metadata: (0..32).map(|n| (n.to_string(), String::new())).collect(), ..sample_order() };
    assert_eq!(node.create(keys).await.metadata.len(), 32);
    node.stop().await;
}

#[tokio::test]
async fn keys_of_orders_are_checked() {
    let node = TestNode::start().await;
    for id in ["", "x", "018f3e1c00007000800000000000000g", "ORD-0000000000"] {
        invalid(node.client().get_order(by_id(id)).await, "INVALID_FIELD", &["id"]);
        let cancel = pb::CancelOrderRequest { id: id.into(), ..Default::default() };
        invalid(node.client().cancel_order(cancel).await, "INVALID_FIELD", &["id"]);
    }
    for number in ["", "ORD-", "ORD-00000000000", "ORD-00000000U0", "XYZ-0000000000", "ORD-00000000ä"] {
        invalid(node.client().get_order(by_number(number)).await, "INVALID_FIELD", &["order_number"]);
    }
    node.stop().await;
}

#[tokio::test]
async fn changes_of_orders_that_are_not_there_leave_no_actor() {
    let node = TestNode::start().await;
    let nobody = "018f3e1c-0000-7000-8000-000000000000";
    let error = node.cancel(nobody).await.unwrap_err();
    read_refusal(&error, Code::NotFound, "ORDER_NOT_FOUND");
    let error = node.ask_status(nobody, pb::OrderStatus::Processing).await.unwrap_err();
    let refusal = read_refusal(&error, Code::NotFound, "ORDER_NOT_FOUND");
    assert_eq!(refusal.resource.unwrap().1, nobody);
    node.assert_untouched("no order").await;
    node.stop().await;
}

/// Sends bytes as they are, and does not read the answer.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

async fn create_raw(node: &TestNode, bytes: Vec<u8>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel(node).await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/order.v1.OrderService/CreateOrder");
    client.unary(Request::new(bytes), path, Raw).await.map(|_| ())
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_bad_requests() {
    let node = TestNode::start().await;
    let good = sample_order().encode_to_vec();
    let mut not_utf8 = good.clone();
    let place = not_utf8.windows(6).position(|bytes| bytes == b"Please").unwrap();
    not_utf8[place] = 0xFF;
    let cut = good[..good.len() - 1].to_vec();
    for bytes in [not_utf8, cut, vec![0xFF; 20]] {
        let error = create_raw(&node, bytes).await.unwrap_err();
        read_refusal(&error, Code::InvalidArgument, "INVALID_FIELD");
    }
    for size in [257 * 1024, 300 * 1024, 16 * 1024 * 1024] {
        let request = Create { notes: "x".repeat(size), ..sample_order() };
        let error = node.client().create_order(request).await.unwrap_err();
        read_refusal(&error, Code::InvalidArgument, "INVALID_FIELD");
        assert!(!error.message().contains("xxx"));
        // The connection lives on.
        assert_eq!(node.orders().await.len(), 0);
    }
    // Just below the limit it is read, and then refused for what it holds.
    let notes = "x".repeat(255 * 1024);
    invalid(
        node.client().create_order(Create { notes, ..sample_order() }).await,
        "INVALID_FIELD",
        &["notes"],
    );
    node.assert_untouched("unreadable").await;
    create_raw(&node, good).await.unwrap();
    assert_eq!(node.orders().await.len(), 1);
    node.stop().await;
}
