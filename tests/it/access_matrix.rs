//! Every call by every role, for an own order, another user's and one that does not exist: each cell of the table that
//! `SECURITY.md` shows, asked of a real node with real tokens.

use order_service::domain::access::Role;
use order_service::proto::admin as ops;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Delivered, Processing, Shipped};
use order_service::proto::order::order_service_client::OrderServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::access::{As, NOBODY, OTHER, OWNER, WITHOUT, another_item, start};
use crate::harness::api::{by_id, by_number, order_of, read_refusal};

/// Columns: customer, support, warehouse, finance, service, admin. `-` no, `o` own orders, `b` any with a reason, `a` any.
const ORDERS: [(&str, &str); 16] = [
    ("CreateOrder", "o---aa"),
    ("GetOrder", "oaaaaa"),
    ("GetOrderStatus", "oaaaaa"),
    ("UpdateOrderStatus", "--a-aa"),
    ("CancelOrder", "ob--aa"),
    ("RefundOrder", "---baa"),
    ("AddOrderItem", "o---aa"),
    ("UpdateOrderItem", "o---aa"),
    ("RemoveOrderItem", "o---aa"),
    ("AddShipment", "--a-aa"),
    ("HoldOrder", "-ba-aa"),
    ("ReleaseOrder", "-b--aa"),
    ("ListOrders", "oaaaaa"),
    ("ListOrderEvents", "oaaaaa"),
    ("ListPaymentTransactions", "oa-aaa"),
    ("WatchOrder", "oaaaaa"),
];

const OPERATORS: [&str; 10] = [
    "ListNodes",
    "ListSlots",
    "DrainNode",
    "PlanCluster",
    "ExplainOrder",
    "ListStuckOrders",
    "RetryStep",
    "SkipStep",
    "ResolvePayment",
    "UnquarantineOrder",
];

const COLUMNS: [Role; 6] =
    [Role::Customer, Role::Support, Role::Warehouse, Role::Finance, Role::Service, Role::Admin];

type Client = OrderServiceClient<Channel>;

/// What a call is about.
#[derive(Clone, Debug)]
struct Target {
    order: String,
    item: String,
    user: String,
}

impl Target {
    /// No order of anybody, in the name of a user who has none.
    fn none() -> Self {
        Self {
            order: uuid::Uuid::now_v7().to_string(),
            item: uuid::Uuid::now_v7().to_string(),
            user: WITHOUT.into(),
        }
    }

    /// A new order of `user`, as `rpc` needs it.
    async fn fresh(client: &Client, user: &str, rpc: &str) -> Self {
        let admin = As::role(Role::Admin);
        let mut request = pb::CreateOrderRequest { user_id: user.into(), ..two_lines() };
        request.request_id = uuid::Uuid::now_v7().to_string();
        let order = client.clone().create_order(admin.sign(request)).await.unwrap().into_inner();
        if rpc == "AddShipment" {
            let request = pb::UpdateOrderStatusRequest {
                id: order.id.clone(),
                status: Processing.into(),
                ..Default::default()
            };
            client.clone().update_order_status(admin.sign(request)).await.unwrap();
        }
        Self { order: order.id, item: order.items[0].id.clone(), user: user.into() }
    }
}

fn two_lines() -> pb::CreateOrderRequest {
    order_of(&[(1, 2), (3, 1)])
}

