//! Calls that are forwarded to other nodes: unary gRPC straight on HTTP/2.
//!
//! A client of tonic hands a call to a task, and that one to the task of the connection, which starts a third for the answer;
//! and it reads messages that are only passed on. Here the caller's own task does everything but reading from the socket and
//! writing to it, and the answer stays bytes. The framing is that of
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::tls::Connector;
use super::{KEEPALIVE, PeerTls};

/// How much of one answer may be under way before it is read, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// As [`STREAM_WINDOW`], of all answers on one connection: many calls share it.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What stands before a message: whether it is compressed, and how long it is.
const PREFIX: usize = 5;
/// Connections that may turn out to be closed, one after the other, before a call that was not sent counts as broken.
const STALE: usize = 2;

/// Why a call has no answer.
#[derive(Debug)]
pub enum Failed {
    /// The other node says so.
    Refused(Box<Status>),
    /// What became of it is not known.
    Broken(String),
}

fn broken(error: impl std::fmt::Display) -> Failed {
    Failed::Broken(error.to_string())
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The method's path.
    pub path: &'static str,
    /// What goes with it: everything but what every call has.
    pub headers: HeaderMap,
    /// The message behind its [prefix](framed).
    pub body: Bytes,
    /// The longest answer that is taken, in bytes.
    pub longest_answer: usize,
}

/// A message as it goes over the wire.
pub fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(length.saturating_add(PREFIX));
    body.put_u8(0);
    // Requests are far shorter than what this holds.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut body);
    body.freeze()
}

/// Connections by address, made when first used and again after they broke.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Calls {
    tls: Result<Option<Connector>, String>,
    connect_timeout: Duration,
    lines: Arc<Mutex<BTreeMap<String, Arc<Line>>>>,
}

impl Calls {
    pub(in crate::cluster) fn new(tls: Option<&PeerTls>, connect_timeout: Duration) -> Self {
        Self { tls: tls.map(Connector::new).transpose(), connect_timeout, lines: Arc::default() }
    }

    /// The way to an address.
    pub(in crate::cluster) fn line(&self, address: &str) -> Result<Arc<Line>, Failed> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(address) {
            return Ok(Arc::clone(line));
        }
        let line = Arc::new(Line {
            address: address.to_owned(),
            authority: address.parse().map_err(broken)?,
            tls: self.tls.clone().map_err(Failed::Broken)?,
            connect_timeout: self.connect_timeout,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        });
        lines.insert(address.to_owned(), Arc::clone(&line));
        Ok(line)
    }

    /// Closes what leads to others than these.
    pub(in crate::cluster) fn keep(&self, addresses: &BTreeSet<&str>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|address, _| addresses.contains(address.as_str()));
    }
}

