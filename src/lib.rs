//! Order Service: one actor per active order, durable sagas, gRPC.
//!
//! Read `ARCHITECTURE.md` first; it walks through a create, a read and a crash.

pub mod app;
pub mod cli;
pub mod clients;
pub mod config;
pub mod domain;
pub mod ports;
pub mod proto;
pub mod telemetry;
