//! Private Postgres servers: each with a port, a folder and settings of its own, and `fsync` on as in production.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Column, Connection, Executor, Row, ValueRef};
use tokio::sync::OnceCell;

use super::place::{Account, Place, free_port, run};
use super::postgres_binaries::postgres_binary;
use super::small_disk::{Mount, SmallDisk};
use super::wait::eventually;

/// The role everything is done as: owner of all, superuser, without a password.
pub const USER: &str = "orders";

/// What every server starts with, small enough for many at once; settings of a test come after and win.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("shared_buffers", "32MB"),
    ("max_connections", "60"),
    ("max_wal_size", "256MB"),
    ("log_line_prefix", "%m [%p] "),
];

/// Other ports that are tried when somebody was faster.
const PORT_TRIES: usize = 20;
/// The longest path of a unix socket on Linux.
const SOCKET_PATH_MAX: usize = 107;
/// Lines of a server's log that are printed when a test fails.
const LAST_WORDS: usize = 40;

/// How a server is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Open transactions are rolled back, clients are told, everything is written.
    Fast,
    /// As in a crash: nothing is written, the next start recovers from the log.
    Immediate,
}

/// A private server. Stopped as in a crash and removed when dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub struct PgServer {
    process: Mutex<Option<Child>>,
    port: u16,
    /// How a standby reaches the server it copies.
    pub(super) upstream: Option<String>,
    place: Place,
    /// The small disk it is on, if it is: unmounted after the server is gone.
    _disk: Option<Arc<Mount>>,
}

impl PgServer {
    /// Starts an empty server with further settings, such as `("max_connections", "20")`.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let data = place.path().join("data");
        Self::start_in(place, &data, None, settings).await
    }

    /// As [`Self::start`], with its data on a disk, where a commit takes as long as in production: for measurements.
    pub async fn start_on_disk(settings: &[(&str, &str)]) -> Self {
        let place = Place::on_disk();
        let data = place.path().join("data");
        Self::start_in(place, &data, None, settings).await
    }

    /// Starts an empty server whose data are on this disk. It takes 60 MB there, and grows by its write-ahead log.
    pub async fn start_on(disk: &SmallDisk, settings: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let data = disk.path().join(format!("data{number}"));
        std::os::unix::fs::symlink(&data, place.path().join("data")).unwrap();
        // Segments of the log are not kept for later.
        let small = [("min_wal_size", "32MB"), ("max_wal_size", "48MB")];
        Self::start_in(place, &data, Some(disk.mount()), &[&small, settings].concat()).await
    }

    async fn start_in(
        place: Place,
        data: &Path,
        disk: Option<Arc<Mount>>,
        settings: &[(&str, &str)],
    ) -> Self {
        static TEMPLATE: OnceCell<Place> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(template).await;
        let mut copy = Account::get().command("cp");
        copy.arg("-Rp").arg(template.path().join("data")).arg(data);
        run(copy).await;
        Self::launch(place, disk, None, &[SETTINGS, settings].concat()).await
    }

    /// Starts what is in the folder `data`, on a port that is free.
    pub(super) async fn launch(
        place: Place,
        disk: Option<Arc<Mount>>,
        upstream: Option<String>,
        settings: &[(&str, &str)],
    ) -> Self {
        let folder = place.path().to_str().unwrap().to_owned();
        let sockets = if folder.len() + "/.s.PGSQL.00000".len() > SOCKET_PATH_MAX { "" } else { &folder };
        let mut server = Self { process: Mutex::default(), port: 0, upstream, place, _disk: disk };
        server.configure(&[&[("unix_socket_directories", sockets)], settings].concat());
        for _ in 0..PORT_TRIES {
            server.port = free_port();
            server.configure(&[("port", &server.port.to_string())]);
            if server.run().await {
                return server;
            }
            let log = server.log();
            assert!(log.contains("could not create any TCP/IP sockets"), "Postgres did not start:\n{log}");
            fs::remove_file(server.place.path().join("log")).unwrap();
        }
        panic!("{PORT_TRIES} ports of 127.0.0.1 were taken");
    }

    /// Starts the process and waits until it serves; false when it ended instead.
    async fn run(&self) -> bool {
        let log = OpenOptions::new().create(true).append(true).open(self.place.path().join("log")).unwrap();
        let mut postgres = Account::get().command(postgres_binary("postgres"));
        postgres.arg("-D").arg(self.data_dir());
        postgres.stdout(Stdio::null()).stderr(log);
        let child = postgres.spawn().unwrap();
        let id = child.id().to_string();
        let earlier = self.process.lock().unwrap().replace(child);
        assert!(earlier.is_none(), "a server is started once");
        let look = || async {
            if !self.is_running() {
                return Some(false);
            }
            let file = self.place.read("data/postmaster.pid");
            let lines: Vec<&str> = file.lines().map(str::trim).collect();
            // The file of an earlier life has another number in it.
            let serves = matches!(lines.get(7), Some(&("ready" | "standby")));
            (lines.first() == Some(&id.as_str()) && serves).then_some(true)
        };
        eventually("Postgres to start", look).await
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        let mut process = self.process.lock().unwrap();
        let ended = process.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            *process = None;
        }
        !ended
    }

    /// The number of its first process; none when it is stopped.
    pub fn process_id(&self) -> Option<u32> {
        self.process.lock().unwrap().as_ref().map(Child::id)
    }

    /// Stops it and waits until it is gone. Its port stays its own.
    pub async fn stop(&self, how: Shutdown) {
        let signal = if how == Shutdown::Fast { Signal::INT } else { Signal::QUIT };
        if let Some(child) = self.process.lock().unwrap().as_ref() {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
        eventually("Postgres to stop", || async { (!self.is_running()).then_some(()) }).await;
    }

    /// Starts it after it was stopped, or ended by itself, on the same port.
    pub async fn start_again(&self) {
        assert!(!self.is_running(), "stop it before");
        assert!(self.run().await, "Postgres did not start again:\n{}", self.log());
    }

    /// Stops and starts it.
    pub async fn restart(&self, how: Shutdown) {
        self.stop(how).await;
        self.start_again().await;
    }

    /// Waits until it takes writes after a fault; starts it again if that ended it.
    pub async fn recovered(&self) {
        let writes = "CREATE TEMPORARY TABLE recovered AS SELECT pg_current_wal_lsn()";
        let look = || async {
            if !self.is_running() {
                self.run().await;
            }
            self.try_admin(writes).await.ok()
        };
        eventually("Postgres to recover", look).await;
    }

    /// Changes settings that need no restart, and waits until new connections have them.
    pub async fn reload(&self, settings: &[(&str, &str)]) {
        let before = self.value("SELECT pg_conf_load_time()").await;
        self.configure(settings);
        self.admin("SELECT pg_reload_conf()").await;
        let look = || async {
            let now = self.value("SELECT pg_conf_load_time()").await;
            (now != before).then_some(())
        };
        eventually("settings to be loaded", look).await;
    }

    /// Writes settings into its configuration; of several values the last one counts.
    fn configure(&self, settings: &[(&str, &str)]) {
        let mut file = OpenOptions::new().append(true).open(self.data_dir().join("postgresql.conf")).unwrap();
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''")).unwrap();
        }
    }

    /// The port of 127.0.0.1 it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@{}/{database}", self.address())
    }

    /// Makes an empty database and returns its URL.
    pub async fn create_database(&self) -> String {
        let name = format!("orders_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        // Nobody is ever connected to template0, so creating does not wait and does not fail.
        self.admin(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        self.url(&name)
    }

    /// Runs SQL as superuser in the database `postgres`; the rows as text, NULL as nothing.
    pub async fn admin(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_admin(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.last_words()))
    }

    /// As [`Self::admin`], of what may fail.
    pub async fn try_admin(&self, sql: &str) -> Result<Vec<Vec<String>>, sqlx::Error> {
        query(&self.url("postgres"), sql).await
    }

    /// The first value of the first row that [`Self::admin`] returns.
    pub async fn value(&self, sql: &str) -> String {
        self.admin(sql).await.swap_remove(0).swap_remove(0)
    }

    /// Its data.
    pub fn data_dir(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.place.read("log")
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- Postgres on port {} wrote last:\n{}\n----", self.port, self.last_words());
        }
        if self.is_running()
            && let Some(child) = self.process.get_mut().unwrap().as_mut()
        {
            // It may end by itself at this moment; it is waited for in any case.
            let _ended = kill_process(Pid::from_child(child), Signal::QUIT);
            let _reaped = child.wait();
        }
        // One that was killed leaves this behind, and the number may be another's by now.
        let _none = fs::remove_file(self.data_dir().join("postmaster.pid"));
    }
}

