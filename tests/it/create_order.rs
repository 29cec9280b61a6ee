//! Creating orders, from a request to the settled order.

use order_service::proto::order as pb;

use crate::harness::node::{TestNode, sample_order};

#[tokio::test]
async fn the_sample_order_is_confirmed_and_paid() {
    let node = TestNode::start().await;
    let order = node.client().create_order(sample_order()).await.unwrap().into_inner();
    assert_eq!(order.status(), pb::OrderStatus::Confirmed);
    assert_eq!(order.payment_status(), pb::PaymentStatus::Paid);
    assert_eq!(
        [&order.subtotal, &order.discount_amount, &order.tax_amount, &order.shipping_amount, &order.total_amount],
        ["89.98", "9.00", "7.19", "5.00", "93.17"]
    );
    node.stop().await;
}
