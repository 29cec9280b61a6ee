//! What was given to a connection and its client has not read: since when each message of an answer waits.
//!
//! A message waits for the client's window in the protocol's implementation, which tells nobody. But it holds the message's
//! bytes until the last of them has gone to the socket, or the call was given up: so the bytes themselves tell.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Buf, Bytes};

/// The messages of one connection that wait.
#[derive(Debug, Default)]
pub(super) struct Unread(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By number; later ones have greater numbers.
    since: BTreeMap<u64, Instant>,
}

impl Unread {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message, from now on waiting.
    pub(super) fn piece(self: &Arc<Self>, data: Bytes) -> Piece {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.since.insert(number, Instant::now());
        Piece { data, number, unread: Arc::clone(self) }
    }

    /// Since when the oldest message waits; none = none waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting().since.first_key_value().map(|(_, since)| *since)
    }
}

/// A message of an answer; it waits until this is dropped.
#[derive(Debug)]
pub(super) struct Piece {
    data: Bytes,
    number: u64,
    unread: Arc<Unread>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.unread.waiting().since.remove(&self.number);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(pieces)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_oldest_message_that_was_not_read_counts() {
        let unread = Arc::new(Unread::default());
        assert_eq!(unread.oldest(), None);
        let mut first = unread.piece(Bytes::from_static(b"first"));
        let since = unread.oldest().unwrap();
        let second = unread.piece(Bytes::from_static(b"second"));
        first.advance(4);
        assert_eq!((first.chunk(), unread.oldest()), (b"t".as_slice(), Some(since)));
        drop(first);
        assert!(unread.oldest().unwrap() >= since);
        drop(second);
        assert_eq!(unread.oldest(), None);
    }
}
