//! The tester's own nodes, simulator and database: started on free ports in temporary folders, killed on demand, gone in
//! the end, in whatever way this process ends.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::args::{Args, Store};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::place::free_port;
use crate::harness::process::{NodeProcess, Simulate};

/// Waits until this process is gone; ends what it left behind, if that is still the same program, and its folders.
const GUARD: &str = r#"
trap '' HUP INT TERM
program=$1
processes=
folders=
while read -r what value; do
    case $what in
        process) processes="$processes $value" ;;
        folder) folders="$folders $value" ;;
    esac
done
for process in $processes; do
    case $(readlink "/proc/$process/exe") in
        "$program"*) kill -KILL "$process" ;;
    esac
done
for folder in $folders; do
    rm -rf "$folder"
done
"#;

/// Knows what has to be gone when this process is.
struct Guard(Child);

impl Guard {
    fn start() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_order-service"));
        let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "sh"]).arg(program).current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(shell.spawn().unwrap())
    }

    fn knows(&self, what: &str, value: &str) {
        // One that is gone cannot be told any more; everything else ends with its owner.
        let _told = self.0.stdin.as_ref().map(|mut pipe| writeln!(pipe, "{what} {value}"));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

enum Nodes {
    /// One on a file of its own.
    File { node: Option<Box<NodeProcess>>, simulate: Box<Simulate>, folder: PathBuf },
    /// Some on a Postgres.
    Shared(Box<Cluster>),
}

/// Own nodes. All of it ends when dropped.
pub struct Own {
    nodes: Nodes,
    guard: Guard,
    /// What runs: name and process id.
    processes: Vec<(String, u32)>,
}

impl Own {
    /// Starts what the arguments ask for; fails by panicking, as the tests' harness does.
    pub async fn start(args: &Args) -> Self {
        let guard = Guard::start();
        let mut settings: Vec<(&str, &str)> = Vec::new();
        settings.extend(args.broken.as_deref().map(|station| ("ORDER__TESTING__SKIP_UNDO", station)));
        settings.extend(args.set.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let nodes = match args.own_store() {
            Store::Sqlite => {
                // The same port in every life, so that callers find it again.
                let listen = format!("127.0.0.1:{}", free_port());
                settings.push(("ORDER__GRPC__LISTEN", &listen));
                let simulate = Simulate::start().await;
                guard.knows("process", &simulate.process_id().to_string());
                let mut node = NodeProcess::start(&simulate, &settings).await;
                let serves = node.url().ends_with(&listen);
                assert!(serves, "the node ended at once:\n{}", node.process().log());
                let folder = node.folder().to_owned();
                guard.knows("folder", &folder.display().to_string());
                Nodes::File { node: Some(Box::new(node)), simulate: Box::new(simulate), folder }
            }
            Store::Postgres => {
                let plan = Plan { settings: &settings, ..Plan::of(args.nodes) };
                Nodes::Shared(Box::new(Cluster::start_on_disk(plan).await))
            }
        };
        let mut own = Self { nodes, guard, processes: Vec::new() };
        own.look();
        own
    }

    /// Notes what runs now.
    fn look(&mut self) {
        let mut found = vec![("simulator".to_owned(), self.simulate().process_id())];
        match &mut self.nodes {
            Nodes::File { node, .. } => {
                found.extend(node.as_mut().map(|node| ("node-1".to_owned(), node.process().id())));
            }
            Nodes::Shared(cluster) => {
                let running = cluster.running().into_iter();
                found.extend(running.map(|node| (cluster.name(node).to_owned(), cluster.process_id(node))));
                found.extend(cluster.server().process_id().map(|id| ("postgres".to_owned(), id)));
            }
        }
        for (name, process) in &found {
            if name != "postgres" {
                self.guard.knows("process", &process.to_string());
            }
        }
        self.processes = found;
    }

    fn simulate(&self) -> &Simulate {
        match &self.nodes {
            Nodes::File { simulate, .. } => simulate,
            Nodes::Shared(cluster) => cluster.simulate(),
        }
    }

    /// What runs: names (`node-1`, `postgres`, `simulator`) and process ids.
    pub fn processes(&self) -> &[(String, u32)] {
        &self.processes
    }

    /// URLs of the nodes.
    pub fn urls(&self) -> Vec<String> {
        match &self.nodes {
            Nodes::File { node, .. } => node.iter().map(|node| node.url().to_owned()).collect(),
            Nodes::Shared(cluster) => (0..self.count()).map(|node| cluster.node_url(node)).collect(),
        }
    }

    /// URL of the simulator.
    pub fn simulator_url(&self) -> String {
        self.simulate().url().to_owned()
    }

    /// The URL of the store, as in the nodes' configuration.
    pub fn store_url(&self) -> String {
        match &self.nodes {
            Nodes::File { folder, .. } => format!("sqlite:{}", folder.join("orders.db").display()),
            Nodes::Shared(cluster) => cluster.url().to_owned(),
        }
    }

    /// How many nodes there are, running or not.
    pub fn count(&self) -> usize {
        match &self.nodes {
            Nodes::File { .. } => 1,
            Nodes::Shared(cluster) => cluster.size(),
        }
    }

    /// The name of a node.
    pub fn name(&self, number: usize) -> String {
        format!("node-{}", number + 1)
    }

    /// Ends a node as `kill -9` does.
    pub async fn kill9(&mut self, number: usize) {
        match &mut self.nodes {
            Nodes::File { node, .. } => node.as_mut().unwrap().kill9().await,
            Nodes::Shared(cluster) => cluster.kill9(number).await,
        }
        self.look();
    }

    /// Starts a node again that was killed, and waits until it serves.
    pub async fn start_again(&mut self, number: usize) {
        match &mut self.nodes {
            Nodes::File { node, .. } => {
                let earlier = node.take().unwrap();
                *node = Some(Box::new(earlier.restart(&[]).await));
            }
            Nodes::Shared(cluster) => cluster.start_node(number).await,
        }
        self.look();
    }
}