/// Asks; what is empty counts as not found.
async fn ask(client: &Client, rpc: &str, target: &Target, who: &As) -> Result<(), Status> {
    let mut client = client.clone();
    let (id, order_id, item_id) = (target.order.clone(), target.order.clone(), target.item.clone());
    match rpc {
        "CreateOrder" => {
            let request = pb::CreateOrderRequest { user_id: target.user.clone(), ..two_lines() };
            client.create_order(who.sign(request)).await.map(drop)
        }
        "GetOrder" => client.get_order(who.sign(by_id(&id))).await.map(drop),
        "GetOrderStatus" => {
            let key = Some(pb::get_order_status_request::Key::Id(id));
            client.get_order_status(who.sign(pb::GetOrderStatusRequest { key })).await.map(drop)
        }
        "UpdateOrderStatus" => {
            let status = Processing.into();
            let request = pb::UpdateOrderStatusRequest { id, status, ..Default::default() };
            client.update_order_status(who.sign(request)).await.map(drop)
        }
        "CancelOrder" => {
            let request = pb::CancelOrderRequest { id, ..Default::default() };
            client.cancel_order(who.sign(request)).await.map(drop)
        }
        "RefundOrder" => {
            let request = pb::RefundOrderRequest { id, amount: "1.00".into(), ..Default::default() };
            client.refund_order(who.sign(request)).await.map(drop)
        }
        "AddOrderItem" => {
            let item = Some(another_item());
            let request = pb::AddOrderItemRequest { order_id, item, ..Default::default() };
            client.add_order_item(who.sign(request)).await.map(drop)
        }
        "UpdateOrderItem" => {
            let request = pb::UpdateOrderItemRequest { order_id, item_id, quantity: 3, ..Default::default() };
            client.update_order_item(who.sign(request)).await.map(drop)
        }
        "RemoveOrderItem" => {
            let request = pb::RemoveOrderItemRequest { order_id, item_id, ..Default::default() };
            client.remove_order_item(who.sign(request)).await.map(drop)
        }
        "AddShipment" => {
            let request = pb::AddShipmentRequest { id, ..Default::default() };
            client.add_shipment(who.sign(request)).await.map(drop)
        }
        "HoldOrder" => {
            let request = pb::HoldOrderRequest { id, reason: "counting".into(), ..Default::default() };
            client.hold_order(who.sign(request)).await.map(drop)
        }
        "ReleaseOrder" => {
            let request = pb::ReleaseOrderRequest { id, ..Default::default() };
            client.release_order(who.sign(request)).await.map(drop)
        }
        "ListOrders" => {
            let request = pb::ListOrdersRequest { user_id: target.user.clone(), ..Default::default() };
            let page = client.list_orders(who.sign(request)).await?.into_inner();
            assert!(page.orders.iter().all(|order| order.user_id == target.user));
            if page.orders.is_empty() { Err(Status::not_found("no orders")) } else { Ok(()) }
        }
        "ListOrderEvents" => {
            let request = pb::ListOrderEventsRequest { order_id, ..Default::default() };
            client.list_order_events(who.sign(request)).await.map(drop)
        }
        "ListPaymentTransactions" => {
            let request = pb::ListPaymentTransactionsRequest { order_id };
            client.list_payment_transactions(who.sign(request)).await.map(drop)
        }
        "WatchOrder" => {
            let request = pb::WatchOrderRequest { order_id, after_sequence: 0 };
            let mut stream = client.watch_order(who.sign(request)).await?.into_inner();
            stream.message().await.map(|first| assert!(first.is_some()))
        }
        _ => panic!("{rpc} is not asked"),
    }
}

/// Nothing tells that such an order exists.
fn assert_no_such_order(rpc: &str, target: &Target, status: &Status, what: &str) {
    if rpc == "ListOrders" {
        assert_eq!(status.message(), "no orders", "{what}");
        return;
    }
    if rpc == "CreateOrder" {
        read_refusal(status, Code::NotFound, "USER_NOT_FOUND");
        return;
    }
    let refusal = read_refusal(status, Code::NotFound, "ORDER_NOT_FOUND");
    assert_eq!(status.message(), "there is no such order", "{what}");
    assert!(
        refusal.metadata.is_empty() && refusal.fields.is_empty() && !refusal.retry,
        "{what}: {refusal:?}"
    );
    assert_eq!(refusal.resource, Some(("order.v1.Order".into(), target.order.clone())), "{what}");
}

