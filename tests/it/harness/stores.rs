//! The stores that a whole node is tested on.

use std::future::pending;
use std::ops::ControlFlow;
use std::time::Duration;

use order_service::app;
use order_service::config::Config;
use order_service::verify::{Finding, Options, Report, Witness};

use super::postgres::shared_database;
use super::process::NodeProcess;

/// Where a node keeps its orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    /// A file in a folder of the node's.
    Sqlite,
    /// A database of the shared server.
    Postgres,
}

impl StoreKind {
    /// The URL of an empty store; none = the node's own file.
    pub async fn fresh_url(self) -> Option<String> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(shared_database().await),
        }
    }
}

/// Everything that does not hold.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Witness for Findings {
    fn violation(&mut self, finding: &Finding) -> ControlFlow<()> {
        self.0.push(finding.clone());
        ControlFlow::Continue(())
    }

    fn progress(&mut self, _: &Report) {}
}

/// What `ops verify` finds in the store of a node, which may be running: this many orders, and everything holds.
pub async fn verified(node: &NodeProcess, orders: usize) {
    verified_store(node.same_store(), orders).await;
}

/// As [`verified`], of the store that these settings name.
pub async fn verified_store(settings: Vec<(String, String)>, orders: usize) {
    let config = Config::load(&[], settings.into_iter()).unwrap();
    let options =
        Options { page_size: 500, pages_per_second: None, patience: Duration::from_secs(60), only: None };
    let mut findings = Findings::default();
    let report = app::verify(&config, &options, &mut findings, pending()).await.unwrap();
    assert!(findings.0.is_empty(), "{:#?}", findings.0);
    assert!(report.complete && report.unreadable == 0, "{report:?}");
    assert_eq!(report.orders, orders as u64);
}
