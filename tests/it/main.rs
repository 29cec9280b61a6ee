//! Every test that uses the service from outside its own modules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects)]

mod cli;
mod committer;
mod harness;
mod store_suite;
