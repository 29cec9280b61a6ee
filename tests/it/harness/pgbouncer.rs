//! A private PgBouncer in front of a private server.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::Mutex;

use tokio::net::TcpStream;

use super::place::{Account, Place, free_port};
use super::postgres::{PgServer, USER};
use super::postgres_binaries::pgbouncer_binary;
use super::wait::eventually;

const PORT_TRIES: usize = 20;

/// A pool of at most 10 connections for each database of a server. Ended and removed when dropped, or when this process
/// ends in whatever way.
#[derive(Debug)]
pub struct PgBouncer {
    process: Mutex<Child>,
    port: u16,
    place: Place,
}

impl PgBouncer {
    /// Starts one with a pool mode: `session`, `transaction` or `statement`.
    pub async fn start(server: &PgServer, pool_mode: &str) -> Self {
        for _ in 0..PORT_TRIES {
            let bouncer = Self::launch(server, pool_mode, free_port());
            if bouncer.listens().await {
                return bouncer;
            }
            let log = bouncer.log();
            assert!(log.contains("Address already in use"), "PgBouncer did not start:\n{log}");
        }
        panic!("{PORT_TRIES} ports of 127.0.0.1 were taken");
    }

    fn launch(server: &PgServer, pool_mode: &str, port: u16) -> Self {
        let place = Place::new();
        let folder = place.path().display();
        let upstream = server.port();
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={upstream} user={USER}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             pidfile = {folder}/pgbouncer.pid\n\
             auth_type = any\n\
             admin_users = {USER}\n\
             pool_mode = {pool_mode}\n\
             default_pool_size = 10\n\
             max_client_conn = 500\n\
             server_login_retry = 0.1\n\
             ignore_startup_parameters = extra_float_digits, options\n"
        );
        let file = place.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        let log = File::create(place.path().join("log")).unwrap();
        let mut pgbouncer = Account::get().command(pgbouncer_binary());
        pgbouncer.arg(&file).stdout(Stdio::null()).stderr(log);
        Self { process: Mutex::new(pgbouncer.spawn().unwrap()), port, place }
    }

    /// Waits until it listens; false when it ended instead.
    async fn listens(&self) -> bool {
        let look = || async {
            if self.process.lock().unwrap().try_wait().unwrap().is_some() {
                return Some(false);
            }
            // Somebody else may listen where it could not; it says when it does.
            let ready = self.log().contains("process up") && TcpStream::connect(self.address()).await.is_ok();
            ready.then_some(true)
        };
        eventually("PgBouncer to start", look).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The URL of a database of its server; `pgbouncer` is its own, for commands such as `SHOW POOLS`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@{}/{database}", self.address())
    }

    /// A URL of its server, through it.
    pub fn url_of(&self, server_url: &str) -> String {
        self.url(server_url.rsplit_once('/').expect("a URL with a database").1)
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.place.read("log")
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        // One that has ended needs no killing.
        let _ended = process.kill();
        let _reaped = process.wait();
        // The number may be another's by now.
        let _none = fs::remove_file(self.place.path().join("pgbouncer.pid"));
    }
}
