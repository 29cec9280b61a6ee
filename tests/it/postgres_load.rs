//! What happens to Postgres while customers order from a node: restarts, cut connections, the loss of the server.

use std::ops::ControlFlow;
use std::time::Duration;

use order_service::app;
use order_service::verify::{Finding, Options, Report, Witness};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

use crate::harness::Chance;
use crate::harness::load::{Load, QUICK, audit};
use crate::harness::node::config;
use crate::harness::postgres::{PgServer, Shutdown};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::proxy::Proxy;
use crate::harness::scenarios::{Customer, SCENARIOS};
use crate::harness::standby::Replication;
use crate::harness::wait::within;

/// How soon a new order has to succeed when the server is back.
const BACK: Duration = Duration::from_secs(5);

/// A node on this database.
async fn start(simulate: &Simulate, url: &str) -> NodeProcess {
    NodeProcess::start(simulate, &[QUICK, &[("ORDER__STORE__URL", url)]].concat()).await
}

/// Keeps what `ops verify` finds.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Witness for Findings {
    fn violation(&mut self, finding: &Finding) -> ControlFlow<()> {
        self.0.push(finding.clone());
        ControlFlow::Continue(())
    }

    fn progress(&mut self, _so_far: &Report) {}
}

/// Does what `ops verify` does: every order in the database keeps every invariant that can be seen there.
async fn verify(url: &str, at_least: usize) {
    let options = Options { page_size: 50, pages_per_second: None, patience: BACK, only: None };
    let mut findings = Findings::default();
    let config = config(std::path::Path::new("unused"), &[("ORDER__STORE__URL", url)]);
    let report = app::verify(&config, &options, &mut findings, std::future::pending()).await.unwrap();
    assert_eq!(findings.0, []);
    assert!(report.complete && report.orders >= at_least as u64, "{report:?}");
}

/// A customer of their own orders something, within [`BACK`].
async fn orders_again(node: &NodeProcess, number: u64) -> (Customer, Duration) {
    let (mut customer, client, started) =
        (Customer::new(SCENARIOS[0], number), node.client(), Instant::now());
    within(BACK, "a new order", async || customer.repeat(&client).await.remove(0).ok()).await;
    (customer, started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_under_load_costs_no_order() {
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    let simulate = Simulate::start().await;
    let node = start(&simulate, &url).await;
    let load = Load::new(watch::channel(node.client()).1);
    let restarts = async {
        let mut others = Vec::new();
        for (how, number) in [
            (Shutdown::Fast, 900_001),
            (Shutdown::Immediate, 900_002),
            (Shutdown::Fast, 900_003),
            (Shutdown::Immediate, 900_004),
        ] {
            load.more(30).await;
            server.restart(how).await;
            let (customer, took) = orders_again(&node, number).await;
            println!("{how:?}: a new order {took:?} after the server was back");
            others.push(customer);
        }
        load.more(30).await;
        load.enough();
        others
    };
    let (mut customers, others) = tokio::join!(load.run(), restarts);
    customers.extend(others);
    audit(&node, &simulate, &customers).await;
    verify(&url, customers.len()).await;
    println!("{} orders over 4 restarts", customers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_takes_over_under_load_with_every_order() {
    let primary = PgServer::start(&[("wal_retrieve_retry_interval", "100ms")]).await;
    let standby = primary.standby("spare", Replication::Synchronous).await;
    let url = primary.create_database().await;
    let proxy = Proxy::start(primary.address()).await;
    let simulate = Simulate::start().await;
    let node = start(&simulate, &proxy.url_of(&url)).await;
    let load = Load::new(watch::channel(node.client()).1);
    let loss = async {
        load.more(100).await;
        primary.stop(Shutdown::Immediate).await;
        standby.promote().await;
        proxy.retarget(standby.address());
        let (customer, took) = orders_again(&node, 900_001).await;
        println!("a new order {took:?} after the standby took over");
        load.more(50).await;
        load.enough();
        customer
    };
    let (mut customers, other) = tokio::join!(load.run(), loss);
    customers.push(other);
    audit(&node, &simulate, &customers).await;
    verify(&proxy.url_of(&url), customers.len()).await;
    println!("{} orders over a promotion", customers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_random_under_load_cost_no_order() {
    const CUTS: u64 = 20;
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    let proxy = Proxy::start(server.address()).await;
    let simulate = Simulate::start().await;
    let node = start(&simulate, &proxy.url_of(&url)).await;
    let load = Load::new(watch::channel(node.client()).1);
    let cuts = async {
        let mut chance = Chance::new(18);
        load.more(20).await;
        let mut tick = interval(Duration::from_millis(10));
        for _ in 0..CUTS {
            for _ in 0..10 + chance.below(11) {
                tick.tick().await;
            }
            proxy.cut_all();
        }
        load.more(30).await;
        load.enough();
    };
    let (customers, ()) = tokio::join!(load.run(), cuts);
    audit(&node, &simulate, &customers).await;
    verify(&url, customers.len()).await;
    println!("{} orders over {CUTS} cuts, {} connections", customers.len(), proxy.connections());
}
