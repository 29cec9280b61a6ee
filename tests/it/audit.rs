//! The chain over the events, on both stores: whatever is done to a stored event is found by `ops audit verify`, and what
//! somebody does who knows how the chain is made, by heads that were noted before.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use order_service::proto::order as pb;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::harness::node::TestNode;
use crate::harness::postgres::query;
use crate::harness::stores::StoreKind;

/// A store whose node has been stopped.
struct Store {
    folder: TempDir,
    /// None = the file in the folder.
    url: Option<String>,
}

/// What the program said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// Orders and sequences at which the chain does not hold.
    fn breaks(&self) -> Vec<(String, i64)> {
        let place =
            |line: Value| Some((line["order_id"].as_str()?.to_owned(), line["sequence"].as_i64().unwrap()));
        self.out.lines().filter_map(|line| place(serde_json::from_str(line).unwrap())).collect()
    }

    fn summary(&self, name: &str) -> u64 {
        let last: Value = serde_json::from_str(self.out.lines().last().unwrap()).unwrap();
        last["summary"][name].as_u64().unwrap()
    }
}

impl Store {
    async fn node(kind: StoreKind) -> (TestNode, Option<String>) {
        Self { folder: TempDir::new().unwrap(), url: kind.fresh_url().await }.again().await
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("orders.db")
    }

    /// A node on it, once more.
    async fn again(self) -> (TestNode, Option<String>) {
        let Self { folder, url } = self;
        let journal = folder.path().join("simulator.jsonl").display().to_string();
        let mut settings = vec![("ORDER__SIMULATOR__JOURNAL", journal.as_str())];
        settings.extend(url.iter().map(|url| ("ORDER__STORE__URL", url.as_str())));
        (TestNode::start_in(folder, &settings).await, url)
    }

