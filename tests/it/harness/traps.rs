//! What a proxy does to one request that a test waits for.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::frames::{Replies, Reply, Request};
use super::wait::PATIENCE;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    CutAfter,
    CutBefore,
    Hold,
}

/// A trap for one request. It stays armed when this is dropped.
#[derive(Clone)]
pub struct Trap(Arc<Inner>);

struct Inner {
    kind: Kind,
    matches: Box<dyn Fn(&Request) -> bool + Send + Sync>,
    fired: watch::Sender<u64>,
    held: Mutex<Option<HeldConnection>>,
}

/// A request that has not arrived, and the connection it belongs on.
#[derive(Debug)]
pub(super) struct HeldConnection {
    pub(super) server: TcpStream,
    pub(super) replies: Replies,
    pub(super) request: Request,
}

impl fmt::Debug for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trap({:?}, fired {})", self.0.kind, self.fired())
    }
}

impl Trap {
    pub(super) fn new(kind: Kind, matches: Box<dyn Fn(&Request) -> bool + Send + Sync>) -> Self {
        Self(Arc::new(Inner { kind, matches, fired: watch::Sender::new(0), held: Mutex::default() }))
    }

    pub(super) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(super) fn matches(&self, request: &Request) -> bool {
        (self.0.matches)(request)
    }

    pub(super) fn fire(&self, held: Option<HeldConnection>) {
        *self.0.held.lock().unwrap() = held;
        self.0.fired.send_modify(|fired| *fired += 1);
    }

    /// How often it has done what it is for, to the end: 0 or 1.
    pub fn fired(&self) -> u64 {
        *self.0.fired.borrow()
    }

    /// Waits until it has fired; fails the test when that takes too long.
    pub async fn sprung(&self) {
        let mut fired = self.0.fired.subscribe();
        let seen = timeout(PATIENCE, fired.wait_for(|fired| *fired > 0)).await;
        assert!(seen.is_ok(), "no request fell into {self:?}");
    }
}

/// A request that is kept from its server. When this is dropped, it never arrives.
#[derive(Debug)]
pub struct HeldRequest {
    trap: Trap,
}

impl HeldRequest {
    pub(super) fn new(trap: Trap) -> Self {
        Self { trap }
    }

    /// How many requests it holds or has held: 0 or 1.
    pub fn fired(&self) -> u64 {
        self.trap.fired()
    }

    /// Waits until it holds a request, whose client is cut off by then.
    pub async fn sprung(&self) {
        self.trap.sprung().await;
    }

    /// Delivers the request and returns what the server answered; none when it closed the connection instead, such
    /// as when it has been restarted. Closes the connection after that, which rolls back an open transaction.
    pub async fn deliver(self) -> Option<Reply> {
        self.sprung().await;
        let HeldConnection { mut server, mut replies, request } = self.trap.0.held.lock().unwrap().take()?;
        let goal = request.answer.unwrap().max(replies.answered + 1);
        replies.reply = Reply::default();
        let answering = async {
            server.write_all(&request.bytes).await.ok()?;
            let mut buffer = vec![0; 1 << 16];
            while replies.answered < goal {
                let length = server.read(&mut buffer).await.unwrap_or(0);
                if length == 0 {
                    return None;
                }
                replies.push(&buffer[..length]);
            }
            Some(replies.reply)
        };
        let answer = timeout(PATIENCE, answering).await;
        answer.unwrap_or_else(|_| panic!("no answer to a request that was delivered late"))
    }
}
