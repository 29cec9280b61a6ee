//! HTTP/2 as those speak it who mean no good: frames by hand, without regard for what the other side says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::wait::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// Flags of HEADERS.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header that is not to be remembered, with a name and a value of at most 126 bytes, or a longer value.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    if value.len() < 127 {
        bytes.push(u8::try_from(value.len()).unwrap());
    } else {
        // A number with a prefix of seven bits.
        bytes.push(127);
        let mut rest = value.len() - 127;
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend(value.as_bytes());
    bytes
}

/// The headers of a call.
pub fn call_headers(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "localhost"),
        header("te", "trailers"),
        header("content-type", "application/grpc"),
    ]
    .concat()
}

/// A connection. Whatever comes is read and counted, until the other side closes.
pub struct Raw {
    to: OwnedWriteHalf,
    said: watch::Receiver<Said>,
}

/// What the other side has said.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// All of it.
    pub bytes: Vec<u8>,
    /// It has closed the connection.
    pub closed: bool,
}

impl Said {
    /// The kinds of its frames, each with its payload.
    pub fn frames(&self) -> Vec<(u8, Vec<u8>)> {
        let (mut frames, mut rest) = (Vec::new(), self.bytes.as_slice());
        while rest.len() >= 9 {
            let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            let Some(payload) = rest.get(9..9 + length) else { break };
            frames.push((rest[3], payload.to_vec()));
            rest = &rest[9 + length..];
        }
        frames
    }

    /// The reasons it gives for going.
    pub fn goaways(&self) -> Vec<u32> {
        let frames = self.frames().into_iter().filter(|(kind, _)| *kind == GOAWAY);
        frames.map(|(_, payload)| u32::from_be_bytes(payload[4..8].try_into().unwrap())).collect()
    }
}

impl Raw {
    /// Connects from an address of this machine, and says nothing.
    pub async fn silent(from: Ipv4Addr, server: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).unwrap();
        let stream: TcpStream = socket.connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (from, to) = stream.into_split();
        let (sender, said) = watch::channel(Said::default());
        tokio::spawn(listen(from, sender));
        Self { to, said }
    }

    /// Connects and says hello.
    pub async fn connect(server: SocketAddr) -> Self {
        let mut raw = Self::silent(Ipv4Addr::LOCALHOST, server).await;
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        assert!(raw.send(&hello).await);
        raw
    }

    /// Sends bytes; false when the other side takes no more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        if self.said.borrow().closed {
            return false;
        }
        timeout(PATIENCE, self.to.write_all(bytes))
            .await
            .expect("the other side neither reads nor closes")
            .is_ok()
    }

    /// Waits until the other side has closed; what it said.
    pub async fn closed(&mut self) -> Said {
        self.closed_within(PATIENCE).await
    }

    /// As [`Self::closed`], with more or less patience.
    pub async fn closed_within(&mut self, patience: Duration) -> Said {
        let closed = timeout(patience, self.said.wait_for(|said| said.closed)).await;
        closed.expect("the connection is not closed").unwrap().clone()
    }

    /// What the other side has said so far.
    pub fn said(&self) -> Said {
        self.said.borrow().clone()
    }

    /// Waits for this to be said.
    pub async fn hears(&mut self, what: &str, is_it: impl Fn(&Said) -> bool) -> Said {
        let heard = timeout(PATIENCE, self.said.wait_for(|said| is_it(said))).await;
        heard.unwrap_or_else(|_| panic!("{what} is not said")).unwrap().clone()
    }
}

/// Most that is kept of what is said, in bytes.
const KEPT: usize = 1 << 20;

async fn listen(mut from: OwnedReadHalf, sender: watch::Sender<Said>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        sender.send_modify(|said| {
            if said.bytes.len() < KEPT {
                said.bytes.extend(&buffer[..length]);
            }
            said.closed = length == 0;
        });
        if length == 0 {
            return;
        }
    }
}
