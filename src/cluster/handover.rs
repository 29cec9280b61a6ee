//! Handing slots over to another node: calls for them wait, what runs comes to rest, the grant is stored, and the calls go
//! on where the slots are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use super::lease::BootTime;
use super::table::Door;
use crate::domain::membership::{Change, Incarnation, NodeState};
use crate::ports::members::ChangeError;

/// How long the actors of closed slots may take to end: each ends after what it is just storing.
const ENDING: Duration = Duration::from_secs(1);
/// How often a grant is tried when the view changes under it.
const TRIES: u32 = 20;
/// Tries after which a store that takes no changes is left alone.
const FAILURES: u32 = 2;
/// The longest pause after a try that met a newer view; grows with each.
const COLLISION: Duration = Duration::from_millis(2);
/// Nodes that may hand over at the same time without getting in each other's way.
const FEW: usize = 3;
/// By how much each node more spreads them.
const APART: Duration = Duration::from_millis(10);
/// How far they are spread at most.
const APART_MOST: Duration = Duration::from_millis(500);
/// How long the receiver may take to hear of a grant before the calls are sent there.
const TELLING: Duration = Duration::from_millis(50);
/// The pause after the records could not be changed.
const PAUSE: Duration = Duration::from_millis(100);

/// Hands a batch of slots over, or opens them again; tells whether it was handed over.
pub(super) async fn give(cluster: &Arc<Cluster>, to: Incarnation, slots: Vec<u16>) -> bool {
    let Some(orders) = cluster.orders() else { return false };
    // Whoever else hands over now shall not all meet while their doors are shut: with more nodes they wait longer.
    let others = cluster.table.known().view.all_live().count().saturating_sub(FEW);
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    tokio::time::sleep(cluster.pause(APART.saturating_mul(others).min(APART_MOST))).await;
    let started = BootTime::now();
    let all: BTreeSet<u16> = slots.iter().copied().collect();
    set_doors(cluster, &all, Door::Held);
    let rested = orders.rest(&all, cluster.config.handover_rest).await;
    // From here on nothing of these slots can be stored by this node.
    set_doors(cluster, &all, Door::Closed);
    let ended = orders.let_go(&all, ENDING).await;
    let granted = grant(cluster, to, &slots).await;
    if granted.is_none() {
        reopen(cluster, &all);
    }
    let pause = BootTime::now().since(started);
    metrics::histogram!("order_cluster_handover_seconds").record(pause.as_secs_f64());
    if let Some(version) = granted {
        metrics::counter!("order_cluster_slots_given_total")
            .increment(u64::try_from(slots.len()).unwrap_or(u64::MAX));
        tracing::info!(
            slots = slots.len(),
            %to,
            view = version,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            rested,
            ended,
            "handed slots over"
        );
    }
    granted.is_some()
}

fn set_doors(cluster: &Cluster, slots: &BTreeSet<u16>, door: Door) {
    for slot in slots {
        cluster.table.set_door(*slot, door);
    }
}

/// Opens what is still this node's own, and takes up what was interrupted.
fn reopen(cluster: &Cluster, slots: &BTreeSet<u16>) {
    let (me, known) = (cluster.me(), cluster.table.known());
    let mine: Vec<u16> = slots
        .iter()
        .copied()
        .filter(|slot| known.view.slots.get(usize::from(*slot)).is_some_and(|slot| slot.owner == Some(me)))
        .collect();
    for slot in &mine {
        cluster.table.set_door(*slot, Door::Open);
    }
    cluster.table.note_change();
    if let Some(orders) = cluster.orders() {
        orders.take_up(mine);
    }
}

/// Stores the grant; none when it was not made, and surely never will be.
async fn grant(cluster: &Arc<Cluster>, to: Incarnation, slots: &[u16]) -> Option<i64> {
    let from = cluster.me();
    for tries in 0..TRIES {
        let known = cluster.table.known();
        let takes = known.view.members.get(&to).is_some_and(|member| member.state == NodeState::Active);
        let is_mine = |slot: &u16| {
            known.view.slots.get(usize::from(*slot)).is_some_and(|slot| slot.owner == Some(from))
        };
        if !takes || !slots.iter().all(is_mine) {
            return None;
        }
        let (version, change) = (known.view.version, Change::Grant { from, to, slots: slots.to_vec() });
        match cluster.store.change(version, &change).await {
            Ok(version) => {
                // The receiver first: calls are about to be sent there. Those that come too early catch up by themselves.
                let telling = tokio::time::timeout(TELLING, cluster.announce(version, Some(to)));
                let _told = tokio::join!(telling, cluster.know(version));
                return Some(version);
            }
            Err(ChangeError::Refused) => {
                cluster.look(version).await;
                tokio::time::sleep(cluster.pause(COLLISION.saturating_mul(tries))).await;
            }
            Err(ChangeError::NotMade(why)) => {
                tracing::warn!(why, "slots could not be handed over; trying again");
                if tries >= FAILURES {
                    return None;
                }
                tokio::time::sleep(cluster.pause(PAUSE)).await;
            }
            // It may still arrive; nothing is opened before it cannot.
            Err(ChangeError::Unknown(why)) => {
                tracing::warn!(why, "it is not known whether slots were handed over; finding out");
                make_certain(cluster).await;
            }
        }
    }
    None
}

/// Comes back once nothing that was sent before can change the view any more.
async fn make_certain(cluster: &Arc<Cluster>) {
    loop {
        let version = cluster.table.version();
        match cluster.store.change(version, &Change::Touch).await {
            Ok(version) => {
                cluster.know(version).await;
                return;
            }
            Err(ChangeError::Refused) => {
                // If the newest view is another one already, what was sent for the old one is refused.
                if cluster.look(version).await && cluster.table.version() > version {
                    return;
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}
