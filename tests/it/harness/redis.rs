//! Private Redis servers: each with a port and a folder of its own, keeping everything in memory.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::place::{Account, Place, free_port};
use super::wait::eventually;

const MISSING: &str = "Redis is missing: apt-get install -y redis-server";
const PORT_TRIES: usize = 20;

/// A server. Ended and removed when dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub struct RedisServer {
    process: Mutex<Option<Child>>,
    port: u16,
    place: Place,
}

fn binary() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&path).map(|folder| folder.join("redis-server"));
    files.find(|file| file.is_file()).expect(MISSING)
}

impl RedisServer {
    /// Starts an empty one.
    pub async fn start() -> Self {
        for _ in 0..PORT_TRIES {
            let server = Self { process: Mutex::default(), port: free_port(), place: Place::new() };
            if server.run().await {
                return server;
            }
            let log = server.place.read("log");
            assert!(log.contains("Address already in use"), "Redis did not start:\n{log}");
        }
        panic!("{PORT_TRIES} ports of 127.0.0.1 were taken");
    }

    async fn run(&self) -> bool {
        let log = File::create(self.place.path().join("log")).unwrap();
        let mut redis = Account::get().command(binary());
        redis.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        redis.args(["--save", "", "--appendonly", "no", "--pidfile"]);
        redis.arg(self.place.path().join("redis.pid")).arg("--dir").arg(self.place.path());
        redis.stderr(Stdio::null()).stdout(log);
        *self.process.lock().unwrap() = Some(redis.spawn().unwrap());
        let look = async || {
            let ended = self.process.lock().unwrap().as_mut().unwrap().try_wait().unwrap().is_some();
            if ended {
                return Some(false);
            }
            // Somebody else may listen where it could not; it says when it does.
            let ready = self.place.read("log").contains("Ready to accept connections");
            (ready && TcpStream::connect(self.address()).await.is_ok()).then_some(true)
        };
        eventually("Redis to start", look).await
    }

    /// Ends it as `kill -9` does.
    pub fn kill9(&self) {
        let Some(mut process) = self.process.lock().unwrap().take() else { return };
        // One that has ended needs no killing.
        let _ended = process.kill();
        let _reaped = process.wait();
        // The number may be another's by now.
        let _none = fs::remove_file(self.place.path().join("redis.pid"));
    }

    /// Starts it again on its port, empty.
    pub async fn start_again(&self) {
        assert!(self.run().await, "Redis did not start again:\n{}", self.place.read("log"));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The URL for a node.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// The first line that it answers to a command.
    pub async fn command(&self, command: &str) -> String {
        let mut stream = BufReader::new(TcpStream::connect(self.address()).await.unwrap());
        stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Keys that it has.
    pub async fn keys(&self) -> u64 {
        self.command("DBSIZE").await.trim_start_matches(':').parse().unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill9();
    }
}
