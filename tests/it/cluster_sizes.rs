//! What membership costs with 64 and with 500 nodes: what moves, how often the view changes, and what all nodes together
//! ask of each other and of the database. `--nocapture` prints the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::DateTime;
use order_service::cluster::Ring;
use order_service::domain::Timestamp;
use order_service::domain::ids::SLOTS;
use order_service::domain::membership::{
    Change, Incarnation, NewMember, NodeState, Refusal, View, Vote, WATCHERS,
};

const LEASE: Duration = Duration::from_secs(6);
const RENEW_EVERY: Duration = Duration::from_secs(1);
const READ_FOR: Duration = Duration::from_millis(1_500);
const PROBE_EVERY: Duration = Duration::from_millis(300);
/// Slots that change hands with one change.
const BATCH: usize = 64;

/// Nodes that all know the newest view and do at once what it asks of them.
struct Cluster {
    view: View,
    now: Timestamp,
    started: i64,
}

/// What a node's coming or going took.
#[derive(Default)]
struct Cost {
    /// Slots that changed hands, and between whom: by the former and the new owner.
    moves: BTreeMap<(Option<Incarnation>, Incarnation), usize>,
    /// New views.
    changes: u32,
    /// Nodes that change the view at the same time; one of them succeeds, and the others try again.
    at_once: u64,
    ring: Duration,
    rules: Duration,
}

impl Cluster {
    fn of(nodes: usize) -> (Self, Cost) {
        let view = View::empty(usize::from(SLOTS));
        let mut cluster = Self { view, now: DateTime::from_timestamp(1_000_000, 0).unwrap(), started: 0 };
        let mut cost = Cost::default();
        for _ in 0..nodes {
            cluster.start(&mut cost);
        }
        cluster.settle(&mut cost);
        (cluster, cost)
    }

    fn start(&mut self, cost: &mut Cost) -> Incarnation {
        self.started += 1;
        let me = Incarnation(self.started);
        let new = NewMember {
            name: format!("node-{me}"),
            address: format!("10.0.0.1:{me}"),
            weight: 1,
            version: String::from("0.1.0"),
            build: String::new(),
            lease: LEASE,
            read_for: READ_FOR,
        };
        let start = Instant::now();
        self.view.join(&new, me, self.now).unwrap();
        cost.rules += start.elapsed();
        cost.changes += 1;
        me
    }

    fn change(&mut self, change: &Change, votes: &[Vote], cost: &mut Cost) -> Result<(), Refusal> {
        let start = Instant::now();
        let done = self.view.apply(self.view.version, change, votes, self.now);
        cost.rules += start.elapsed();
        cost.changes += u32::from(done.is_ok());
        done
    }

    /// Brings every slot to where the ring wants it: live owners grant, free slots are taken.
    fn settle(&mut self, cost: &mut Cost) {
        let start = Instant::now();
        let ring = Ring::of(&self.view);
        cost.ring += start.elapsed();
        let mut due: BTreeMap<(Option<Incarnation>, Incarnation), Vec<u16>> = BTreeMap::new();
        for slot in 0..SLOTS {
            let (owner, place) = (self.view.slots[usize::from(slot)].owner, ring.place(slot).unwrap());
            if owner != Some(place) {
                due.entry((owner, place)).or_default().push(slot);
            }
        }
        // Who gives, or takes.
        let actors: BTreeSet<Incarnation> = due
            .keys()
            .map(|(owner, place)| owner.filter(|owner| self.view.live(*owner).is_some()).unwrap_or(*place))
            .collect();
        cost.at_once = cost.at_once.max(actors.len() as u64);
        for ((owner, place), slots) in due {
            *cost.moves.entry((owner, place)).or_default() += slots.len();
            for slots in slots.chunks(BATCH).map(<[u16]>::to_vec) {
                let change = match owner.filter(|owner| self.view.live(*owner).is_some()) {
                    Some(from) => Change::Grant { from, to: place, slots },
                    None => Change::Take { by: place, slots },
                };
                self.change(&change, &[], cost).unwrap();
            }
        }
        for slot in 0..SLOTS {
            let owner = self.view.slots[usize::from(slot)].owner;
            assert_eq!(owner, ring.place(slot), "slot {slot}");
            assert!(owner.is_some_and(|owner| self.view.live(owner).is_some()), "slot {slot}");
        }
    }

    fn vote_out(&mut self, suspect: Incarnation, cost: &mut Cost) {
        let watchers = self.view.watchers(suspect);
        let vote = |voter: &Incarnation| Vote { suspect, voter: *voter, at: self.now };
        let votes: Vec<Vote> = watchers.iter().map(vote).collect();
        let needed = View::votes_needed(watchers.len());
        let change = Change::VoteOut { node: suspect, by: watchers[0] };
        assert!(self.change(&change, &votes[..needed - 1], cost).is_err(), "too few votes");
        self.change(&change, &votes[..needed], cost).unwrap();
    }

    fn pass(&mut self, time: Duration) {
        self.now += chrono::Duration::from_std(time).unwrap();
    }

