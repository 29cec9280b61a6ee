//! Caches of orders. Leaves: only `app` names them.
//!
//! [`MemoryCache`] is the owner's: orders that have left memory, exact while it owns them. [`CachedStore`] stands before a
//! store and is one: it keeps what was read on a shelf, in this process or in Redis, believes it for a read that wants the
//! newest state only where the store says that it is that state, and shows it unasked for a short while only, with its age.

mod entry;
mod memory;
mod near;
mod none;
mod redis;
mod shelf;
mod store;
mod time;
mod writer;

pub use memory::MemoryCache;
pub use near::NearShelf;
pub use none::NoCache;
pub use redis::{RedisShelf, ShelfConfig};
pub use shelf::{Details, Found, Kept, Shelf};
pub use store::CachedStore;
