//! Tracing: what a call brings about, as spans, and which call a log line belongs to.
//!
//! A call that is not sampled makes no span and allocates nothing here. What a span may tell is a list ([`Key`]) of words,
//! numbers and ids: there is no place for a name, an address, a user or what a caller wrote.

mod current;
mod forced;
mod ids;
mod span;
mod tracer;

pub use current::{Current, Scope, current, enter, within};
pub use span::{Event, Key, Kind, Name, Record, Span, Value};
pub use tracer::{Asker, Sampling, child, install, resumed, serve};
