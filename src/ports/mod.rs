//! What the service needs from the world: traits and their types only. Implementations are leaves that
//! `app` alone names.

pub mod call;
pub mod inventory;
pub mod payment;
pub mod product;
pub mod shipping;
pub mod store;
pub mod user;
