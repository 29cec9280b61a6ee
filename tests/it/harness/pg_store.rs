//! A Postgres store in a database of its own, behind a proxy, and what stands in the tables.

use std::sync::Arc;
use std::time::Duration;

use order_service::app::postgres_config;
use order_service::config::{Config, Merged, PostgresUrl};
use order_service::domain::ids::OrderId;
use order_service::ports::store::{Commit, OrderStore};
use order_service::store::postgres::{PostgresConfig, PostgresStore, migrate};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::postgres::{PgServer, query, shared};
use super::proxy::Proxy;
use super::wait::eventually;

/// What only the statement of a whole batch contains.
pub const STRICT: &str = "SELECT 1 / (CASE";
/// What only a claim's statement contains.
pub const CLAIM: &str = "WITH asked AS MATERIALIZED";

/// What the service makes of its defaults and this URL, with one lane.
pub fn config_of(url: &str) -> PostgresConfig {
    let config = Config::from_merged(&Merged::collect(&[], std::iter::empty())).unwrap();
    PostgresConfig { lanes: 1, ..postgres_config(&config, &PostgresUrl::parse(url).unwrap()).unwrap() }
}

/// A store with one lane, behind a proxy.
pub struct Proxied {
    /// The database, past the proxy.
    pub url: String,
    /// Between the store and its server.
    pub proxy: Proxy,
    /// The store.
    pub store: Arc<PostgresStore>,
}

impl Proxied {
    /// On the server that all tests share.
    pub async fn start(change: impl FnOnce(&mut PostgresConfig)) -> Self {
        Self::start_on(shared().await, change).await
    }

    /// On a server of the test.
    pub async fn start_on(server: &PgServer, change: impl FnOnce(&mut PostgresConfig)) -> Self {
        let url = server.create_database().await;
        migrate(&config_of(&url)).await.unwrap();
        let proxy = Proxy::start(server.address()).await;
        let mut config = config_of(&proxy.url_of(&url));
        config.reconnect_max = ms(100);
        change(&mut config);
        let store = PostgresStore::open(config).await.unwrap();
        Self { url, proxy, store }
    }

    /// Whether `commit` is there, once and whole, and nothing came after it.
    pub async fn has_once(&self, commit: &Commit) {
        let (order, id) = (&commit.order, commit.order.id);
        let stored = self.store.load(id).await.unwrap().expect("an order");
        assert_eq!(stored.order, *order);
        let events = self.store.events(id, 0, 1_000).await.unwrap();
        let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=order.event_seq).collect::<Vec<i64>>());
        let history = format!("SELECT count(*) FROM order_status_history WHERE order_id = '{id}'");
        assert_eq!(value(&self.url, &history).await, "1");
        whole(&self.url).await;
    }

    /// Whether nothing of an order is there.
    pub async fn has_nothing_of(&self, id: OrderId) {
        assert!(self.store.load(id).await.unwrap().is_none(), "order {id} is there");
        whole(&self.url).await;
    }
}

/// Milliseconds.
pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The first value that `sql` gives.
pub async fn value(url: &str, sql: &str) -> String {
    query(url, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).swap_remove(0).swap_remove(0)
}

/// Every row of every table, with the number of the transaction that wrote it: a row that was only rewritten differs.
pub async fn everything(url: &str) -> Vec<Vec<String>> {
    let tables = [
        "orders",
        "order_items",
        "order_addresses",
        "order_status_history",
        "order_payment_transactions",
        "shipments",
        "order_requests",
        "order_events",
        "sagas",
        "order_timers",
        "coupon_counters",
        "coupon_claims",
        "order_quarantines",
    ];
    let each = tables.map(|table| format!("SELECT '{table}', xmin::text, r::text FROM {table} AS r"));
    query(url, &format!("{} ORDER BY 1, 3", each.join(" UNION ALL "))).await.unwrap()
}

/// Whether every order has all of its rows, and no row is without its order. For orders of the tests of stores, which
/// have two lines and two addresses.
pub async fn whole(url: &str) {
    let halves = "SELECT id, version FROM orders AS o WHERE \
           (SELECT count(*) FROM order_items WHERE order_id = o.id) <> 2 \
        OR (SELECT count(*) FROM order_addresses WHERE order_id = o.id) <> 2 \
        OR (SELECT count(*) FROM order_status_history WHERE order_id = o.id) <> 1 \
        OR (SELECT count(*) FROM sagas WHERE order_id = o.id) <> 1 \
        OR (SELECT count(*) FROM order_events WHERE order_id = o.id) <> o.event_seq \
        UNION ALL SELECT order_id, 0 FROM (SELECT order_id FROM order_items UNION SELECT order_id FROM order_addresses \
           UNION SELECT order_id FROM order_status_history UNION SELECT order_id FROM sagas \
           UNION SELECT order_id FROM order_events UNION SELECT order_id FROM coupon_claims) AS rows \
           WHERE NOT EXISTS (SELECT FROM orders WHERE id = order_id)";
    assert_eq!(query(url, halves).await.unwrap(), Vec::<Vec<String>>::new(), "orders in halves");
    let counted = "SELECT code, used FROM coupon_counters AS k \
        WHERE used <> (SELECT count(*) FROM coupon_claims AS c WHERE c.code = k.code)";
    assert_eq!(query(url, counted).await.unwrap(), Vec::<Vec<String>>::new(), "coupons miscounted");
}

/// A transaction of somebody else that keeps the rows of orders to itself until it is let go.
pub struct Squatter(PgConnection);

impl Squatter {
    /// Takes these orders' rows, in this order.
    pub async fn take(url: &str, orders: &[OrderId]) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        connection.execute("BEGIN; SET LOCAL deadlock_timeout = '1h'").await.unwrap();
        let mut squatter = Self(connection);
        for order in orders {
            squatter.also(*order).await;
        }
        squatter
    }

    /// Takes one more, when it can be had.
    pub async fn also(&mut self, order: OrderId) {
        let sql = format!("SELECT FROM orders WHERE id = '{order}' FOR UPDATE");
        self.0.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    }

    /// Lets go of all.
    pub async fn leave(mut self) {
        self.0.execute("ROLLBACK").await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// Waits until a commit of this database waits for something, such as `Lock` or `IPC`; tells which process.
pub async fn waits_for(url: &str, event: &str) -> String {
    let look = async || waiting(url, "pid", event).await;
    eventually("a commit to wait", look).await
}

/// Waits until a commit that waits for a lock has given up and waits for it once more.
pub async fn waits_anew(url: &str) {
    let since = async || waiting(url, "xact_start", "Lock").await;
    let first = eventually("a commit to wait", since).await;
    let again = async || since().await.filter(|since| *since != first);
    eventually("a commit to wait once more", again).await;
}

/// `column` of a writer that waits.
async fn waiting(url: &str, column: &str, event: &str) -> Option<String> {
    let sql = format!(
        "SELECT {column}::text FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
         AND application_name LIKE '% commit %' AND '{event}' IN (wait_event_type, wait_event)"
    );
    query(url, &sql).await.ok()?.first()?.first().cloned()
}
