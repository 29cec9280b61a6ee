//! The edge: gRPC requests become commands, orders and refusals become answers.

mod accept;
mod admin_service;
mod auth;
mod connection;
mod convert;
mod forward;
mod front;
#[cfg(test)]
mod fuzz_tests;
mod order_service;
mod page;
mod quota;
mod routes;
mod server;
mod shed;
mod status;
mod validate;
mod watch;

pub use admin_service::{AdminApi, AdminRoutes, Peer};
pub use connection::TransportLimits;
pub use order_service::{InFlight, OrderApi, OrderApiConfig};
pub use quota::{Class, Gate, Quotas};
pub use server::{GrpcConfig, PeerServices, serve, serve_peers};
pub use validate::RequestLimits;
pub use watch::WatchLimits;