    fn live(&self) -> usize {
        self.view.all_live().count()
    }

    /// Everybody is looked after by so many others, and both sides agree on whom. Returns how many pairs there are.
    fn check_watching(&self) -> usize {
        let live: Vec<Incarnation> = self.view.all_live().map(|member| member.incarnation).collect();
        let pairs = |one: &dyn Fn(Incarnation) -> Vec<(Incarnation, Incarnation)>| {
            live.iter().flat_map(|node| one(*node)).collect::<BTreeSet<_>>()
        };
        let watched = pairs(&|node| {
            let watchers = self.view.watchers(node);
            assert_eq!(watchers.len(), WATCHERS.min(live.len() - 1));
            assert!(!watchers.contains(&node));
            watchers.into_iter().map(|watcher| (watcher, node)).collect()
        });
        let watching = pairs(&|node| {
            self.view.watched_by(node).into_iter().map(|member| (node, member.incarnation)).collect()
        });
        assert_eq!(watched, watching);
        watched.len()
    }

    /// What all nodes do while nothing happens.
    fn print_at_rest(&self) {
        let (nodes, pairs) = (self.live(), self.check_watching());
        let probes = pairs as f64 / PROBE_EVERY.as_secs_f64();
        let renewals = nodes as f64 / RENEW_EVERY.as_secs_f64();
        println!("{nodes} nodes at rest: {probes:.0} probes/s, {renewals:.0} statements/s (renewals)");
    }

    fn print(&self, what: &str, cost: &Cost) {
        let nodes = self.live() as u64;
        let moved: usize = cost.moves.values().sum();
        let reads = u64::from(cost.changes) * nodes;
        // Of those that try at once one succeeds, and the rest look and try again.
        let refused = cost.at_once * cost.at_once.saturating_sub(1) / 2;
        println!(
            "{nodes} nodes after {what}: {moved} slots moved (fair share {}), {} new views; statements: {} changes, \
             {reads} reads of views, and {refused} refused changes if all try at once; {:.0?} for the ring, {:.0?} for the rules",
            u64::from(SLOTS) / nodes,
            cost.changes,
            cost.changes,
            cost.ring,
            cost.rules,
        );
    }
}

/// One joins, one leaves, one crashes; nothing moves but what has to.
fn come_and_go(nodes: usize) {
    let (mut cluster, cost) = Cluster::of(nodes);
    cluster.print("a cold start", &cost);
    cluster.print_at_rest();

    let mut cost = Cost::default();
    let joined = cluster.start(&mut cost);
    cluster.settle(&mut cost);
    cluster.print("a join", &cost);
    assert!(cost.moves.keys().all(|(_, to)| *to == joined), "only to the one that joined");
    assert!(cluster.view.slots_of(joined) > 0);

    let (mut cost, leaver) = (Cost::default(), Incarnation(nodes as i64 / 2));
    let owned = cluster.view.slots_of(leaver);
    cluster.change(&Change::Leave { node: leaver }, &[], &mut cost).unwrap();
    cluster.settle(&mut cost);
    cluster.change(&Change::End { node: leaver }, &[], &mut cost).unwrap();
    cluster.print("a leave", &cost);
    assert!(cost.moves.keys().all(|(from, _)| *from == Some(leaver)), "only from the one that left");
    assert_eq!(cost.moves.values().sum::<usize>(), owned);
    cluster.check_watching();

    let (mut cost, crashed) = (Cost::default(), Incarnation(nodes as i64 / 3));
    let owned = cluster.view.slots_of(crashed);
    cluster.vote_out(crashed, &mut cost);
    let slot = (0..SLOTS).find(|slot| cluster.view.slots[usize::from(*slot)].owner == Some(crashed)).unwrap();
    let early = Change::Take { by: joined, slots: vec![slot] };
    assert!(cluster.change(&early, &[], &mut cost).is_err(), "it may still answer");
    cluster.pass(READ_FOR);
    cluster.settle(&mut cost);
    cluster.print("a crash", &cost);
    assert!(cost.moves.keys().all(|(from, _)| *from == Some(crashed)), "only from the one that crashed");
    assert_eq!(cost.moves.values().sum::<usize>(), owned);
    assert_eq!(cluster.view.members[&crashed].state, NodeState::Dead);
    assert_eq!(cluster.live(), nodes - 1);
    cluster.check_watching();
}

#[test]
fn with_64_nodes() {
    come_and_go(64);
}

#[test]
fn with_500_nodes() {
    come_and_go(500);
}

#[test]
fn everybody_is_watched_however_few_there_are() {
    let mut cost = Cost::default();
    let (mut cluster, _) = Cluster::of(1);
    assert_eq!(cluster.check_watching(), 0);
    for nodes in 2..=12 {
        cluster.start(&mut cost);
        assert_eq!(cluster.check_watching(), nodes * WATCHERS.min(nodes - 1));
    }
    // Gaps in the order of incarnations are closed by the next.
    for gone in [12, 1, 6, 7] {
        cluster.vote_out(Incarnation(gone), &mut cost);
        cluster.check_watching();
    }
}
