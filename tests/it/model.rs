//! Random sequences of calls against a reference model: real actors behind the real API, the real store, the simulated
//! collaborators with faults, and processes that die.
//!
//! At every quiet point the order must be one that the model thinks possible after the answers that were given, and
//! every invariant must hold, of the service's own books and of those of the collaborators.
//!
//! `ORDER_MODEL_SEQUENCES=n` plays n sequences, from `ORDER_MODEL_FROM` on; `ORDER_MODEL_SEED=n` plays one and prints
//! it. A replay draws the same calls and faults; when calls meet that run at once is the machine's affair.

mod reference;
mod sequence;
mod store;
mod world;

use std::collections::BTreeMap;
use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use order_service::domain::ids::OrderId;
use order_service::ports::clock::Clock;
use order_service::ports::store::OrderStore;
use order_service::store::sqlite::{SqliteConfig, SqliteStore};
use order_service::verify::{self, Finding, Options, Report, Witness};

use self::reference::Act;
use self::world::{Setup, World};
use crate::harness::Chance;
use crate::harness::node::sample_order;

/// Sequences of a plain test run.
const SEQUENCES: u64 = 350;
/// Failures that are told before it ends.
const FAILURES: usize = 8;
/// Sequences that are played at once.
const AT_ONCE: usize = 48;

/// A file in this folder, and patience: many worlds share it, on a machine that may be busy.
fn config(folder: &tempfile::TempDir) -> SqliteConfig {
    SqliteConfig {
        path: folder.path().join("orders.db"),
        busy_timeout_ms: 60_000,
        read_timeout_ms: 60_000,
        ..SqliteConfig::default()
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Witness for Findings {
    fn violation(&mut self, finding: &Finding) -> ControlFlow<()> {
        self.0.push(finding.clone());
        ControlFlow::Continue(())
    }

    fn progress(&mut self, _: &Report) {}
}

#[derive(Debug)]
struct Now;

impl Clock for Now {
    fn now(&self) -> order_service::domain::Timestamp {
        world::now()
    }
}

#[test]
fn model() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::TempDir::new().unwrap();
        let store: Arc<dyn OrderStore> = SqliteStore::open(config(&folder)).await.unwrap();
        if let Some(seed) = number("ORDER_MODEL_SEED") {
            let played = sequence::play(seed, Arc::clone(&store)).await;
            println!("{played:?}");
            played.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
            return;
        }
        let from = number("ORDER_MODEL_FROM").unwrap_or(0);
        let count = number("ORDER_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
        let (begun, mut ends) = (Instant::now(), BTreeMap::<String, u64>::new());
        let (mut calls, mut played) = (0, 0u64);
        let mut failures: Vec<u64> = Vec::new();
        let seeds = stream::iter(from..from + count)
            .map(|seed| {
                let store = Arc::clone(&store);
                async move { (seed, sequence::play(seed, store).await) }
            })
            .buffer_unordered(AT_ONCE);
        tokio::pin!(seeds);
        while let Some((seed, tale)) = seeds.next().await {
            let tale = match tale {
                Ok(tale) => tale,
                Err(what) => {
                    println!(
                        "seed {seed}: {what}\nreplay: ORDER_MODEL_SEED={seed} cargo test --test it model::model -- --nocapture\n"
                    );
                    failures.push(seed);
                    if failures.len() == FAILURES {
                        break;
                    }
                    continue;
                }
            };
            played += 1;
            calls += tale.calls;
            tale.ends.into_iter().for_each(|end| *ends.entry(end).or_default() += 1);
            if played.is_multiple_of(1_000) {
                println!("{played} sequences in {:?}", begun.elapsed());
            }
        }
        assert!(failures.is_empty(), "after {played} sequences these seeds failed: {failures:?}");
        println!("{played} sequences, {calls} calls in {:?}: {ends:?}", begun.elapsed());
        let mut findings = Findings::default();
        let options =
            Options { page_size: 500, pages_per_second: None, patience: Duration::from_secs(60), only: None };
        let report = verify::run(&*store, &Now, &options, &mut findings, pending()).await.unwrap();
        assert!(findings.0.is_empty(), "{:#?}", findings.0);
        assert!(report.complete && report.unreadable == 0, "{report:?}");
        let stored: u64 = ends.iter().filter(|(end, _)| *end != "NONE").map(|(_, count)| count).sum();
        assert_eq!(report.orders, stored);
        store.close().await;
    });
}

/// A commit that may be stored or not ends its actor. A fresh one cannot tell a refund without request id from another
/// one of the same amount, so it must not be asked.
#[tokio::test]
async fn a_refund_whose_commit_is_in_doubt_is_made_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let store: Arc<dyn OrderStore> = SqliteStore::open(config(&folder)).await.unwrap();
    let world = World::new(Arc::clone(&store), Setup::calm(), Chance::new(0)).await;
    let new = sample_order();
    let order = world.ask(&Act::Create { other_content: false }, "", "", 0, &new).await.unwrap();
    let id: OrderId = order.id.parse().unwrap();
    let refund = Act::RefundAmount("1.00".parse().unwrap());

    world.store.lose_next();
    let answer = world.ask(&refund, &order.id, "", 0, &new).await;
    assert_eq!(answer.unwrap_err(), "STORAGE_UNAVAILABLE", "nothing is certain");
    let evidence = world.at_rest(id).await.unwrap().unwrap();
    assert_eq!(evidence.truth.refunds, ["1.00".parse().unwrap()]);

    // With a request id the second asking meets the first.
    world.store.lose_next();
    world.ask(&refund, &order.id, "again", 0, &new).await.unwrap();
    let evidence = world.at_rest(id).await.unwrap().unwrap();
    assert_eq!(evidence.truth.refunds.len(), 2);
    world.end().await;
    store.close().await;
}
