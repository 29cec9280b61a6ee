//! The last thing done to a commit before it is queued: its events get their places in the chain of their order.

use crate::domain::access::Role;
use crate::domain::chain::{Entry, EventHash};
use crate::ports::store::{Commit, CommitError, Link};

/// Writes each event out as it will be stored and hashes it behind the one before. Comes back with the last hash.
///
/// # Errors
/// When an event cannot be written out.
pub(super) fn link(commit: &mut Commit) -> Result<Option<EventHash>, CommitError> {
    commit.chain.links.clear();
    commit.chain.links.reserve(commit.events.len());
    for event in &commit.events {
        let payload = serde_json::to_string(&event.event)
            .map_err(|error| CommitError::NotCommitted(format!("an event cannot be written out: {error}")))?;
        let entry = Entry {
            order: commit.order.id,
            seq: event.seq,
            version: event.version,
            at: event.at.timestamp_micros(),
            kind: event.event.kind(),
            payload: &payload,
            principal: &event.principal,
            role: event.role.map(Role::name),
            reason: event.reason.as_deref(),
            request_id: event.request_id.as_deref(),
        };
        let hash = entry.hash(commit.chain.head());
        commit.chain.links.push(Link { payload, hash });
    }
    Ok(commit.chain.head())
}
