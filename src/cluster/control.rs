//! What a node does all the time to be in its cluster: renew its lease, look at new views, take and give slots.
//!
//! All of it runs on a thread of its own, which orders and calls do not keep busy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::lease::BootTime;
use super::plan::Plan;
use super::{Cluster, handover, probing};
use crate::domain::Timestamp;
use crate::domain::membership::{Change, Incarnation};
use crate::ports::members::ChangeError;

/// The pause after a renewal that failed, at most.
const RETRY: Duration = Duration::from_millis(100);
/// The pause after the records could not be read or changed.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after slots could not be handed over.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How long after a slot should be free it is asked for again, when the store says that it is not yet.
const SOON: Duration = Duration::from_millis(20);
/// How often the connection for changes is used at least.
const KEEP_WARM: Duration = Duration::from_secs(15);
/// A plan is looked at again after so long without any news.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs until the cluster is stopped.
pub(super) async fn run(cluster: Arc<Cluster>) {
    let [one, two, three, four, five] = [(); 5].map(|()| Arc::clone(&cluster));
    // Renewals wait for nothing else: what they find overdue is judged beside them.
    let (found, overdue) = watch::channel(Overdue::default());
    let all = async move {
        tokio::join!(
            renew(&one, found),
            expire(&two, overdue),
            look(&three),
            steward(&four),
            probing::run(&five)
        );
    };
    cluster.stopped.run_until_cancelled(all).await;
}

/// Since when renewals have been good without a break.
#[derive(Debug, Default)]
struct Unbroken(Option<(BootTime, BootTime)>);

impl Unbroken {
    fn good(&mut self, started: BootTime, lease: Duration) {
        let half = lease.checked_div(2).unwrap_or(lease);
        match &mut self.0 {
            // A longer gap is a break too: this process, or its machine, stood still.
            Some((_, last)) if started.since(*last) < half => *last = started,
            gap => *gap = Some((started, started)),
        }
    }

    fn broken(&mut self) {
        self.0 = None;
    }

    /// Whether they have been good for so long.
    fn is_for(&self, time: Duration) -> bool {
        self.0.is_some_and(|(first, last)| last.since(first) >= time)
    }
}

/// Leases that are over, as the last renewal found them.
#[derive(Debug, Default)]
struct Overdue {
    nodes: BTreeMap<Incarnation, BootTime>,
    /// Whether this node's own renewals have been good for long enough to judge.
    may_judge: bool,
}

impl Overdue {
    /// Notes what a renewal found; each node is overdue since it was first found so without a break.
    fn note(&mut self, found: &[Incarnation], may_judge: bool) {
        let now = BootTime::now();
        self.nodes.retain(|node, _| found.contains(node));
        for node in found {
            self.nodes.entry(*node).or_insert(now);
        }
        self.may_judge = may_judge;
    }
}

async fn renew(cluster: &Arc<Cluster>, overdue: watch::Sender<Overdue>) {
    let config = &cluster.config;
    let mut unbroken = Unbroken::default();
    let mut failing = false;
    loop {
        let (started, known) = (BootTime::now(), cluster.table.version());
        let live =
            i64::try_from(cluster.orders().map_or(0, |orders| orders.counts().live)).unwrap_or(i64::MAX);
        match cluster.store.renew(cluster.me(), config.lease, live).await {
            Ok(renewal) if !renewal.is_member => {
                cluster.die("the other nodes have declared this one dead, because they could not reach it");
                return;
            }
            // Known before it was asked for, and not there any more.
            Ok(renewal) if renewal.version < known => {
                cluster.die(super::GONE_BACK);
                return;
            }
            Ok(renewal) => {
                if failing {
                    tracing::info!("the node's lease is renewed again");
                    failing = false;
                }
                let took = BootTime::now().since(started);
                cluster.table.lease.renewed(started);
                cluster.note_time(renewal.now, took);
                unbroken.good(started, config.lease);
                cluster.heard_of(renewal.version);
                metrics::gauge!("order_cluster_renewal_seconds").set(took.as_secs_f64());
                let may_judge = unbroken.is_for(config.lease);
                overdue.send_modify(|known| known.note(&renewal.overdue, may_judge));
                tokio::time::sleep(config.renew_every.saturating_sub(BootTime::now().since(started))).await;
            }
            Err(error) => {
                unbroken.broken();
                metrics::counter!("order_cluster_renewals_failed_total").increment(1);
                if !failing {
                    tracing::warn!(%error, "the node's lease could not be renewed; trying again");
                    failing = true;
                }
                tokio::time::sleep(RETRY.min(config.renew_every)).await;
            }
        }
    }
}

