//! The edge: gRPC requests become commands, orders and refusals become answers.

mod accept;
mod access;
mod admin_service;
mod auth;
mod connection;
mod convert;
mod forward;
mod front;
#[cfg(test)]
mod fuzz_tests;
mod headers;
mod known;
mod order_service;
mod page;
mod quota;
mod routes;
mod scope;
mod server;
mod shed;
mod status;
mod validate;
mod view;
mod watch;

pub use admin_service::{AdminApi, AdminRoutes, Peer};
pub use auth::Tokens;
pub use connection::TransportLimits;
pub use known::SERVICE as CERTIFICATE_HEADER;
pub use order_service::{InFlight, OrderApi, OrderApiConfig};
pub use quota::{Class, Gate, Quotas};
pub use server::{GrpcConfig, PeerServices, Secured, serve, serve_peers};
pub use validate::RequestLimits;
pub use watch::WatchLimits;