/// Numbers of databases: none is used twice in one process, whatever the server.
static DATABASES: AtomicU64 = AtomicU64::new(1);

/// An empty cluster, to be copied: that takes a tenth of making one.
async fn template() -> Place {
    let place = Place::new();
    let mut initdb = Account::get().command(postgres_binary("initdb"));
    initdb.arg("-D").arg(place.path().join("data")).args(["-A", "trust", "-N", "-E", "UTF8", "--locale=C"]);
    run({
        initdb.args(["-U", USER]);
        initdb
    })
    .await;
    place
}

/// The server for all tests of this process that need no more than a database. Started when first asked for, and
/// never to be stopped, reloaded or otherwise bothered.
pub async fn shared() -> &'static PgServer {
    static SHARED: OnceCell<PgServer> = OnceCell::const_new();
    SHARED.get_or_init(|| PgServer::start(&[("max_connections", "300"), ("shared_buffers", "64MB")])).await
}

/// The URL of a new, empty database on the shared server.
pub async fn shared_database() -> String {
    shared().await.create_database().await
}

/// Runs SQL on a connection of its own; the rows as text, NULL as nothing. Several statements, divided by `;`, are
/// one transaction. Nothing is prepared, so that a pool between here and the server does not matter.
pub async fn query(url: &str, sql: &str) -> Result<Vec<Vec<String>>, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    connection.close().await?;
    Ok(rows.iter().map(texts).collect())
}

fn texts(row: &PgRow) -> Vec<String> {
    let text = |column: &sqlx::postgres::PgColumn| {
        let value = row.try_get_raw(column.ordinal()).unwrap();
        if value.is_null() { String::new() } else { value.as_str().unwrap().to_owned() }
    };
    row.columns().iter().map(text).collect()
}
