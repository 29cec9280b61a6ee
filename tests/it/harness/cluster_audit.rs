//! What has to be true of a cluster's orders in the end, whatever was done to its nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use order_service::proto::order as pb;
use order_service::proto::simulator as sim;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::invariants::{acknowledged, check, discreet, gather};
use super::postgres::query;
use super::stores::verified_store;
use super::wait::within;

/// Orders that are looked at side by side.
const SIDE_BY_SIDE: usize = 16;

/// How long it may take until every saga has ended.
pub const SETTLED: Duration = Duration::from_secs(60);

/// The books of the collaborators, by order.
#[derive(Default)]
struct Books(HashMap<String, sim::GetLedgerResponse>);

impl Books {
    fn of(all: &sim::GetLedgerResponse) -> Self {
        let mut books = Self::default();
        for charge in &all.charges {
            books.page(&charge.order_id).charges.push(charge.clone());
        }
        for refund in &all.refunds {
            books.page(&refund.order_id).refunds.push(refund.clone());
        }
        for reservation in &all.reservations {
            books.page(&reservation.order_id).reservations.push(reservation.clone());
        }
        for label in &all.labels {
            books.page(&label.order_id).labels.push(label.clone());
        }
        books
    }

    fn page(&mut self, order_id: &str) -> &mut sim::GetLedgerResponse {
        self.0.entry(order_id.to_owned()).or_default()
    }
}

/// Waits until no saga is under way any more; how long that took.
pub async fn settled(cluster: &Cluster) -> Duration {
    let started = Instant::now();
    let open = "SELECT count(*) FROM sagas WHERE NOT settled";
    within(SETTLED, "every saga to end", async || {
        let rows = query(cluster.url(), open).await.ok()?;
        (rows[0][0] == "0").then_some(())
    })
    .await;
    started.elapsed()
}

/// Everything that was acknowledged is there, at least as it was; every order has come to rest and keeps every law, by
/// the books of those who were paid and who delivered; stock adds up. Asks the node `asked`.
pub async fn audit(cluster: &Cluster, asked: usize, acknowledgements: &[pb::Order]) {
    settled(cluster).await;
    let orders = query(cluster.url(), "SELECT id FROM orders").await.unwrap().concat();
    let all = cluster.simulate().ledgers().await;
    let books = Books::of(&all);

    let stored: BTreeSet<&str> = orders.iter().map(String::as_str).collect();
    let strangers: Vec<_> = books.0.keys().filter(|id| !stored.contains(id.as_str())).collect();
    assert!(strangers.is_empty(), "calls were made for orders that are not there: {strangers:?}");
    let mut answers: BTreeMap<&str, Vec<&pb::Order>> = BTreeMap::new();
    for order in acknowledgements {
        assert!(stored.contains(order.id.as_str()), "I1: acknowledged order {} is gone", order.id);
        answers.entry(&order.id).or_default().push(order);
    }

    let client = cluster.client(asked);
    let one = async |id: &String| {
        let truth = books.0.get(id).map(Into::into).unwrap_or_default();
        let evidence = gather(&client, id, truth).await;
        let heard = answers.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let law = heard
            .iter()
            .fold(check(&evidence), |law, order| law.and_then(|()| acknowledged(order, &evidence)));
        assert_eq!(law, Ok(()), "{evidence:#?}");
        assert!(
            matches!(evidence.order.status(), pb::OrderStatus::Confirmed | pb::OrderStatus::Cancelled),
            "{evidence:#?}"
        );
    };
    stream::iter(&orders).for_each_concurrent(SIDE_BY_SIDE, one).await;

    for stock in &all.stock {
        let sum = stock.available + stock.reserved + stock.committed;
        assert_eq!(sum, stock.initial, "I5: {stock:?}");
        assert_eq!(stock.reserved, 0, "I5: something is kept for nobody: {stock:?}");
    }
    tables(cluster).await;
    for log in cluster.logs() {
        assert_eq!(discreet(&log), Ok(()));
    }
    let settings = vec![("ORDER__STORE__URL".to_owned(), cluster.url().to_owned())];
    verified_store(settings, orders.len()).await;
    println!("{} orders, {} acknowledgements: every law is kept", orders.len(), acknowledgements.len());
}

/// What only the tables show.
async fn tables(cluster: &Cluster) {
    let url = cluster.url();
    let none = async |what: &str, sql: &str| {
        let rows = query(url, sql).await.unwrap();
        assert!(rows.is_empty(), "{what}: {rows:?}");
    };
    none("not at rest", "SELECT id, status FROM orders WHERE status IN ('PENDING', 'CANCELLING')").await;
    none(
        "I2: a request made two orders",
        "SELECT user_id, request_id, count(*) FROM orders GROUP BY 1, 2 HAVING count(*) > 1",
    )
    .await;
    none(
        "I12: events of one version from several writers, or a gap",
        "SELECT order_id FROM order_events GROUP BY order_id HAVING count(*) <> max(seq)",
    )
    .await;
    if cluster.is_cluster() {
        none(
            "I12: an epoch above its slot's",
            "SELECT o.id, o.slot, o.owner_epoch, s.epoch FROM orders AS o JOIN slot_owner AS s USING (slot) \
             WHERE o.owner_epoch > s.epoch",
        )
        .await;
        none(
            "a slot is owned by nobody, or by one that is gone",
            "SELECT s.slot, s.owner FROM slot_owner AS s LEFT JOIN cluster_nodes AS n ON n.incarnation = s.owner \
             WHERE n.state IS NULL OR n.state NOT IN ('ACTIVE', 'LEAVING')",
        )
        .await;
    }
}
