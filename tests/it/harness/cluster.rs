//! Several real nodes on one private Postgres, with the same collaborators: each in a process of its own that can be
//! killed, stopped, paused, and cut from the database or from the others.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use order_service::domain::ids::OrderId;
use order_service::proto::order::order_service_client::OrderServiceClient;
use rustix::process::Signal;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tonic::transport::Channel;

use super::fleet::Fleet;
use super::links::{Link, Network};
use super::place::free_port;
use super::postgres::{PgServer, query};
use super::process::{Process, Simulate, was_killed};
use super::proxy::Proxy;

/// Slots of a cluster.
pub const SLOTS: usize = 4096;

/// Settings under which everything that depends on time happens sooner than by default.
pub const SWIFT: &[(&str, &str)] = &[
    ("ORDER__CLUSTER__LEASE", "3s"),
    ("ORDER__CLUSTER__RENEW_EVERY", "300ms"),
    ("ORDER__CLUSTER__SERVE_FOR", "2200ms"),
    ("ORDER__CLUSTER__READ_FOR", "800ms"),
    ("ORDER__CLUSTER__SUSPECT_AFTER", "1500ms"),
    ("ORDER__CLUSTER__PROBE_TIMEOUT", "500ms"),
];

/// What every node has: patience with collaborators that share a busy machine with it, and none with pauses.
const ALL: &[(&str, &str)] = &[
    ("ORDER__GRPC__DEFAULT_DEADLINE", "20s"),
    ("ORDER__GRPC__MAX_DEADLINE", "60s"),
    ("ORDER__SAGA__CHARGE_SETTLE_LAG", "3s"),
    ("ORDER__SAGA__STEP_TIMEOUT", "10s"),
    ("ORDER__SAGA__RETRY_MAX", "1s"),
    ("ORDER__SAGA__FORWARD_TRIES", "1000"),
    ("ORDER__COLLABORATORS__TIMEOUT", "10s"),
    ("ORDER__COLLABORATORS__CONNECT_TIMEOUT", "10s"),
    ("ORDER__COLLABORATORS__BREAKER_FAILURES", "1000"),
    ("ORDER__COLLABORATORS__BREAKER_OPEN_FOR", "100ms"),
];

/// Settings of the database server.
const SERVER: &[(&str, &str)] = &[("max_connections", "250"), ("shared_buffers", "64MB")];

/// Clusters that run side by side: each keeps two processors busy.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((processors / 2).max(1))
});

/// How long anything may take that is not measured: several nodes start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often the tables are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Looks after which a view counts as the last one for now.
const QUIET: u32 = 5;

/// For how many looks the view was the same.
#[derive(Default)]
struct Quiet {
    version: i64,
    looks: u32,
}

impl Quiet {
    /// Notes a look; whether it was the same for long enough.
    fn lasts(&mut self, version: i64) -> bool {
        self.looks = if version == self.version { self.looks + 1 } else { 1 };
        self.version = version;
        self.looks >= QUIET
    }
}

/// Whether figures are wanted for the defaults, not only outcomes: set `ORDER_CLUSTER_DEFAULTS`.
pub fn by_default() -> &'static [(&'static str, &'static str)] {
    if std::env::var_os("ORDER_CLUSTER_DEFAULTS").is_some() { &[] } else { SWIFT }
}

/// A number from the environment, for runs by hand.
pub fn wished(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |text| text.parse().unwrap())
}

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Nodes there may be.
    pub nodes: usize,
    /// So many of them run at first.
    pub running: usize,
    /// Settings of all nodes.
    pub settings: &'a [(&'a str, &'a str)],
    /// Whether each node reaches the database through a proxy of its own, and the others through relays.
    pub breakable: bool,
}

impl Plan<'_> {
    /// So many nodes, all running, with nothing between them.
    pub fn of(nodes: usize) -> Self {
        Self { nodes, running: nodes, settings: &[], breakable: false }
    }
}

/// A node's place: its name and ports are the same in every life.
struct Node {
    name: String,
    grpc: u16,
    ops: u16,
    peer: u16,
    advertise: SocketAddr,
    database: Option<Proxy>,
    process: Option<Process>,
}

