//! Which orders are this process's own.

use super::store::Owner;

/// Tells whether this process owns an order, by the slot in its id. Asked for every command and read: must be fast.
pub trait Placement: Send + Sync + std::fmt::Debug {
    /// As whom this process may change orders of the slot; none when they are not its own, or not for now.
    fn owner(&self, slot: u16) -> Option<Owner>;

    /// As [`Self::owner`], while what this process keeps in memory of such orders is surely the newest: nobody else
    /// can have changed them.
    fn reader(&self, slot: u16) -> Option<Owner>;

    /// Whether other processes may change orders in the same store.
    fn is_shared(&self) -> bool;
}

/// One process has the store to itself.
#[derive(Clone, Copy, Debug)]
pub struct Alone(pub Owner);

impl Placement for Alone {
    fn owner(&self, _slot: u16) -> Option<Owner> {
        Some(self.0)
    }

    fn reader(&self, _slot: u16) -> Option<Owner> {
        Some(self.0)
    }

    fn is_shared(&self) -> bool {
        false
    }
}
