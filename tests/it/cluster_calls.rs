//! Calls that come to any node of a cluster, whichever owns the order.

use std::time::Duration;

use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use order_service::proto::admin::{DrainNodeRequest, ListNodesRequest, ListSlotsRequest};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::api::{by_id, by_number, read_refusal};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::cluster_audit::audit;
use crate::harness::node::sample_order;
use crate::harness::traffic::{Call, Mode, Rate, Traffic};
use crate::harness::wait::PATIENCE;

/// A user apart from those of the traffic.
const WITNESS: u64 = 1_000_000;

fn new_order(number: u64) -> pb::CreateOrderRequest {
    let Call::Create(request) = Call::create(number) else { unreachable!() };
    *request
}

async fn two() -> Cluster {
    Cluster::start(Plan::of(2)).await
}

async fn create(mut client: OrderServiceClient<Channel>, request: pb::CreateOrderRequest) -> pb::Order {
    client.create_order(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_any_call_for_an_order() {
    let cluster = two().await;
    let (mut one, mut other) = (cluster.client(0), cluster.client(1));
    let mut acknowledged = Vec::new();
    let mut owned = [0, 0];
    // Until each node has owned some of them.
    for number in 1.. {
        let order = create(one.clone(), new_order(number)).await;
        let owner = cluster.owners(std::slice::from_ref(&order.id)).await[0].unwrap();
        owned[owner] += 1;

        let request = pb::WatchOrderRequest { order_id: order.id.clone(), after_sequence: 0 };
        let mut watched = other.watch_order(request.clone()).await.unwrap().into_inner();
        let read = other.get_order(by_id(&order.id)).await.unwrap().into_inner();
        assert_eq!(read, order, "owned by {owner}");
        let read = other.get_order(by_number(&order.order_number)).await.unwrap().into_inner();
        assert_eq!(read, order, "owned by {owner}");
        let request = pb::ListOrdersRequest { user_id: order.user_id.clone(), ..Default::default() };
        let listed = other.list_orders(request).await.unwrap().into_inner().orders;
        assert_eq!(listed.as_slice(), std::slice::from_ref(&order));

        let Call::Cancel(request) = Call::cancel(&order.id) else { unreachable!() };
        let canceled = other.cancel_order(request).await.unwrap().into_inner();
        let (mut sequence, mut last) = (0, None);
        while last != Some(OrderStatus::Cancelled) {
            let next = timeout(PATIENCE, watched.message()).await.expect("the next event").unwrap().unwrap();
            let event = next.event.unwrap();
            assert_eq!(event.sequence, sequence + 1);
            sequence = event.sequence;
            if event.r#type == "status_changed" {
                last = Some(event.status());
            }
        }
        let read = one.get_order(by_id(&order.id)).await.unwrap().into_inner();
        assert_eq!(read.status(), OrderStatus::Cancelled);
        assert!(read.version >= canceled.version, "{} after {}", read.version, canceled.version);
        acknowledged.extend([order, canceled, read]);
        if owned.iter().all(|count| *count >= 3) {
            break;
        }
    }
    audit(&cluster, 0, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_repeated_at_another_node_is_the_same_request() {
    let cluster = two().await;
    let (one, mut other) = (cluster.client(0), cluster.client(1));
    let mut acknowledged = Vec::new();
    for number in 1..=8 {
        // One after the other, and side by side.
        let request = new_order(number);
        let first = create(one.clone(), request.clone()).await;
        let second = create(other.clone(), request.clone()).await;
        assert_eq!(first, second);
        let misused = pb::CreateOrderRequest { notes: "something else".into(), ..request };
        let status = other.create_order(misused).await.unwrap_err();
        read_refusal(&status, Code::InvalidArgument, "REQUEST_ID_REUSED");

        let request = pb::CreateOrderRequest { request_id: "not a uuid".into(), ..new_order(100 + number) };
        let (first_too, second_too) =
            tokio::join!(create(one.clone(), request.clone()), create(other.clone(), request));
        assert_eq!(first_too.id, second_too.id);

        let Call::Cancel(request) = Call::cancel(&first.id) else { unreachable!() };
        let canceled = cluster.client(0).cancel_order(request.clone()).await.unwrap().into_inner();
        let again = other.cancel_order(request).await.unwrap().into_inner();
        assert_eq!(canceled.id, again.id);
        acknowledged.extend([first, second, first_too, second_too, canceled, again]);
    }
    audit(&cluster, 0, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_leaves_no_slots_and_its_orders_go_on() {
    let mut cluster = two().await;
    let mut other = cluster.client(1);
    let order = create(cluster.client(0), sample_order()).await;
    let request = pb::WatchOrderRequest { order_id: order.id.clone(), after_sequence: 0 };
    let _watched = cluster.client(0).watch_order(request).await.unwrap();
    let took = cluster.stop(0).await;
    println!("stopped after {took:.1?}");
    assert!(took < Duration::from_secs(30), "longer than cluster.drain_timeout");
    let (_, lives) = cluster.lives().await;
    let told: Vec<_> =
        lives.iter().map(|life| (life.name.as_str(), life.state.as_str(), life.slots)).collect();
    assert_eq!(told, [("node-1", "LEFT", 0), ("node-2", "ACTIVE", 4096)]);
    let read = other.get_order(by_id(&order.id)).await.unwrap().into_inner();
    assert_eq!(read, order);
    let Call::Cancel(request) = Call::cancel(&order.id) else { unreachable!() };
    let canceled = other.cancel_order(request).await.unwrap().into_inner();
    audit(&cluster, 1, &[order, canceled]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_the_nodes_and_move_slots_away() {
    let cluster = two().await;
    let fleet = cluster.fleet();
    fleet.reaches(&[0, 1]).await;
    let traffic = Traffic::start(fleet, Rate::new(Mode::Strict), 1);
    let mut admin = OrderAdminServiceClient::connect(cluster.ops_url(0)).await.unwrap();
    let listed = admin.list_nodes(ListNodesRequest {}).await.unwrap().into_inner();
    let (version, lives) = cluster.lives().await;
    assert_eq!((listed.view_version, listed.slots), (version, 4096));
    for (node, life) in listed.nodes.iter().zip(&lives) {
        let told = (node.name.as_str(), node.incarnation, node.state.as_str(), node.slots as usize);
        assert_eq!(told, (life.name.as_str(), life.incarnation, life.state.as_str(), life.slots));
        assert_eq!(node.slots, node.slots_wanted, "{node:?}");
        assert_eq!(node.answers, node.name == "node-1");
    }
    let ranges = admin.list_slots(ListSlotsRequest {}).await.unwrap().into_inner().ranges;
    assert_eq!(ranges.iter().map(|range| range.last - range.first + 1).sum::<i32>(), 4096);
    assert!(ranges.iter().all(|range| range.wanted.is_empty() && !range.owner.is_empty()));

    // From a node to the other one.
    let drain = DrainNodeRequest { node: "node-2".into() };
    let mut progress = admin.drain_node(drain).await.unwrap().into_inner();
    let mut last = None;
    while let Some(next) = timeout(PATIENCE, progress.message()).await.expect("the end of the drain").unwrap()
    {
        last = Some(next);
    }
    assert_eq!(last.map(|last| last.slots_left), Some(0));
    cluster.balanced(&[0]).await;
    // It still takes calls, for the other one.
    create(cluster.client(1), new_order(WITNESS)).await;
    traffic.more(50).await;
    let report = traffic.stop().await;
    println!("{report}");
    report.assert_clean();
    audit(&cluster, 1, &report.acknowledged).await;
}