fn assert_forbidden(status: &Status) {
    let refusal = read_refusal(status, Code::PermissionDenied, "ROLE_FORBIDS");
    assert!(refusal.resource.is_none() && refusal.metadata.is_empty(), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_is_as_the_table_says() {
    let node = start(&[]).await;
    let client = node.client();
    let (own, other) = (Target::fresh(&client, OWNER, "").await, Target::fresh(&client, OTHER, "").await);
    let mut cells = 0;
    for (rpc, row) in ORDERS {
        let changes = !(rpc.starts_with("Get") || rpc.starts_with("List") || rpc.starts_with("Watch"));
        for (role, cell) in COLUMNS.into_iter().zip(row.chars()) {
            for (whose, shared) in [("own", Some(&own)), ("other", Some(&other)), ("none", None)] {
                let may = !matches!((cell, whose), ('-', _) | (_, "none") | ('o', "other"));
                let target = match shared {
                    Some(target) if may && changes => Target::fresh(&client, &target.user, rpc).await,
                    Some(target) => target.clone(),
                    None => Target::none(),
                };
                let what = format!("{rpc} by {} for {whose}", role.name());
                let told = ask(&client, rpc, &target, &As::role(role)).await;
                let told = match cell {
                    'b' => {
                        let refusal =
                            read_refusal(&told.unwrap_err(), Code::InvalidArgument, "INVALID_FIELD");
                        assert_eq!(refusal.fields, ["x-on-behalf-reason"], "{what}");
                        ask(&client, rpc, &target, &As::role(role).because("the customer called")).await
                    }
                    _ => told,
                };
                match (told, may) {
                    (Ok(()), true) => {}
                    (Err(status), false) if cell == '-' => assert_forbidden(&status),
                    // Told before anything is looked up.
                    (Err(status), false) if rpc == "CreateOrder" && cell == 'o' => assert_forbidden(&status),
                    (Err(status), false) => assert_no_such_order(rpc, &target, &status, &what),
                    (told, _) => panic!("{what}: {told:?}"),
                }
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 16 * 6 * 3);
    // Whatever others asked, these are as they were.
    for target in [&own, &other] {
        let order = client.clone().get_order(As::role(Role::Admin).sign(by_id(&target.order))).await;
        let order = order.unwrap().into_inner();
        assert_eq!(
            (order.status(), order.hold.is_some(), order.items.len()),
            (pb::OrderStatus::Confirmed, false, 2)
        );
    }
    drop(client);
    node.stop().await;
}

async fn operate(
    client: &mut OrderAdminServiceClient<Channel>,
    rpc: &str,
    order: &str,
    who: &As,
) -> Result<(), Status> {
    let order = order.to_owned();
    match rpc {
        "ListNodes" => client.list_nodes(who.sign(ops::ListNodesRequest {})).await.map(drop),
        "ListSlots" => client.list_slots(who.sign(ops::ListSlotsRequest {})).await.map(drop),
        "DrainNode" => client.drain_node(who.sign(ops::DrainNodeRequest::default())).await.map(drop),
        "PlanCluster" => client.plan_cluster(who.sign(ops::PlanClusterRequest::default())).await.map(drop),
        "ExplainOrder" => client.explain_order(who.sign(ops::ExplainOrderRequest { order })).await.map(drop),
        "ListStuckOrders" => {
            client.list_stuck_orders(who.sign(ops::ListStuckOrdersRequest::default())).await.map(drop)
        }
        "RetryStep" => {
            let request = ops::RetryStepRequest { order, ..Default::default() };
            client.retry_step(who.sign(request)).await.map(drop)
        }
        "SkipStep" => {
            let request = ops::SkipStepRequest { order, reason: "because".into(), ..Default::default() };
            client.skip_step(who.sign(request)).await.map(drop)
        }
        "ResolvePayment" => {
            let request = ops::ResolvePaymentRequest { order, ..Default::default() };
            client.resolve_payment(who.sign(request)).await.map(drop)
        }
        "UnquarantineOrder" => {
            let request = ops::UnquarantineOrderRequest { order_id: order, ..Default::default() };
            client.unquarantine_order(who.sign(request)).await.map(drop)
        }
        _ => panic!("{rpc} is not asked"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_administrators() {
    let node = start(&[]).await;
    let orders = [Target::fresh(&node.client(), OWNER, "").await, Target::none()];
    let url = format!("http://{}", node.node().ops_address());
    let mut client = OrderAdminServiceClient::connect(url).await.unwrap();
    // On the node's own machine no token is needed.
    client.list_nodes(ops::ListNodesRequest {}).await.unwrap();
    for rpc in OPERATORS {
        for role in COLUMNS {
            for target in &orders {
                let told =
                    operate(&mut client, rpc, &target.order, &As::role(role).because("asked to")).await;
                match told {
                    Err(status) if role != Role::Admin => assert_forbidden(&status),
                    Err(status) => assert_ne!(status.code(), Code::PermissionDenied, "{rpc}: {status:?}"),
                    Ok(()) => assert_eq!(role, Role::Admin, "{rpc}"),
                }
            }
        }
    }
    drop(client);
    node.stop().await;
}

#[tokio::test]
async fn who_shops_and_packs_cannot_cancel_what_others_ordered() {
    let node = start(&[]).await;
    let mut client = node.client();
    let target = Target::fresh(&client, OTHER, "").await;
    let both = As::new("packer", &[Role::Customer, Role::Warehouse], OWNER);
    let request = pb::UpdateOrderStatusRequest {
        id: target.order.clone(),
        status: Cancelled.into(),
        ..Default::default()
    };
    let told = client.update_order_status(both.sign(request)).await.unwrap_err();
    assert_eq!(told.code(), Code::NotFound, "{told:?}");
    drop(client);
    node.stop().await;
}

#[tokio::test]
async fn a_warehouse_moves_orders_on_but_cannot_cancel_one() {
    let node = start(&[]).await;
    let mut client = node.client();
    let target = Target::fresh(&client, OTHER, "").await;
    let warehouse = As::role(Role::Warehouse);
    let mut set = async |status: pb::OrderStatus| {
        let request = pb::UpdateOrderStatusRequest {
            id: target.order.clone(),
            status: status.into(),
            ..Default::default()
        };
        client.update_order_status(warehouse.sign(request)).await.map(|answer| answer.into_inner().status())
    };
    assert_forbidden(&set(Cancelled).await.unwrap_err());
    for status in [Processing, Shipped, Delivered, pb::OrderStatus::Returned] {
        assert_eq!(set(status).await.unwrap(), status);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_strangers_order_does_not_exist_by_number_by_request_id_or_in_a_page() {
    let node = start(&[]).await;
    let mut client = node.client();
    let (owner, stranger) = (As::customer(OWNER), As::customer(OTHER));
    let request = pb::CreateOrderRequest { user_id: OWNER.into(), ..two_lines() };
    let order = client.create_order(owner.sign(request.clone())).await.unwrap().into_inner();

    let told = client.get_order(stranger.sign(by_number(&order.order_number))).await.unwrap_err();
    let unknown = client.get_order(stranger.sign(by_number("ORD-0000000000"))).await.unwrap_err();
    for (status, number) in [(&told, order.order_number.as_str()), (&unknown, "ORD-0000000000")] {
        let refusal = read_refusal(status, Code::NotFound, "ORDER_NOT_FOUND");
        assert_eq!(refusal.resource, Some(("order.v1.Order".into(), number.into())));
    }
    assert_eq!(told.message(), unknown.message());
    let stale = pb::GetOrderRequest { allow_stale: true, ..by_id(&order.id) };
    let told = client.get_order(stranger.sign(stale)).await.unwrap_err();
    read_refusal(&told, Code::NotFound, "ORDER_NOT_FOUND");

    // The same request id is another order, or refused, but never the other user's.
    let own = pb::CreateOrderRequest { user_id: OTHER.into(), ..request.clone() };
    let made = client.create_order(stranger.sign(own)).await.unwrap().into_inner();
    assert_ne!(made.id, order.id);
    assert_forbidden(&client.create_order(stranger.sign(request)).await.unwrap_err());

    // Left out, the user is the caller; a token of one list is none of another.
    for _ in 0..2 {
        Target::fresh(&client, OWNER, "").await;
    }
    let all = pb::ListOrdersRequest { page_size: 1, ..Default::default() };
    let page = client.list_orders(owner.sign(all.clone())).await.unwrap().into_inner();
    assert!(page.orders.iter().all(|order| order.user_id == OWNER) && !page.next_page_token.is_empty());
    let next = pb::ListOrdersRequest { page_token: page.next_page_token, ..all.clone() };
    for other in [&stranger, &As::role(Role::Admin)] {
        let told = client.list_orders(other.sign(next.clone())).await.unwrap_err();
        let refusal = read_refusal(&told, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(refusal.fields, ["page_token"]);
    }
    assert!(client.list_orders(owner.sign(next)).await.is_ok());
    // A customer who is no user has nothing.
    let nobody = As::customer(NOBODY);
    let told = client.list_orders(nobody.sign(all)).await.unwrap().into_inner();
    assert!(told.orders.is_empty());
    drop(client);
    node.stop().await;
}

/// Who may order sets no price, no status and no name but their own: a request has no field for it.
#[test]
fn what_customers_may_set() {
    use prost::Message;
    let set = prost_types::FileDescriptorSet::decode(order_service::proto::FILE_DESCRIPTOR_SET).unwrap();
    let messages: std::collections::BTreeMap<&str, Vec<&str>> = set
        .file
        .iter()
        .filter(|file| file.package() == "order.v1")
        .flat_map(|file| &file.message_type)
        .map(|message| (message.name(), message.field.iter().map(|field| field.name()).collect()))
        .collect();
    // `expected_total` refuses another price and sets none; `metadata` means nothing to the service; `user_id` is checked.
    let create = "request_id user_id items shipping_address billing_address payment_method payment_token \
                  shipping_method notes coupon_code currency expected_total metadata validate_only";
    let mut by_customers = vec![
        ("CreateOrderRequest", create),
        ("NewOrderItem", "product_id variant_id quantity"),
        ("CancelOrderRequest", "id reason expected_version request_id"),
        ("AddOrderItemRequest", "order_id item expected_version request_id validate_only"),
        ("UpdateOrderItemRequest", "order_id item_id quantity expected_version request_id validate_only"),
        ("RemoveOrderItemRequest", "order_id item_id expected_version request_id validate_only"),
    ];
    for (message, fields) in by_customers.drain(..) {
        assert_eq!(messages[message], fields.split_whitespace().collect::<Vec<_>>(), "{message}");
    }
}

#[tokio::test]
async fn a_price_that_a_customer_expects_is_not_the_price() {
    let node = start(&[]).await;
    let mut client = node.client();
    let owner = As::customer(OWNER);
    let cheap =
        pb::CreateOrderRequest { user_id: OWNER.into(), expected_total: "0.01".into(), ..two_lines() };
    let told = client.create_order(owner.sign(cheap)).await.unwrap_err();
    read_refusal(&told, Code::FailedPrecondition, "PRICE_CHANGED");
    let free = pb::CreateOrderRequest {
        user_id: OWNER.into(),
        metadata: [("total_amount".into(), "0.00".into()), ("status".into(), "DELIVERED".into())].into(),
        ..two_lines()
    };
    let made = client.create_order(owner.sign(free)).await.unwrap().into_inner();
    assert_eq!(made.status(), pb::OrderStatus::Confirmed);
    assert_ne!(made.total_amount, "0.00");
    drop(client);
    node.stop().await;
}
