//! What each role sees of an order, wherever it looks: answers, lists, history, payments, streams, refusals, and through a
//! node that does not own the order.

use std::time::Duration;

use order_service::domain::access::Role;
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use serde_json::Value;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::access::{As, OTHER, OWNER, start};
use crate::harness::api::{by_id, order_of, read_refusal};
use crate::harness::wait::PATIENCE;

type Client = OrderServiceClient<Channel>;

/// What a caller sees of one order in all places.
#[derive(Debug)]
struct Seen {
    /// Got, listed, and with the last event of a watch: all the same.
    order: pb::Order,
    events: Vec<pb::OrderEvent>,
    transactions: Vec<pb::PaymentTransaction>,
    status: pb::GetOrderStatusResponse,
}

async fn order(client: &Client, who: &As, id: &str) -> pb::Order {
    client.clone().get_order(who.sign(by_id(id))).await.unwrap().into_inner()
}

async fn look(client: &Client, who: &As, id: &str) -> Seen {
    let mut client = client.clone();
    let got = order(&client, who, id).await;
    let stale = pb::GetOrderRequest { allow_stale: true, ..by_id(id) };
    assert_eq!(client.get_order(who.sign(stale)).await.unwrap().into_inner(), got);
    let request = pb::ListOrdersRequest { user_id: got.user_id.clone(), ..Default::default() };
    let listed = client.list_orders(who.sign(request)).await.unwrap().into_inner().orders;
    assert_eq!(listed.iter().find(|order| order.id == id), Some(&got));
    let order_id = id.to_owned();
    let request = pb::ListOrderEventsRequest { order_id, page_size: 200, ..Default::default() };
    let events = client.list_order_events(who.sign(request)).await.unwrap().into_inner().events;
    let request = pb::WatchOrderRequest { order_id: id.to_owned(), after_sequence: 0 };
    let mut watched = client.watch_order(who.sign(request)).await.unwrap().into_inner();
    for event in &events {
        let told = timeout(PATIENCE, watched.message()).await.expect("the next event").unwrap().unwrap();
        assert_eq!((told.event.as_ref(), told.order.as_ref()), (Some(event), Some(&got)));
    }
    let request = pb::ListPaymentTransactionsRequest { order_id: id.to_owned() };
    let transactions = match client.list_payment_transactions(who.sign(request)).await {
        Ok(answer) => answer.into_inner().transactions,
        Err(status) => {
            read_refusal(&status, Code::PermissionDenied, "ROLE_FORBIDS");
            Vec::new()
        }
    };
    let key = Some(pb::get_order_status_request::Key::Id(id.to_owned()));
    let status = client.get_order_status(who.sign(pb::GetOrderStatusRequest { key })).await;
    Seen { order: got, events, transactions, status: status.unwrap().into_inner() }
}

/// All text that a caller was given, to search for what it must not hold.
fn text(seen: &Seen) -> String {
    // Addresses do not show themselves in debug output.
    let addresses: Vec<String> = seen
        .order
        .addresses
        .iter()
        .map(|address| {
            let pb::OrderAddress { first_name, last_name, address_line1, address_line2, .. } = address;
            let pb::OrderAddress { city, state, postal_code, country, phone, email, .. } = address;
            [
                first_name,
                last_name,
                address_line1,
                address_line2,
                city,
                state,
                postal_code,
                country,
                phone,
                email,
            ]
            .map(String::as_str)
            .join("|")
        })
        .collect();
    format!("{seen:?} {addresses:?}")
}

