//! Private Redis servers: each with a port and a folder of its own, keeping everything in memory.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::certificates::Certificates;
use super::place::{Account, Place, free_port};
use super::wait::eventually;

const MISSING: &str = "Redis is missing: apt-get install -y redis-server";
const PORT_TRIES: usize = 20;

/// A server. Ended and removed when dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub struct RedisServer {
    process: Mutex<Option<Child>>,
    port: u16,
    /// Where it speaks TLS, if it does.
    tls_port: Option<u16>,
    further: Vec<String>,
    place: Place,
}

/// One that tests share which need no faults; each has keys of its own.
pub async fn shared_redis() -> &'static RedisServer {
    static SHARED: OnceCell<RedisServer> = OnceCell::const_new();
    SHARED.get_or_init(RedisServer::start).await
}

fn binary() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&path).map(|folder| folder.join("redis-server"));
    files.find(|file| file.is_file()).expect(MISSING)
}

impl RedisServer {
    /// Starts an empty one.
    pub async fn start() -> Self {
        Self::start_as(|_| {}).await
    }

    /// Starts one that speaks TLS as well, by the right authority.
    pub async fn start_with_tls(certificates: &Certificates) -> Self {
        let with_tls = |server: &mut Self| {
            certificates.install(server.place.path());
            let file = |name| server.place.path().join(name).display().to_string();
            let port = free_port();
            server.tls_port = Some(port);
            let (certificate, key) = (file("server.crt"), file("server.key"));
            let further =
                ["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
            server.further = further.map(str::to_owned).to_vec();
            server.further.extend(["--tls-auth-clients", "no", "--tls-ca-cert-file"].map(str::to_owned));
            server.further.push(certificate);
        };
        Self::start_as(with_tls).await
    }

    /// Starts a cluster of three.
    pub async fn start_cluster() -> [Self; 3] {
        let in_cluster = |server: &mut Self| {
            let port = free_port().to_string();
            let further =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &port];
            server.further = further.map(str::to_owned).to_vec();
        };
        let servers = [
            Self::start_as(in_cluster).await,
            Self::start_as(in_cluster).await,
            Self::start_as(in_cluster).await,
        ];
        let bus = |server: &Self| server.further.last().unwrap().clone();
        for (server, range) in servers.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            assert_eq!(server.command(&format!("CLUSTER ADDSLOTSRANGE {range}")).await, "+OK");
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", servers[0].port, bus(&servers[0]));
            assert_eq!(server.command(&meet).await, "+OK");
        }
        for server in &servers {
            let knows = async || {
                let info = server.text("CLUSTER INFO").await;
                (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
            };
            eventually("the servers to know each other", knows).await;
        }
        servers
    }

    async fn start_as(further: impl Fn(&mut Self)) -> Self {
        for _ in 0..PORT_TRIES {
            let (port, place) = (free_port(), Place::new());
            let mut server =
                Self { process: Mutex::default(), port, tls_port: None, further: Vec::new(), place };
            further(&mut server);
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
        redis
            .args(["--save", "", "--appendonly", "no", "--rdbcompression", "no"])
            .args(&self.further)
            .arg("--pidfile");
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

    /// Writes down what it has; that is what it has when it is started again.
    pub async fn save(&self) -> Vec<u8> {
        assert_eq!(self.command("SAVE").await, "+OK");
        fs::read(self.place.path().join("dump.rdb")).unwrap()
    }

    /// Starts it again on its port, with what was saved.
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

    /// The URL for a node that speaks TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}/0", self.tls_port.unwrap())
    }

    /// The text that it answers to a command; empty when it has none.
    pub async fn text(&self, command: &str) -> String {
        let mut stream = BufReader::new(TcpStream::connect(self.address()).await.unwrap());
        stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let length = line.trim_end().trim_start_matches('$').parse().unwrap_or(0);
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
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
