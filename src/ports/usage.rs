//! How much of a store's means is in use, and how much is unfinished in it: what operators look at.

/// How much of a store's means is in use.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StoreUsage {
    /// Changes that wait to be stored.
    pub waiting: usize,
    /// How many may.
    pub waiting_limit: usize,
    /// Its connections.
    pub pools: Vec<PoolUsage>,
}

/// Connections of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolUsage {
    /// `read`, `replica` or `write`.
    pub name: &'static str,
    /// Made, and not in use.
    pub idle: usize,
    /// In use.
    pub used: usize,
    /// How many there may be.
    pub limit: usize,
    /// Who waits for one; none where that cannot be told.
    pub waiting: Option<usize>,
}

/// How much is unfinished.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Backlog {
    /// Sagas that are not settled.
    pub unfinished: u64,
    /// Those of them that began too long ago and that no hold keeps from going on.
    pub stuck: u64,
    /// Orders that call for a person.
    pub attention: u64,
    /// Orders that are set aside.
    pub quarantined: u64,
}