    fn audit(&self, arguments: &[&str]) -> Said {
        let store = self.url.clone().unwrap_or_else(|| format!("sqlite:{}", self.file().display()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["ops", "audit"]).args(arguments).env_clear().env("ORDER__STORE__URL", store);
        let output = block_in_place(|| command.output().unwrap());
        Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn verify(&self, arguments: &[&str]) -> Said {
        self.audit(&[&["verify", "-o", "json"], arguments].concat())
    }

    /// Heads as they are now, in a file.
    fn note(&self) -> String {
        let said = self.audit(&["heads", "--page-size", "3"]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        let file = self.folder.path().join(format!("heads-{}", Uuid::now_v7()));
        fs::write(&file, said.out).unwrap();
        file.display().to_string()
    }

    /// Changes rows as the owner of the tables can, who begins with what forbids it. `ID` is the order's id, `TEXT` and
    /// `JSON` turn a payload into text and back.
    async fn spoil(&self, order: &str, sql: &str) {
        let id = Uuid::try_parse(order).unwrap();
        match &self.url {
            Some(url) => {
                let sql = sql.replace("ID", &format!("'{id}'"));
                let sql =
                    sql.replace("TEXT", "::text").replace("JSON", "::json").replace("TICK", "interval '1us'");
                let off = "ALTER TABLE order_events DISABLE TRIGGER USER;";
                query(url, &format!("{off} {sql}; {}", off.replace("DISABLE", "ENABLE"))).await.unwrap();
            }
            None => {
                let sql = sql.replace("ID", &format!("x'{}'", id.simple()));
                let sql = sql.replace("TEXT", "").replace("JSON", "").replace("TICK", "1");
                let off =
                    "DROP TRIGGER IF EXISTS order_events_keep; DROP TRIGGER IF EXISTS order_events_hold;";
                let mut raw = SqliteConnectOptions::new().filename(self.file()).connect().await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(format!("{off} {sql}"))).execute(&mut raw).await.unwrap();
                raw.close().await.unwrap();
            }
        }
    }
}

/// Where something is found in an order with so many events.
type Places = fn(i64) -> Vec<i64>;

/// What is done to the events of an order, and where that is found when its last event is `last`.
const SPOILED: [(&str, Places); 12] = [
    (
        "UPDATE order_events SET payload = replace(payloadTEXT, '_', '-')JSON WHERE order_id = ID AND seq = 1",
        |_| vec![1],
    ),
    ("UPDATE order_events SET payload = (payloadTEXT || ' ')JSON WHERE order_id = ID AND seq = 3", |_| {
        vec![3]
    }),
    ("UPDATE order_events SET principal = 'somebody' WHERE order_id = ID AND seq = 2", |_| vec![2]),
    ("UPDATE order_events SET at = at + TICK WHERE order_id = ID AND seq = 4", |_| vec![4]),
    ("UPDATE order_events SET role = NULL WHERE order_id = ID AND seq = 2", |_| vec![2]),
    ("UPDATE order_events SET reason = 'I was asked to' WHERE order_id = ID AND seq = 2", |_| vec![2]),
    ("DELETE FROM order_events WHERE order_id = ID AND seq = 4", |_| vec![4]),
    (
        "DELETE FROM order_events WHERE order_id = ID AND seq = (SELECT event_seq FROM orders WHERE id = ID)",
        |last| vec![last],
    ),
    (
        "DELETE FROM order_events WHERE order_id = ID AND seq = (SELECT event_seq FROM orders WHERE id = ID); \
         UPDATE orders SET event_seq = event_seq - 1 WHERE id = ID",
        |last| vec![last - 1],
    ),
    (
        "UPDATE order_events SET seq = -1 WHERE order_id = ID AND seq = 3; \
         UPDATE order_events SET seq = 3 WHERE order_id = ID AND seq = 4; \
         UPDATE order_events SET seq = 4 WHERE order_id = ID AND seq = -1",
        |_| vec![3, 4, 5],
    ),
    (
        "INSERT INTO order_events (order_id, seq, version, type, payload, principal, at) SELECT order_id, seq + 1, version, \
         type, payload, principal, at FROM order_events WHERE order_id = ID ORDER BY seq DESC LIMIT 1; \
         UPDATE orders SET event_seq = event_seq + 1 WHERE id = ID",
        |last| vec![last + 1],
    ),
    ("UPDATE order_events SET hash = NULL WHERE order_id = ID", |last| vec![last]),
];

async fn whatever_is_done_to_an_event_is_found(kind: StoreKind) {
    let (node, url) = Store::node(kind).await;
    let mut orders = Vec::new();
    for _ in 0..SPOILED.len() + 2 {
        let order = node.order_at(pb::OrderStatus::Shipped).await;
        let last = node.events(&order.id).await.last().unwrap().sequence;
        orders.push((order, last));
    }
    let store = Store { folder: node.stop().await, url };
    let said = store.verify(&["--page-size", "5"]);
    assert_eq!((said.code, said.breaks(), said.err.as_str()), (Some(0), vec![], ""), "{said:?}");
    assert_eq!(
        said.summary("chained_events"),
        orders.iter().map(|(_, last)| last.unsigned_abs()).sum::<u64>()
    );
    assert_eq!((said.summary("orders"), said.summary("unchained_events")), (orders.len() as u64, 0));
    let noted = store.note();
    let same = store.verify(&["--against", &noted]);
    assert_eq!((same.code, same.summary("compared_heads")), (Some(0), orders.len() as u64), "{same:?}");

    let mut expected = Vec::new();
    for ((order, last), (sql, found)) in orders.iter().zip(SPOILED) {
        store.spoil(&order.id, sql).await;
        let said = store.verify(&["--order", &order.order_number]);
        let places: Vec<(String, i64)> =
            found(*last).into_iter().map(|seq| (order.id.clone(), seq)).collect();
        assert_eq!((said.code, said.breaks()), (Some(1), places.clone()), "{sql}: {said:?}");
        expected.extend(places);
    }
    let mut found = store.verify(&[]).breaks();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "the others are as they were");
    let (whole, _) = &orders[SPOILED.len()];
    let said = store.verify(&["--order", &whole.id]);
    assert_eq!((said.code, said.summary("orders")), (Some(0), 1), "{said:?}");
    let said = store.verify(&["--since", "2999-01-01"]);
    assert_eq!((said.code, said.summary("orders")), (Some(0), 0), "{said:?}");
    // The other check looks at the chain as well.
    let (moved, _) = &orders[3];
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    let url = store.url.clone().unwrap_or_else(|| format!("sqlite:{}", store.file().display()));
    command.args(["ops", "verify", "--order", &moved.id]).env_clear().env("ORDER__STORE__URL", url);
    let output = block_in_place(|| command.output().unwrap());
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("I7 the chain of events is broken at 4: "), "{out}");
}

