//! From where operators call.

use std::net::IpAddr;

/// From whom a request came, as the listener noted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Whether that is this machine.
    pub fn is_here(self) -> bool {
        self.0.to_canonical().is_loopback()
    }
}
