//! Whatever happens to the nodes of a cluster, one thing after the other by chance: customers are served, and every law is
//! kept. `ORDER_CLUSTER_SEED` and `ORDER_CLUSTER_STEPS` choose the run.

use std::process::ExitStatus;

use rustix::process::Signal;

use crate::harness::Chance;
use crate::harness::cluster::{Cluster, Plan, by_default, wished};
use crate::harness::cluster_audit::audit;
use crate::harness::links::Link;
use crate::harness::traffic::{Mode, Rate, Traffic};

/// Nodes there may be.
const NODES: usize = 4;
/// So many of them are well at any time.
const WELL: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Well,
    Down,
    Frozen,
    WithoutDatabase,
    WithoutPeers,
    NotReached,
}

struct World {
    cluster: Cluster,
    states: [State; NODES],
}

impl World {
    /// What comes next, and to whom.
    fn next(&self, chance: &mut Chance) -> (usize, State) {
        use State::{Down, Frozen, NotReached, Well, WithoutDatabase, WithoutPeers};
        loop {
            let node = chance.below(NODES as i64) as usize;
            let well = self.states.iter().filter(|state| **state == Well).count();
            if self.states[node] != Well {
                return (node, Well);
            }
            if well > WELL {
                let harms = [Down, Down, Down, Frozen, WithoutDatabase, WithoutPeers, NotReached];
                return (node, chance.pick(&harms));
            }
        }
    }

    async fn becomes(&mut self, node: usize, next: State, politely: bool) {
        match (self.states[node], next) {
            (State::Down, _) => self.cluster.start_node(node).await,
            (State::Frozen, _) => self.cluster.signal(node, Signal::CONT),
            (State::WithoutDatabase, _) => self.cluster.cut_from_database(node, false),
            (State::WithoutPeers, _) => self.cluster.between(node, Link::Open),
            (State::NotReached, _) => self.cluster.toward(node, Link::Open),
            (State::Well, State::Down) if politely && self.others_are_well(node) => {
                self.cluster.stop(node).await;
            }
            (State::Well, State::Down) => self.cluster.kill9(node).await,
            (State::Well, State::Frozen) => self.cluster.signal(node, Signal::STOP),
            (State::Well, State::WithoutDatabase) => self.cluster.cut_from_database(node, true),
            (State::Well, State::WithoutPeers) => self.cluster.between(node, Link::Hung),
            (State::Well, State::NotReached) => self.cluster.toward(node, Link::Reset),
            (State::Well, State::Well) => {}
        }
        self.states[node] = next;
        self.cut_links();
    }

    /// Links are between two: those of nodes that are cut off stay so, whatever becomes of others.
    fn cut_links(&self) {
        for node in 0..NODES {
            match self.states[node] {
                State::WithoutPeers => self.cluster.between(node, Link::Hung),
                State::NotReached => self.cluster.toward(node, Link::Reset),
                _ => {}
            }
        }
    }

    fn others_are_well(&self, node: usize) -> bool {
        let ill = |state: &State| !matches!(state, State::Well | State::Down);
        !self.states.iter().enumerate().any(|(other, state)| other != node && ill(state))
    }

    /// Notes who has ended: whoever is given up does so, as an error.
    fn look(&mut self) {
        for node in 0..NODES {
            if let Some(status) = self.cluster.has_ended(node) {
                assert!(gave_up(status), "{} ended with {status}", self.cluster.name(node));
                println!("{} gave itself up", self.cluster.name(node));
                self.mend(node);
                self.states[node] = State::Down;
                self.cut_links();
            }
        }
    }

    fn mend(&self, node: usize) {
        match self.states[node] {
            State::WithoutDatabase => self.cluster.cut_from_database(node, false),
            State::WithoutPeers => self.cluster.between(node, Link::Open),
            State::NotReached => self.cluster.toward(node, Link::Open),
            _ => {}
        }
    }
}

fn gave_up(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code != 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_its_nodes_a_cluster_keeps_every_law() {
    let seed = wished("ORDER_CLUSTER_SEED", 1);
    let mut chance = Chance::new(seed);
    let plan = Plan { breakable: true, settings: by_default(), ..Plan::of(NODES) };
    let mut world = World { cluster: Cluster::start(plan).await, states: [State::Well; NODES] };
    let traffic = Traffic::start(world.cluster.fleet(), Rate::new(Mode::Tolerant), 1);
    for step in 0..wished("ORDER_CLUSTER_STEPS", 8) {
        traffic.more(chance.below(250) as u64).await;
        world.look();
        let (node, next) = world.next(&mut chance);
        println!("seed {seed}, step {step}: {} becomes {next:?}", world.cluster.name(node));
        world.becomes(node, next, chance.percent(50)).await;
    }
    for node in 0..NODES {
        if world.states[node] != State::Well {
            world.becomes(node, State::Well, false).await;
        }
    }
    // Some hear only now that they were given up.
    let all: Vec<usize> = (0..NODES).collect();
    while !world.cluster.balanced_while_running(&all).await {
        world.look();
        for node in 0..NODES {
            if world.states[node] == State::Down {
                world.becomes(node, State::Well, false).await;
            }
        }
    }
    traffic.more(50).await;
    let report = traffic.stop().await;
    println!("{report}");
    report.assert_clean();
    audit(&world.cluster, 0, &report.acknowledged).await;
}
