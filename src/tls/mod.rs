//! TLS of the public listener: handshakes beside each other, certificates that are taken up as their files change, and the
//! names that callers' certificates give them.

mod files;
mod identity;
mod incoming;

pub use self::files::{Files, ServerTls};
pub use self::identity::service_name;
pub use self::incoming::{HandshakeLimits, secured};
