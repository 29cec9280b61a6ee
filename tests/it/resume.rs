//! Processes that end under load, politely or not, and those that take over from them.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use order_service::proto::order::OrderStatus;
use order_service::proto::order::order_service_client::OrderServiceClient;
use order_service::proto::simulator::Faults;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::harness::load::{Load, QUICK, audit};
use crate::harness::process::{NodeProcess, Process, Simulate};
use crate::harness::scenarios::{Customer, SCENARIOS};
use crate::harness::stores::{StoreKind, verified};
use crate::harness::wait::{eventually, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_again_and_again_under_load_loses_nothing() {
    killed_under_load(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_again_and_again_under_load_loses_nothing_on_postgres() {
    killed_under_load(StoreKind::Postgres).await;
}

async fn killed_under_load(store: StoreKind) {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start_on(store.fresh_url().await, &simulate, QUICK, &[]).await;
    let (to, clients) = watch::channel(node.client());
    let load = Load::new(clients);
    let kills = async {
        for _ in 0..3 {
            load.more(50).await;
            node.kill9().await;
            node = node.restart(&[]).await;
            to.send_replace(node.client());
        }
        load.more(50).await;
        load.enough();
        node
    };
    let (customers, node) = tokio::join!(load.run(), kills);
    assert!(customers.len() >= 200, "{}", customers.len());
    audit(&node, &simulate, &customers).await;
    verified(&node, customers.len()).await;
    println!("{} orders over 3 kills", customers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asked_to_stop_under_load_stops_at_once_and_loses_nothing() {
    stopped_under_load(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asked_to_stop_under_load_stops_at_once_and_loses_nothing_on_postgres() {
    stopped_under_load(StoreKind::Postgres).await;
}

async fn stopped_under_load(store: StoreKind) {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start_on(store.fresh_url().await, &simulate, QUICK, &[]).await;
    let (to, clients) = watch::channel(node.client());
    let load = Load::new(clients);
    let stop = async {
        load.more(100).await;
        let asked = Instant::now();
        node.process().signal(Signal::TERM);
        let status = node.process().ended().await;
        assert_eq!(status.code(), Some(0), "{status}");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(5), "it took {took:?} to stop");
        let log = node.process().log();
        assert!(!log.contains("with sagas under way"), "sagas were cut off");
        node = node.restart(&[]).await;
        to.send_replace(node.client());
        load.more(50).await;
        load.enough();
        println!("stopped in {took:?}");
        node
    };
    let (customers, node) = tokio::join!(load.run(), stop);
    audit(&node, &simulate, &customers).await;
    verified(&node, customers.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_resumes_hundreds_of_sagas() {
    const ORDERS: u64 = 300;
    let simulate = Simulate::start().await;
    let away = Faults { method: "payment.*".into(), unavailable: true, ..Default::default() };
    simulate.set_faults(vec![away]).await;
    let mut node = NodeProcess::start_once(&simulate, QUICK, &[("ORDER__CREATE__WAIT", "0s")]).await;
    let customers = unfinished(&node.client(), ORDERS).await;
    node.kill9().await;
    simulate.set_faults(Vec::new()).await;

    let started = Instant::now();
    let node = node.restart(&[]).await;
    let client = node.client();
    let patience = Duration::from_secs(30);
    stream::iter(&customers)
        .for_each_concurrent(8, async |customer| {
            within(patience, "a confirmed order", async || {
                let order = customer.order(&client).await?;
                (order.status() == OrderStatus::Confirmed).then_some(())
            })
            .await;
        })
        .await;
    println!("{ORDERS} sagas resumed in {:?}", started.elapsed());
    audit(&node, &simulate, &customers).await;
}

/// Orders that are acknowledged and cannot go on, because the payment service is away.
async fn unfinished(client: &OrderServiceClient<Channel>, orders: u64) -> Vec<Customer> {
    let order = async |number| {
        let mut customer = Customer::new(SCENARIOS[0], 1_000 + number);
        customer.live(client).await;
        // On a busy machine the services that are asked first may be too late; then it is asked again.
        eventually("an acknowledgement", async || {
            if customer.acknowledged.is_empty() {
                customer.repeat(client).await;
            }
            (!customer.acknowledged.is_empty()).then_some(())
        })
        .await;
        assert_eq!(customer.acknowledged[0].status(), OrderStatus::Pending);
        customer
    };
    stream::iter(0..orders).map(order).buffer_unordered(32).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_is_no_stampede_and_new_orders_do_not_starve_it() {
    let simulate = Simulate::start().await;
    let away = Faults { method: "payment.*".into(), unavailable: true, ..Default::default() };
    simulate.set_faults(vec![away]).await;
    let mut node = NodeProcess::start_once(&simulate, QUICK, &[("ORDER__CREATE__WAIT", "0s")]).await;
    let old = unfinished(&node.client(), 16).await;
    node.kill9().await;
    // Slow enough that new orders alone make more calls at a time than sagas may be resumed at a time.
    let slow_ones = [("inventory.Reserve", 700), ("payment.Charge", 900), ("inventory.Commit", 500)];
    let slow =
        |(method, delay_ms): (&str, u32)| Faults { method: method.into(), delay_ms, ..Default::default() };
    simulate.set_faults(slow_ones.map(slow).to_vec()).await;
    let (to, clients) = watch::channel(node.client());
    let load = Load::new(clients);
    let mut most = 0;
    let old_ones = async {
        node = node.restart(&[("ORDER__SAGA__RESUME_CONCURRENCY", "4")]).await;
        to.send_replace(node.client());
        let client = node.client();
        let ended = join_all(old.iter().map(|customer| customer.settled(&client)));
        tokio::pin!(ended);
        // The simulator shows a charge that is still being worked on.
        loop {
            tokio::select! {
                _ = &mut ended => break,
                ledgers = join_all(old.iter().map(|customer| simulate.ledger(customer.order_id.as_ref().unwrap()))) => {
                    let pending = ledgers.iter().flat_map(|ledger| &ledger.charges).filter(|one| one.state == "PENDING");
                    let pending = pending.count();
                    assert!(pending <= 4, "{pending} sagas were resumed at a time");
                    most = most.max(pending);
                }
            }
        }
        assert_eq!(most, 4, "sagas were not resumed side by side");
        load.enough();
        node
    };
    let (new, node) = tokio::join!(load.run(), old_ones);
    audit(&node, &simulate, &old).await;
    audit(&node, &simulate, &new).await;
}

/// Starts a node that must not start, and gives its exit code and what it says last.
async fn refused(settings: &[(String, String)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut process = Process::spawn("refused", arguments, settings);
    let code = process.ended().await.code();
    let log = process.log();
    assert!(!log.contains("panicked"), "{log}");
    (code, log.lines().last().unwrap_or_default().to_owned())
}

fn settings(folder: &Path) -> Vec<(String, String)> {
    [
        ("ORDER__GRPC__LISTEN", "127.0.0.1:0".to_owned()),
        ("ORDER__OPS__LISTEN", "127.0.0.1:0".to_owned()),
        ("ORDER__STORE__URL", format!("sqlite:{}", folder.join("orders.db").display())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

#[tokio::test]
async fn a_second_node_on_the_same_store_is_refused_and_told_who_has_it() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, QUICK).await;
    let (code, last) = refused(&node.same_store(), &["serve"]).await;
    let holder = format!("in use by process {};", node.process().id());
    assert!(code == Some(1) && last.contains(&holder), "{code:?} {last}");
    // The first one does not mind.
    let mut customer = Customer::new(SCENARIOS[0], 1);
    customer.live(&node.client()).await;
    audit(&node, &simulate, &[customer]).await;
    // What a killed process leaves behind keeps nobody out.
    node.kill9().await;
    node.restart(&[]).await;
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why_in_one_sentence() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["ORDER__GRPC__LISTEN", "ORDER__OPS__LISTEN"] {
        let mut all = settings(folder.path());
        all.push((key.to_owned(), address.clone()));
        let (code, last) = refused(&all, &["serve"]).await;
        let told = last.contains(&format!("cannot listen on {address}")) && last.contains("free the port");
        assert!(code == Some(1) && told, "{code:?} {last}");
        assert!(!folder.path().join("orders.db").exists(), "a store was made for nothing");
    }

    let missing = folder.path().join("missing.yaml");
    let missing = missing.to_str().unwrap();
    let (code, last) = refused(&settings(folder.path()), &["serve", "--config", missing]).await;
    assert!(code == Some(1) && last.contains("the configuration has 1 error"), "{code:?} {last}");

    std::fs::write(folder.path().join("orders.db"), "Dear diary, today nothing was ordered.").unwrap();
    let (code, last) = refused(&settings(folder.path()), &["serve"]).await;
    assert!(code == Some(1) && last.contains("is not an SQLite file"), "{code:?} {last}");
    let kept = std::fs::read_to_string(folder.path().join("orders.db")).unwrap();
    assert_eq!(kept, "Dear diary, today nothing was ordered.");

    let mut all = settings(folder.path());
    all.push(("ORDER__TESTING__CRASH_AT".to_owned(), "somewhere".to_owned()));
    let (code, last) = refused(&all, &["serve"]).await;
    assert!(code == Some(1) && last.contains("no crash point"), "{code:?} {last}");
}
