//! Messages and services generated from `proto/` by `build.rs`.
//!
//! Debug output of messages with personal data or secrets is written here by hand; `build.rs` lists them.

pub mod answer;

use std::fmt;

/// Descriptors of every package, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("order_descriptor");

/// Declares one generated package.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::arithmetic_side_effects,
            clippy::indexing_slicing
        )]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

package! {
    /// `order.v1`: the public API.
    order, "order.v1"
}
/// The server of `order.v1`, whose answers are [`answer::Answer`]s.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/order.v1.rs"));
}

package! {
    /// `order.admin.v1`: what operators ask and repair.
    admin, "order.admin.v1"
}
package! {
    /// `order.peer.v1`: what nodes say to each other.
    peer, "order.peer.v1"
}
package! {
    /// `inventory.v1`: stock and reservations.
    inventory, "inventory.v1"
}
package! {
    /// `product.v1`: names and prices.
    product, "product.v1"
}
package! {
    /// `user.v1`: users and their addresses.
    user, "user.v1"
}
package! {
    /// `payment.v1`: charges and refunds.
    payment, "payment.v1"
}
package! {
    /// `shipping.v1`: labels.
    shipping, "shipping.v1"
}
package! {
    /// `simulator.v1`: control of the simulated collaborators.
    simulator, "simulator.v1"
}

/// Shows nothing of a message but its name.
macro_rules! hide {
    ($($message:ty),+) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(***)"))
            }
        })+
    };
}

hide!(
    order::OrderAddress,
    order::CreateOrderRequest,
    user::Address,
    shipping::Address,
    payment::ChargeRequest
);
