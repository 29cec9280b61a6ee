//! The real program in processes of its own, on free ports: for what a process must survive, or not.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use order_service::proto::order::order_service_client::OrderServiceClient;
use order_service::proto::simulator as sim;
use order_service::proto::simulator::simulator_service_client::SimulatorServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::wait::{PATIENCE, eventually};

/// Lines of a process that are printed when a test fails: the last ones.
const LAST_WORDS: usize = 50;

/// Whether programs are started away from our terminal's Ctrl-C. Whoever sets this ends them itself, in whatever way this
/// process ends.
pub static APART: AtomicBool = AtomicBool::new(false);

/// Is told the number of a process.
pub type Hears = Box<dyn Fn(u32) + Send>;

/// Told of every program that is started [`APART`], before anything is waited for.
pub static SPAWNED: Mutex<Option<Hears>> = Mutex::new(None);

/// A running program. Killed and reaped when dropped; what it wrote to standard error is printed if the test fails.
pub struct Process {
    name: String,
    child: Child,
    lines: watch::Receiver<Vec<String>>,
}

impl Process {
    /// Starts `order-service ARGUMENTS` with these settings and nothing else of this process's environment.
    pub fn spawn(name: &str, arguments: &[&str], settings: &[(String, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        if APART.load(Ordering::Relaxed) {
            command.process_group(0);
        }
        let mut child = command
            .args(arguments)
            .env_clear()
            .env("ORDER__LOG__FORMAT", "json")
            .envs(settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if APART.load(Ordering::Relaxed)
            && let Some(tell) = &*SPAWNED.lock().unwrap()
        {
            tell(child.id());
        }
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = watch::channel(Vec::new());
        // Ends with the process, whose end closes the pipe; then the sender is dropped, which tells those who wait.
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self { name: name.to_owned(), child, lines }
    }

    /// The first line that `find` makes something of; none when the process ends without it.
    pub(super) async fn line<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut lines = self.lines.clone();
        let seen =
            timeout(PATIENCE, lines.wait_for(|lines| lines.iter().any(|line| find(line).is_some()))).await;
        let seen = seen.unwrap_or_else(|_| panic!("{} has nothing to say", self.name));
        seen.ok()?.iter().find_map(|line| find(line))
    }

    /// The address in the line that says what this process does; none when it ends before it says so.
    pub(super) async fn address(&mut self, doing: &str) -> Option<String> {
        let doing = doing.to_owned();
        let find = move |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["message"].as_str()?.starts_with(&doing).then(|| line["grpc"].as_str().map(str::to_owned))?
        };
        Some(format!("http://{}", self.line(find).await?))
    }

    /// Waits until it has ended; fails the test when it goes on for too long.
    pub async fn ended(&mut self) -> ExitStatus {
        self.ended_within(PATIENCE).await
    }

    /// As [`Self::ended`], with more or less patience.
    pub async fn ended_within(&mut self, patience: Duration) -> ExitStatus {
        let mut lines = self.lines.clone();
        let closed = async { while lines.changed().await.is_ok() {} };
        if timeout(patience, closed).await.is_err() {
            panic!("{} did not end:\n{}", self.name, self.log());
        }
        self.child.wait().unwrap()
    }

    /// How it has ended; none while it runs.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it where it is: when this is done, none of its threads runs. To be told of a signal takes them a while.
    pub async fn freeze(&self) {
        self.signal(Signal::STOP);
        let folder = format!("/proc/{}/task", self.id());
        let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            // One that ends meanwhile has none any more.
            let told = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            // Behind the name, which may hold anything.
            told.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        eventually("a process that stands still", async || {
            std::fs::read_dir(&folder).unwrap().all(is_stopped).then_some(())
        })
        .await;
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.lines.borrow().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if thread::panicking() {
            let lines = self.lines.borrow();
            // Whoever wants to read more than the end says where.
            if let Some(folder) = std::env::var_os("ORDER_TEST_LOGS") {
                let file = format!("{}-{}.log", self.name, self.child.id());
                let _written = std::fs::write(Path::new(&folder).join(file), lines.join("\n"));
            }
            let untold = lines.len().saturating_sub(LAST_WORDS);
            let last = lines[untold..].join("\n");
            eprintln!("---- {} wrote {untold} lines and then:\n{last}\n----", self.name);
        }
    }
}

/// Whether a process was ended by `kill -9`.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// `order-service simulate`: collaborators that outlive the nodes that call them.
pub struct Simulate {
    process: Process,
    url: String,
    client: SimulatorServiceClient<Channel>,
}

impl Simulate {
    /// Starts it and waits until it listens.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with settings.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let arguments = ["simulate", "--listen", "127.0.0.1:0"];
        let mut process = Process::spawn("simulate", &arguments, &owned(settings));
        let url = process.address("simulating ").await.unwrap();
        let client = SimulatorServiceClient::connect(url.clone()).await.unwrap();
        Self { process, url, client }
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The number of its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The URL of its API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Replaces all faults.
    pub async fn set_faults(&self, faults: Vec<sim::Faults>) {
        let request = sim::SetFaultsRequest { reset_all: true, faults };
        self.client.clone().set_faults(request).await.unwrap();
    }

