//! How Postgres carries the statements out: by which index, and never by reading or sorting a whole table.
//!
//! `ORDER_TEST_PLANS=1 cargo test --test it plans -- --nocapture` prints the plans.

use std::env;
use std::sync::Arc;

use futures::future::join_all;
use order_service::clients::sim::catalogue::load_user;
use order_service::domain::ids::{OrderId, OrderNumber};
use order_service::domain::status::OrderStatus;
use order_service::ports::store::{Commit, ListCursor, ListQuery, OrderStore, Owner, Unfinished};
use order_service::store::postgres::{PostgresConfig, PostgresStore, migrate};

use super::postgres::config_of;
use crate::harness::node::{TestNode, sample_order};
use crate::harness::orders::{
    OWNER, at, busy_saga, change_all, claim_coupon, creation, id, order, release_coupon, update,
};
use crate::harness::plans::{Plan, SETTINGS};
use crate::harness::postgres::{PgServer, query, shared_database};
use crate::harness::wait::eventually;

/// Orders that are there.
const ORDERS: i64 = 20_000;
/// Users they belong to.
const USERS: i64 = 200;
/// Every so many-th order is unfinished.
const UNFINISHED: i64 = 50;
const PAGE: u32 = 50;

const TABLES: [&str; 15] = [
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
    "commit_marks",
    "user_keys",
];

/// A store with many orders, on a server that tells its plans.
struct Full {
    server: PgServer,
    store: Arc<PostgresStore>,
    /// How much of its log was read.
    seen: usize,
}

impl Full {
    async fn new() -> Self {
        let server = PgServer::start(SETTINGS).await;
        let url = server.create_database().await;
        let config = PostgresConfig { readers: 1, ..config_of(&url) };
        migrate(&config).await.unwrap();
        let store = PostgresStore::open(config).await.unwrap();
        store.commit(creation(order(1))).await.unwrap();
        fill(&url, id(1)).await;
        Self { server, store, seen: 0 }
    }

    /// How the last of the statements was carried out that came of `work`, which makes one at least.
    async fn plan<T>(&mut self, work: impl AsyncFn(&PostgresStore) -> T) -> Plan {
        self.plans(work).await.pop().unwrap()
    }

    /// How the statements were carried out that came of `work`; fails when one reads or sorts more than it should.
    async fn plans<T>(&mut self, work: impl AsyncFn(&PostgresStore) -> T) -> Vec<Plan> {
        let (_, place) = Plan::behind(&self.server, self.seen);
        work(&self.store).await;
        let look = || async {
            let (found, place) = Plan::behind(&self.server, place);
            let ours: Vec<Plan> = found.into_iter().filter(is_ours).collect();
            (!ours.is_empty()).then_some((ours, place))
        };
        let (plans, place) = eventually("a plan", look).await;
        self.seen = place;
        for plan in &plans {
            if env::var_os("ORDER_TEST_PLANS").is_some() {
                println!("{}\n{plan}", plan.sql);
            }
            for node in plan.nodes() {
                let table = node.text("Relation Name");
                assert!(table.is_empty() || TABLES.contains(&table), "{table}");
                let reads_all = matches!(node.kind(), "Seq Scan" | "Bitmap Heap Scan" | "Sample Scan");
                assert!(!reads_all, "reads all of {table}:\n{}\n{plan}", plan.sql);
                // From the root of an index to the row, for each row and each time that there is none.
                let walks_all = node.is_scan() && node.pages() > 8 * (node.times() + node.rows());
                assert!(!walks_all, "walks through all of {table}:\n{}\n{plan}", plan.sql);
                let sorts = node.kind().contains("Sort") && node.rows() > u64::from(PAGE) + 1;
                assert!(!sorts, "sorts too much:\n{}\n{plan}", plan.sql);
            }
        }
        plans
    }

