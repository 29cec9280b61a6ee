//! The cluster's records in memory: the rules themselves, with a clock that can be set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use order_service::domain::Timestamp;
use order_service::domain::membership::{Change, Incarnation, NewMember, SlotOwner, View, Vote};
use order_service::ports::members::{ChangeError, Joined, MemberError, MemberStore, Renewal, ViewUpdate};

/// So long a node that is gone is still told of.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A handle to the records; its clones are handles to the same.
#[derive(Clone)]
pub struct MemoryMembers {
    records: Arc<Mutex<Records>>,
    clock: Clock,
}

impl fmt::Debug for MemoryMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMembers").finish_non_exhaustive()
    }
}

struct Records {
    view: View,
    votes: BTreeMap<(Incarnation, Incarnation), Timestamp>,
    last: i64,
}

impl MemoryMembers {
    /// Nobody is in, and nobody owns any of `slots` slots.
    pub fn new(slots: usize, clock: Clock) -> Self {
        let records = Records { view: View::empty(slots), votes: BTreeMap::new(), last: 0 };
        Self { records: Arc::new(Mutex::new(records)), clock }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Records, Timestamp) -> T) -> T {
        let mut records = self.records.lock().unwrap();
        let now = (self.clock)();
        work(&mut records, now)
    }
}

#[async_trait]
impl MemberStore for MemoryMembers {
    async fn join(&self, new: &NewMember) -> Result<Joined, MemberError> {
        self.with(|records, now| {
            let incarnation = Incarnation(records.last + 1);
            if records.view.join(new, incarnation, now).is_err() {
                let rival = records.view.all_live().find(|member| {
                    member.name == new.name && member.address != new.address && member.lease_until >= now
                });
                return Err(MemberError::NameTaken { address: rival.unwrap().address.clone() });
            }
            records.last += 1;
            Ok(Joined { incarnation, version: records.view.version })
        })
    }

    async fn renew(
        &self,
        node: Incarnation,
        lease: Duration,
        live_orders: i64,
    ) -> Result<Renewal, MemberError> {
        self.with(|records, now| {
            let is_member = records.view.renew(node, lease, now);
            if let Some(member) = records.view.members.get_mut(&node).filter(|_| is_member) {
                member.live_orders = live_orders;
            }
            let overdue = records.view.all_live().filter(|member| member.lease_until < now);
            let overdue = overdue.map(|member| member.incarnation).collect();
            Ok(Renewal { is_member, version: records.view.version, now, overdue })
        })
    }

    async fn view(&self, since: i64) -> Result<ViewUpdate, MemberError> {
        self.with(|records, now| {
            let view = &records.view;
            let is_told = |node: Incarnation, silent_at: Option<Timestamp>| {
                let lately = silent_at.is_some_and(|at| at > now - REMEMBERED);
                view.live(node).is_some() || view.slots_of(node) > 0 || lately
            };
            let members = view.members.values();
            let slots = (0u16..).zip(&view.slots).filter(|(_, slot)| slot.epoch > since);
            Ok(ViewUpdate {
                version: view.version,
                now,
                members: members.filter(|one| is_told(one.incarnation, one.silent_at)).cloned().collect(),
                slots: slots.map(|(slot, owner)| (slot, *owner)).collect(),
            })
        })
    }

    async fn change(&self, expected: i64, change: &Change) -> Result<i64, ChangeError> {
        self.with(|records, now| {
            let votes = records.votes.iter();
            let votes: Vec<Vote> = votes
                .map(|((suspect, voter), at)| Vote { suspect: *suspect, voter: *voter, at: *at })
                .collect();
            records.view.apply(expected, change, &votes, now).map_err(|_| ChangeError::Refused)?;
            Ok(records.view.version)
        })
    }

    async fn vote(&self, suspect: Incarnation, voter: Incarnation) -> Result<(), MemberError> {
        self.with(|records, now| records.votes.insert((suspect, voter), now));
        Ok(())
    }

    async fn withdraw(&self, suspect: Incarnation, voter: Incarnation) -> Result<(), MemberError> {
        self.with(|records, _| records.votes.remove(&(suspect, voter)));
        Ok(())
    }

    async fn close(&self) {}
}

/// Takes in what is new since a view.
pub fn take_in(view: &mut View, update: ViewUpdate) {
    view.version = update.version;
    view.members = update.members.into_iter().map(|member| (member.incarnation, member)).collect();
    for (slot, owner) in update.slots {
        view.slots[usize::from(slot)] = owner;
    }
}

/// The whole view that a store gives, of so many slots.
pub async fn whole(store: &dyn MemberStore, slots: usize) -> View {
    let mut view = View { slots: vec![SlotOwner::default(); slots], ..View::default() };
    take_in(&mut view, store.view(0).await.unwrap());
    view
}