/// What the cluster's tables say of a process life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Life {
    /// Which.
    pub incarnation: i64,
    /// The node's name.
    pub name: String,
    /// `ACTIVE`, `LEAVING`, `LEFT` or `DEAD`.
    pub state: String,
    /// Slots it owns.
    pub slots: usize,
}

/// A cluster. Its processes end with it.
pub struct Cluster {
    nodes: Vec<Node>,
    network: Option<Network>,
    settings: Vec<(String, String)>,
    simulate: Simulate,
    url: String,
    server: PgServer,
    /// Of the handovers of nodes that have ended.
    pauses: Vec<Duration>,
    _turn: SemaphorePermit<'static>,
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Cluster {
    /// Starts one and waits until every running node owns its share.
    pub async fn start(plan: Plan<'_>) -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let server = PgServer::start(SERVER).await;
        Self::start_by(turn, server, plan).await
    }

    /// As [`Self::start`], with the database on a disk, where a commit takes as long as in production.
    pub async fn start_on_disk(plan: Plan<'_>) -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let server = PgServer::start_on_disk(SERVER).await;
        Self::start_by(turn, server, plan).await
    }

    async fn start_by(turn: SemaphorePermit<'static>, server: PgServer, plan: Plan<'_>) -> Self {
        let url = server.create_database().await;
        let simulate = Simulate::start().await;
        let network = plan.breakable.then(Network::new);
        let mut nodes = Vec::new();
        for number in 0..plan.nodes {
            let peer = free_port();
            let mut node = Node {
                name: format!("node-{}", number + 1),
                grpc: free_port(),
                ops: free_port(),
                peer,
                advertise: local(peer),
                database: None,
                process: None,
            };
            if let Some(network) = &network {
                node.advertise = network.relay(number, local(peer)).await;
                node.database = Some(Proxy::start(server.address()).await);
            }
            nodes.push(node);
        }
        let all = [ALL, plan.settings].concat();
        let mut settings = simulate.settings();
        settings.extend(all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let mut cluster =
            Self { nodes, network, settings, simulate, url, server, pauses: Vec::new(), _turn: turn };
        // The first one makes the tables.
        cluster.start_nodes(&[0]).await;
        let others: Vec<usize> = (1..plan.running).collect();
        cluster.start_nodes(&others).await;
        cluster.balanced(&(0..plan.running).collect::<Vec<_>>()).await;
        cluster
    }

    /// Starts nodes that do not run, side by side, and waits until they serve.
    pub async fn start_nodes(&mut self, numbers: &[usize]) {
        let wanted = |number: usize| numbers.contains(&number);
        let (settings, url, network) = (&self.settings, &self.url, &self.network);
        let starting = self.nodes.iter_mut().enumerate().filter(|(number, _)| wanted(*number)).map(
            async |(number, node)| {
                assert!(node.process.is_none(), "{} runs", node.name);
                let mut process = Process::spawn(&node.name, &["serve"], &node.settings(settings, url));
                if let Some(network) = network {
                    network.runs_as(number, process.id());
                }
                let serves = process.address("serving").await;
                let log = process.log();
                assert!(serves.is_some(), "{} ended at once:\n{log}", node.name);
                node.process = Some(process);
            },
        );
        join_all(starting).await;
    }

    /// Starts a node that does not run, and waits until it serves.
    pub async fn start_node(&mut self, number: usize) {
        self.start_nodes(&[number]).await;
    }

    /// Ends a node as `kill -9` does.
    pub async fn kill9(&mut self, number: usize) {
        self.signal(number, Signal::KILL);
        assert!(was_killed(self.ended(number, PATIENCE).await));
    }

    /// Sends a node a signal.
    pub fn signal(&self, number: usize, signal: Signal) {
        self.nodes[number].process.as_ref().unwrap().signal(signal);
    }

    /// Waits until a node has ended, and says how.
    pub async fn ended(&mut self, number: usize, patience: Duration) -> ExitStatus {
        let mut process = self.nodes[number].process.take().unwrap();
        let status = process.ended_within(patience).await;
        self.pauses.extend(pauses(&process.log()));
        status
    }

    /// How a node has ended; none while it runs, or when nobody has started it since.
    pub fn has_ended(&mut self, number: usize) -> Option<ExitStatus> {
        Some(self.last_words(number)?.0)
    }

    /// As [`Self::has_ended`], with what the node has logged.
    pub fn last_words(&mut self, number: usize) -> Option<(ExitStatus, String)> {
        let status = self.nodes[number].process.as_mut()?.has_ended()?;
        Some((status, self.nodes[number].process.take()?.log()))
    }

    /// Stops a node as an operator does, which must end well; how long it took.
    pub async fn stop(&mut self, number: usize) -> Duration {
        let started = Instant::now();
        self.signal(number, Signal::TERM);
        let mut process = self.nodes[number].process.take().unwrap();
        let status = process.ended_within(PATIENCE).await;
        assert!(status.success(), "{} ended with {status}:\n{}", self.name(number), process.log());
        self.pauses.extend(pauses(&process.log()));
        started.elapsed()
    }

    /// The number of a running node's process.
    #[allow(dead_code, reason = "benchmarks ask for it, tests do not")]
    pub fn process_id(&self, number: usize) -> u32 {
        self.nodes[number].process.as_ref().unwrap().id()
    }

    /// What the running nodes have logged.
    pub fn logs(&self) -> impl Iterator<Item = String> {
        self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.log()))
    }