    /// Whether plans are made for the values at hand, or kept for any.
    async fn kept_plans(&self, kept: bool) {
        let mode = if kept { "force_generic_plan" } else { "force_custom_plan" };
        self.server.reload(&[("plan_cache_mode", mode)]).await;
    }
}

/// Whether a statement came from the readers or writers of a store.
fn is_ours(plan: &Plan) -> bool {
    let role = plan.application.strip_prefix("order-service ").unwrap_or_default();
    role == "read" || role.starts_with("commit ")
}

fn number(n: i64) -> String {
    format!("ORD-{n:010}")
}

/// When the n-th order was made, in microseconds.
fn made(n: i64) -> i64 {
    n * 1_000_000
}

/// Makes many orders of one, with all that belongs to it.
async fn fill(url: &str, template: OrderId) {
    let statuses = OrderStatus::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(",");
    let start = at(0).to_rfc3339();
    let time = |micros: &str| format!("'{start}'::timestamptz + {micros} * interval '1 microsecond'");
    let mut sql = format!(
        "CREATE TEMP TABLE copies ON COMMIT DROP AS \
         SELECT n, md5('order ' || n)::uuid AS id FROM generate_series(1, {ORDERS}) AS n;"
    );
    for (table, key, further) in [
        (
            "orders",
            "id",
            format!(
                ", 'order_number', 'ORD-' || lpad(n::text, 10, '0'), 'user_id', md5('user ' || n % {USERS})::uuid, \
                 'status', (string_to_array('{statuses}', ','))[1 + n % {}], 'created_at', {}",
                OrderStatus::ALL.len(),
                time("n * 1000000.0")
            ),
        ),
        ("order_items", "order_id", String::new()),
        ("order_addresses", "order_id", String::new()),
        ("order_status_history", "order_id", String::new()),
        ("order_events", "order_id", String::new()),
        (
            "sagas",
            "order_id",
            format!(", 'settled', n % {UNFINISHED} <> 0, 'due_at', {}", time("n * 1000000.0")),
        ),
    ] {
        sql.push_str(&format!(
            "INSERT INTO {table} SELECT r.* FROM copies AS c, {table} AS t, \
             LATERAL jsonb_populate_record(t, jsonb_build_object('{key}', c.id{further})) AS r \
             WHERE t.{key} = '{template}';"
        ));
    }
    sql.push_str("INSERT INTO order_timers SELECT id, to_timestamp(n) FROM copies;");
    sql.push_str("INSERT INTO coupon_counters SELECT 'COUPON' || n, 1 FROM copies;");
    sql.push_str("INSERT INTO coupon_claims (order_id, code) SELECT id, 'COUPON' || n FROM copies");
    query(url, &sql).await.unwrap();
    query(url, "VACUUM ANALYZE").await.unwrap();
}

/// The id of the n-th order.
async fn nth(store: &PostgresStore, n: i64) -> OrderId {
    let number = OrderNumber::parse(&number(n)).unwrap();
    store.find_by_number(&number).await.unwrap().unwrap()
}

