//! A standby that had not heard of everything is promoted: what was acknowledged and is missing must not go unseen.

use order_service::proto::admin as ops;
use order_service::proto::admin::order_admin_service_client::OrderAdminServiceClient;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::harness::node::sample_order;
use crate::harness::postgres::{PgServer, Shutdown};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::proxy::Proxy;
use crate::harness::standby::Replication;
use crate::harness::wait::eventually;

type Client = OrderServiceClient<Channel>;

async fn create(client: &Client, request: &pb::CreateOrderRequest) -> pb::Order {
    let order = client.clone().create_order(request.clone()).await.unwrap().into_inner();
    assert_eq!(order.status(), OrderStatus::Confirmed);
    order
}

async fn become_(client: &Client, id: &str, status: OrderStatus) -> Result<pb::Order, String> {
    let request =
        pb::UpdateOrderStatusRequest { id: id.to_owned(), status: status.into(), ..Default::default() };
    match client.clone().update_order_status(request).await {
        Ok(order) => Ok(order.into_inner()),
        Err(status) => Err(reason(&status)),
    }
}

async fn get(client: &Client, id: &str) -> Result<pb::Order, String> {
    let key = Some(pb::get_order_request::Key::Id(id.to_owned()));
    match client.clone().get_order(pb::GetOrderRequest { key, allow_stale: false }).await {
        Ok(order) => Ok(order.into_inner()),
        Err(status) => Err(reason(&status)),
    }
}

fn reason(status: &tonic::Status) -> String {
    assert_ne!(status.code(), Code::Unknown, "{status:?}");
    let details = status.get_error_details();
    let Some(info) = details.error_info() else { return String::new() };
    if info.metadata.contains_key("quarantined") { "QUARANTINED".to_owned() } else { info.reason.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_a_promoted_standby_has_lost_are_quarantined() {
    let primary = PgServer::start(&[]).await;
    let url = primary.create_database().await;
    let standby = primary.standby("late", Replication::Asynchronous).await;
    let proxy = Proxy::start(primary.address()).await;
    let simulate = Simulate::start().await;
    let settings = [("ORDER__ACTOR__IDLE_AFTER", "300ms"), ("ORDER__ACTOR__SWEEP_EVERY", "50ms")];
    let mut node = NodeProcess::start_on(Some(proxy.url_of(&url)), &simulate, &settings, &[]).await;
    let client = node.client();

    // One that stays as it is, one that goes on and one that begins when the standby hears no more.
    let (same, changed) = (create(&client, &sample_order()).await, create(&client, &sample_order()).await);
    standby.caught_up(&primary).await;
    standby.cut_replication().await;
    let processing = become_(&client, &changed.id, OrderStatus::Processing).await.unwrap();
    assert_eq!(processing.status(), OrderStatus::Processing);
    let lost = sample_order();
    let new = create(&client, &lost).await;

    primary.stop(Shutdown::Immediate).await;
    standby.promote().await;
    proxy.retarget(standby.address());
    proxy.cut_all();

    // New orders go on, by which the node finds its database again; then it looks what is missing.
    let after = eventually("new orders", async || {
        let answer = client.clone().create_order(sample_order()).await.ok()?;
        Some(answer.into_inner())
    })
    .await;
    let quarantined = "SELECT order_id::text || ' ' || known_version || ' ' || stored_version \
                       FROM order_quarantines ORDER BY 1";
    let database = url.rsplit('/').next().unwrap();
    let own = standby.url(database);
    let rows = eventually("both to be quarantined", async || {
        let rows = crate::harness::postgres::query(&own, quarantined).await.ok()?;
        (rows.len() >= 2).then_some(rows)
    })
    .await;
    let mut expected = [
        format!("{} {} {}", changed.id, processing.version, changed.version),
        format!("{} {} 0", new.id, new.version),
    ];
    expected.sort();
    assert_eq!(rows.concat(), expected);

    // Nobody is shown the older state, nobody can act on it, and repeating the creation makes no second order.
    for id in [&changed.id, &new.id] {
        eventually("the quarantine", async || {
            (get(&client, id).await == Err("QUARANTINED".to_owned())).then_some(())
        })
        .await;
        assert_eq!(become_(&client, id, OrderStatus::Cancelled).await, Err("QUARANTINED".to_owned()));
    }
    let log = node.process().log();
    assert_eq!(log.matches("has lost acknowledged changes").count(), 2, "{log}");

    // The others are as they were told.
    assert_eq!(get(&client, &same.id).await.unwrap().version, same.version);
    assert!(become_(&client, &same.id, OrderStatus::Processing).await.is_ok());
    assert_eq!(get(&client, &after.id).await.unwrap().id, after.id);

    // It is written down: the next life knows it too.
    let node = node.restart(&[]).await;
    let client = node.client();
    for id in [&changed.id, &new.id] {
        assert_eq!(get(&client, id).await, Err("QUARANTINED".to_owned()));
        assert_eq!(become_(&client, id, OrderStatus::Cancelled).await, Err("QUARANTINED".to_owned()));
    }
    // Nor does repeating its creation begin it anew.
    let repeated = client.clone().create_order(lost).await.unwrap_err();
    assert_eq!(reason(&repeated), "QUARANTINED");
    assert_eq!(get(&client, &new.id).await, Err("QUARANTINED".to_owned()));
    assert!(get(&client, &same.id).await.is_ok());

    // An operator sees what is missing. Once somebody has looked and let it go, the stored state counts.
    let mut operator = OrderAdminServiceClient::connect(node.ops_url()).await.unwrap();
    let why = operator.explain_order(ops::ExplainOrderRequest { order: changed.id.clone() }).await;
    let why = why.unwrap().into_inner();
    assert_eq!(why.waits_for, "QUARANTINE");
    let missing = why.quarantine.unwrap();
    assert_eq!((missing.known_version, missing.stored_version), (processing.version, changed.version));
    let stuck =
        operator.list_stuck_orders(ops::ListStuckOrdersRequest::default()).await.unwrap().into_inner();
    let mut listed: Vec<_> = stuck.orders.into_iter().filter(|order| order.quarantined).collect();
    listed.sort_by_key(|order| order.order_id == new.id);
    assert_eq!(listed.iter().map(|order| &order.order_id).collect::<Vec<_>>(), [&changed.id, &new.id]);
    let release = |order: &pb::Order| ops::UnquarantineOrderRequest {
        order_id: order.id.clone(),
        reason: "the books agree".into(),
        ..Default::default()
    };
    let released = operator.unquarantine_order(release(&changed)).await.unwrap().into_inner();
    assert_eq!((released.status.as_str(), released.version), ("CONFIRMED", changed.version + 1));
    assert!(become_(&client, &changed.id, OrderStatus::Processing).await.is_ok());
    // Of this one nothing is left but its place.
    let gone = operator.unquarantine_order(release(&new)).await.unwrap_err();
    assert_eq!(reason(&gone), "ORDER_NOT_FOUND");
    let node = node.restart(&[]).await;
    assert_eq!(get(&node.client(), &new.id).await, Err("ORDER_NOT_FOUND".to_owned()));
    assert_eq!(get(&node.client(), &changed.id).await.unwrap().status(), OrderStatus::Processing);
}
