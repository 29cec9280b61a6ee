//! Names, address lines, telephone numbers, email addresses and notes: who can read them, and where they are not.

mod erasing;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Delivered, Processing, Shipped};
use order_service::proto::order::PersonalData;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::block_in_place;
use tonic::Code;

use crate::harness::api::{by_id, refused};
use crate::harness::node::sample_order;
use crate::harness::postgres::{PgServer, Shutdown};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::stores::verified;

const KEK: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const OTHER_KEK: &str = "0202020202020202020202020202020202020202020202020202020202020202";
const ENCRYPT: &[(&str, &str)] = &[("ORDER__PRIVACY__MODE", "encrypt"), ("ORDER__PRIVACY__KEK", KEK)];

/// Nothing else in the world says these.
const NAMES: [&str; 11] = [
    "Zaphodina",
    "Quuxington",
    "77 Hyperspace Bypass",
    "Attic Frobnicator",
    "+1 555 867 5309",
    "zaphodina@heartofgold.example",
    "Billiana",
    "Gargleblaster",
    "42 Magrathea Crescent",
    "billiana@heartofgold.example",
    "Beware of the Krikkit dog",
];
/// What was said later.
const SAID: [&str; 3] = ["Wrapped by Slartibartfast", "Vogon poetry enclosed", "Second thoughts of Trillian"];

fn wish() -> pb::CreateOrderRequest {
    let sample = sample_order();
    let at = sample.shipping_address.clone().unwrap();
    let text = |index: usize| NAMES[index].to_owned();
    pb::CreateOrderRequest {
        shipping_address: Some(pb::OrderAddress {
            first_name: text(0),
            last_name: text(1),
            address_line1: text(2),
            address_line2: text(3),
            phone: text(4),
            email: text(5),
            ..at.clone()
        }),
        billing_address: Some(pb::OrderAddress {
            first_name: text(6),
            last_name: text(7),
            address_line1: text(8),
            address_line2: String::new(),
            phone: String::new(),
            email: text(9),
            ..at
        }),
        notes: text(10),
        ..sample
    }
}

async fn create(node: &NodeProcess) -> pb::Order {
    node.client().create_order(wish()).await.unwrap().into_inner()
}

async fn get(node: &NodeProcess, id: &str) -> pb::Order {
    node.client().get_order(by_id(id)).await.unwrap().into_inner()
}

async fn status(node: &NodeProcess, id: &str, to: pb::OrderStatus, notes: &str) -> pb::Order {
    let tracking =
        (to == Shipped).then(|| pb::Tracking { carrier: "UPS".into(), tracking_number: "1Z".into() });
    let request = pb::UpdateOrderStatusRequest {
        id: id.to_owned(),
        status: to.into(),
        notes: notes.to_owned(),
        tracking,
        ..Default::default()
    };
    node.client().update_order_status(request).await.unwrap().into_inner()
}

async fn cancel(node: &NodeProcess, id: &str, reason: &str) -> pb::Order {
    let request =
        pb::CancelOrderRequest { id: id.to_owned(), reason: reason.to_owned(), ..Default::default() };
    node.client().cancel_order(request).await.unwrap().into_inner()
}

