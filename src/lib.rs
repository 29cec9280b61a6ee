//! Order Service: one actor per active order, durable sagas, gRPC.
//!
//! Read `ARCHITECTURE.md` first; it walks through a create, a read and a crash.

pub mod actor;
pub mod cache;
pub mod clients;
pub mod domain;
pub mod grpc;
pub mod ports;
pub mod proto;
pub mod steps;
pub mod store;