/// The way to one address, and the connection in use.
#[derive(Debug)]
pub(in crate::cluster) struct Line {
    address: String,
    authority: Authority,
    tls: Option<Connector>,
    connect_timeout: Duration,
    current: Mutex<Current>,
    /// Held by the one who connects, for all who wait for it.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default, Debug)]
struct Current {
    sender: Option<SendRequest<Bytes>>,
    /// How often there was another one before.
    number: u64,
}

impl Line {
    /// Makes a call. It is ended on the other side, too, when this future is dropped.
    pub(in crate::cluster) async fn call(self: Arc<Self>, call: Outgoing) -> Result<Bytes, Failed> {
        let mut stale = 0usize;
        let (answer, mut body) = loop {
            let (sender, number) = self.sender().await?;
            // Ready as soon as the other side takes one more call.
            let sent = match sender.ready().await {
                Ok(mut sender) => sender.send_request(self.head(&call)?, false),
                Err(error) => Err(error),
            };
            match sent {
                Ok(sent) => break sent,
                // Nothing was sent.
                Err(error) => {
                    self.forget(number);
                    stale = stale.saturating_add(1);
                    if stale >= STALE {
                        return Err(broken(error));
                    }
                }
            }
        };
        body.send_data(call.body, true).map_err(broken)?;
        let (head, body) = answer.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Failed::Broken(format!("HTTP status {}", head.status)));
        }
        refusal_in(&head.headers).map_or(Ok(()), Err)?;
        read(body, call.longest_answer).await
    }

    /// What every call begins with.
    fn head(&self, call: &Outgoing) -> Result<Request<()>, Failed> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static(call.path));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).map_err(broken)?;
        let mut headers = call.headers.clone();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// A handle to the connection in use, and its number.
    async fn sender(self: &Arc<Self>) -> Result<(SendRequest<Bytes>, u64), Failed> {
        if let Some(sender) = self.in_use() {
            return Ok(sender);
        }
        let _turn = self.connecting.lock().await;
        // Whoever had the turn before may have been successful.
        if let Some(sender) = self.in_use() {
            return Ok(sender);
        }
        let connected = timeout(self.connect_timeout, self.connect()).await;
        connected.map_err(|_elapsed| Failed::Broken(format!("{} does not answer", self.address)))?
    }

    fn in_use(&self) -> Option<(SendRequest<Bytes>, u64)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.sender.clone().map(|sender| (sender, current.number))
    }

    fn forget(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number == number {
            current.sender = None;
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<(SendRequest<Bytes>, u64), Failed> {
        let stream = TcpStream::connect(&self.address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        match &self.tls {
            None => self.shake_hands(stream).await,
            Some(tls) => self.shake_hands(tls.connect(stream).await.map_err(Failed::Broken)?).await,
        }
    }

    async fn shake_hands<S>(self: &Arc<Self>, stream: S) -> Result<(SendRequest<Bytes>, u64), Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false);
        let (sender, mut connection) = builder.handshake(stream).await.map_err(broken)?;
        let pings = connection.ping_pong();
        let number = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.number = current.number.saturating_add(1);
            current.sender = Some(sender.clone());
            current.number
        };
        tokio::spawn(drive(connection, pings, Arc::downgrade(self), number));
        Ok((sender, number))
    }
}

/// Reads from a connection and writes to it until it ends, or is silent for too long.
async fn drive<S>(connection: Connection<S, Bytes>, pings: Option<PingPong>, line: Weak<Line>, number: u64)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let silence = async move {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            sleep(KEEPALIVE).await;
            if !matches!(timeout(KEEPALIVE, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
                return;
            }
        }
    };
    let why = tokio::select! {
        ended = connection => ended.err().map(|error| error.to_string()),
        () = silence => Some(String::from("it is silent")),
    };
    if let Some(line) = line.upgrade() {
        line.forget(number);
        tracing::debug!(address = line.address, why, "a connection to another node has ended");
    }
}

/// The message of an answer whose head has been read.
async fn read(mut body: RecvStream, longest: usize) -> Result<Bytes, Failed> {
    let mut got = Bytes::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(broken)?;
        body.flow_control().release_capacity(part.len()).map_err(broken)?;
        // Most answers come as one part, which is not copied.
        got = if got.is_empty() {
            part
        } else {
            let mut all = BytesMut::from(got);
            all.put(part);
            all.freeze()
        };
        if got.len() > longest.saturating_add(PREFIX) {
            return Err(Failed::Broken(format!("an answer of more than {longest} bytes")));
        }
    }
    let Some(trailers) = body.trailers().await.map_err(broken)? else {
        return Err(Failed::Broken(String::from("an answer without a status")));
    };
    refusal_in(&trailers).map_or(Ok(()), Err)?;
    unframed(got)
}

/// A message without its prefix.
fn unframed(mut got: Bytes) -> Result<Bytes, Failed> {
    let (Ok(0), Ok(length)) = (got.try_get_u8(), got.try_get_u32()) else {
        return Err(Failed::Broken(String::from("an answer that is no message, or compressed")));
    };
    if usize::try_from(length) != Ok(got.len()) {
        return Err(Failed::Broken(format!("an answer of {} bytes that should have {length}", got.len())));
    }
    Ok(got)
}

/// The refusal that headers or trailers tell.
fn refusal_in(headers: &HeaderMap) -> Option<Failed> {
    let status = Status::from_header_map(headers)?;
    (status.code() != Code::Ok).then(|| Failed::Refused(Box::new(status)))
}

#[cfg(test)]
mod tests;
