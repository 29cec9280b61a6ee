//! Who gets at what is the same at every node, whichever owns the order.

use order_service::domain::access::Role;
use order_service::proto::order as pb;
use tokio::time::timeout;
use tonic::Code;

use crate::harness::access::{As, OTHER, settings};
use crate::harness::api::{order_of, read_refusal};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::wait::PATIENCE;

/// What the node `number` lets callers do with an order of `user`, and shows of it.
async fn ask_through(cluster: &Cluster, number: usize, user: &str, made: &pb::Order) {
    let mut client = cluster.client(number);
    let id = made.id.clone();
    let cancel = pb::CancelOrderRequest { id: id.clone(), ..Default::default() };
    let told = client.cancel_order(As::customer(OTHER).sign(cancel.clone())).await.unwrap_err();
    let refusal = read_refusal(&told, Code::NotFound, "ORDER_NOT_FOUND");
    assert_eq!(refusal.resource, Some(("order.v1.Order".into(), id.clone())));

    let support = As::role(Role::Support);
    let told = client.cancel_order(support.sign(cancel.clone())).await.unwrap_err();
    assert_eq!(read_refusal(&told, Code::InvalidArgument, "INVALID_FIELD").fields, ["x-on-behalf-reason"]);
    let told = client.cancel_order(As::role(Role::Warehouse).sign(cancel)).await.unwrap_err();
    read_refusal(&told, Code::PermissionDenied, "ROLE_FORBIDS");

    let hold = pb::HoldOrderRequest { id: id.clone(), reason: "count".into(), ..Default::default() };
    let warehouse = As::role(Role::Warehouse);
    let held = client.hold_order(warehouse.sign(hold)).await.unwrap().into_inner();
    assert_eq!((held.total_amount.as_str(), held.currency.as_str()), ("", ""));
    assert_eq!(held.addresses[0].address_line1, made.addresses[0].address_line1);

    let release = pb::ReleaseOrderRequest { id: id.clone(), ..Default::default() };
    let released =
        client.release_order(support.because("ticket 7").sign(release)).await.unwrap().into_inner();
    assert_eq!((released.addresses[0].email.as_str(), released.hold), ("j***@example.com", None));
    assert_eq!(released.total_amount, made.total_amount);

    let request = pb::WatchOrderRequest { order_id: id.clone(), after_sequence: 0 };
    let told = client.watch_order(As::customer(OTHER).sign(request.clone())).await.unwrap_err();
    read_refusal(&told, Code::NotFound, "ORDER_NOT_FOUND");
    let mut watched = client.watch_order(warehouse.sign(request)).await.unwrap().into_inner();
    let first = timeout(PATIENCE, watched.message()).await.expect("the first event").unwrap().unwrap();
    let shown = format!("{first:?}");
    assert!(!shown.contains(&made.total_amount) && first.order.is_some(), "{shown}");

    let item = Some(crate::harness::access::another_item());
    let request = pb::AddOrderItemRequest { order_id: id, item, validate_only: true, ..Default::default() };
    let told = client.add_order_item(As::customer(OTHER).sign(request.clone())).await.unwrap_err();
    read_refusal(&told, Code::NotFound, "ORDER_NOT_FOUND");
    client.add_order_item(As::customer(user).sign(request)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_and_any_other_node_refuse_and_mask_alike() {
    let settings = settings();
    let cluster = Cluster::start(Plan { settings: &settings, ..Plan::of(2) }).await;
    let mut owned = [false; 2];
    for number in 3..=20 {
        let user = format!("20000000-0000-4000-8000-{number:012}");
        let request = pb::CreateOrderRequest {
            user_id: user.clone(),
            request_id: uuid::Uuid::now_v7().to_string(),
            ..order_of(&[(1, 2), (3, 1)])
        };
        let made =
            cluster.client(0).create_order(As::customer(&user).sign(request)).await.unwrap().into_inner();
        let owner = cluster.owners(std::slice::from_ref(&made.id)).await[0].unwrap();
        if !std::mem::replace(&mut owned[owner], true) {
            for node in 0..2 {
                ask_through(&cluster, node, &user, &made).await;
            }
        }
        if owned == [true; 2] {
            return;
        }
    }
    panic!("one node owns the orders of all users");
}
