//! The edge: gRPC requests become commands, orders and refusals become answers.

mod access;
mod admin_service;
mod auth;
mod convert;
mod forward;
mod front;
mod known;
mod order_service;
mod page;
mod routes;
mod server;
mod status;
mod validate;
mod view;
mod watch;

pub use admin_service::{AdminApi, AdminRoutes, Peer};
pub use auth::Tokens;
pub use order_service::{InFlight, OrderApi, OrderApiConfig};
pub use server::{GrpcConfig, PeerServices, Secured, serve, serve_peers};
pub use validate::RequestLimits;
pub use watch::WatchLimits;
