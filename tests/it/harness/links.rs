//! The network between the nodes of a cluster: a relay in front of each node's listener for others. It knows who
//! connects, so that what goes from one node to another can be cut by itself.
//!
//! Who is at the other end of a connection is read from `/proc`: the socket's number, and which process has it open.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What becomes of the connections that one node makes to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// They work.
    Open,
    /// They are made, and nothing comes through in either direction: packets are lost.
    Hung,
    /// They are reset, also those that are there.
    Reset,
}

/// All of it. Ends with its connections when dropped; needs the runtime it was made on.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    listening: CancellationToken,
    _ends: DropGuard,
}

#[derive(Debug, Default)]
struct Shared {
    /// The process that each node runs as.
    processes: Mutex<HashMap<usize, u32>>,
    /// By who connects, and to whom.
    links: Mutex<HashMap<(usize, usize), watch::Sender<Link>>>,
}

impl Network {
    /// A network without nodes.
    pub fn new() -> Self {
        let listening = CancellationToken::new();
        Self { shared: Arc::default(), _ends: listening.clone().drop_guard(), listening }
    }

    /// Where others reach the node `to`, which listens at `target`.
    pub async fn relay(&self, to: usize, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, listening) = (Arc::clone(&self.shared), self.listening.clone());
        let accepting = async move {
            loop {
                let (client, from) = listener.accept().await.unwrap();
                let one = one(Arc::clone(&shared), client, from, to, target);
                tokio::spawn(listening.clone().run_until_cancelled_owned(one));
            }
        };
        tokio::spawn(self.listening.clone().run_until_cancelled_owned(accepting));
        address
    }

    /// A node runs as this process from now on.
    pub fn runs_as(&self, node: usize, process: u32) {
        self.shared.processes.lock().unwrap().insert(node, process);
    }

    /// What becomes of what goes between a node and all others, whoever connects.
    pub fn between(&self, node: usize, others: impl Iterator<Item = usize>, link: Link) {
        for other in others.filter(|other| *other != node) {
            self.shared.link(node, other).send_replace(link);
            self.shared.link(other, node).send_replace(link);
        }
    }

    /// What becomes of what others connect to a node for; what it asks them itself goes on.
    pub fn toward(&self, node: usize, others: impl Iterator<Item = usize>, link: Link) {
        for other in others.filter(|other| *other != node) {
            self.shared.link(other, node).send_replace(link);
        }
    }
}

impl Shared {
    fn link(&self, from: usize, to: usize) -> watch::Sender<Link> {
        let mut links = self.links.lock().unwrap();
        links.entry((from, to)).or_insert_with(|| watch::Sender::new(Link::Open)).clone()
    }

    /// The node whose process has the other end of this connection.
    fn who(&self, client: SocketAddr, us: SocketAddr) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let (theirs, ours) = (written(client)?, written(us)?);
        let socket = table.lines().find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let is_it = fields.next()? == theirs && fields.next()? == ours;
            is_it.then(|| fields.nth(6).map(|inode| format!("socket:[{inode}]")))?
        })?;
        let processes = self.processes.lock().unwrap().clone();
        let has = |process: &u32| {
            let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
            let mut links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            links.any(|link| link.to_str() == Some(&socket))
        };
        processes.into_iter().find(|(_, process)| has(process)).map(|(node, _)| node)
    }
}

/// An address as `/proc/net/tcp` has it.
fn written(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let ip = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

async fn one(shared: Arc<Shared>, mut client: TcpStream, from: SocketAddr, to: usize, target: SocketAddr) {
    let us = client.local_addr().unwrap();
    // Who is gone again needs no answer.
    let Some(node) = shared.who(from, us) else { return };
    let link = shared.link(node, to);
    let mut cut = link.subscribe();
    let reset = async { cut.wait_for(|link| *link == Link::Reset).await.is_ok() };
    let served = async {
        if !passes(&link).await {
            return;
        }
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // Either end is the end of both.
        tokio::select! {
            () = pump(from_client, to_server, &link) => {}
            () = pump(from_server, to_client, &link) => {}
        }
    };
    let is_reset = tokio::select! {
        () = served => *link.borrow() == Link::Reset,
        is_reset = reset => is_reset,
    };
    if is_reset {
        // Closed in any case, at worst politely.
        let _polite = client.set_zero_linger();
    }
}

/// Waits while nothing comes through; false when it never will.
async fn passes(link: &watch::Sender<Link>) -> bool {
    let mut link = link.subscribe();
    let now = link.wait_for(|link| *link != Link::Hung).await;
    now.is_ok_and(|link| *link == Link::Open)
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, link: &watch::Sender<Link>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if !passes(link).await || length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
