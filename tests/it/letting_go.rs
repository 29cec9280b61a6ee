//! Orders whose slots were to change hands, and stay after all.

use std::collections::BTreeSet;

use order_service::domain::ids::SLOTS;
use order_service::proto::order as pb;

use crate::harness::api::by_id;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::wait::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_was_let_go_is_shown_as_it_was_left() {
    let settings = [("ORDER__ACTOR__IDLE_AFTER", "10ms"), ("ORDER__ACTOR__SWEEP_EVERY", "10ms")];
    let node = TestNode::start_with(&settings).await;
    let (mut client, orders) = (node.client(), node.node().orders());
    let order = client.create_order(sample_order()).await.unwrap().into_inner();
    // Near by as it is now.
    eventually("the order to leave memory", || async { (orders.counts().live == 0).then_some(()) }).await;

    let request =
        pb::HoldOrderRequest { id: order.id.clone(), reason: "a look".to_owned(), ..Default::default() };
    let held = client.hold_order(request).await.unwrap().into_inner();
    assert!(held.version > order.version);
    let all: BTreeSet<u16> = (0..SLOTS).collect();
    assert!(orders.rest(&all, PATIENCE).await && orders.let_go(&all, PATIENCE).await);
    assert_eq!(orders.counts().live, 0);
    let shown = client.get_order(by_id(&order.id)).await.unwrap().into_inner();
    assert_eq!(shown, held);
    // And goes on from there.
    let request = pb::ReleaseOrderRequest { id: order.id, ..Default::default() };
    let released = client.release_order(request).await.unwrap().into_inner();
    assert!(released.version > held.version && released.hold.is_none());
    drop(client);
    node.stop().await;
}
