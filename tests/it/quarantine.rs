//! An order whose rows make no sense is set aside; once they do again, an operator lets it go.

use order_service::proto::admin as ops;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Confirmed, Processing};
use sqlx::{Connection, SqliteConnection};
use tonic::Code;

use crate::harness::api::{invalid, read_refusal, refused};
use crate::harness::node::{TestNode, sample_order};

async fn set_stored_status(node: &TestNode, order: &pb::Order, status: &str) {
    let url = format!("sqlite:{}", node.database().display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let number = order.order_number.clone();
    let set = sqlx::query("UPDATE orders SET status = ? WHERE order_number = ?").bind(status.to_owned());
    assert_eq!(set.bind(number).execute(&mut database).await.unwrap().rows_affected(), 1);
    database.close().await.unwrap();
}

#[tokio::test]
async fn an_order_that_was_set_aside_is_let_go_by_an_operator() {
    let settings = [("ORDER__CACHE__URL", "none:"), ("ORDER__ACTOR__QUARANTINE_FOR", "1h")];
    let node = TestNode::start_with(&settings).await;
    let (order, other) = (node.create(sample_order()).await, node.create(sample_order()).await);
    let node = TestNode::start_in(node.stop().await, &settings).await;
    let mut client =
        OrderAdminServiceClient::connect(format!("http://{}", node.node().ops_address())).await.unwrap();
    set_stored_status(&node, &order, "LOST").await;
    let release = ops::UnquarantineOrderRequest {
        order_id: order.id.clone(),
        reason: "the row is mended, ticket 4711".into(),
        by: "ada".into(),
        ..Default::default()
    };
    let explain = ops::ExplainOrderRequest { order: order.order_number.clone() };
    for error in [
        node.ask_status(&order.id, Processing).await.unwrap_err(),
        client.explain_order(explain.clone()).await.unwrap_err(),
        // To let it go does not mend it: it is set aside again.
        client.unquarantine_order(release.clone()).await.unwrap_err(),
    ] {
        let refusal = read_refusal(&error, Code::Unavailable, "STORAGE_UNAVAILABLE");
        assert_eq!(refusal.metadata["quarantined"], "true");
    }

    set_stored_status(&node, &order, "CONFIRMED").await;
    let error = node.ask_status(&order.id, Processing).await.unwrap_err();
    assert!(
        read_refusal(&error, Code::Unavailable, "STORAGE_UNAVAILABLE").metadata.contains_key("quarantined")
    );
    let why = client.explain_order(explain.clone()).await.unwrap().into_inner();
    let failing = why.failing.unwrap();
    assert!(
        failing.failures > 0 && failing.until.unwrap().seconds > order.created_at.unwrap().seconds + 3_000
    );
    let choice = |why: &ops::OrderExplanation| {
        why.choices.iter().find(|choice| choice.what == "unquarantine").unwrap().allowed
    };
    assert!(choice(&why));

    let silent = ops::UnquarantineOrderRequest { reason: String::new(), ..release.clone() };
    invalid(client.unquarantine_order(silent).await, "INVALID_FIELD", &["reason"]);
    let released = client.unquarantine_order(release.clone()).await.unwrap().into_inner();
    assert_eq!((released.status.as_str(), released.version), ("CONFIRMED", order.version + 1));
    assert_eq!(node.ask_status(&order.id, Processing).await.unwrap().status(), Processing);
    let told = node.until_event(&order.id, "repaired").await;
    for part in ["\"UNQUARANTINE\"", "\"ada\"", "ticket 4711"] {
        assert!(told.payload_json.contains(part), "{}", told.payload_json);
    }
    assert!(!choice(&client.explain_order(explain).await.unwrap().into_inner()));

    // Nobody else is let go of what holds nobody.
    for (order_id, code, reason) in [
        (order.id.clone(), Code::FailedPrecondition, "REPAIR_REFUSED"),
        (other.id.clone(), Code::FailedPrecondition, "REPAIR_REFUSED"),
        ("018f3e1c-0000-7000-8000-000000000000".to_owned(), Code::NotFound, "ORDER_NOT_FOUND"),
    ] {
        refused(
            client.unquarantine_order(ops::UnquarantineOrderRequest { order_id, ..release.clone() }).await,
            code,
            reason,
        );
    }
    assert_eq!(node.get(&other.id).await.status(), Confirmed);
    node.stop().await;
}
