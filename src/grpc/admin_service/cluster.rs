//! What operators ask of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::AdminApi;
use crate::cluster::{Cluster, Ring};
use crate::domain::Timestamp;
use crate::domain::error::OrderError;
use crate::domain::ids::SLOTS;
use crate::domain::membership::{Incarnation, Member, View};
use crate::grpc::convert::time;
use crate::grpc::status::to_status;
use crate::grpc::validate::Checker;
use crate::ports::cluster::{ClusterAdmin, DrainError};
use crate::proto::admin as pb;

/// Nodes that a plan may add.
const ADDED_MOST: i32 = 1_000;

/// How far a drain is.
pub(super) type DrainStream = ReceiverStream<Result<pb::DrainNodeProgress, Status>>;

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// How many slots each of these should own.
fn shares<T: Copy + Ord>(ring: &Ring<T>) -> BTreeMap<T, usize> {
    let mut shares = BTreeMap::new();
    for place in (0..SLOTS).filter_map(|slot| ring.place(slot)) {
        let share: &mut usize = shares.entry(place).or_default();
        *share = share.saturating_add(1);
    }
    shares
}

impl AdminApi {
    pub(super) async fn nodes(&self) -> Result<pb::ListNodesResponse, OrderError> {
        let Some(cluster) = &self.cluster else { return Ok(self.alone()) };
        let (view, now) = newest(cluster).await?;
        let wanted = shares(&Ring::of(&view));
        let mut members: Vec<&Member> = view.members.values().collect();
        members.sort_by(|one, other| (&one.name, one.incarnation).cmp(&(&other.name, other.incarnation)));
        let nodes = members.into_iter().map(|member| {
            let life = member.incarnation;
            let slots_wanted = wanted.get(&life).copied().unwrap_or(0);
            node(member, view.slots_of(life), slots_wanted, now, life == cluster.me())
        });
        Ok(pb::ListNodesResponse {
            nodes: nodes.collect(),
            view_version: view.version,
            slots: i32::from(SLOTS),
        })
    }

    /// A node that has the store to itself.
    fn alone(&self) -> pb::ListNodesResponse {
        let node = pb::ClusterNode {
            name: String::from("(no cluster)"),
            state: String::from("ACTIVE"),
            slots: i32::from(SLOTS),
            slots_wanted: i32::from(SLOTS),
            live_orders: i64::try_from(self.orders.counts().live).unwrap_or(i64::MAX),
            weight: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            answers: true,
            ..Default::default()
        };
        pb::ListNodesResponse { nodes: vec![node], view_version: 0, slots: i32::from(SLOTS) }
    }

    pub(super) async fn slots(&self) -> Result<pb::ListSlotsResponse, OrderError> {
        let Some(cluster) = &self.cluster else {
            let owner = String::from("(no cluster)");
            let last = i32::from(SLOTS.saturating_sub(1));
            let all = pb::SlotRange { first: 0, last, owner, ..Default::default() };
            return Ok(pb::ListSlotsResponse { ranges: vec![all], view_version: 0 });
        };
        let (view, _) = newest(cluster).await?;
        let ring = Ring::of(&view);
        let name = |life: Option<Incarnation>| {
            let member = life.and_then(|life| view.members.get(&life));
            member.map_or_else(String::new, |member| member.name.clone())
        };
        let mut ranges: Vec<pb::SlotRange> = Vec::new();
        for (slot, owned) in (0..SLOTS).zip(&view.slots) {
            let wanted = ring.place(slot).filter(|place| Some(*place) != owned.owner);
            let one = pb::SlotRange {
                first: i32::from(slot),
                last: i32::from(slot),
                owner: name(owned.owner),
                incarnation: owned.owner.map_or(0, |owner| owner.0),
                epoch: owned.epoch,
                wanted: name(wanted),
            };
            match ranges.last_mut() {
                Some(range)
                    if (range.incarnation, range.epoch, &range.wanted)
                        == (one.incarnation, one.epoch, &one.wanted) =>
                {
                    range.last = one.last;
                }
                _ => ranges.push(one),
            }
        }
        Ok(pb::ListSlotsResponse { ranges, view_version: view.version })
    }