    /// For how long each handover has kept calls waiting, as the nodes say that have ended or run; sorted.
    pub fn pauses(&self) -> Vec<Duration> {
        let running = self.logs().flat_map(|log| pauses(&log));
        let mut all: Vec<Duration> = self.pauses.iter().copied().chain(running).collect();
        all.sort_unstable();
        all
    }

    /// Whether nothing comes through between a node and the database, in either direction.
    pub fn cut_from_database(&self, number: usize, is_cut: bool) {
        self.nodes[number].database.as_ref().unwrap().hang(is_cut);
    }

    /// What becomes of everything between a node and the others.
    pub fn between(&self, number: usize, link: Link) {
        self.network.as_ref().unwrap().between(number, 0..self.nodes.len(), link);
    }

    /// What becomes of what others ask a node; what it asks them goes on.
    pub fn toward(&self, number: usize, link: Link) {
        self.network.as_ref().unwrap().toward(number, 0..self.nodes.len(), link);
    }

    /// Waits until the slots are owned by these nodes and no others, each of which has about its share.
    pub async fn balanced(&self, numbers: &[usize]) {
        let mut quiet = Quiet::default();
        let look = async || self.is_balanced(numbers, &mut quiet).await.then_some(());
        self.until("slots to be spread", look).await;
    }

    /// As [`Self::balanced`], for as long as all of these nodes run; whether they do.
    pub async fn balanced_while_running(&mut self, numbers: &[usize]) -> bool {
        let mut quiet = Quiet::default();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_balanced(numbers, &mut quiet).await {
            if !numbers.iter().all(|number| self.runs(*number)) {
                return false;
            }
            assert!(Instant::now() < deadline, "slots are not spread: {:#?}", self.lives().await);
            tick.tick().await;
        }
        true
    }

    fn runs(&mut self, number: usize) -> bool {
        self.nodes[number].process.as_mut().is_some_and(|process| process.has_ended().is_none())
    }

    async fn is_balanced(&self, numbers: &[usize], quiet: &mut Quiet) -> bool {
        if !self.is_cluster() {
            return true;
        }
        // The ring is not that uneven.
        let least = SLOTS / numbers.len() / 3;
        let (version, lives) = self.lives().await;
        let owns = |number: &usize| {
            let name = self.name(*number);
            lives.iter().any(|life| life.name == name && life.state == "ACTIVE" && life.slots >= least)
        };
        let owners = lives.iter().filter(|life| life.slots > 0).count();
        let owned: usize = lives.iter().map(|life| life.slots).sum();
        let is_spread = numbers.iter().all(owns) && owners == numbers.len() && owned == SLOTS;
        quiet.lasts(version) && is_spread
    }

