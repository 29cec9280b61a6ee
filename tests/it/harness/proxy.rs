//! A TCP proxy that does to connections what networks do: it cuts, refuses, delays and hangs them, and it loses or
//! withholds exactly the request or answer that a test is about.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::frames::{Protocol, Replies, Request, Requests};
use super::traps::{HeldConnection, HeldRequest, Kind, Trap};

/// A proxy on a port of its own. Ends with all its connections when dropped; needs the runtime it was started on.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    protocol: Protocol,
    target: Mutex<SocketAddr>,
    /// Cancelled to cut all connections, and replaced.
    live: Mutex<CancellationToken>,
    refuses: AtomicBool,
    hangs: watch::Sender<bool>,
    delay: Mutex<Duration>,
    traps: Mutex<Vec<Trap>>,
    accepted: AtomicU64,
    open: AtomicUsize,
}

impl Proxy {
    /// A proxy in front of a Postgres server or a PgBouncer, spoken to without TLS.
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::start_for(Protocol::Postgres, upstream).await
    }

    /// A proxy in front of any server.
    pub async fn start_for(protocol: Protocol, upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            protocol,
            target: Mutex::new(upstream),
            live: Mutex::default(),
            refuses: AtomicBool::new(false),
            hangs: watch::Sender::new(false),
            delay: Mutex::default(),
            traps: Mutex::default(),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        let listening = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&shared));
        tokio::spawn(listening.clone().run_until_cancelled_owned(accepting));
        Self { address, shared, listening }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a server, through this proxy.
    pub fn url_of(&self, server_url: &str) -> String {
        let (scheme, rest) = server_url.split_once("://").expect("scheme://host:port");
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let user = authority.rfind('@').map_or("", |at| &authority[..=at]);
        format!("{scheme}://{user}{}{path}", self.address)
    }

    /// Sends new connections to another server.
    pub fn retarget(&self, upstream: SocketAddr) {
        *self.shared.target.lock().unwrap() = upstream;
    }

    /// Cuts all connections, on both sides, with a reset.
    pub fn cut_all(&self) {
        let live = std::mem::take(&mut *self.shared.live.lock().unwrap());
        live.cancel();
    }

    /// Whether new connections are closed at once; those that are open stay.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Whether nothing gets through in either direction, not even an end; connections stay, and new ones are taken.
    pub fn hang(&self, hangs: bool) {
        self.shared.hangs.send_replace(hangs);
    }

    /// Delays each piece by this long, in each direction.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Connections that were made to it so far, also those it refused.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Once: forwards the next request that matches, keeps back all answers, and cuts the client off when the server
    /// has answered: it was done, and nobody was told.
    pub fn cut_after_request(&self, matches: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Trap {
        self.arm(Kind::CutAfter, Box::new(matches))
    }

    /// Once: cuts both sides off instead of forwarding the next request that matches: it was not done.
    pub fn cut_before_request(&self, matches: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Trap {
        self.arm(Kind::CutBefore, Box::new(matches))
    }

    /// Once: cuts the client off at the next request that matches, and keeps the request and its connection to the
    /// server, which holds what it has locked, for a delivery that comes late.
    pub fn hold_request(&self, matches: impl Fn(&Request) -> bool + Send + Sync + 'static) -> HeldRequest {
        HeldRequest::new(self.arm(Kind::Hold, Box::new(matches)))
    }

    fn arm(&self, kind: Kind, matches: Box<dyn Fn(&Request) -> bool + Send + Sync>) -> Trap {
        let trap = Trap::new(kind, matches);
        self.shared.traps.lock().unwrap().push(trap.clone());
        trap
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.cancel();
        self.cut_all();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Fails when descriptors are short, or for a client that has left already.
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        if shared.refuses.load(Ordering::SeqCst) {
            reset(client);
            continue;
        }
        shared.open.fetch_add(1, Ordering::SeqCst);
        let cut = shared.live.lock().unwrap().child_token();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.serve(client, cut).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Closes a connection as one that is broken.
fn reset(stream: TcpStream) {
    // Closed in any case, at worst politely.
    let _polite = stream.set_zero_linger();
}

/// How a connection ends.
enum End {
    /// As one of the sides ended it.
    Closed,
    Cut,
    Trapped(Trap, Request),
}

impl Shared {
    async fn serve(&self, mut client: TcpStream, cut: CancellationToken) {
        let target = *self.target.lock().unwrap();
        let Some(Ok(mut server)) = cut.run_until_cancelled(TcpStream::connect(target)).await else {
            return reset(client);
        };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let mut replies = Replies::new(self.protocol);
        let answered = watch::Sender::new(0);
        let withheld = AtomicBool::new(false);
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let requests = self.forward_requests(from_client, to_server, &answered, &withheld);
            let answers = self.forward_answers(from_server, to_client, &mut replies, &answered, &withheld);
            tokio::select! {
                end = requests => end,
                end = answers => end,
                () = cut.cancelled() => End::Cut,
            }
        };
        match end {
            End::Closed => {}
            End::Cut => {
                reset(client);
                reset(server);
            }
            End::Trapped(trap, request) if trap.kind() == Kind::Hold => {
                reset(client);
                trap.fire(Some(HeldConnection { server, replies, request }));
            }
            End::Trapped(trap, _) => {
                reset(client);
                reset(server);
                trap.fire(None);
            }
        }
    }

    /// Waits as long as this network is slow or stuck.
    async fn pass(&self) {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep_until(Instant::now() + delay).await;
        }
        let mut hangs = self.hangs.subscribe();
        // Its sender is in here, so there is always an answer.
        let _open = hangs.wait_for(|hangs| !hangs).await;
    }

    async fn forward_requests(
        &self,
        mut client: ReadHalf<'_>,
        mut server: WriteHalf<'_>,
        answered: &watch::Sender<u64>,
        withheld: &AtomicBool,
    ) -> End {
        let mut requests = Requests::new(self.protocol);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = client.read(&mut buffer).await.unwrap_or(0);
            self.pass().await;
            if length == 0 {
                return End::Closed;
            }
            for request in requests.push(&buffer[..length]) {
                let Some(trap) = self.trap_for(&request) else {
                    if server.write_all(&request.bytes).await.is_err() {
                        // What the server said before it closed is still forwarded.
                        return std::future::pending().await;
                    }
                    continue;
                };
                if trap.kind() == Kind::CutAfter {
                    let goal = match (self.protocol, request.answer) {
                        (Protocol::Postgres, Some(answer)) => answer,
                        _ => *answered.borrow() + 1,
                    };
                    withheld.store(true, Ordering::SeqCst);
                    // A server that is gone counts as one that has answered.
                    if server.write_all(&request.bytes).await.is_ok() {
                        let mut answered = answered.subscribe();
                        let _count = answered.wait_for(|count| *count >= goal).await;
                    }
                }
                return End::Trapped(trap, request);
            }
        }
    }

    async fn forward_answers(
        &self,
        mut server: ReadHalf<'_>,
        mut client: WriteHalf<'_>,
        replies: &mut Replies,
        answered: &watch::Sender<u64>,
        withheld: &AtomicBool,
    ) -> End {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = server.read(&mut buffer).await.unwrap_or(0);
            self.pass().await;
            if length == 0 && !withheld.load(Ordering::SeqCst) {
                return End::Closed;
            }
            replies.push(&buffer[..length]);
            answered.send_replace(if length == 0 { u64::MAX } else { replies.answered });
            if withheld.load(Ordering::SeqCst) {
                if length == 0 {
                    // The trap ends this connection.
                    return std::future::pending().await;
                }
            } else if client.write_all(&buffer[..length]).await.is_err() {
                return End::Closed;
            }
        }
    }

    /// The trap that this request falls into; it is armed no longer.
    fn trap_for(&self, request: &Request) -> Option<Trap> {
        request.answer?;
        let mut traps = self.traps.lock().unwrap();
        let place = traps.iter().position(|trap| trap.matches(request))?;
        Some(traps.remove(place))
    }
}