async fn what_a_forger_makes_whole_again_differs_from_what_was_noted(kind: StoreKind) {
    let (node, url) = Store::node(kind).await;
    let (cut, gone, grown) = (
        node.order_at(pb::OrderStatus::Shipped).await,
        node.order_at(pb::OrderStatus::Confirmed).await,
        node.order_at(pb::OrderStatus::Confirmed).await,
    );
    let last = node.events(&cut.id).await.last().unwrap().sequence;
    let last_of_gone = node.events(&gone.id).await.last().unwrap().sequence;
    let store = Store { folder: node.stop().await, url };
    let noted = store.note();
    let (node, url) = store.again().await;
    node.cancel(&grown.id).await.unwrap();
    let store = Store { folder: node.stop().await, url };
    assert_eq!(store.verify(&["--against", &noted]).code, Some(0), "an order may have grown");

    // The end of a history is cut off, and the order's own row says so, too.
    store
        .spoil(
            &cut.id,
            "DELETE FROM order_events WHERE order_id = ID AND seq > (SELECT event_seq - 2 FROM orders WHERE id = ID); \
             UPDATE orders SET event_seq = event_seq - 2, event_hash = (SELECT hash FROM order_events WHERE order_id = ID \
             ORDER BY seq DESC LIMIT 1) WHERE id = ID",
        )
        .await;
    store
        .spoil(&gone.id, "DELETE FROM order_events WHERE order_id = ID; DELETE FROM orders WHERE id = ID")
        .await;
    assert_eq!(store.verify(&[]).code, Some(0), "the chain alone cannot tell");
    let said = store.verify(&["--against", &noted]);
    let mut found = said.breaks();
    found.sort();
    let mut expected = vec![(cut.id.clone(), last), (gone.id.clone(), last_of_gone)];
    expected.sort();
    assert_eq!((said.code, found), (Some(1), expected), "{said:?}");

    let unsorted = store.folder.path().join("unsorted");
    let lines = fs::read_to_string(&noted).unwrap();
    let backwards: Vec<&str> = lines.lines().rev().collect();
    for (text, why) in
        [(backwards.join("\n"), "sort the file"), ("nonsense".into(), "expected ORDER_ID SEQUENCE HASH")]
    {
        fs::write(&unsorted, text).unwrap();
        let said = store.verify(&["--against", &unsorted.display().to_string()]);
        assert!(said.code == Some(1) && said.err.contains(why), "{said:?}");
    }
}

async fn events_from_before_the_chain_are_counted_and_the_chain_begins_behind_them(kind: StoreKind) {
    let (node, url) = Store::node(kind).await;
    let order = node.order_at(pb::OrderStatus::Confirmed).await;
    let before = node.events(&order.id).await;
    // Who, as what, and by which request, on every event; also on those that a saga made later.
    for event in &before {
        assert_eq!((event.principal.as_str(), event.role.as_str()), ("dev", "admin"), "{event:?}");
        assert!(event.reason.is_empty() && !event.request_id.is_empty(), "{event:?}");
    }
    let store = Store { folder: node.stop().await, url };
    store
        .spoil(
            &order.id,
            "UPDATE order_events SET hash = NULL, role = NULL WHERE order_id = ID; \
             UPDATE orders SET event_hash = NULL WHERE id = ID; UPDATE sagas SET role = NULL WHERE order_id = ID",
        )
        .await;
    let said = store.verify(&[]);
    let old = before.len() as u64;
    assert_eq!(
        (said.code, said.summary("unchained_events"), said.summary("chained_events")),
        (Some(0), old, 0)
    );
    let (node, url) = store.again().await;
    assert!(node.events(&order.id).await.iter().all(|event| event.role.is_empty()), "nobody knows any more");
    node.cancel(&order.id).await.unwrap();
    let after = node.events(&order.id).await;
    assert!(after[before.len()..].iter().all(|event| event.role == "admin"), "{after:?}");
    let store = Store { folder: node.stop().await, url };
    let said = store.verify(&[]);
    let new = after.len() as u64 - old;
    assert_eq!(
        (said.code, said.summary("unchained_events"), said.summary("chained_events")),
        (Some(0), old, new)
    );
    store
        .spoil(
            &order.id,
            &format!("UPDATE order_events SET hash = NULL WHERE order_id = ID AND seq = {}", old + 2),
        )
        .await;
    assert_eq!(
        store.verify(&[]).breaks(),
        [(order.id.clone(), old as i64 + 2), (order.id.clone(), old as i64 + 3)]
    );
}

macro_rules! on_both_stores {
    ($($name:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::StoreKind::Sqlite).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::StoreKind::Postgres).await; })+
        }
    };
}

on_both_stores! {
    whatever_is_done_to_an_event_is_found
    what_a_forger_makes_whole_again_differs_from_what_was_noted
    events_from_before_the_chain_are_counted_and_the_chain_begins_behind_them
}
