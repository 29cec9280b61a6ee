//! What stands behind the ports: gRPC clients of real collaborators, and a simulator of all five.

pub mod admin;
pub mod books;
pub mod grpc;
mod measured;
pub mod orders;
pub mod sim;
mod status;
mod wire;

pub use status::code_name;

pub use measured::measured;
