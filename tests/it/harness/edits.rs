//! What tests of item edits share.

use order_service::clients::sim::catalogue::product;
use order_service::proto::order as pb;
use tonic::Status;

use super::api::{eventually, line, quick};
use super::invariants::{check, gather, settled};
use super::node::TestNode;

/// A node that answers before a saga that is held up has ended.
pub async fn quiet(settings: &[(&str, &str)]) -> TestNode {
    let mut all = quick(&[("ORDER__CREATE__WAIT", "10ms")]);
    all.extend(settings);
    TestNode::start_with(&all).await
}

/// The order's line of a product.
#[track_caller]
pub fn item(order: &pb::Order, number: u32) -> pb::OrderItem {
    let id = product(number).product_id.to_string();
    order.items.iter().find(|item| item.product_id == id).unwrap().clone()
}

/// A wish for so many of a product that the order has.
#[track_caller]
pub fn of_item(order: &pb::Order, number: u32, quantity: i32) -> pb::UpdateOrderItemRequest {
    let item_id = item(order, number).id;
    pb::UpdateOrderItemRequest { order_id: order.id.clone(), item_id, quantity, ..Default::default() }
}

/// Asks for so many of a product that the order has.
pub async fn quantity(
    node: &TestNode,
    order: &pb::Order,
    number: u32,
    quantity: i32,
) -> Result<pb::Order, Status> {
    Ok(node.client().update_order_item(of_item(order, number, quantity)).await?.into_inner())
}

/// Asks for more of a product.
pub async fn added(
    node: &TestNode,
    order: &pb::Order,
    number: u32,
    quantity: i32,
) -> Result<pb::Order, Status> {
    let item = Some(line(product(number), quantity));
    let request = pb::AddOrderItemRequest { order_id: order.id.clone(), item, ..Default::default() };
    Ok(node.client().add_order_item(request).await?.into_inner())
}

/// Asks for none of a product.
pub async fn removed(node: &TestNode, order: &pb::Order, number: u32) -> Result<pb::Order, Status> {
    let item_id = item(order, number).id;
    let request = pb::RemoveOrderItemRequest { order_id: order.id.clone(), item_id, ..Default::default() };
    Ok(node.client().remove_order_item(request).await?.into_inner())
}

/// What was paid and given back.
pub async fn payments(node: &TestNode, order: &pb::Order) -> Vec<pb::PaymentTransaction> {
    let request = pb::ListPaymentTransactionsRequest { order_id: order.id.clone() };
    node.client().list_payment_transactions(request).await.unwrap().into_inner().transactions
}

/// Waits until the order has come to rest, and holds it against every law.
pub async fn lawful(node: &TestNode, order: &pb::Order) {
    let rest = async || settled(&node.events(&order.id).await).then_some(());
    eventually("rest", rest).await;
    let truth = (&node.ledger(order)).into();
    assert_eq!(check(&gather(&node.client(), &order.id, truth).await), Ok(()));
}
