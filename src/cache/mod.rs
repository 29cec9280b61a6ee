//! Caches of orders. Leaves: only `app` names them.

mod memory;
mod none;

pub use memory::MemoryCache;
pub use none::NoCache;
