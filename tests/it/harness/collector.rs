//! A collector of traces, and a payment service that notes which trace it is asked in. The messages are those of the
//! protocol's own crate: what is sent has to be what others read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use order_service::proto::payment;
use order_service::proto::payment::payment_service_server::{PaymentService, PaymentServiceServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::wait::eventually;

/// A span as the collector got it; ids in hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Seen {
    pub trace: String,
    pub id: String,
    /// Empty: it begins the trace.
    pub parent: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: i32,
    pub service: String,
    pub node: String,
    pub attributes: BTreeMap<String, String>,
    /// Spans that it is linked to.
    pub links: Vec<String>,
    pub events: Vec<String>,
    pub failed: bool,
    pub nanos: u64,
}

/// Takes whatever it is sent.
#[derive(Clone, Default)]
pub struct Collector {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self { url, seen: Arc::default() };
        let served = Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        collector
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All spans so far.
    pub fn all(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The spans of a trace so far.
    pub fn of(&self, trace: &str) -> Vec<Seen> {
        self.all().into_iter().filter(|span| span.trace == trace).collect()
    }

    /// The span of a trace with this name that `fits`, once it is there.
    pub async fn span(&self, trace: &str, name: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        eventually(name, async || self.of(trace).into_iter().find(|span| span.name == name && fits(span)))
            .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = self.seen.lock().unwrap();
        for part in request.into_inner().resource_spans {
            let resource = texts(&part.resource.unwrap().attributes);
            for span in part.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.push(Seen {
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    service: resource["service.name"].clone(),
                    node: resource["service.instance.id"].clone(),
                    attributes: texts(&span.attributes),
                    links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                    events: span.events.into_iter().map(|event| event.name).collect(),
                    failed: span.status.is_some_and(|status| status.code == 2),
                    nanos: span.end_time_unix_nano - span.start_time_unix_nano,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A payment service that takes every charge, but for the first one if so wished, which it never answers.
#[derive(Clone, Default)]
pub struct Payments {
    url: String,
    hangs: Arc<Mutex<bool>>,
    /// Method and `traceparent` of each call.
    asked: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Payments {
    /// Starts it.
    pub async fn start(hangs: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let payments = Self { url, hangs: Arc::new(Mutex::new(hangs)), asked: Arc::default() };
        let served = Server::builder()
            .add_service(PaymentServiceServer::new(payments.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        payments
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The `traceparent` of every call of a method so far.
    pub fn asked(&self, method: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(of, _)| *of == method).map(|(_, trace)| trace.clone()).collect()
    }

    fn note<T>(&self, method: &'static str, request: &Request<T>) {
        let trace = request.metadata().get("traceparent").map(|trace| trace.to_str().unwrap().to_owned());
        self.asked.lock().unwrap().push((method, trace.unwrap_or_default()));
    }
}

#[tonic::async_trait]
impl PaymentService for Payments {
    async fn charge(
        &self,
        request: Request<payment::ChargeRequest>,
    ) -> Result<Response<payment::ChargeResponse>, Status> {
        self.note("Charge", &request);
        if std::mem::take(&mut *self.hangs.lock().unwrap()) {
            std::future::pending::<()>().await;
        }
        let transaction_id = format!("tx-{}", request.get_ref().order_id);
        Ok(Response::new(payment::ChargeResponse { transaction_id, gateway: None }))
    }

    async fn get_transaction(
        &self,
        request: Request<payment::GetTransactionRequest>,
    ) -> Result<Response<payment::Transaction>, Status> {
        self.note("GetTransaction", &request);
        let state = payment::transaction::State::NotFound.into();
        Ok(Response::new(payment::Transaction { state, ..Default::default() }))
    }

    async fn refund(
        &self,
        request: Request<payment::RefundRequest>,
    ) -> Result<Response<payment::RefundResponse>, Status> {
        self.note("Refund", &request);
        let refund_id = format!("refund-{}", request.get_ref().key);
        Ok(Response::new(payment::RefundResponse { refund_id }))
    }
}
