//! Spans as a collector takes them: the messages of OTLP (opentelemetry.proto.collector.trace.v1) that are sent, with the
//! fields that are used.

use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::{Program, dropped, exported};
use crate::domain::card::masked;
use crate::telemetry::TelemetryError;
use crate::trace::{Kind, Record, Value};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// How long a collector that did not answer is left alone; doubles with each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What a collector may answer, in bytes.
const ANSWER_BYTES: usize = 65_536;

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<SpanStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SpanStatus {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 3")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Count(i64),
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::Text(masked(value).into_owned()))
}

/// The numbers of OTLP's enumerations.
const STATUS_ERROR: i32 = 2;

const fn kind(kind: Kind) -> i32 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    }
}

fn span(record: &Record) -> Span {
    let mut attributes: Vec<KeyValue> = record
        .attributes
        .iter()
        .map(|(key, value)| match value {
            Value::Count(count) => attribute(key.as_str(), Any::Count(*count)),
            value => text(key.as_str(), &value.to_string()),
        })
        .collect();
    if let Some((service, method)) = record.name.rpc() {
        let names = [("rpc.system", "grpc"), ("rpc.service", service), ("rpc.method", method)];
        attributes.extend(names.map(|(key, name)| text(key, name)));
    }
    Span {
        trace_id: record.trace.to_bytes().to_vec(),
        span_id: record.span.to_bytes().to_vec(),
        parent_span_id: record.parent.map(|span| span.to_bytes().to_vec()).unwrap_or_default(),
        name: masked(&record.name.to_string()).into_owned(),
        kind: kind(record.kind),
        start_time_unix_nano: record.start,
        end_time_unix_nano: record.start.saturating_add(record.nanos),
        attributes,
        events: record
            .events
            .iter()
            .map(|event| Event {
                time_unix_nano: record.start.saturating_add(event.after),
                name: event.name.to_owned(),
            })
            .collect(),
        links: record
            .link
            .iter()
            .map(|(trace, span)| Link {
                trace_id: trace.to_bytes().to_vec(),
                span_id: span.to_bytes().to_vec(),
            })
            .collect(),
        status: record.failed.then_some(SpanStatus { code: STATUS_ERROR }),
    }
}

/// A collector of traces.
#[derive(Debug)]
pub(super) struct Collector {
    channel: Channel,
    timeout: Duration,
    resource: Resource,
    /// Until then it is left alone, and for how long at the next failure.
    rests: Option<(Instant, Duration)>,
}

impl Collector {
    pub(super) fn new(url: &str, timeout: Duration, program: Program) -> Result<Self, TelemetryError> {
        let bad = |why: &dyn std::fmt::Display| {
            let what = "tracing.otlp_endpoint cannot be called";
            TelemetryError::Spans(format!("{what} ({why}); write it like http://127.0.0.1:4317"))
        };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(&error))?;
        let endpoint = match url.starts_with("https://") {
            true => {
                let tls = ClientTlsConfig::new().with_native_roots();
                endpoint.tls_config(tls).map_err(|error| bad(&error))?
            }
            false => endpoint,
        };
        let attributes = vec![
            text("service.name", program.service),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &program.node),
        ];
        let channel = endpoint.connect_timeout(timeout).connect_lazy();
        Ok(Self { channel, timeout, resource: Resource { attributes }, rests: None })
    }

    pub(super) async fn send(&mut self, spans: &[Record]) {
        if self.rests.is_some_and(|(until, _)| Instant::now() < until) {
            dropped("otlp", spans.len());
            return;
        }
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(Scope {
                        name: String::from("order-service"),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                    }),
                    spans: spans.iter().map(span).collect(),
                }],
            }],
        };
        let sent = tokio::time::timeout(self.timeout, self.export(request)).await;
        let why = match sent {
            Ok(Ok(answer)) => {
                let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
                let rejected = usize::try_from(rejected).unwrap_or_default().min(spans.len());
                exported("otlp", spans.len().saturating_sub(rejected));
                if rejected > 0 {
                    dropped("otlp", rejected);
                }
                if self.rests.take().is_some() {
                    tracing::info!("the collector takes spans again");
                }
                return;
            }
            Ok(Err(status)) => format!("{:?}", status.code()),
            Err(_elapsed) => String::from("no answer in time"),
        };
        dropped("otlp", spans.len());
        let pause = match self.rests {
            None => {
                tracing::warn!(
                    why,
                    "the collector of tracing.otlp_endpoint takes no spans; they are dropped"
                );
                FIRST_PAUSE
            }
            Some((_, pause)) => pause.saturating_mul(2).min(LONGEST_PAUSE),
        };
        self.rests = Instant::now().checked_add(pause).map(|until| (until, pause));
    }

    async fn export(&self, request: ExportRequest) -> Result<ExportResponse, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(request);
        request.set_timeout(self.timeout);
        let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
        Ok(grpc.unary(request, PathAndQuery::from_static(EXPORT), codec).await?.into_inner())
    }
}
