//! The tester's own nodes, simulator and database: started on free ports in temporary folders, killed on demand, gone in
//! the end, in whatever way this process ends.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::args::{Args, Store};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::place::free_port;
use crate::harness::process::{APART, NodeProcess, SPAWNED, Simulate};

/// Lines that are told of the log of a node that has ended by itself.
const LAST_LINES: usize = 10;

/// Waits until this process is gone; ends what it left behind, if that is still the same program, and removes its
/// folders, if they stand right in the folder for temporary files.
const GUARD: &str = r#"
trap '' HUP INT TERM
set -f
program=$1
temporary=$2
processes=
set --
while IFS= read -r line; do
    value=${line#* }
    case $line in
        process\ *[!0-9]*) ;;
        process\ ?*) processes="$processes $value" ;;
        folder\ "$temporary"/?*)
            case ${value#"$temporary"/} in
                */* | . | ..) ;;
                *) set -- "$@" "$value" ;;
            esac
            ;;
    esac
done
for process in $processes; do
    case $(readlink "/proc/$process/exe") in
        "$program"*) kill -KILL "$process" ;;
    esac
done
for folder in "$@"; do
    rm -rf -- "$folder"
done
"#;

/// The absolute path, without a slash at its end.
fn plain(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap().components().collect()
}

/// Knows what has to be gone when this process is.
pub struct Guard {
    shell: Child,
    pipe: Arc<Mutex<Option<ChildStdin>>>,
}

impl Guard {
    /// One that removes only folders that stand right in `temporary`.
    pub fn start(temporary: &Path) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_order-service"));
        let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "sh"]).arg(program).arg(plain(temporary));
        shell.current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = shell.spawn().unwrap();
        let pipe = Arc::new(Mutex::new(shell.stdin.take()));
        Self { shell, pipe }
    }

    /// From now on it is told of every program as soon as that is started. For a process with one guard.
    fn hears_of_all(&self) {
        let pipe = Arc::clone(&self.pipe);
        *SPAWNED.lock().unwrap() = Some(Box::new(move |process| tell(&pipe, &format!("process {process}"))));
    }

    /// A process to end.
    pub fn knows_process(&self, process: u32) {
        tell(&self.pipe, &format!("process {process}"));
    }

    /// A folder to remove.
    pub fn knows_folder(&self, folder: &Path) {
        let folder = plain(folder);
        // It reads lines.
        if let Some(folder) = folder.to_str().filter(|folder| !folder.contains('\n')) {
            tell(&self.pipe, &format!("folder {folder}"));
        }
    }
}

fn tell(pipe: &Mutex<Option<ChildStdin>>, line: &str) {
    // One that is gone cannot be told any more; everything else ends with its owner.
    let _told = pipe.lock().unwrap().as_mut().map(|pipe| pipe.write_all(format!("{line}\n").as_bytes()));
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.lock().unwrap().take());
        let _ended = self.shell.wait();
    }
}

enum Nodes {
    /// One on a file of its own.
    File { node: Option<Box<NodeProcess>>, simulate: Box<Simulate>, folder: PathBuf },
    /// Some on a Postgres.
    Shared(Box<Cluster>),
}

/// A node that has ended without being told to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fallen {
    /// Its name.
    pub name: String,
    /// Its exit status or signal.
    pub how: String,
    /// The last lines of its log.
    pub last: String,
}

/// Own nodes. All of it ends when dropped.
pub struct Own {
    nodes: Nodes,
    guard: Guard,
    /// What runs: name and process id.
    processes: Vec<(String, u32)>,
    /// Nodes that are not expected to run: killed and not started again, or known to have ended.
    down: BTreeSet<usize>,
}

impl Own {
    /// Starts what the arguments ask for; fails by panicking, as the tests' harness does.
    pub async fn start(args: &Args) -> Self {
        let guard = Guard::start(&std::env::temp_dir());
        if APART.load(Ordering::Relaxed) {
            guard.hears_of_all();
        }
        let mut settings: Vec<(&str, &str)> = Vec::new();
        settings.extend(args.broken.as_deref().map(|station| ("ORDER__TESTING__SKIP_UNDO", station)));
        settings.extend(args.set.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let nodes = match args.own_store() {
            Store::Sqlite => {
                // The same port in every life, so that callers find it again.
                let listen = format!("127.0.0.1:{}", free_port());
                settings.push(("ORDER__GRPC__LISTEN", &listen));
                let simulate = Simulate::start().await;
                guard.knows_process(simulate.process_id());
                let place = TempDir::new().unwrap();
                let folder = place.path().to_owned();
                guard.knows_folder(&folder);
                let mut node = NodeProcess::start_in(place, &simulate, &settings).await;
                let serves = node.url().ends_with(&listen);
                assert!(serves, "the node ended at once:\n{}", node.process().log());
                Nodes::File { node: Some(Box::new(node)), simulate: Box::new(simulate), folder }
            }
            Store::Postgres => {
                let plan = Plan { settings: &settings, ..Plan::of(args.nodes) };
                Nodes::Shared(Box::new(Cluster::start_on_disk(plan).await))
            }
        };
        let mut own = Self { nodes, guard, processes: Vec::new(), down: BTreeSet::new() };
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
                self.guard.knows_process(*process);
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

    /// Whether a node was killed and not started again, or is known to have ended.
    pub fn is_down(&self, number: usize) -> bool {
        self.down.contains(&number)
    }

    /// Nodes that have ended without being told to, each once: the name, how, and the last lines of the log.
    pub fn fallen(&mut self) -> Vec<Fallen> {
        let mut all = Vec::new();
        for number in (0..self.count()).filter(|number| !self.down.contains(number)).collect::<Vec<_>>() {
            let ended = match &mut self.nodes {
                Nodes::Shared(cluster) => cluster.last_words(number),
                Nodes::File { node, .. } => node.as_mut().and_then(|node| {
                    let process = node.process();
                    Some((process.has_ended()?, process.log()))
                }),
            };
            if let Some((how, log)) = ended {
                self.down.insert(number);
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
                all.push(Fallen { name: self.name(number), how: how.to_string(), last });
            }
        }
        if !all.is_empty() {
            self.look();
        }
        all
    }

    /// Ends a node as `kill -9` does.
    pub async fn kill9(&mut self, number: usize) {
        self.down.insert(number);
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
        self.down.remove(&number);
        self.look();
    }
}
