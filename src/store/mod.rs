//! Where orders are kept: implementations of [`crate::ports::store::OrderStore`].

pub mod committer;
pub mod sqlite;