    /// Waits until this is seen, looking a few times a second.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            loop {
                tick.tick().await;
                if let Some(seen) = look().await {
                    return seen;
                }
            }
        };
        match timeout_at(Instant::now() + PATIENCE, looking).await {
            Ok(seen) => seen,
            Err(_) => panic!("waited {PATIENCE:?} in vain for {what}: {:#?}", self.lives().await),
        }
    }

    /// Version of the view and every life that is known, in the order of their starts.
    pub async fn lives(&self) -> (i64, Vec<Life>) {
        let sql = "SELECT n.incarnation, n.name, n.state, count(o.slot), (SELECT version FROM cluster_view) \
                   FROM cluster_nodes AS n LEFT JOIN slot_owner AS o ON o.owner = n.incarnation \
                   GROUP BY n.incarnation ORDER BY n.incarnation";
        let rows = query(&self.url, sql).await.unwrap();
        let version = rows.first().map_or(0, |row| row[4].parse().unwrap());
        let life = |row: &Vec<String>| Life {
            incarnation: row[0].parse().unwrap(),
            name: row[1].clone(),
            state: row[2].clone(),
            slots: row[3].parse().unwrap(),
        };
        (version, rows.iter().map(life).collect())
    }

    /// The last life of a node.
    pub async fn life(&self, number: usize) -> Option<Life> {
        let name = self.name(number);
        self.lives().await.1.into_iter().rfind(|life| life.name == name)
    }

    /// The node that owns the slot of each order; none for those whose owner has no name.
    pub async fn owners(&self, orders: &[String]) -> Vec<Option<usize>> {
        let sql =
            "SELECT o.slot, n.name FROM slot_owner AS o JOIN cluster_nodes AS n ON n.incarnation = o.owner";
        let rows = query(&self.url, sql).await.unwrap();
        let by_slot: BTreeMap<u16, &str> =
            rows.iter().map(|row| (row[0].parse().unwrap(), row[1].as_str())).collect();
        let owner = |order: &String| {
            let name = by_slot.get(&order.parse::<OrderId>().unwrap().slot())?;
            self.nodes.iter().position(|node| node.name == *name)
        };
        orders.iter().map(owner).collect()
    }

    /// How many nodes there may be.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is more than a single node that shares with nobody.
    pub fn is_cluster(&self) -> bool {
        !self.settings.iter().any(|(key, value)| key == "ORDER__CLUSTER__ENABLED" && value == "false")
    }

    /// The name of a node.
    pub fn name(&self, number: usize) -> &str {
        &self.nodes[number].name
    }

    /// The URL of a node's API.
    pub fn node_url(&self, number: usize) -> String {
        format!("http://{}", local(self.nodes[number].grpc))
    }

    /// HOST:PORT of a node's listener for other nodes.
    pub fn peer_address(&self, number: usize) -> String {
        local(self.nodes[number].peer).to_string()
    }

    /// The URL of a node's listener for operators.
    pub fn ops_url(&self, number: usize) -> String {
        format!("http://{}", local(self.nodes[number].ops))
    }

    /// A client of one node.
    pub fn client(&self, number: usize) -> OrderServiceClient<Channel> {
        let endpoint = Channel::from_shared(self.node_url(number)).unwrap();
        OrderServiceClient::new(endpoint.connect_lazy())
    }

    /// A client of all nodes, also of those that do not run yet.
    pub fn fleet(&self) -> Fleet {
        Fleet::of((0..self.nodes.len()).map(|number| self.node_url(number)))
    }

    /// Numbers of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].process.is_some()).collect()
    }

    /// The collaborators.
    pub fn simulate(&self) -> &Simulate {
        &self.simulate
    }

    /// The server that the database is on.
    pub fn server(&self) -> &PgServer {
        &self.server
    }

    /// The URL of the database, past all proxies.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The handovers in a log.
fn pauses(log: &str) -> Vec<Duration> {
    let pause = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = line["message"] == "handed slots over";
        is_it.then(|| line["pause_ms"].as_u64().map(Duration::from_millis))?
    };
    log.lines().filter_map(pause).collect()
}

impl Node {
    fn settings(&self, shared: &[(String, String)], url: &str) -> Vec<(String, String)> {
        let database = self.database.as_ref().map_or_else(|| url.to_owned(), |proxy| proxy.url_of(url));
        let own = [
            ("ORDER__GRPC__LISTEN", local(self.grpc).to_string()),
            ("ORDER__OPS__LISTEN", local(self.ops).to_string()),
            ("ORDER__PEER__LISTEN", local(self.peer).to_string()),
            ("ORDER__PEER__ADVERTISE", self.advertise.to_string()),
            ("ORDER__CLUSTER__ENABLED", "true".to_owned()),
            ("ORDER__CLUSTER__NAME", self.name.clone()),
            ("ORDER__STORE__URL", database),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        own.chain(shared.iter().cloned()).collect()
    }
}
