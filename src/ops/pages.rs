//! The pages: what they are called, and how they are told.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::Surface;
use super::health::Report;

/// The pages that are always there, and what they tell.
const PAGES: [(&str, &str); 10] = [
    ("/", "this list"),
    ("/healthz", "200 while the node moves; 503 means: start it anew"),
    ("/readyz", "200 while the node should be sent calls; ?verbose lists every check"),
    ("/startupz", "200 once the node has started"),
    ("/metrics", "metrics in the text form of Prometheus"),
    ("/version", "which build this is; ?format=json"),
    ("/config", "the settings in force and where they come from, without secrets"),
    ("/drain", "GET: how far a drain is; POST: begin one (?wait=SECONDS); DELETE: take it back"),
    ("/debug/log", "GET: the filter of log lines; PUT: another one (?for=10m), from this machine only"),
    ("/order.admin.v1.OrderAdminService", "repairs, over gRPC: order-service ops"),
];

/// The text form that Prometheus reads.
const TEXT_FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

type Shared = State<Arc<Surface>>;

pub(super) async fn index(State(surface): Shared) -> String {
    let mut page = String::new();
    let more = surface.attached.get().into_iter().flat_map(|attached| &attached.pages);
    let debug = more.map(|page| (format!("/debug/{}", page.name), page.says));
    for (path, says) in PAGES.map(|(path, says)| (path.to_owned(), says)).into_iter().chain(debug) {
        // Writing to a String does not fail.
        let _ = writeln!(page, "{path:<36} {says}");
    }
    page
}

pub(super) async fn live(State(surface): Shared, headers: HeaderMap, uri: Uri) -> Response {
    told(&surface.parts.health.live(), "ok\n", &headers, &uri)
}

pub(super) async fn ready(State(surface): Shared, headers: HeaderMap, uri: Uri) -> Response {
    told(&surface.parts.health.ready(), "ready\n", &headers, &uri)
}

pub(super) async fn startup(State(surface): Shared, headers: HeaderMap, uri: Uri) -> Response {
    told(&surface.parts.health.startup(), "started\n", &headers, &uri)
}

fn told(report: &Report, good: &'static str, headers: &HeaderMap, uri: &Uri) -> Response {
    let why = report.why_not();
    let status = if why.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if wants_json(headers, uri) {
        return json(status, &report.json());
    }
    let text = match why {
        _ if parameter(uri, "verbose").is_some() => report.lines(),
        None => good.to_owned(),
        Some(why) => format!("{why}\n"),
    };
    (status, text).into_response()
}

pub(super) async fn version(State(surface): Shared, headers: HeaderMap, uri: Uri) -> Response {
    match wants_json(&headers, &uri) {
        true => json(StatusCode::OK, &surface.parts.build),
        false => concat!(env!("CARGO_PKG_VERSION"), "\n").into_response(),
    }
}

pub(super) async fn metrics(State(surface): Shared) -> Response {
    let Ok(_turn) = surface.scrapes.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    if let Some(attached) = surface.attached.get() {
        (attached.sample)();
    }
    ([(header::CONTENT_TYPE, TEXT_FORM)], surface.parts.telemetry.render()).into_response()
}

pub(super) async fn config(State(surface): Shared) -> Response {
    json(StatusCode::OK, &surface.parts.config)
}

pub(super) async fn debug(State(surface): Shared, Path(name): Path<String>) -> Response {
    let Some(attached) = surface.attached.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node has not started yet\n").into_response();
    };
    let Some(page) = attached.pages.iter().find(|page| page.name == name) else {
        return (StatusCode::NOT_FOUND, "there is no such page; / lists them all\n").into_response();
    };
    let Ok(_turn) = surface.debugging.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    json(StatusCode::OK, &(page.make)())
}

/// An answer in JSON, laid out for people.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}

fn wants_json(headers: &HeaderMap, uri: &Uri) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    parameter(uri, "format") == Some("json") || accepted.contains("application/json")
}

/// The value of a parameter; empty where it has none.
pub(super) fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
