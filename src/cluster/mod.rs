//! Several nodes on one store: who is in, who owns which slot, and the way to the owner.

mod ring;

pub use ring::Ring;