#[tokio::test]
async fn plans_of_reads_use_their_index() {
    let mut full = Full::new().await;
    let (middle, other) = (nth(&full.store, ORDERS / 2).await, nth(&full.store, 77).await);
    for kept in [false, true] {
        full.kept_plans(kept).await;

        let plan = full.plan(async |store| store.load(middle).await.unwrap().unwrap()).await;
        for (table, rows) in [("orders", 1), ("order_items", 2), ("order_addresses", 2), ("sagas", 1)] {
            by_key(&plan, table);
            assert_eq!(plan.rows(table), rows, "{plan}");
        }
        for table in ["shipments", "order_payment_transactions", "order_requests", "order_quarantines"] {
            by_key(&plan, table);
        }

        let wanted = OrderNumber::parse(&number(5)).unwrap();
        let plan = full.plan(async |store| store.find_by_number(&wanted).await.unwrap().unwrap()).await;
        let scan = &plan.scans("orders")[0];
        assert_eq!((scan.text("Index Name"), scan.rows()), ("orders_number", 1), "{plan}");

        let plan = full.plan(async |store| store.versions(&[middle, other]).await.unwrap()).await;
        by_key(&plan, "orders");
        assert_eq!(plan.rows("orders"), 2, "{plan}");

        let plan = full.plan(async |store| store.events(middle, 1, 10).await.unwrap()).await;
        by_key(&plan, "order_events");
        let scan = &plan.scans("order_events")[0];
        assert!(scan.text("Index Cond").contains("seq >") && scan.rows() == 1, "{plan}");

        for after in [None, Some(Unfinished { due_at: at(made(ORDERS / 2)), order_id: middle })] {
            let due = at(made(ORDERS - 500));
            let plan = full
                .plan(async |store| {
                    let found = store.unfinished(due, after, PAGE).await.unwrap();
                    assert_eq!(found.len(), PAGE as usize);
                })
                .await;
            let scan = &plan.scans("sagas")[0];
            assert_eq!((scan.kind(), scan.text("Index Name")), ("Index Only Scan", "sagas_due"), "{plan}");
            assert_eq!((scan.rows(), scan.text("Filter")), (u64::from(PAGE), ""), "{plan}");
            let cursor = scan.text("Index Cond").contains("ROW(due_at, order_id) > ");
            assert_eq!(cursor, after.is_some(), "{plan}");
        }

        for after in [None, Some(Unfinished { due_at: at(1), order_id: middle })] {
            let plan = full.plan(async |store| store.timers(at(9_000_000), after, PAGE).await.unwrap()).await;
            let scan = &plan.scans("order_timers")[0];
            assert_eq!((scan.text("Index Name"), scan.text("Filter")), ("order_timers_due", ""), "{plan}");
        }
        let user = order(1).user_id;
        let plan = full.plan(async |store| store.count_of_user(user, at(0), 3).await.unwrap()).await;
        assert_eq!(plan.scans("orders")[0].text("Index Name"), "orders_by_user", "{plan}");
        let plan = full.plan(async |store| store.open_of_user(user, 3).await.unwrap()).await;
        assert_eq!(plan.scans("orders")[0].text("Index Name"), "orders_by_user", "{plan}");

        for after in [None, Some(middle)] {
            let plan = full
                .plan(async |store| {
                    let found = store.stuck(at(made(ORDERS)), after, PAGE).await.unwrap();
                    assert_eq!(found.len(), PAGE as usize);
                })
                .await;
            let refused = &plan.scans("orders")[0];
            assert_eq!(refused.text("Index Name"), "orders_refund_failed", "{plan}");
            let running = &plan.scans("sagas")[0];
            assert_eq!(running.text("Index Name"), "sagas_due", "{plan}");
        }

        for after in [None, Some(middle)] {
            let plan = full
                .plan(async |store| {
                    let page = store.scan(after, PAGE).await.unwrap();
                    assert!(page.len() == PAGE as usize && page.iter().all(|order| order.found.is_ok()));
                })
                .await;
            for table in TABLES.iter().filter(|table| !plan.scans(table).is_empty()) {
                by_key(&plan, table);
            }
            assert_eq!(plan.rows("orders"), 2 * u64::from(PAGE), "{plan}");
            let conditions: Vec<_> =
                plan.scans("orders").iter().map(|scan| scan.text("Index Cond")).collect();
            let cursor = conditions.iter().any(|condition| condition.contains("id > "));
            assert_eq!(cursor, after.is_some(), "{plan}");

            let plan = full
                .plan(async |store| {
                    let page = store.trails(after, None, PAGE).await.unwrap();
                    assert!(page.len() == PAGE as usize && page.iter().all(|order| order.found.is_ok()));
                })
                .await;
            by_key(&plan, "orders");
            by_key(&plan, "order_events");
        }
    }
    full.store.close().await;
}