    /// What was done for one order.
    pub async fn ledger(&self, order_id: &str) -> sim::GetLedgerResponse {
        let request = sim::GetLedgerRequest { order_id: order_id.to_owned(), ..Default::default() };
        self.client.clone().get_ledger(request).await.unwrap().into_inner()
    }

    /// What was done for all orders, and what is in stock.
    pub async fn ledgers(&self) -> sim::GetLedgerResponse {
        let mut all = sim::GetLedgerResponse::default();
        loop {
            let request = sim::GetLedgerRequest {
                page_size: 1_000,
                page_token: all.next_page_token,
                ..Default::default()
            };
            let page = self.client.clone().get_ledger(request).await.unwrap().into_inner();
            all.charges.extend(page.charges);
            all.refunds.extend(page.refunds);
            all.reservations.extend(page.reservations);
            all.restocks.extend(page.restocks);
            all.labels.extend(page.labels);
            all.keys.extend(page.keys);
            all.stock = page.stock;
            all.next_page_token = page.next_page_token;
            if all.next_page_token.is_empty() {
                return all;
            }
        }
    }

    /// The settings of a node whose collaborators these are.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        ["INVENTORY", "PRODUCT", "USER", "PAYMENT", "SHIPPING"]
            .map(|name| (format!("ORDER__COLLABORATORS__{name}"), self.url.clone()))
            .to_vec()
    }
}

/// `order-service serve` on a store of its own, with the collaborators of a [`Simulate`].
pub struct NodeProcess {
    process: Process,
    url: String,
    client: OrderServiceClient<Channel>,
    folder: TempDir,
    /// The URL of its store; none = a file in its folder.
    store: Option<String>,
    settings: Vec<(String, String)>,
}

impl NodeProcess {
    /// Starts it and waits until it serves.
    pub async fn start(simulate: &Simulate, settings: &[(&str, &str)]) -> Self {
        Self::start_once(simulate, settings, &[]).await
    }

    /// As [`Self::start`], with its store in this folder.
    pub async fn start_in(folder: TempDir, simulate: &Simulate, settings: &[(&str, &str)]) -> Self {
        let mut all = simulate.settings();
        all.extend(owned(settings));
        Self::run(folder, None, all, &[]).await
    }

    /// Starts a first life with settings that later ones do not have.
    pub async fn start_once(
        simulate: &Simulate,
        settings: &[(&str, &str)],
        only_now: &[(&str, &str)],
    ) -> Self {
        Self::start_on(None, simulate, settings, only_now).await
    }

    /// As [`Self::start_once`], on the store at this URL; none = a file of its own.
    pub async fn start_on(
        store: Option<String>,
        simulate: &Simulate,
        settings: &[(&str, &str)],
        only_now: &[(&str, &str)],
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let mut all = simulate.settings();
        all.extend(owned(settings));
        Self::run(folder, store, all, only_now).await
    }

    async fn run(
        folder: TempDir,
        store: Option<String>,
        settings: Vec<(String, String)>,
        only_now: &[(&str, &str)],
    ) -> Self {
        let mut all = store_settings(&folder, store.as_deref());
        all.extend(settings.iter().cloned());
        all.extend(owned(only_now));
        let mut process = Process::spawn("node", &["serve"], &all);
        let url = process.address("serving").await;
        // Nobody answers for one that has ended already.
        let url = url.unwrap_or_else(|| "http://127.0.0.1:1".to_owned());
        let client = OrderServiceClient::new(Channel::from_shared(url.clone()).unwrap().connect_lazy());
        Self { process, url, client, folder, store, settings }
    }

    /// Starts it once more with further settings, on the store of an earlier life, which has to be over.
    pub async fn restart(self, further: &[(&str, &str)]) -> Self {
        let Self { process, url: _, client, folder, store, settings } = self;
        drop((client, process));
        Self::run(folder, store, settings, further).await
    }

    /// A client; all of one life share one connection.
    pub fn client(&self) -> OrderServiceClient<Channel> {
        self.client.clone()
    }

    /// The settings that another process needs to use the same store.
    pub fn same_store(&self) -> Vec<(String, String)> {
        store_settings(&self.folder, self.store.as_deref())
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.process.signal(Signal::KILL);
        assert!(was_killed(self.process.ended().await));
    }

    /// Where its own files are.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }

    /// The URL of its API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of its listener for operators, as it says at its start.
    pub fn ops_url(&self) -> String {
        let log = self.process.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let ops = lines.find_map(|line| line["ops"].as_str().map(str::to_owned));
        format!("http://{}", ops.unwrap())
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn store_settings(folder: &TempDir, store: Option<&str>) -> Vec<(String, String)> {
    let file = format!("sqlite:{}", folder.path().join("orders.db").display());
    owned(&[
        ("ORDER__GRPC__LISTEN", "127.0.0.1:0"),
        ("ORDER__OPS__LISTEN", "127.0.0.1:0"),
        ("ORDER__STORE__URL", store.unwrap_or(&file)),
    ])
}
