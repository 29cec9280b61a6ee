//! Calls that are forwarded to other nodes: unary gRPC straight on HTTP/2.
//!
//! A client of tonic hands a call to a task, and that one to the task of the connection, which starts a third for the answer;
//! and it reads messages that are only passed on. Here the caller's own task does everything but reading from the socket and
//! writing to it, and the answer stays bytes. The framing is that of
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::tls::Connector;
use super::{KEEPALIVE, PeerTls};

/// How much of one answer may be under way before it is read, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// As [`STREAM_WINDOW`], of all answers on one connection: many calls share it.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest headers that are taken with an answer, in bytes: errors tell every bad field.
const HEADERS: u32 = 64 << 10;
/// Where a refusal has its details.
const DETAILS: &str = "grpc-status-details-bin";
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
    tls: Option<Connector>,
    connect_timeout: Duration,
    lines: Arc<Mutex<BTreeMap<String, Arc<Line>>>>,
}

impl Calls {
    /// `connect_timeout` is for the connection, and once more for the handshake.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub(in crate::cluster) fn new(tls: Option<&PeerTls>, connect_timeout: Duration) -> Result<Self, String> {
        Ok(Self { tls: tls.map(Connector::new).transpose()?, connect_timeout, lines: Arc::default() })
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
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            current: Mutex::default(),
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
}

/// A connection that is being made: what is to come of it.
type Attempt = Shared<BoxFuture<'static, Result<(), String>>>;

#[derive(Default, Debug)]
struct Current {
    sender: Option<SendRequest<Bytes>>,
    /// Connections there have been, this one included.
    number: u64,
    attempt: Option<Attempt>,
}

impl Line {
    /// Makes a call. It is ended on the other side, too, when this future is dropped.
    pub(in crate::cluster) async fn call(self: Arc<Self>, call: Outgoing) -> Result<Bytes, Failed> {
        let mut stale = 0usize;
        let (answer, mut body) = loop {
            let (sender, number) = self.sender().await?;
            // Fails when the connection is over.
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
        // What a node that stands still does not take is not handed to its connection, where it would be kept after this
        // call is over.
        body.reserve_capacity(call.body.len());
        if let Some(capacity) = poll_fn(|context| body.poll_capacity(context)).await {
            capacity.map_err(broken)?;
        }
        body.send_data(call.body, true).map_err(broken)?;
        let (head, body) = answer.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(refusal_of(head.status));
        }
        // An answer that is only a refusal tells it here.
        end_of(&head.headers)?;
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
        let attempt = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = &current.sender {
                return Ok((sender.clone(), current.number));
            }
            current.attempt.get_or_insert_with(|| Arc::clone(self).attempt()).clone()
        };
        let made = attempt.clone().await;
        made.map_err(|why| {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            // One that was ended with its runtime has not put itself aside.
            current.attempt.take_if(|other| other.ptr_eq(&attempt));
            Failed::Broken(format!("{} is not reached: {why}", self.address))
        })?;
        self.in_use().ok_or_else(|| Failed::Broken(format!("{} has closed the connection", self.address)))
    }

    /// Begins to connect. It goes on when the call that needs it is given up, and all who wait for it hear what came of it.
    fn attempt(self: Arc<Self>) -> Attempt {
        let connecting = tokio::spawn(async move {
            let connected = self.connect().await;
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.attempt = None;
            connected.map(|sender| current.sender = Some(sender))
        });
        connecting.map(|made| made.unwrap_or_else(|error| Err(error.to_string()))).boxed().shared()
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

    async fn connect(self: &Arc<Self>) -> Result<SendRequest<Bytes>, String> {
        let stream = self.reach().await?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let shaken = async {
            match &self.tls {
                None => self.shake_hands(stream).await,
                Some(tls) => self.shake_hands(tls.connect(stream).await?).await,
            }
        };
        timeout(self.connect_timeout, shaken)
            .await
            .unwrap_or_else(|_elapsed| Err(String::from("no handshake in time")))
    }

    /// Tries the addresses of a name one after the other, each for its share of the time.
    async fn reach(&self) -> Result<TcpStream, String> {
        let found = timeout(self.connect_timeout, lookup_host(&self.address)).await;
        let found = found.map_err(|_elapsed| String::from("its name is not found in time"))?;
        let addresses: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
        let shares = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let each = self.connect_timeout.checked_div(shares).unwrap_or(self.connect_timeout);
        let mut why = String::from("its name has no address");
        for address in addresses {
            match timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => why = error.to_string(),
                Err(_elapsed) => why = String::from("no connection in time"),
            }
        }
        Err(why)
    }

    async fn shake_hands<S>(self: &Arc<Self>, stream: S) -> Result<SendRequest<Bytes>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADERS)
            .enable_push(false);
        let (sender, mut connection) = builder.handshake(stream).await.map_err(|error| error.to_string())?;
        let pings = connection.ping_pong();
        let number = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.number = current.number.saturating_add(1);
            current.number
        };
        tokio::spawn(drive(connection, pings, Arc::downgrade(self), number));
        Ok(sender)
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
        // What has come is read before silence is noticed: this process may have stood still itself.
        biased;
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
            let why = format!("an answer of more than {longest} bytes");
            return Err(Failed::Refused(Box::new(Status::out_of_range(why))));
        }
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
    match end_of(&trailers)? {
        Some(()) => unframed(got),
        None => Err(Failed::Broken(String::from("an answer without a status"))),
    }
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

/// Whether headers or trailers say that the call was successful; none when they do not say how it ended.
fn end_of(headers: &HeaderMap) -> Result<Option<()>, Failed> {
    match headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes) {
        None => return Ok(None),
        Some(b"0") => return Ok(Some(())),
        Some(_) => {}
    }
    // What is read as a status below has to be readable.
    let readable = MetadataMap::from_headers(headers.clone());
    if readable.get_bin(DETAILS).is_some_and(|details| details.to_bytes().is_err()) {
        return Err(Failed::Broken(String::from("a refusal with details that are none")));
    }
    match Status::from_header_map(headers) {
        Some(status) => Err(Failed::Refused(Box::new(status))),
        None => Ok(None),
    }
}

/// What an answer is that is none of gRPC, as in
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
fn refusal_of(status: StatusCode) -> Failed {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Failed::Refused(Box::new(Status::new(code, format!("HTTP status {status}"))))
}

#[cfg(test)]
mod tests;
