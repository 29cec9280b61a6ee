//! How often somebody may do something: counted in this process, or in Redis for several nodes.

mod gcra;
mod local;
mod redis;

pub use self::local::LocalLimiter;
pub use self::redis::{RedisConfig, RedisLimiter};
