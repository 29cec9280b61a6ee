//! A span: one operation, when it was, and what may be told of it.

use std::fmt;
use std::time::Instant;

use super::tracer;
use crate::domain::ids::OrderId;
use crate::domain::trace::{SpanId, TraceId};

/// Longest name of a node or a program's method that is kept, in bytes.
const TEXT_BYTES: usize = 128;
/// Most events of one span; further ones are left out.
const EVENTS: usize = 16;

/// What a span may tell; nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// The order's id.
    Order,
    /// The order's number.
    Number,
    /// Its version after a change.
    Version,
    /// Events that a commit stores.
    Events,
    /// The outcome of a call, as gRPC names it.
    Code,
    /// The node that a call is forwarded to.
    Node,
    /// What a saga is for.
    Saga,
    /// Which saga of its order.
    SagaNo,
    /// The step of a saga.
    Step,
    /// Whether the step is done or undone.
    Direction,
    /// How often the step was tried, this time included.
    Attempt,
    /// What came of it.
    Outcome,
    /// A collaborator.
    Peer,
}

impl Key {
    /// As exporters name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order.id",
            Self::Number => "order.number",
            Self::Version => "order.version",
            Self::Events => "order.events",
            Self::Code => "rpc.response.status_code",
            Self::Node => "order.node",
            Self::Saga => "order.saga",
            Self::SagaNo => "order.saga_no",
            Self::Step => "order.step",
            Self::Direction => "order.direction",
            Self::Attempt => "order.attempt",
            Self::Outcome => "order.outcome",
            Self::Peer => "peer.service",
        }
    }
}

/// What it tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A word of this program.
    Word(&'static str),
    /// A count.
    Count(i64),
    /// An order's id.
    Order(OrderId),
    /// The name of a node, or the number of an order.
    Name(Box<str>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Count(count) => fmt::Display::fmt(count, f),
            Self::Order(order) => fmt::Display::fmt(order, f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// On which side of a call a span is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On neither.
    Internal,
    /// It answers.
    Server,
    /// It asks.
    Client,
}

impl Kind {
    /// In lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What an operation is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Name {
    /// In words of this program.
    Word(&'static str),
    /// A kind of operation, and which.
    Of(&'static str, &'static str),
    /// A method of a gRPC service: `package.Service`, `Method`.
    Rpc(&'static str, &'static str),
    /// As the path of a call has it: `package.Service/Method`.
    Path(Box<str>),
}

impl Name {
    /// The method of a call's path, such as `/order.v1.OrderService/GetOrder`; cut after 128 bytes.
    pub fn path(path: &str) -> Self {
        Self::Path(short(path.strip_prefix('/').unwrap_or(path)))
    }

    /// The gRPC service and method, where it is one.
    pub fn rpc(&self) -> Option<(&str, &str)> {
        match self {
            Self::Rpc(service, method) => Some((service, method)),
            Self::Path(path) => path.split_once('/'),
            Self::Word(_) | Self::Of(..) => None,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Of(what, which) => write!(f, "{what} {which}"),
            Self::Rpc(service, method) => write!(f, "{service}/{method}"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// Something within an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Nanoseconds after the span's start.
    pub after: u64,
    /// What.
    pub name: &'static str,
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its trace.
    pub trace: TraceId,
    /// Its own id.
    pub span: SpanId,
    /// The span that has brought it about; none = it begins the trace.
    pub parent: Option<SpanId>,
    /// What it is called.
    pub name: Name,
    /// On which side of a call it is.
    pub kind: Kind,
    /// When it began: nanoseconds since 1970, by the machine's clock.
    pub start: u64,
    /// How long it lasted, in nanoseconds.
    pub nanos: u64,
    /// What is told of it.
    pub attributes: Vec<(Key, Value)>,
    /// What happened meanwhile, at most 16 events.
    pub events: Vec<Event>,
    /// A span before it that has not brought it about.
    pub link: Option<(TraceId, SpanId)>,
    /// Whether it failed.
    pub failed: bool,
}

/// An operation under way: recorded when it is dropped, if it is sampled.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    record: Record,
    started: Instant,
}

impl Span {
    /// An operation that nobody records.
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn open(record: Record) -> Self {
        Self(Some(Box::new(Open { record, started: Instant::now() })))
    }

    /// Whether it is recorded.
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    fn set(&mut self, key: Key, value: impl FnOnce() -> Value) {
        if let Some(open) = &mut self.0 {
            open.record.attributes.push((key, value()));
        }
    }

    /// Tells a word.
    pub fn word(&mut self, key: Key, word: &'static str) {
        self.set(key, || Value::Word(word));
    }

    /// Tells a count.
    pub fn count(&mut self, key: Key, count: impl TryInto<i64>) {
        self.set(key, || Value::Count(count.try_into().unwrap_or(i64::MAX)));
    }

    /// Tells which order it is about.
    pub fn order(&mut self, order: OrderId) {
        self.set(Key::Order, || Value::Order(order));
    }

    /// Tells the name of a node, or the number of an order; cut after 128 bytes.
    pub fn name(&mut self, key: Key, name: &str) {
        self.set(key, || Value::Name(short(name)));
    }

    /// Notes that something happened just now.
    pub fn event(&mut self, name: &'static str) {
        if let Some(open) = &mut self.0
            && open.record.events.len() < EVENTS
        {
            let after = nanos(open.started);
            open.record.events.push(Event { after, name });
        }
    }

    /// Notes that it failed.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.0 {
            open.record.failed = true;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let Open { mut record, started } = *open;
            record.nanos = nanos(started);
            tracer::record(record);
        }
    }
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn short(text: &str) -> Box<str> {
    let end = text.floor_char_boundary(TEXT_BYTES.min(text.len()));
    Box::from(text.get(..end).unwrap_or_default())
}