/// Every scan of a table goes by its primary key.
fn by_key(plan: &Plan, table: &str) {
    let scans = plan.scans(table);
    assert!(!scans.is_empty(), "{table}:\n{plan}");
    for scan in scans {
        assert_eq!(scan.text("Index Name"), format!("{table}_pkey"), "{plan}");
    }
}

#[tokio::test]
async fn plans_of_lists_walk_one_index_from_where_the_last_page_ended() {
    let mut full = Full::new().await;
    let middle = nth(&full.store, ORDERS / 2).await;
    let user_id = full.store.load(middle).await.unwrap().unwrap().order.user_id;
    let cursor = ListCursor { created_at: at(made(ORDERS / 2)), id: middle };
    let span = (Some(at(made(10))), Some(at(made(ORDERS - 10))));
    for kept in [false, true] {
        full.kept_plans(kept).await;
        for user_id in [None, Some(user_id)] {
            for count in [0, 1, 3] {
                for oldest_first in [false, true] {
                    for after in [None, Some(cursor)] {
                        for (created_after, created_before) in [(None, None), span] {
                            let statuses = OrderStatus::ALL[..count].to_vec();
                            let limit = PAGE;
                            let asked = ListQuery {
                                user_id,
                                statuses,
                                created_after,
                                created_before,
                                oldest_first,
                                after,
                                limit,
                            };
                            listed(&mut full, &asked).await;
                        }
                    }
                }
            }
        }
    }
    full.store.close().await;
}

async fn listed(full: &mut Full, asked: &ListQuery) {
    let plan = full
        .plan(async |store| {
            let page = store.list(asked).await.unwrap();
            // One user's orders are fewer than a page when a status or a cursor takes some away.
            assert!(
                page.len() == PAGE as usize || (asked.user_id.is_some() && !page.is_empty()),
                "{asked:?}"
            );
        })
        .await;
    let (index, walks) = match asked.user_id {
        Some(_) => ("orders_by_user", 1),
        None if asked.statuses.is_empty() => ("orders_by_status", OrderStatus::ALL.len()),
        None => ("orders_by_status", asked.statuses.len()),
    };
    let (walked, named): (Vec<_>, Vec<_>) =
        plan.scans("orders").into_iter().partition(|scan| scan.text("Index Name") == index);
    assert!(named.iter().all(|scan| scan.text("Index Name") == "orders_pkey"), "{asked:?}\n{plan}");
    assert_eq!((walked.len(), named.len()), (walks, 1), "{asked:?}\n{plan}");
    let direction = if asked.oldest_first { "Forward" } else { "Backward" };
    for walk in &walked {
        assert_eq!(walk.text("Scan Direction"), direction, "{asked:?}\n{plan}");
        let is_filtered = asked.user_id.is_some() && !asked.statuses.is_empty();
        assert!(
            is_filtered || (walk.kind() == "Index Only Scan" && walk.text("Filter").is_empty()),
            "{plan}"
        );
        assert!(!walk.text("Filter").contains("created_at"), "{plan}");
        let sign = if asked.oldest_first { '>' } else { '<' };
        let cursor = walk.text("Index Cond").contains(&format!("ROW(created_at, id) {sign} "));
        assert_eq!(cursor, asked.after.is_some(), "{asked:?}\n{plan}");
    }
    // The page, looked at twice, one more for each walk; or all orders of one user.
    let most = match asked.user_id {
        None => 2 * u64::from(PAGE) + walks as u64,
        Some(_) => (ORDERS / USERS) as u64 + u64::from(PAGE),
    };
    assert!(plan.rows("orders") <= most, "{asked:?}\n{plan}");
}

/// A change that writes to every table that a change may write to.
fn full_change(before: &Commit) -> Commit {
    let mut commit = update(&before.order, change_all);
    commit.touched.shipments = true;
    commit.saga = Some(busy_saga(commit.order.id));
    commit
}