/// Declares those dead whose lease is over, if this node may judge that: after an outage of the store all leases are over,
/// and nobody is to blame; and when the store's clock is set forward, they seem to be until each node has renewed its own.
async fn expire(cluster: &Arc<Cluster>, mut overdue: watch::Receiver<Overdue>) {
    let patience = cluster.config.renew_every.saturating_mul(3).checked_div(2).unwrap_or_default();
    while overdue.changed().await.is_ok() {
        let (me, now, known) = (cluster.me(), BootTime::now(), cluster.table.known());
        let judged: Vec<Incarnation> = {
            let overdue = overdue.borrow_and_update();
            let is_overdue = |node: &Incarnation| overdue.nodes.contains_key(node);
            // A few are enough to judge. Others only where those are gone too.
            let is_ours = |node: &Incarnation| {
                let watchers = known.view.watchers(*node);
                watchers.contains(&me) || watchers.iter().all(is_overdue)
            };
            let long = overdue.nodes.iter().filter(|(_, since)| now.since(**since) >= patience);
            long.map(|(node, _)| *node)
                .filter(|node| overdue.may_judge && *node != me && is_ours(node))
                .collect()
        };
        for node in judged {
            cluster.change(Change::Expire { node, by: me }).await;
        }
    }
}

/// Reads new views.
async fn look(cluster: &Arc<Cluster>) {
    let mut wanted = cluster.wanted.subscribe();
    loop {
        let (since, aim) = (cluster.table.version(), *wanted.borrow_and_update());
        if aim > since {
            if cluster.look(since).await {
                // There may be no such view after all. One that was heard of meanwhile is another matter.
                let known = cluster.table.version();
                cluster.wanted.send_modify(|wanted| {
                    if *wanted <= aim {
                        *wanted = known;
                    }
                });
            } else {
                tokio::time::sleep(PAUSE).await;
            }
            continue;
        }
        match tokio::time::timeout(KEEP_WARM, wanted.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return,
            // Something between here and the store may forget a connection that says nothing for long; then a change
            // would find that out when it matters.
            Err(_elapsed) => {
                cluster.look(since).await;
            }
        }
    }
}

/// Takes and gives slots, one thing after the other, until nothing is left to do.
async fn steward(cluster: &Arc<Cluster>) {
    let mut changes = cluster.table.changes();
    loop {
        changes.mark_unchanged();
        let (me, known, now) = (cluster.me(), cluster.table.known(), cluster.store_time());
        let plan = Plan::new(&known.view, &known.ring, me, now, cluster.config.handover_batch);
        if !plan.take.is_empty() {
            if !take(cluster, known.view.version, plan.take).await {
                tokio::time::sleep(cluster.pause(SOON.saturating_mul(2))).await;
            }
            continue;
        }
        if let Some((to, slots)) = plan.give {
            if !handover::give(cluster, to, slots).await {
                // What was interrupted for nothing shall not be so again at once.
                tokio::time::sleep(cluster.pause(AFTER_FAILURE)).await;
            }
            continue;
        }
        let pause = plan.take_at.map_or(LOOK_AGAIN, |at| until(at, now).max(SOON)).min(LOOK_AGAIN);
        // Both mean to look again.
        let _news = tokio::time::timeout(pause, changes.changed()).await;
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    at.signed_duration_since(now).to_std().unwrap_or_default()
}

async fn take(cluster: &Arc<Cluster>, version: i64, slots: Vec<u16>) -> bool {
    let count = slots.len();
    match cluster.store.change(version, &Change::Take { by: cluster.me(), slots }).await {
        Ok(version) => {
            cluster.know(version).await;
            tracing::info!(slots = count, view = version, "took slots that nobody owned any more");
            metrics::counter!("order_cluster_slots_taken_total")
                .increment(u64::try_from(count).unwrap_or(u64::MAX));
            cluster.announce(version, None).await;
            true
        }
        Err(ChangeError::Refused) => {
            cluster.look(version).await;
            false
        }
        Err(error) => {
            tracing::warn!(%error, "slots could not be taken; trying again");
            cluster.look(version).await;
            tokio::time::sleep(PAUSE).await;
            false
        }
    }
}
