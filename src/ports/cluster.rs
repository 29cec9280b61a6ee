//! What operators ask of a cluster.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::members::MemberError;
use crate::domain::Timestamp;
use crate::domain::membership::{Incarnation, View};

/// How far a drain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainProgress {
    /// Slots that the node still owns.
    pub slots_left: usize,
    /// Slots that it owned when the drain began.
    pub slots_at_start: usize,
}

/// Why a drain could not be asked for, or ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no such live node.
    #[error("there is no such node")]
    NoSuchNode,
    /// The node is not reached.
    #[error("the node is not reached: {0}")]
    Unreachable(String),
}

/// A cluster, as operators see it from one of its nodes.
#[async_trait]
pub trait ClusterAdmin: Send + Sync + std::fmt::Debug {
    /// The life of the node that answers.
    fn me(&self) -> Incarnation;

    /// The newest view as it is stored, and the store's time.
    async fn view(&self) -> Result<(Arc<View>, Timestamp), MemberError>;

    /// Has a node hand over everything, wherever it is. What comes out tells how far it is; it ends when nothing is left,
    /// or when nothing more can be learned. To drop it does not stop the drain.
    async fn drain(
        &self,
        node: Incarnation,
    ) -> Result<mpsc::Receiver<Result<DrainProgress, DrainError>>, DrainError>;
}
