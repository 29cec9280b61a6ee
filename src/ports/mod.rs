//! What the service needs from the world: traits and their types only. Implementations are leaves that
//! `app` alone names.

use std::sync::Arc;

pub mod cache;
pub mod call;
pub mod clock;
pub mod cluster;
pub mod inventory;
pub mod limiter;
pub mod members;
pub mod payment;
pub mod placement;
pub mod product;
pub mod seen;
pub mod shipping;
pub mod store;
pub mod usage;
pub mod user;
pub mod vault;

/// The services that this one depends on, whatever stands behind each.
#[derive(Clone, Debug)]
pub struct Collaborators {
    /// Stock and reservations.
    pub inventory: Arc<dyn inventory::Inventory>,
    /// Names and prices.
    pub products: Arc<dyn product::Products>,
    /// Users and addresses.
    pub users: Arc<dyn user::Users>,
    /// Charges and refunds.
    pub payments: Arc<dyn payment::Payments>,
    /// Labels.
    pub shipping: Arc<dyn shipping::Shipping>,
}
