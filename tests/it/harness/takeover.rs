//! How long orders of a node that is gone cannot be changed.

use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use order_service::proto::order as pb;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::fleet::Fleet;
use super::traffic::Call;

/// Patience with one order.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a customer waits for one answer: a call that the cluster leaves hanging counts in full.
const TRY: Duration = Duration::from_secs(30);

/// Orders of one node that nobody has changed yet.
#[derive(Debug)]
pub struct Witnesses(Vec<String>);

/// When they could be changed again.
#[derive(Debug)]
pub struct Takeover {
    /// How long each of them took, sorted.
    pub took: Vec<Duration>,
    /// What was answered.
    pub acknowledged: Vec<pb::Order>,
}

impl Witnesses {
    /// Orders for every node, at least `least` of each; users' numbers begin at `first`. Also what was answered.
    pub async fn make(
        cluster: &Cluster,
        fleet: &Fleet,
        first: u64,
        least: usize,
    ) -> (Vec<Self>, Vec<pb::Order>) {
        let nodes = cluster.running();
        let mut acknowledged = Vec::new();
        loop {
            let next = first + acknowledged.len() as u64;
            let made = (next..next + 4 * least as u64).map(|number| {
                let call = Call::create(number);
                async move { change(fleet, &call).await.1 }
            });
            let made: Vec<pb::Order> = stream::iter(made).buffer_unordered(8).collect().await;
            acknowledged.extend(made);
            let ids: Vec<String> = acknowledged.iter().map(|order| order.id.clone()).collect();
            let owners = cluster.owners(&ids).await;
            let of = |node: usize| {
                let its = owners.iter().zip(&ids).filter(|(owner, _)| **owner == Some(node));
                Self(its.map(|(_, id)| id.clone()).collect())
            };
            let all: Vec<Self> = (0..=nodes.last().copied().unwrap_or(0)).map(of).collect();
            if nodes.iter().all(|node| all[*node].0.len() >= least) {
                return (all, acknowledged);
            }
        }
    }

    /// Their ids.
    pub fn ids(&self) -> &[String] {
        &self.0
    }

    /// Asks for a change of each, at once, until it is made.
    pub async fn change(&self, fleet: &Fleet) -> Takeover {
        let changes = self.0.iter().map(async |id| change(fleet, &Call::cancel(id)).await);
        let (mut took, acknowledged): (Vec<_>, Vec<_>) = join_all(changes).await.into_iter().unzip();
        took.sort_unstable();
        Takeover { took, acknowledged }
    }
}

/// Makes a change, however long that takes.
async fn change(fleet: &Fleet, call: &Call) -> (Duration, pb::Order) {
    let started = Instant::now();
    let attempt = |client| {
        let call = call.clone();
        async move { call.make(client, TRY).await }
    };
    let (sent, _) = fleet.insist(started + PATIENCE, TRY, attempt).await;
    let order = sent.answer.unwrap_or_else(|status| panic!("{call:?}: {status:?}")).unwrap();
    (started.elapsed(), order)
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, last)) = self.took.first().zip(self.took.last()) else {
            return f.write_str("no orders");
        };
        let median = self.took[self.took.len() / 2];
        let count = self.took.len();
        write!(f, "{count} orders changed again after {first:.1?} to {last:.1?}, median {median:.1?}")
    }
}
