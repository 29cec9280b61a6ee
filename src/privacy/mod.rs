//! Personal data at rest: encrypted on the way into the store, decrypted on the way out.
//!
//! Each user has a data key, which a key-encryption key wraps. [`Protected`] stands before a store and is one: what is
//! behind it (database, logs of the database, backups) sees encrypted texts only. What is in front of it (actors, cache)
//! lives in this process's memory. To erase a user is to destroy the data key.

mod custodian;
mod export;
mod fields;
mod keyring;
mod seal;
mod store;
mod wrap;

pub use custodian::Keeper;
pub use export::{Days, Exported, Form, Pseudonyms, Sink, export};
pub use keyring::{Held, Keyring, NoKey, RingConfig};
pub use seal::{DataKey, OpenError, Place, key_of};
pub use store::Protected;
pub use wrap::LocalKeks;
