//! One actor per active order: it serializes every change to that order through its mailbox.
//!
//! The rest of the program sees [`Orders`]: ask, view, watch, stop.

mod act;
mod ahead;
mod attempt;
mod clock;
mod crash;
mod crowd;
mod end;
mod hot;
mod inspect;
mod message;
mod moving;
mod note;
mod order_actor;
mod orders;
mod registry;
mod regression;
mod shared;
mod skip;
mod state;
mod supervisor;
mod sweeper;
mod tally;
mod traced;
mod views;
mod waiters;
mod watch;

pub use crash::{CrashPoint, Moment};
pub use crowd::{Crowd, LiveOrder};
pub use inspect::{Failing, Inspection, Stuck};
pub use orders::{Orders, Parts};
pub use registry::Counts;
pub use shared::ActorConfig;
pub use skip::SkippedUndo;
pub use watch::{Batch, WatchEnd, Watcher};
