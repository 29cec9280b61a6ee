//! Looking after other nodes: probes, and votes against those that are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::MissedTickBehavior;

use super::Cluster;
use super::lease::BootTime;
use super::peers::Found;
use super::suspicion::{Suspicion, may_vote};
use crate::domain::membership::{Change, Incarnation, Member};

/// The pause before the second look at an address where nobody was.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// So many others are asked to probe before a vote.
const HELPERS: usize = 3;

/// Probes those that this node looks after, for ever.
pub(super) async fn run(cluster: &Arc<Cluster>) {
    let mut known: BTreeMap<Incarnation, Suspicion> = BTreeMap::new();
    let mut tick = tokio::time::interval(cluster.config.probe_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // Somebody could not be reached by a call.
            () = cluster.doubts.notified() => {
                // Many calls may break at once, and again.
                tokio::time::sleep(cluster.config.probe_every.checked_div(3).unwrap_or_default()).await;
            }
        }
        let view = Arc::clone(&cluster.table.known().view);
        let watched: Vec<Member> = view.watched_by(cluster.me()).into_iter().cloned().collect();
        known.retain(|node, _| watched.iter().any(|member| member.incarnation == *node));
        let found = join_all(watched.iter().map(|member| {
            let before = known.get(&member.incarnation).copied().unwrap_or_default();
            probe(cluster, member, before)
        }));
        for (member, now) in watched.iter().zip(found.await) {
            known.insert(member.incarnation, now);
        }
        for member in &watched {
            judge(cluster, member, &watched, &mut known).await;
        }
    }
}

async fn probe(cluster: &Cluster, member: &Member, mut suspicion: Suspicion) -> Suspicion {
    loop {
        let (started, config) = (BootTime::now(), &cluster.config);
        let version = cluster.table.version();
        let address = &member.address;
        let found = cluster.control.probe(address, member.incarnation, version, config.probe_timeout).await;
        if let Found::Alive(version) = found {
            cluster.heard_of(version);
        }
        if suspicion.is_reached() && !matches!(found, Found::Alive(_)) {
            tracing::debug!(node = member.name, ?found, "a node is not reached");
        }
        // A probe that took much longer than it may was asleep with this process, and says nothing about others.
        if BootTime::now().since(started) > config.probe_timeout.saturating_mul(3) {
            return suspicion;
        }
        suspicion.note(&found, started);
        if !suspicion.wants_another_look() {
            return suspicion;
        }
        tokio::time::sleep(SECOND_LOOK.min(config.probe_every)).await;
    }
}

/// Votes against a member that is gone, or takes a vote back.
async fn judge(
    cluster: &Arc<Cluster>,
    member: &Member,
    watched: &[Member],
    known: &mut BTreeMap<Incarnation, Suspicion>,
) {
    let (node, me) = (member.incarnation, cluster.me());
    let now = BootTime::now();
    let Some(suspicion) = known.get(&node).copied() else { return };
    let is_suspect = suspicion.is_suspect(now, cluster.config.suspect_after);
    if !is_suspect {
        if suspicion.has_voted && suspicion.is_reached() {
            match cluster.store.withdraw(node, me).await {
                Ok(()) => tracing::info!(node = member.name, "a node is reached again"),
                // Votes run out by themselves.
                Err(error) => tracing::debug!(%error, "a vote could not be taken back"),
            }
            if let Some(suspicion) = known.get_mut(&node) {
                suspicion.has_voted = false;
            }
        }
        return;
    }
    // A vote counts for some seconds; the records are not to be hurried.
    if !suspicion.may_vote_again(now) {
        return;
    }
    let others = || watched.iter().filter(|other| other.incarnation != node);
    let is_reached = |other: &&Member| known.get(&other.incarnation).is_some_and(Suspicion::is_reached);
    if !may_vote(others().filter(is_reached).count(), others().count()) {
        tell(known, node, now, "a node is not reached, nor are most others: this node may be cut off");
        return;
    }
    let helpers: Vec<&Member> = others().filter(is_reached).take(HELPERS).collect();
    // A helper has to probe itself, and to answer.
    let patience = cluster.config.probe_timeout.saturating_mul(2);
    let asked = helpers.iter().map(|helper| cluster.control.probe_by(helper, member, patience));
    if join_all(asked).await.into_iter().any(|reached| reached) {
        tell(known, node, now, "a node is not reached from here, but from elsewhere");
        return;
    }
    if !suspicion.has_voted {
        tracing::warn!(node = member.name, address = member.address, "a node is not reached; voting it out");
    }
    match cluster.store.vote(node, me).await {
        Ok(()) => {
            if let Some(suspicion) = known.get_mut(&node) {
                suspicion.has_voted = true;
                suspicion.voted = Some(now);
            }
            cluster.change(Change::VoteOut { node, by: me }).await;
        }
        Err(error) => tracing::warn!(node = member.name, %error, "a vote could not be cast"),
    }
}

/// Says now and then why a node that is not reached is not voted out.
fn tell(known: &mut BTreeMap<Incarnation, Suspicion>, node: Incarnation, now: BootTime, why: &'static str) {
    if let Some(suspicion) = known.get_mut(&node).filter(|suspicion| suspicion.may_tell(now)) {
        suspicion.told = Some(now);
        tracing::warn!(incarnation = %node, "{why}");
    }
}
