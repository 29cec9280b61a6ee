//! `ops verify` as a program of its own, beside a node that is at work.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use order_service::ports::store::{CommitError, OrderStore};
use order_service::proto::order::order_service_client::OrderServiceClient;
use order_service::proto::order::{CancelOrderRequest, OrderStatus};
use order_service::store::sqlite::{OpenError, SqliteConfig, SqliteStore};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::task::block_in_place;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::harness::node::{TestNode, sample_order};
use crate::harness::orders::{OWNER, creation, id, order};

/// What the program said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// The violations, without the summary.
    fn violations(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.out.lines().collect();
        lines.pop();
        lines
    }

    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn command(database: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    command.args(["ops", "verify"]).args(arguments).env_clear();
    command.env("ORDER__STORE__URL", format!("sqlite:{}", database.display()));
    command
}

/// Runs it on a file; the node goes on meanwhile.
fn verify(database: &Path, arguments: &[&str]) -> Said {
    let output = block_in_place(|| command(database, arguments).output().unwrap());
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Changes rows behind the store's back.
async fn spoil(database: &Path, order: &str, sql: &str) {
    let mut raw = SqliteConnectOptions::new().filename(database).connect().await.unwrap();
    let id = format!("x'{}'", Uuid::try_parse(order).unwrap().simple());
    let changed = sqlx::raw_sql(AssertSqlSafe(sql.replace("ID", &id))).execute(&mut raw).await.unwrap();
    assert!(changed.rows_affected() > 0, "{sql}");
    raw.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_stores_is_sound_and_what_is_spoiled_is_named() {
    use OrderStatus::{Cancelled, Confirmed, Delivered, Processing, Returned, Shipped};
    let node = TestNode::start().await;
    let database = node.database();
    let said = verify(&database, &[]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.out.starts_with("checked 0 orders in "), "{said:?}");

    let mut orders = Vec::new();
    for status in [Confirmed, Processing, Shipped, Delivered, Returned, Cancelled, Confirmed, Confirmed] {
        orders.push(node.order_at(status).await);
    }
    for more in [&[][..], &["--page-size", "3", "--pages-per-second", "50"]] {
        let said = verify(&database, more);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.out.starts_with("checked 8 orders in ") && said.out.lines().count() == 1, "{said:?}");
        assert!(said.out.ends_with(": no violation\n"), "{said:?}");
    }

    let spoiled = [
        (0, "I6", "UPDATE orders SET reservation_state = 'HELD' WHERE id = ID"),
        (1, "I10", "UPDATE order_items SET tax_amount = '0.01' WHERE order_id = ID"),
        (2, "I12", "UPDATE orders SET event_seq = 3 WHERE id = ID"),
        (3, "I8", "UPDATE orders SET completed_at = 1 WHERE id = ID"),
        (5, "I7", "INSERT INTO order_status_history VALUES (ID, x'01', 99, 'PENDING', '', '', 1)"),
        (6, "I1", "UPDATE orders SET status = 'LOST' WHERE id = ID"),
        (7, "I9", "UPDATE sagas SET settled = 0 WHERE order_id = ID"),
    ];
    for (place, _, sql) in spoiled {
        spoil(&database, &orders[place].id, sql).await;
    }
    let said = verify(&database, &["--page-size", "2"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for (place, invariant, _) in spoiled {
        let order = &orders[place];
        let number = if invariant == "I1" { "-" } else { order.order_number.as_str() };
        let start = format!("{} {number} {invariant} ", order.id);
        assert!(said.violations().iter().any(|line| line.starts_with(&start)), "{start}: {said:?}");
    }
    assert!(!said.out.contains(&orders[4].id), "{said:?}");
    assert!(said.out.contains("unreadable: orders.status"), "{said:?}");
    let summary = said.out.lines().last().unwrap();
    assert!(
        summary.starts_with("checked 8 orders") && summary.contains("in 7 orders, 1 unreadable"),
        "{said:?}"
    );

    // One order, by id and by number; and no more lines than asked for.
    let said = verify(&database, &["--order", &orders[4].id, "-o", "json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.json()[0]["summary"]["orders"], 1);
    let said = verify(&database, &["--order", &orders[3].order_number, "-o", "json"]);
    let (lines, code) = (said.json(), said.code);
    assert_eq!((code, lines.len()), (Some(1), 2), "{said:?}");
    assert_eq!(lines[0]["order_id"], orders[3].id.as_str());
    assert_eq!(lines[0]["order_number"], orders[3].order_number.as_str());
    assert_eq!(lines[0]["invariant"], "I8");
    let said = verify(&database, &["--limit-violations", "2", "-o", "json"]);
    let lines = said.json();
    assert_eq!((said.code, lines.len()), (Some(1), 3), "{said:?}");
    let summary = &lines[2]["summary"];
    assert_eq!((&summary["printed"], &summary["violated_orders"]), (&2.into(), &7.into()));
    assert!(summary["violations"].as_u64().unwrap() >= 7, "{summary}");
    let said = verify(&database, &["--order", "01900000-0000-7000-8000-000000000001"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.starts_with("error: the store has no order "), "{said:?}");
    node.stop().await;
}

/// Creates orders until it is aborted; every third is cancelled.
async fn create_and_cancel(mut client: OrderServiceClient<Channel>) {
    for n in 0u32.. {
        let mut request = sample_order();
        request.coupon_code.clear();
        let id = client.create_order(request).await.unwrap().into_inner().id;
        if n.is_multiple_of(3) {
            let cancel = CancelOrderRequest { id, ..Default::default() };
            client.cancel_order(cancel).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_in_motion_raise_no_alarm() {
    let node = TestNode::start().await;
    let busy: Vec<_> = (0..8).map(|_| tokio::spawn(create_and_cancel(node.client()))).collect();
    let (mut last, mut grew) = (0, 0);
    for round in 0.. {
        let said = verify(&node.database(), &["--page-size", "20", "-o", "json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let orders = said.json()[0]["summary"]["orders"].as_u64().unwrap();
        grew += u32::from(orders > last);
        last = orders;
        if grew == 6 {
            break;
        }
        assert!(round < 200 && busy.iter().all(|task| !task.is_finished()), "no new orders after {last}");
    }
    for task in &busy {
        task.abort();
    }
    futures::future::join_all(busy).await;
    let folder = node.stop().await;
    // A store that nobody uses can be read as well.
    let said = verify(&folder.path().join("orders.db"), &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_makes_changes_and_locks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let config = SqliteConfig { path: path.clone(), ..SqliteConfig::default() };
    assert!(matches!(SqliteStore::open_reader(&config).await, Err(OpenError::Missing { .. })));
    let said = verify(&path, &[]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(said.err.starts_with("error: there is no order store at "), "{said:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");

    // The reader first, then a writer beside it, and a reader once more beside that.
    SqliteStore::open(config.clone()).await.unwrap().close().await;
    let reader = SqliteStore::open_reader(&config).await.unwrap();
    let writer = SqliteStore::open(config.clone()).await.unwrap();
    writer.commit(creation(order(1))).await.unwrap();
    assert_eq!(reader.scan(None, 9).await.unwrap().len(), 1);
    assert_eq!(reader.ping().await, Ok(()));
    assert!(matches!(reader.commit(creation(order(2))).await, Err(CommitError::NotCommitted(_))));
    assert!(reader.claim(id(1), OWNER).await.is_err());
    reader.close().await;
    writer.commit(creation(order(2))).await.unwrap();
    writer.close().await;

    let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::raw_sql("DELETE FROM _sqlx_migrations").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    assert!(matches!(SqliteStore::open_reader(&config).await, Err(OpenError::Older { found: 0, .. })));
    std::fs::write(&path, "something else entirely").unwrap();
    assert!(matches!(SqliteStore::open_reader(&config).await, Err(OpenError::NotSqlite { .. })));
}

/// Killed and reaped when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_it_with_what_was_checked_so_far() {
    let node = TestNode::start().await;
    for _ in 0..40 {
        let order = node.create(sample_order()).await;
        spoil(&node.database(), &order.id, "UPDATE orders SET completed_at = 1 WHERE id = ID").await;
    }
    // One page a second is far too slow to come to its end.
    let mut slow = command(&node.database(), &["--page-size", "1", "--pages-per-second", "1"]);
    let spawned = slow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut running = Running(spawned);
    let (rest, status) = block_in_place(|| {
        let mut out = BufReader::new(running.0.stdout.take().unwrap());
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        assert!(first.contains(" I8 "), "{first}");
        kill_process(Pid::from_child(&running.0), Signal::INT).unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        (rest, running.0.wait().unwrap())
    });
    let summary = rest.lines().last().unwrap();
    assert!(summary.starts_with("stopped early, checked "), "{rest}");
    assert_eq!(status.code(), Some(1));
    node.stop().await;
}