/// What a request for an order shows of names and notes, with those in its history.
async fn shown(node: &NodeProcess, id: &str) -> String {
    let order = get(node, id).await;
    let request = pb::ListOrderEventsRequest { order_id: id.to_owned(), ..Default::default() };
    let events = node.client().list_order_events(request).await.unwrap().into_inner().events;
    let notes: Vec<String> = events.into_iter().map(|event| event.notes + &event.payload_json).collect();
    let texts = order.addresses.into_iter().flat_map(|one| {
        [one.first_name, one.last_name, one.address_line1, one.address_line2, one.phone, one.email]
    });
    format!("{}|{}|{}", texts.collect::<Vec<_>>().join("|"), order.notes, notes.join("|"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Which of the texts stand in the files below a folder.
fn found(folder: &Path, texts: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    files(folder, &mut all);
    assert!(!all.is_empty());
    let mut hits = Vec::new();
    for file in all {
        // Files of a database come and go.
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        hits.extend(
            texts.iter().filter(|text| holds(text)).map(|text| format!("{text} in {}", file.display())),
        );
    }
    hits
}

async fn metrics(node: &NodeProcess) -> String {
    let url = node.ops_url();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// `order-service WORDS` with these settings: exit code and standard output.
fn program(words: &[&str], settings: &[(String, String)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    command.args(words).env_clear().envs(settings.iter().cloned()).stdin(Stdio::null());
    let output = block_in_place(|| command.output().unwrap());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!NAMES.iter().chain(&SAID).any(|text| err.contains(text)), "{err}");
    eprintln!("{err}");
    (output.status.code(), out)
}

fn ops(node: &NodeProcess, words: &[&str]) -> (Option<i32>, Value) {
    let server = node.ops_url();
    let all: Vec<&str> =
        ["ops"].iter().chain(words).chain(&["--server", &server, "-o", "json"]).copied().collect();
    let (code, out) = program(&all, &[]);
    (code, serde_json::from_str(&out).unwrap_or_default())
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let quick = [("ORDER__SAGA__RUN_AHEAD", "0s"), ("ORDER__LOG__LEVEL", "trace")];
    ENCRYPT.iter().chain(&quick).chain(more).copied().collect()
}

/// Orders with notes of every kind: one delivered and partly refunded, one canceled.
async fn live(node: &NodeProcess) -> [String; 2] {
    let (one, other) = (create(node).await, create(node).await);
    status(node, &one.id, Processing, SAID[0]).await;
    status(node, &one.id, Shipped, "").await;
    status(node, &one.id, Delivered, "").await;
    let refund = pb::RefundOrderRequest {
        id: one.id.clone(),
        amount: "1.00".into(),
        reason: SAID[1].into(),
        ..Default::default()
    };
    node.client().refund_order(refund).await.unwrap();
    cancel(node, &other.id, SAID[2]).await;
    [one.id, other.id]
}

/// The node's own files, or the data of a server of its own.
async fn nothing_is_found(server: Option<PgServer>) {
    let simulate = Simulate::start().await;
    let url = match &server {
        Some(server) => Some(server.create_database().await),
        None => None,
    };
    let mut node = NodeProcess::start_on(url, &simulate, &with(&[]), &[]).await;
    let [one, other] = live(&node).await;
    let (first, second) = (shown(&node, &one).await, shown(&node, &other).await);
    assert!(NAMES.iter().all(|text| first.contains(text) && second.contains(text)), "{first}");
    assert!(first.contains(SAID[0]) && first.contains(SAID[1]) && second.contains(SAID[2]), "{second}");
    assert_eq!(get(&node, &one).await.personal_data(), PersonalData::Available);
    let list = pb::ListOrdersRequest { user_id: wish().user_id, ..Default::default() };
    let listed = node.client().list_orders(list).await.unwrap().into_inner().orders;
    assert!(listed.iter().all(|order| order.addresses[0].first_name == NAMES[0] && order.notes == NAMES[10]));
    assert_eq!(listed.len(), 2);

    let all: Vec<&str> = NAMES.iter().chain(&SAID).copied().collect();
    let told = metrics(&node).await;
    assert!(told.starts_with("HTTP/1.1 200") && !all.iter().any(|text| told.contains(text)));
    // What a process that is killed leaves behind, its log included.
    node.kill9().await;
    let log = node.process().log();
    let in_log: Vec<&&str> = all.iter().filter(|text| log.contains(**text)).collect();
    assert!(log.len() > 1_000 && in_log.is_empty(), "{in_log:?}");
    let folder = match &server {
        Some(server) => {
            server.admin("CHECKPOINT").await;
            server.stop(Shutdown::Fast).await;
            server.data_dir()
        }
        None => node.folder(),
    };
    assert_eq!(found(&folder, &all), Vec::<String>::new());
    // They would be found, if they were there.
    assert!(!found(&folder, &["New York"]).is_empty());

    if let Some(server) = &server {
        server.start_again().await;
    }
    let node = node.restart(&[]).await;
    assert_eq!((shown(&node, &one).await, shown(&node, &other).await), (first, second));
    verified(&node, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_and_its_log_hold_none_of_it() {
    nothing_is_found(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_of_a_server_hold_none_of_it() {
    nothing_is_found(Some(PgServer::start(&[]).await)).await;
}

/// Runs SQL in the file of a node that does not run.
async fn in_file(node: &NodeProcess, sql: &str) {
    let options = SqliteConnectOptions::new().filename(node.folder().join("orders.db"));
    let mut raw = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
}

fn blob(id: &str) -> String {
    format!("x'{}'", id.replace('-', ""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_to_another_row_is_not_shown() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &with(&[])).await;
    let (one, other, third) = (create(&node).await, create(&node).await, create(&node).await);
    node.kill9().await;
    // All three are of one user: the key fits, the place does not.
    let (to, from) = (blob(&one.id), blob(&other.id));
    let moved = format!(
        "UPDATE order_addresses SET first_name = (SELECT first_name FROM order_addresses \
           WHERE order_id = {from} AND address_type = 'SHIPPING') WHERE order_id = {to} AND address_type = 'SHIPPING'; \
         UPDATE orders SET notes = (SELECT first_name FROM order_addresses \
           WHERE order_id = {from} AND address_type = 'BILLING') WHERE id = {from}"
    );
    in_file(&node, &moved).await;
    let node = node.restart(&[]).await;
    let order = get(&node, &one.id).await;
    assert_eq!(order.personal_data(), PersonalData::Unavailable);
    assert_eq!(order.addresses[0].first_name, "");
    assert_eq!(order.addresses[1].first_name, NAMES[6], "what stands where it was is shown");
    assert_eq!((order.notes.as_str(), &order.total_amount), (NAMES[10], &one.total_amount));
    let order = get(&node, &other.id).await;
    assert_eq!((order.personal_data(), order.notes.as_str()), (PersonalData::Unavailable, ""));
    assert_eq!(get(&node, &third.id).await.personal_data(), PersonalData::Available);
    let told = metrics(&node).await;
    assert!(told.contains("order_personal_data_refused_total{reason=\"tampered\"}"), "{told}");
    // The rest goes on, and does not write over what cannot be read.
    assert_eq!(cancel(&node, &one.id, "").await.status(), Cancelled);
    assert_eq!(get(&node, &one.id).await.notes, NAMES[10]);
    verified(&node, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_key_the_rest_works() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &with(&[])).await;
    let orders = [create(&node).await, create(&node).await];
    node.kill9().await;
    for (order, kek) in orders.iter().zip(["", OTHER_KEK]) {
        let mut locked = node.restart(&[("ORDER__PRIVACY__KEK", kek)]).await;
        let seen = get(&locked, &order.id).await;
        assert_eq!(seen.personal_data(), PersonalData::Unavailable);
        assert!(!NAMES.iter().any(|text| format!("{seen:?}").contains(text)));
        assert_eq!((seen.notes.as_str(), &seen.total_amount), ("", &order.total_amount));
        refused(locked.client().create_order(wish()).await, Code::Unavailable, "STORAGE_UNAVAILABLE");
        assert_eq!(cancel(&locked, &order.id, SAID[2]).await.status(), Cancelled);
        locked.kill9().await;
        let folder = locked.folder();
        assert!(found(&folder, &SAID).is_empty() && found(&folder, &NAMES).is_empty());
        node = locked;
    }
    let node = node.restart(&[("ORDER__PRIVACY__KEK", KEK)]).await;
    for order in &orders {
        let seen = shown(&node, &order.id).await;
        assert!(NAMES.iter().all(|text| seen.contains(text)), "{seen}");
        assert!(seen.contains("not kept") && !seen.contains(SAID[2]), "{seen}");
    }
    create(&node).await;
    verified(&node, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_takes_over_while_orders_go_on() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &with(&[])).await;
    let order = create(&node).await;
    node.kill9().await;
    let old = "kek-1=0101010101010101010101010101010101010101010101010101010101010101";
    let anew = [
        ("ORDER__PRIVACY__KEK", OTHER_KEK),
        ("ORDER__PRIVACY__KEK_ID", "kek-2"),
        ("ORDER__PRIVACY__OLD_KEKS", old),
    ];
    let mut node = node.restart(&anew).await;
    assert_eq!(get(&node, &order.id).await.addresses[0].first_name, NAMES[0]);
    let (code, told) = ops(&node, &["rotate-keys"]);
    assert_eq!((code, &told["rewrapped"], &told["failed"]), (Some(0), &1.into(), &0.into()), "{told}");
    let (code, told) = ops(&node, &["rotate-keys"]);
    assert_eq!((code, &told["rewrapped"]), (Some(0), &0.into()), "there is nothing left to do: {told}");
    node.kill9().await;
    // The old key is not needed any more.
    let alone = [("ORDER__PRIVACY__KEK", OTHER_KEK), ("ORDER__PRIVACY__KEK_ID", "kek-2")];
    let node = node.restart(&alone).await;
    assert_eq!(get(&node, &order.id).await.addresses[0].first_name, NAMES[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_orders_from_before_encryption_go_on() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &[]).await;
    let orders = [create(&node).await, create(&node).await];
    node.kill9().await;
    let mut locked = node.restart(&[("ORDER__PRIVACY__MODE", "encrypt")]).await;
    assert_eq!(cancel(&locked, &orders[0].id, SAID[2]).await.status(), Cancelled);
    status(&locked, &orders[1].id, Processing, SAID[0]).await;
    let seen = shown(&locked, &orders[0].id).await;
    assert!(seen.contains(NAMES[0]) && seen.contains(NAMES[10]) && !seen.contains(SAID[2]), "{seen}");
    refused(locked.client().create_order(wish()).await, Code::Unavailable, "STORAGE_UNAVAILABLE");
    locked.kill9().await;
    assert!(found(&locked.folder(), &SAID).is_empty(), "what is new is not stored in plain");
    // The user gets a key by another order; the notes of the first are plain, those of that order are not.
    let mut node = locked.restart(ENCRYPT).await;
    let sealed = create(&node).await;
    node.kill9().await;
    let mut locked = node.restart(&[("ORDER__PRIVACY__MODE", "encrypt")]).await;
    status(&locked, &orders[1].id, Shipped, "").await;
    assert_eq!(cancel(&locked, &sealed.id, "").await.status(), Cancelled);
    locked.kill9().await;
    let node = locked.restart(ENCRYPT).await;
    let (code, told) = ops(&node, &["encrypt-existing"]);
    assert_eq!((code, &told["encrypted"]), (Some(0), &2.into()), "{told}");
    for id in [&orders[0].id, &orders[1].id, &sealed.id] {
        let seen = shown(&node, id).await;
        assert!(NAMES.iter().all(|text| seen.contains(text)), "{seen}");
    }
    verified(&node, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_plain_is_encrypted_by_its_owner() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &[]).await;
    let order = create(&node).await;
    node.kill9().await;
    assert!(!found(&node.folder(), &NAMES).is_empty(), "the search finds what is there");
    let mut node = node.restart(ENCRYPT).await;
    assert_eq!(get(&node, &order.id).await.addresses[0].first_name, NAMES[0]);
    let (code, told) = ops(&node, &["encrypt-existing"]);
    assert_eq!((code, &told["encrypted"]), (Some(0), &1.into()), "{told}");
    let (code, told) = ops(&node, &["encrypt-existing"]);
    assert_eq!((code, &told["encrypted"]), (Some(0), &0.into()), "{told}");
    let seen = shown(&node, &order.id).await;
    assert!(NAMES.iter().all(|text| seen.contains(text)), "{seen}");
    node.kill9().await;
    in_file(&node, "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert_eq!(found(&node.folder(), &NAMES), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_says_nothing_of_a_person() {
    let simulate = Simulate::start().await;
    let node = NodeProcess::start(&simulate, &with(&[])).await;
    let [one, _] = live(&node).await;
    let mut settings = node.same_store();
    settings.push((String::from("ORDER__PRIVACY__EXPORT_SECRET"), OTHER_KEK.to_owned()));
    let words = ["ops", "export", "--anonymized", "--since", "2020-01-01", "--until", "2099-12-31"];
    let (code, lines) = program(&words, &settings);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, rows.len()), (Some(0), 2), "{lines}");
    assert_eq!(rows[0]["user"], rows[1]["user"], "one user has one pseudonym");
    assert_eq!((&rows[0]["postal_prefix"], &rows[0]["country"]), (&"100".into(), &"US".into()));
    assert_eq!(rows[0]["total"], get(&node, &one).await.total_amount.as_str());
    let mut csv = words.to_vec();
    csv.extend(["-o", "csv"]);
    let (code, table) = program(&csv, &settings);
    assert_eq!((code, table.lines().count()), (Some(0), 3), "{table}");
    let user = wish().user_id;
    let nobody = NAMES.iter().chain(&SAID).copied().chain([user.as_str(), one.as_str(), "10001", "New York"]);
    for text in nobody {
        assert!(!lines.contains(text) && !table.contains(text), "{text}");
    }
    // Nothing is written without a secret.
    let (code, out) = program(&words, &node.same_store());
    assert_eq!((code, out.as_str()), (Some(1), ""));
}
