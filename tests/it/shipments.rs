//! Orders that go out in more than one parcel.

use order_service::clients::sim::{FaultSpec, LabelState};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Processing, Shipped};
use tonic::{Code, Status};

use crate::harness::api::{fault, no_faults, quick, read_refusal};
use crate::harness::edits::lawful;
use crate::harness::node::TestNode;

async fn parcel(node: &TestNode, order: &pb::Order, number: &str) -> Result<pb::Order, Status> {
    let tracking = (!number.is_empty())
        .then(|| pb::Tracking { carrier: "UPS".to_owned(), tracking_number: number.to_owned() });
    let request = pb::AddShipmentRequest { id: order.id.clone(), tracking, ..Default::default() };
    Ok(node.client().add_shipment(request).await?.into_inner())
}

fn labels(node: &TestNode, order: &pb::Order, state: LabelState) -> usize {
    node.ledger(order).labels.iter().filter(|label| label.state == state).count()
}

#[tokio::test]
async fn an_order_goes_out_in_several_parcels() {
    let node = TestNode::start().await;
    let order = node.order_at(Processing).await;
    let order = parcel(&node, &order, "").await.unwrap();
    assert_eq!((order.status(), order.shipments.len()), (Processing, 2));
    let numbers: Vec<_> = order.shipments.iter().map(|one| one.tracking_number.as_str()).collect();
    assert!(numbers[0] != numbers[1] && numbers.iter().all(|number| !number.is_empty()), "{numbers:?}");
    assert_eq!(labels(&node, &order, LabelState::Created), 2);
    // The label of the third was made elsewhere: nobody is asked for one.
    let order = parcel(&node, &order, "1Z-BY-HAND").await.unwrap();
    let by_hand = &order.shipments[2];
    assert_eq!((by_hand.carrier.as_str(), by_hand.tracking_number.as_str()), ("UPS", "1Z-BY-HAND"));
    assert_eq!(labels(&node, &order, LabelState::Created), 2);
    let shipped = node.ask_status(&order.id, Shipped).await.unwrap();
    assert_eq!((shipped.status(), shipped.shipments.len()), (Shipped, 3));
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_voids_the_labels_of_all_parcels() {
    let node = TestNode::start().await;
    let order = node.order_at(Processing).await;
    parcel(&node, &order, "").await.unwrap();
    let order = node.cancel(&order.id).await.unwrap();
    assert_eq!(order.status(), Cancelled);
    assert!(order.shipments.iter().all(|one| one.label_status == "VOIDED"), "{:?}", order.shipments);
    assert_eq!(
        (labels(&node, &order, LabelState::Created), labels(&node, &order, LabelState::Voided)),
        (0, 2)
    );
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn a_label_that_cannot_be_made_leaves_the_others() {
    let node = TestNode::start_with(&quick(&[("ORDER__SAGA__FORWARD_TRIES", "2")])).await;
    let order = node.order_at(Processing).await;
    fault(&node, "shipping.CreateLabel", FaultSpec { unavailable: true, ..FaultSpec::default() });
    let refused = parcel(&node, &order, "").await.unwrap_err();
    read_refusal(&refused, Code::Unavailable, "DEPENDENCY_UNAVAILABLE");
    let now = node.get(&order.id).await;
    assert_eq!(now.status(), Processing);
    let states: Vec<_> = now.shipments.iter().map(|one| one.label_status.as_str()).collect();
    assert_eq!(states, ["CREATED", "VOIDED"]);
    assert_eq!(labels(&node, &order, LabelState::Created), 1);
    no_faults(&node);
    // Another try is another parcel.
    let order = parcel(&node, &order, "").await.unwrap();
    assert_eq!(order.shipments.len(), 3);
    assert_eq!(labels(&node, &order, LabelState::Created), 2);
    lawful(&node, &order).await;
    node.stop().await;
}

#[tokio::test]
async fn only_an_order_that_is_packed_takes_another_parcel() {
    let node = TestNode::start().await;
    let order = node.order_at(Confirmed).await;
    let refused = parcel(&node, &order, "").await.unwrap_err();
    read_refusal(&refused, Code::FailedPrecondition, "ILLEGAL_TRANSITION");
    let order = node.order_at(Processing).await;
    let request = pb::HoldOrderRequest { id: order.id.clone(), reason: "wait".into(), ..Default::default() };
    let held = node.client().hold_order(request).await.unwrap().into_inner();
    let refused = parcel(&node, &held, "").await.unwrap_err();
    read_refusal(&refused, Code::FailedPrecondition, "ORDER_ON_HOLD");
    assert_eq!(node.get(&order.id).await, held);
    let asked = |number: &str| pb::AddShipmentRequest {
        id: order.id.clone(),
        tracking: Some(pb::Tracking { tracking_number: number.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let refused = node.client().add_shipment(asked("")).await.unwrap_err();
    let refusal = read_refusal(&refused, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(refusal.fields, ["tracking.tracking_number"]);
    node.stop().await;
}

#[tokio::test]
async fn a_repeat_makes_no_other_parcel() {
    let node = TestNode::start().await;
    let order = node.order_at(Processing).await;
    let request = pb::AddShipmentRequest {
        id: order.id.clone(),
        request_id: "parcel-2".to_owned(),
        ..Default::default()
    };
    let first = node.client().add_shipment(request.clone()).await.unwrap().into_inner();
    let again = node.client().add_shipment(request).await.unwrap().into_inner();
    assert_eq!((first.shipments.len(), &again), (2, &first));
    assert_eq!(labels(&node, &order, LabelState::Created), 2);
    node.stop().await;
}