    pub(super) async fn drain(&self, request: pb::DrainNodeRequest) -> Result<DrainStream, OrderError> {
        let mut check = Checker::default();
        let Some(cluster) = &self.cluster else {
            check.bad("node", "expected a node of a cluster, and this one has the store to itself");
            return Err(check.finish().err().unwrap_or(OrderError::NotOwner));
        };
        let (view, _) = newest(cluster).await?;
        let found = view.all_live().find(|member| member.name == request.node);
        let Some(member) = found else {
            check.bad("node", format!("expected the name of a node that is in: {}", names(&view)));
            return Err(check.finish().err().unwrap_or(OrderError::NotOwner));
        };
        let away =
            OrderError::DependencyUnavailable { dependency: format!("node {}", member.name), order_id: None };
        let mut progress = cluster.drain(member.incarnation).await.map_err(|error| {
            tracing::warn!(node = member.name, %error, "a drain could not be asked for");
            away.clone()
        })?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(next) = progress.recv().await {
                let told = match next {
                    Ok(progress) => Ok(pb::DrainNodeProgress {
                        slots_left: count(progress.slots_left),
                        slots_at_start: count(progress.slots_at_start),
                    }),
                    Err(DrainError::NoSuchNode | DrainError::Unreachable(_)) => Err(to_status(&away)),
                };
                if sender.send(told).await.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    pub(super) async fn plan(
        &self,
        request: pb::PlanClusterRequest,
    ) -> Result<pb::PlanClusterResponse, OrderError> {
        let mut check = Checker::default();
        if !(0..=ADDED_MOST).contains(&request.add) {
            check.bad("add", format!("expected 0 to {ADDED_MOST} nodes"));
        }
        let view = match &self.cluster {
            Some(cluster) => newest(cluster).await?.0,
            None => Arc::new(View::empty(usize::from(SLOTS))),
        };
        let now: BTreeMap<&str, u32> =
            view.all_active().map(|member| (member.name.as_str(), member.weight)).collect();
        let removed: BTreeSet<&str> = request.remove.iter().map(String::as_str).collect();
        if let Some(unknown) = removed.iter().find(|name| !now.contains_key(**name)) {
            check.bad(
                "remove",
                format!("there is no active node {unknown}; expected some of {}", names(&view)),
            );
        }
        let added: Vec<String> = (1..=request.add)
            .map(|number| format!("new-{number}"))
            .filter(|name| !now.contains_key(name.as_str()))
            .collect();
        let then: BTreeMap<&str, u32> = now
            .iter()
            .filter(|(name, _)| !removed.contains(**name))
            .map(|(name, weight)| (*name, *weight))
            .chain(added.iter().map(|name| (name.as_str(), 1)))
            .collect();
        if then.is_empty() {
            check.bad("remove", "expected that at least one node is left");
        }
        check.finish()?;
        let ring = |nodes: &BTreeMap<&'_ str, u32>| {
            let all: Vec<(String, u32)> =
                nodes.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
            let ring = Ring::new(
                all.iter().enumerate().map(|(index, (name, weight))| (name.as_str(), *weight, index)),
            );
            let names: Vec<String> = all.into_iter().map(|(name, _)| name).collect();
            (0..SLOTS)
                .map(|slot| ring.place(slot).and_then(|index| names.get(index).cloned()).unwrap_or_default())
                .collect::<Vec<String>>()
        };
        let (before, after) = (ring(&now), ring(&then));
        let moves = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        let share =
            |places: &[String], name: &str| count(places.iter().filter(|place| *place == name).count());
        let all: BTreeSet<&str> = now.keys().chain(then.keys()).copied().collect();
        let nodes = all.into_iter().map(|name| pb::PlannedNode {
            name: name.to_owned(),
            slots_now: share(&before, name),
            slots_then: share(&after, name),
            change: String::from(match (now.contains_key(name), then.contains_key(name)) {
                (true, true) => "STAYS",
                (false, _) => "ADDED",
                (true, false) => "REMOVED",
            }),
        });
        Ok(pb::PlanClusterResponse { nodes: nodes.collect(), moves: count(moves), slots: i32::from(SLOTS) })
    }
}

async fn newest(cluster: &Arc<Cluster>) -> Result<(Arc<View>, Timestamp), OrderError> {
    cluster.view().await.map_err(|error| {
        tracing::warn!(%error, "the cluster's records could not be read for an operator");
        OrderError::StorageUnavailable
    })
}

fn names(view: &View) -> String {
    let names: Vec<&str> = view.all_live().map(|member| member.name.as_str()).collect();
    names.join(", ")
}

fn node(
    member: &Member,
    slots: usize,
    slots_wanted: usize,
    now: Timestamp,
    answers: bool,
) -> pb::ClusterNode {
    let left = member.lease_until.signed_duration_since(now).to_std().unwrap_or_default();
    pb::ClusterNode {
        name: member.name.clone(),
        incarnation: member.incarnation.0,
        address: member.address.clone(),
        state: member.state.as_str().to_owned(),
        slots: count(slots),
        slots_wanted: count(slots_wanted),
        live_orders: member.live_orders,
        lease_left: member.state.is_live().then(|| prost_types::Duration::try_from(left).ok()).flatten(),
        weight: i32::try_from(member.weight).unwrap_or(i32::MAX),
        version: member.version.clone(),
        build: member.build.clone(),
        started_at: Some(time(member.started_at)),
        answers,
    }
}