#[tokio::test]
async fn plans_of_writes_find_each_row_by_its_key() {
    const BATCH: u64 = 40;
    let mut full = Full::new().await;
    let created: Vec<Commit> =
        (2..2 + BATCH).map(|n| claim_coupon(creation(order(n)), "TEA10", None)).collect();
    let all = async |store: &PostgresStore, commits: &[Commit]| {
        let results = join_all(commits.iter().map(|commit| store.commit(commit.clone()))).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    };
    full.plans(async |store| all(store, &created).await).await;

    let changed: Vec<Commit> = created.iter().map(full_change).collect();
    let plans = full.plans(async |store| all(store, &changed).await).await;
    let mut rows = (0, 0);
    for plan in &plans {
        by_key(plan, "orders");
        by_key(plan, "sagas");
        rows = (rows.0 + plan.rows("orders"), rows.1 + plan.rows("sagas"));
    }
    assert_eq!(rows, (BATCH, BATCH));

    // What is refused is looked at one by one, and limited coupons are counted, each for the first time.
    let mut limited: Vec<Commit> =
        (100..103).map(|n| claim_coupon(creation(order(n)), "LIMITED", Some(2))).collect();
    limited.push(release_coupon(update(&created[2].order, |_| {}), "TEA10"));
    limited.push(created[0].clone());
    limited.push(update(&created[1].order, |_| {}));
    full.plans(async |store| {
        let results = join_all(limited.iter().map(|commit| store.commit(commit.clone()))).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2, "{results:?}");
    })
    .await;

    let next = Owner { epoch: OWNER.epoch, incarnation: OWNER.incarnation + 1 };
    let plans = full
        .plans(async |store| {
            let claims = join_all((2..2 + BATCH).map(|n| store.claim(id(n), next))).await;
            assert!(claims.iter().all(Result::is_ok), "{claims:?}");
        })
        .await;
    let claims: Vec<&Plan> = plans.iter().filter(|plan| plan.application.contains("commit")).collect();
    assert!(!claims.is_empty());
    for plan in claims {
        by_key(plan, "orders");
        by_key(plan, "order_quarantines");
    }
    full.store.close().await;
}

/// Updates, those of them that touched no index, and rows made.
async fn updates(url: &str, table: &str) -> (i64, i64, i64) {
    let sql = format!(
        "SELECT n_tup_upd, n_tup_hot_upd, n_tup_ins FROM pg_stat_user_tables WHERE relname = '{table}'"
    );
    let row: Vec<i64> =
        query(url, &sql).await.unwrap()[0].iter().map(|value| value.parse().unwrap()).collect();
    (row[0], row[1], row[2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_of_a_new_order_touch_its_indexes_as_seldom_as_can_be() {
    const NEW: i64 = 300;
    let url = shared_database().await;
    // Each step is stored: a saga that runs ahead leaves but one change of each row, which touches the indexes.
    let settings = [
        ("ORDER__STORE__URL", url.as_str()),
        ("ORDER__SIMULATOR__JOURNAL", ""),
        ("ORDER__SAGA__RUN_AHEAD", "0s"),
    ];
    let node = TestNode::start_with(&settings).await;
    let client = node.client();
    let one = async || {
        let mut request = sample_order();
        request.user_id = load_user(1).0.to_string();
        client.clone().create_order(request).await.unwrap();
    };
    for _ in 0..NEW / 20 {
        join_all((0..20).map(|_| one())).await;
    }
    drop(client);
    node.stop().await;
    // The counts are told by the connections as they end.
    let (orders, sagas) = eventually("the counts", async || {
        let (orders, sagas) = (updates(&url, "orders").await, updates(&url, "sagas").await);
        (orders.2 == NEW && sagas.2 == NEW && orders.0 >= 2 * NEW).then_some((orders, sagas))
    })
    .await;
    println!("(updates, of them without an index, rows): orders {orders:?}, sagas {sagas:?}");
    // One change of each order is that of its status, one of each saga is that it has settled.
    for (updates, hot, rows) in [orders, sagas] {
        assert!(updates - hot <= rows + rows / 20, "{updates} updates, {hot} without an index");
    }
}
