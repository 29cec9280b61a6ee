//! Order Service: one actor per active order, durable sagas, gRPC.
//!
//! Read `ARCHITECTURE.md` first; it walks through a create, a read and a crash.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

pub mod actor;
pub mod app;
pub mod auth;
pub mod cache;
pub mod cli;
pub mod clients;
pub mod cluster;
pub mod config;
pub mod domain;
pub mod file_lock;
pub mod grpc;
pub mod limits;
pub mod ops;
pub mod ports;
pub mod privacy;
pub mod proto;
pub mod redis_link;
pub mod steps;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod verify;
