//! How long a stream goes on.

use order_service::domain::access::Role;
use order_service::proto::order as pb;
use serde_json::json;
use tokio::time::timeout;

use super::assert_out;
use crate::harness::node::sample_order;
use crate::harness::tokens::{Issuer, claims, now};
use crate::harness::wait::PATIENCE;

#[tokio::test]
async fn a_stream_ends_with_its_token_and_goes_on_with_the_next() {
    let issuer = Issuer::new();
    let node = issuer.node(&[("ORDER__AUTH__LEEWAY", "0s")]).await;
    let lasting = issuer.token("ada", &[Role::Admin], None);
    let order = node.client_of(&lasting).create_order(sample_order()).await.unwrap().into_inner();
    let watch = |after_sequence| pb::WatchOrderRequest { order_id: order.id.clone(), after_sequence };
    let brief = issuer.sign(&claims(&json!({"sub": "ada", "roles": ["admin"], "exp": now() + 3})));
    let mut stream = node.client_of(&brief).watch_order(watch(0)).await.unwrap().into_inner();
    let mut other = node.client_of(&lasting).watch_order(watch(0)).await.unwrap().into_inner();
    let mut last = 0;
    let ended = loop {
        match timeout(PATIENCE, stream.message()).await.expect("it ends with its token") {
            Ok(answer) => last = answer.expect("an event, or why it ends").event.unwrap().sequence,
            Err(status) => break status,
        }
    };
    assert!(last > 0, "until then it was told what happened");
    assert_out(&ended, &brief, "the token has expired");
    // The next token goes on behind the last event, and other streams have gone on.
    let mut next = node.client_of(&lasting).watch_order(watch(last)).await.unwrap().into_inner();
    let cancel = pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() };
    node.client_of(&lasting).cancel_order(cancel).await.unwrap();
    assert_eq!(next.message().await.unwrap().unwrap().event.unwrap().sequence, last + 1);
    let mut seen = 0;
    while seen <= last {
        seen = other.message().await.unwrap().unwrap().event.unwrap().sequence;
    }
    drop((stream, next, other));
    node.stop().await;
}
