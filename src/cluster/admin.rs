//! What operators ask of the cluster through this node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Cluster, LOOK};
use crate::domain::Timestamp;
use crate::domain::ids::SLOTS;
use crate::domain::membership::{Incarnation, NodeState, View};
use crate::ports::cluster::{ClusterAdmin, DrainError, DrainProgress};
use crate::ports::members::MemberError;

/// How long a node may take to begin with a drain.
const BEGIN: Duration = Duration::from_secs(2);

#[async_trait]
impl ClusterAdmin for Arc<Cluster> {
    fn me(&self) -> Incarnation {
        Cluster::me(self)
    }

    async fn view(&self) -> Result<(Arc<View>, Timestamp), MemberError> {
        let cluster = Arc::clone(self);
        let read = self.handle.spawn(async move { cluster.store.view(0).await });
        let update = read
            .await
            .unwrap_or_else(|_| Err(MemberError::Unavailable(String::from("the node is stopping"))))?;
        let mut view = View { version: update.version, ..View::empty(usize::from(SLOTS)) };
        view.members = update.members.into_iter().map(|member| (member.incarnation, member)).collect();
        for (slot, owner) in update.slots {
            if let Some(known) = view.slots.get_mut(usize::from(slot)) {
                *known = owner;
            }
        }
        Ok((Arc::new(view), update.now))
    }

    async fn drain(
        &self,
        node: Incarnation,
    ) -> Result<mpsc::Receiver<Result<DrainProgress, DrainError>>, DrainError> {
        let (sender, receiver) = mpsc::channel(1);
        if node == Cluster::me(self) {
            let mut progress = self.drain_here();
            tokio::spawn(async move {
                while let Some(progress) = progress.recv().await {
                    if sender.send(Ok(progress)).await.is_err() {
                        return;
                    }
                }
            });
            return Ok(receiver);
        }
        let known = self.table.known();
        let member = known.view.live(node).cloned().ok_or(DrainError::NoSuchNode)?;
        let mut told =
            self.watches.drain(&member.address, node, BEGIN).await.map_err(DrainError::Unreachable)?;
        tokio::spawn(async move {
            loop {
                let next = match told.message().await {
                    Ok(Some(progress)) => Ok(DrainProgress {
                        slots_left: usize::try_from(progress.slots_left).unwrap_or(0),
                        slots_at_start: usize::try_from(progress.slots_at_start).unwrap_or(0),
                    }),
                    Ok(None) => return,
                    Err(status) => Err(DrainError::Unreachable(status.message().to_owned())),
                };
                let is_last = next.is_err();
                if sender.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// How this node takes part.
#[derive(Clone, Debug)]
pub struct Standing {
    /// This life.
    pub me: Incarnation,
    /// For how long it may go on to serve without another renewal.
    pub lease_left: Duration,
    /// The newest view that it knows.
    pub view: Arc<View>,
}

impl Standing {
    /// Slots that nobody owns, or whose owner is gone.
    pub fn unowned(&self) -> usize {
        let is_live = |node: Incarnation| self.view.live(node).is_some();
        self.view.slots.iter().filter(|slot| !slot.owner.is_some_and(is_live)).count()
    }

    /// Whether it is on its way out, and others stay.
    pub fn is_leaving(&self) -> bool {
        let is_active = self.view.members.get(&self.me).is_some_and(|node| node.state == NodeState::Active);
        !is_active && self.view.all_active().next().is_some()
    }

    /// Slots that it has to hand over before it owns none that others could take.
    pub fn left_to_hand_over(&self) -> usize {
        match self.view.all_active().any(|node| node.incarnation != self.me) {
            true => self.view.slots_of(self.me),
            false => 0,
        }
    }
}

impl Cluster {
    /// How this node takes part, by what it knows. Asks nobody.
    pub fn standing(&self) -> Standing {
        let view = Arc::clone(&self.table.known().view);
        Standing { me: self.me(), lease_left: self.table.lease.left(), view }
    }

    /// Runs something where this node does what it does to be in its cluster.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // It ends with that thread.
        let _task = self.handle.spawn(work);
    }

    /// Begins to hand over everything that others can take, for good.
    pub fn begin_drain(self: &Arc<Self>) {
        self.begin_to_leave();
    }

    /// Hands over everything that others can take, and tells how far that is until nothing is left or nobody is there to
    /// take it.
    pub(super) fn drain_here(self: &Arc<Self>) -> mpsc::Receiver<DrainProgress> {
        let (sender, receiver) = mpsc::channel(1);
        let cluster = Arc::clone(self);
        cluster.begin_to_leave();
        tokio::spawn(async move {
            let (me, mut changes) = (cluster.me(), cluster.table.changes());
            let slots_at_start = cluster.table.known().view.slots_of(me);
            let mut last = None;
            loop {
                changes.mark_unchanged();
                let view = Arc::clone(&cluster.table.known().view);
                let progress = DrainProgress { slots_left: view.slots_of(me), slots_at_start };
                if last != Some(progress) && sender.send(progress).await.is_err() {
                    return;
                }
                last = Some(progress);
                let is_leaving = view.members.get(&me).is_none_or(|node| node.state != NodeState::Active);
                let nobody_takes = view.all_active().next().is_none();
                if is_leaving && (progress.slots_left == 0 || nobody_takes) {
                    return;
                }
                // Both mean to look again.
                let _news = tokio::time::timeout(LOOK, changes.changed()).await;
                if sender.is_closed() || cluster.stopped.is_cancelled() {
                    return;
                }
            }
        });
        receiver
    }
}
