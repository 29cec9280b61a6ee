//! Who watches an order sees all of its events, once and in order, whichever nodes own it meanwhile.

use std::time::Duration;

use futures::future::join_all;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus;
use order_service::proto::order::order_service_client::OrderServiceClient;
use rustix::process::Signal;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::cluster::{Cluster, Plan, by_default};
use crate::harness::cluster_audit::audit;
use crate::harness::takeover::Witnesses;

/// Between two events, also when the order's owner has to be given up in between.
const PATIENCE: Duration = Duration::from_secs(60);

type Watched = Streaming<pb::WatchOrderResponse>;

async fn watch(mut client: OrderServiceClient<Channel>, id: &str) -> Watched {
    let request = pb::WatchOrderRequest { order_id: id.to_owned(), after_sequence: 0 };
    client.watch_order(request).await.unwrap().into_inner()
}

/// Reads until the order is canceled; there must be no gap and nothing twice.
async fn read_to_the_end(mut watched: Watched) {
    for sequence in 1.. {
        let next = timeout(PATIENCE, watched.message()).await.expect("the next event");
        let event = next.unwrap().expect("it goes on").event.unwrap();
        assert_eq!(event.sequence, sequence);
        if event.r#type == "status_changed" && event.status() == OrderStatus::Cancelled {
            return;
        }
    }
}

/// Watches orders of the last node from another one, does something to the last one, and cancels them.
async fn watched_while(harm: impl AsyncFn(&mut Cluster)) {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(3) }).await;
    let fleet = cluster.fleet();
    let (witnesses, mut acknowledged) = Witnesses::make(&cluster, &fleet, 1, 5).await;
    let ids = witnesses[2].ids();
    let mut all = Vec::new();
    for (id, node) in ids.iter().zip([0, 1].into_iter().cycle()) {
        all.push(watch(cluster.client(node), id).await);
    }
    harm(&mut cluster).await;
    let (takeover, _) =
        tokio::join!(witnesses[2].change(&fleet), join_all(all.into_iter().map(read_to_the_end)));
    println!("{takeover}");
    acknowledged.extend(takeover.acknowledged);
    cluster.balanced(&[0, 1]).await;
    audit(&cluster, 0, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_when_the_owner_is_stopped() {
    watched_while(async |cluster| assert!(cluster.stop(2).await < PATIENCE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_when_the_owner_freezes() {
    watched_while(async |cluster| cluster.signal(2, Signal::STOP)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_when_the_owner_is_killed() {
    watched_while(async |cluster| cluster.kill9(2).await).await;
}