fn payload(seen: &Seen, kind: &str) -> Value {
    let event = seen.events.iter().find(|event| event.r#type == kind).unwrap();
    serde_json::from_str(&event.payload_json).unwrap()
}

/// An order of `OWNER` with a refund, a hold and events of several people.
async fn eventful(client: &Client) -> pb::Order {
    let mut client = client.clone();
    let owner = As::customer(OWNER);
    let request = pb::CreateOrderRequest {
        user_id: OWNER.into(),
        metadata: [("campaign".into(), "spring-7".into())].into(),
        ..order_of(&[(1, 2), (3, 1)])
    };
    let made = client.create_order(owner.sign(request)).await.unwrap().into_inner();
    let id = made.id.clone();
    let request = pb::RefundOrderRequest {
        id: id.clone(),
        amount: "1.23".into(),
        reason: "goodwill".into(),
        ..Default::default()
    };
    let finance = As::role(Role::Finance).because("ticket 7");
    client.refund_order(finance.sign(request)).await.unwrap();
    let request = pb::HoldOrderRequest { id, reason: "count the stock".into(), ..Default::default() };
    let support = As::role(Role::Support).because("ticket 8");
    client.hold_order(support.sign(request)).await.unwrap();
    made
}

/// What the fields of an order say of its address.
const CONTACT: [&str; 4] = ["123 Main St", "Apt 4B", "john.doe@example.com", "555-123-4567"];

fn assert_masked(role: Role, seen: &Seen, whole: &Seen) {
    let text = text(seen);
    let (order, all) = (&seen.order, &whole.order);
    let hides = |words: &[&str]| {
        for word in words {
            assert!(!text.contains(word), "{} sees {word}: {text}", role.name());
        }
    };
    match role {
        Role::Support => {
            hides(&CONTACT);
            hides(&["spring-7", "last4"]);
            let address = &order.addresses[0];
            assert_eq!((address.email.as_str(), address.postal_code.as_str()), ("j***@example.com", "10***"));
            assert!(address.phone.ends_with("567") && address.city == "New York");
            assert_eq!(order.total_amount, all.total_amount);
            assert_eq!(order.hold, all.hold);
        }
        Role::Warehouse => {
            let money =
                [all.total_amount.as_str(), &all.subtotal, &all.tax_amount, &all.items[0].unit_price, "1.23"];
            hides(&money);
            hides(&["USD", "CREDIT_CARD", "goodwill", "spring-7", "john.doe@example.com", "last4"]);
            assert_eq!(order.payment_status, 0);
            assert_eq!(seen.status.payment_status, 0);
            assert_eq!(order.addresses[0].address_line1, "123 Main St");
            assert_eq!(order.items[0].sku, all.items[0].sku);
            assert!(seen.transactions.is_empty());
        }
        Role::Finance => {
            hides(&CONTACT);
            hides(&["John", "New York", "Please leave package at the door", "spring-7", "count the stock"]);
            assert_eq!(order.addresses[0].country, "US");
            assert_eq!(order.total_amount, all.total_amount);
            assert_eq!(seen.transactions, whole.transactions);
        }
        Role::Customer => {
            hides(&["count the stock", "goodwill", "\"support\"", "\"finance\""]);
            let hold = order.hold.as_ref().map(|hold| pb::Hold { since: hold.since, ..Default::default() });
            assert!(hold.is_some());
            let left = pb::Order { hold, inventory_reservation_id: String::new(), ..all.clone() };
            assert_eq!(*order, left);
        }
        Role::Service | Role::Admin => assert_eq!(text, self::text(whole)),
    }
    let events = |seen: &Seen| {
        seen.events.iter().map(|event| (event.sequence, event.r#type.clone())).collect::<Vec<_>>()
    };
    assert_eq!(events(seen), events(whole), "no event is missing");
    assert_eq!(seen.status.version, whole.status.version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_sees_what_it_needs_wherever_it_looks() {
    let node = start(&[]).await;
    let client = node.client();
    let made = eventful(&client).await;
    let whole = look(&client, &As::role(Role::Admin), &made.id).await;
    assert!(text(&whole).contains("john.doe@example.com") && text(&whole).contains("goodwill"));
    // In turn, so that nobody is shown what was remembered for somebody else.
    for role in Role::ALL.into_iter().chain(Role::ALL.into_iter().rev()) {
        assert_masked(role, &look(&client, &As::role(role), &made.id).await, &whole);
    }
    let finance = look(&client, &As::role(Role::Finance), &made.id).await;
    assert_eq!(payload(&finance, "refund_granted")["amount"], "1.23");
    let customer = look(&client, &As::customer(OWNER), &made.id).await;
    assert_eq!(payload(&customer, "order_held"), serde_json::json!({"type": "order_held"}));
    assert!(customer.events[0].principal == OWNER, "{:?}", customer.events[0]);
    // Somebody with two roles sees what either sees, and of another's order nothing as a customer.
    let both = look(&client, &As::new("both", &[Role::Support, Role::Finance], OTHER), &made.id).await;
    assert_eq!(
        (both.order.addresses[0].postal_code.as_str(), both.order.addresses[0].city.as_str()),
        ("10001", "New York")
    );
    let shopping = As::new("packer", &[Role::Customer, Role::Warehouse], OTHER);
    assert_eq!(order(&client, &shopping, &made.id).await.total_amount, "");
    drop(client);
    node.stop().await;
}

#[tokio::test]
async fn answers_to_commands_and_refusals_are_masked_too() {
    let node = start(&[]).await;
    let mut client = node.client();
    let made = eventful(&client).await;
    let id = made.id.clone();
    let support = As::role(Role::Support).because("ticket 9");
    let request = pb::HoldOrderRequest { id: id.clone(), reason: "rule 17".into(), ..Default::default() };
    let held = client.hold_order(support.sign(request)).await.unwrap().into_inner();
    assert_eq!(held.addresses[0].email, "j***@example.com");
    let warehouse = As::role(Role::Warehouse);
    let status = pb::OrderStatus::Processing.into();
    let request = pb::UpdateOrderStatusRequest { id: id.clone(), status, ..Default::default() };
    let told = client.update_order_status(warehouse.sign(request)).await.unwrap_err();
    read_refusal(&told, Code::FailedPrecondition, "ORDER_ON_HOLD");
    assert!(!format!("{told:?}").contains("rule 17"), "{told:?}");
    let item = Some(crate::harness::access::another_item());
    let request = pb::AddOrderItemRequest { order_id: id.clone(), item, ..Default::default() };
    let told = client.add_order_item(As::customer(OWNER).sign(request)).await.unwrap_err();
    assert!(!format!("{told:?}").contains("rule 17"), "{told:?}");
    let request = pb::ReleaseOrderRequest { id, ..Default::default() };
    let released = client.release_order(support.sign(request)).await.unwrap().into_inner();
    assert_eq!((released.addresses[0].address_line1.as_str(), released.hold), ("***", None));
    drop(client);
    node.stop().await;
}

/// How long a stream may be silent that must be.
const SILENCE: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_live_watch_is_masked_and_no_stranger_has_one() {
    let node = start(&[]).await;
    let mut client = node.client();
    let made = eventful(&client).await;
    let seen = look(&client, &As::role(Role::Warehouse), &made.id).await;
    let after_sequence = seen.events.last().unwrap().sequence;
    let request = pb::WatchOrderRequest { order_id: made.id.clone(), after_sequence };
    let told = client.watch_order(As::customer(OTHER).sign(request.clone())).await.unwrap_err();
    read_refusal(&told, Code::NotFound, "ORDER_NOT_FOUND");
    let mut watched = client.watch_order(As::role(Role::Warehouse).sign(request)).await.unwrap().into_inner();
    assert!(timeout(SILENCE, watched.message()).await.is_err());
    let request = pb::CancelOrderRequest { id: made.id.clone(), ..Default::default() };
    client.cancel_order(As::customer(OWNER).sign(request)).await.unwrap();
    loop {
        let told = timeout(PATIENCE, watched.message()).await.expect("the next event").unwrap().unwrap();
        let shown = format!("{told:?}");
        assert!(!shown.contains(&made.total_amount) && !shown.contains("USD"), "{shown}");
        if told.event.unwrap().status() == pb::OrderStatus::Cancelled {
            break;
        }
    }
    drop((client, watched));
    node.stop().await;
}
