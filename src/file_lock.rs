//! Locks on files that one process may have at a time.

use std::fs::{File, TryLockError};
use std::time::Duration;

/// How often a lock that somebody has is asked for again.
const TRIES: u32 = 20;
/// The pause in between.
const PAUSE: Duration = Duration::from_millis(25);

/// Locks the file, trying for half a second: a holder that is just ending may have left a child behind which holds a
/// copy of its files until it runs a program of its own.
///
/// Blocks the thread; meant for the start of a process.
///
/// # Errors
/// `WouldBlock` when somebody still has the lock.
pub fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            settled => return settled,
        }
    }
    file.try_lock()
}
