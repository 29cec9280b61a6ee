//! A span as one line of JSON, for people and for `order-service ops trace`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Program;
use crate::domain::Timestamp;
use crate::trace::{Record, Value};

/// One span.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span that has brought it about; none = it begins the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// What it is called.
    pub name: String,
    /// internal, server or client.
    pub kind: String,
    /// The program.
    pub service: String,
    /// The node.
    pub node: String,
    /// When it began, by that machine's clock. As text: a number of so many digits could pass for a card number.
    pub start: Timestamp,
    /// How long it lasted, in microseconds.
    pub duration_us: u64,
    /// What is told of it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// What happened meanwhile, and how many microseconds after its start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<(String, u64)>,
    /// A span before it, in whatever process, that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_span_id: Option<String>,
    /// Whether it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

impl Line {
    pub(super) fn of(record: &Record, program: &Program) -> Self {
        let text = |value: &Value| value.to_string();
        Self {
            trace_id: record.trace.to_string(),
            span_id: record.span.to_string(),
            parent_span_id: record.parent.map(|span| span.to_string()),
            name: record.name.to_string(),
            kind: record.kind.as_str().to_owned(),
            service: program.service.to_owned(),
            node: program.node.clone(),
            start: moment(record.start / 1_000),
            duration_us: record.nanos / 1_000,
            attributes: record
                .attributes
                .iter()
                .map(|(key, value)| (key.as_str().to_owned(), text(value)))
                .collect(),
            events: record.events.iter().map(|event| (event.name.to_owned(), event.after / 1_000)).collect(),
            link_span_id: record.link.map(|(_, span)| span.to_string()),
            failed: record.failed,
        }
    }
}

fn moment(micros: u64) -> Timestamp {
    i64::try_from(micros).ok().and_then(Timestamp::from_timestamp_micros).unwrap_or_default()
}
