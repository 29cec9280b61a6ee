//! The same operations on Postgres and on the rules themselves: no difference.

use std::time::Duration;

use order_service::domain::membership::{Change, Incarnation, Member, NewMember, View};
use order_service::ports::members::{MemberStore, ViewUpdate};

use super::{Database, Memory, SLOTS, Stage, Way, new};
use crate::harness::Chance;
use crate::harness::members::take_in;

const SEEDS: u64 = 4;
const STEPS: usize = 120;

/// What passes is whole steps of this; leases and times for reads end between, so that a moment more or less does not
/// matter.
const STEP: Duration = Duration::from_secs(1_000);
const BETWEEN: Duration = Duration::from_secs(500);

struct Pair {
    postgres: Database,
    memory: Memory,
    ways: [Way; 2],
    chance: Chance,
    last: i64,
    votes: Vec<(Incarnation, Incarnation)>,
}

/// A member without the small differences of its times.
fn roughly(member: &Member, now: chrono::DateTime<chrono::Utc>) -> String {
    let steps = |at: chrono::DateTime<chrono::Utc>| {
        // To the nearest quarter of a step.
        ((at - now).num_milliseconds() as f64 / 250_000.0).round() as i64
    };
    let (started, lease) = (steps(member.started_at), steps(member.lease_until));
    let silent = member.silent_at.map(steps);
    let plain = Member { started_at: now, lease_until: now, silent_at: None, ..member.clone() };
    format!("{plain:?} started {started} lease {lease} silent {silent:?}")
}

fn told(update: &ViewUpdate) -> (i64, Vec<String>, &[(u16, order_service::domain::membership::SlotOwner)]) {
    let mut members: Vec<String> = update.members.iter().map(|member| roughly(member, update.now)).collect();
    members.iter_mut().for_each(|member| *member = member.replace(&format!("{:?}", update.now), "now"));
    (update.version, members, &update.slots)
}

impl Pair {
    async fn new(seed: u64) -> Self {
        let (postgres, memory) = (Database::fresh().await, Memory::fresh().await);
        let ways = [Way::of(&postgres).await, Way::of(&memory).await];
        Self { postgres, memory, ways, chance: Chance::new(seed), last: 1, votes: Vec::new() }
    }

    fn stores(&self) -> [&dyn MemberStore; 2] {
        [&*self.ways[0].0, &*self.ways[1].0]
    }

    /// Most of the time one that is live.
    fn node(&mut self, view: &View) -> Incarnation {
        let live: Vec<Incarnation> = view.all_live().map(|member| member.incarnation).collect();
        if live.is_empty() || self.chance.percent(15) {
            return Incarnation(self.chance.below(self.last + 2));
        }
        self.chance.pick(&live)
    }

    /// Slots near each other, so that they meet; most of the time those of `of`.
    fn slots(&mut self, view: &View, of: Option<Incarnation>) -> Vec<u16> {
        let owned = (0u16..48).filter(|slot| view.slots[usize::from(*slot)].owner == of);
        let owned: Vec<u16> = owned.collect();
        let count = self.chance.below(6);
        let slots = (0..count).map(|_| match self.chance.percent(95) && !owned.is_empty() {
            true => self.chance.pick(&owned),
            false => self.chance.below(48) as u16,
        });
        slots.collect()
    }

    fn pause(&mut self) -> Duration {
        STEP * self.chance.below(3) as u32 + BETWEEN
    }

    async fn step(&mut self, view: &View) {
        let (node, by, other) = (self.node(view), self.node(view), self.node(view));
        let change = match self.chance.below(16) {
            0 | 1 => return self.join().await,
            2..=4 => {
                let (lease, orders) = (self.pause(), self.chance.below(50));
                let [one, two] = self.stores();
                let (one, two) = (
                    one.renew(node, lease, orders).await.unwrap(),
                    two.renew(node, lease, orders).await.unwrap(),
                );
                let told = (one.is_member, one.version, one.overdue);
                return assert_eq!(told, (two.is_member, two.version, two.overdue), "renewal of {node}");
            }
            5 => {
                let time = STEP * (1 + self.chance.below(2) as u32);
                self.postgres.pass(time).await;
                return self.memory.pass(time).await;
            }
            6 | 7 => Change::Expire { node, by },
            8 => {
                self.vote(node, view).await;
                Change::VoteOut { node, by }
            }
            9 => Change::Leave { node },
            10 => Change::End { node },
            11 | 12 => Change::Grant { from: node, to: other, slots: self.slots(view, Some(node)) },
            13 | 14 => {
                let gone = view.members.values().find(|member| !member.state.is_live());
                let of = gone.map(|member| member.incarnation).filter(|_| self.chance.percent(50));
                Change::Take { by: node, slots: self.slots(view, of) }
            }
            _ => Change::Touch,
        };
        let expected = view.version - i64::from(self.chance.percent(5));
        let [one, two] = self.stores();
        let made = one.change(expected, &change).await;
        assert_eq!(made, two.change(expected, &change).await, "{change:?}");
    }

    async fn join(&mut self) {
        let name = self.chance.pick(&["a", "b", "c", "d", "e", "f", "g"]);
        let mut joining = NewMember { lease: self.pause(), read_for: self.pause() / 2, ..new(name) };
        if self.chance.percent(40) {
            joining.address = format!("{}:1", self.chance.below(4));
        }
        let [one, two] = self.stores();
        let (one, two) = (one.join(&joining).await, two.join(&joining).await);
        assert_eq!(one, two, "{joining:?}");
        self.last = one.map_or(self.last, |joined| joined.incarnation.0);
    }

    /// Votes anew, by some: earlier ones are taken back, for they may be just at their end.
    async fn vote(&mut self, suspect: Incarnation, view: &View) {
        for (suspect, voter) in std::mem::take(&mut self.votes) {
            for store in self.stores() {
                store.withdraw(suspect, voter).await.unwrap();
            }
        }
        for member in view.members.values() {
            if self.chance.percent(60) {
                self.votes.push((suspect, member.incarnation));
                for store in self.stores() {
                    store.vote(suspect, member.incarnation).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn postgres_and_the_rules_come_to_the_same() {
    for seed in 0..SEEDS {
        let mut pair = Pair::new(seed).await;
        let mut view = View { slots: vec![Default::default(); SLOTS], ..View::default() };
        for step in 0..STEPS {
            pair.step(&view).await;
            let since = if step % 20 == 0 { 0 } else { view.version };
            let [one, two] = pair.stores();
            let (one, two) = (one.view(since).await.unwrap(), two.view(since).await.unwrap());
            assert_eq!(told(&one), told(&two), "seed {seed}, step {step}");
            take_in(&mut view, one);
        }
        println!("seed {seed}: {} views, {} lives", view.version, pair.last);
    }
}
