//! What an order is and what may happen to it. Pure: no async, no IO, no clock, no random ids.
//!
//! Time and identifiers come in as arguments, so that every rule here can be replayed, tested as a table and
//! simulated. The one entry point is [`react::react`].

pub mod access;
pub mod address;
mod advance;
pub mod amend;
mod book;
mod calls;
pub mod card;
mod cause;
pub mod chain;
pub mod command;
pub mod decide;
pub mod error;
pub mod event;
pub mod evolve;
pub mod ids;
pub mod item;
pub mod membership;
pub mod money;
pub mod order;
pub mod payment;
pub mod pricing;
pub mod reach;
pub mod react;
pub mod refund;
pub mod repair;
pub mod risk;
pub mod saga;
pub mod sealed;
pub mod status;
pub mod stock;
pub mod text;
pub mod trace;
pub mod verify;
mod waiting;

/// A moment in UTC. Always truncated to microseconds, which every store keeps exactly.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
