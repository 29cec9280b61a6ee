//! The status machine: which status may follow which, and who may ask for it.

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as stored and as shown in JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads a name exactly as [`Self::as_str`] writes it.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use names;

names! {
    /// Where an order is in its life.
    OrderStatus {
        /// Stored; stock and money are being arranged.
        Pending = "PENDING",
        /// Paid and reserved.
        Confirmed = "CONFIRMED",
        /// Being packed; a shipping label exists.
        Processing = "PROCESSING",
        /// Handed to the carrier.
        Shipped = "SHIPPED",
        /// With the customer.
        Delivered = "DELIVERED",
        /// Being unwound: refund and release are under way.
        Cancelling = "CANCELLING",
        /// Unwound: no money kept, no stock held.
        Cancelled = "CANCELLED",
        /// Came back after shipping.
        Returned = "RETURNED",
    }
}

names! {
    /// What the ledger says about the money of an order. Derived, never set.
    PaymentStatus {
        /// Nothing asked for yet, or asked and not answered.
        Pending = "PENDING",
        /// Money is held for us, not taken.
        Authorized = "AUTHORIZED",
        /// Money is ours.
        Paid = "PAID",
        /// The payment service said no.
        Failed = "FAILED",
        /// A charge may or may not have happened; only the payment service's answer by our key ends this.
        Unknown = "UNKNOWN",
        /// A refund is under way.
        RefundPending = "REFUND_PENDING",
        /// Some of the money went back.
        PartiallyRefunded = "PARTIALLY_REFUNDED",
        /// All of the money went back.
        Refunded = "REFUNDED",
        /// The payment service refused to give money back; an operator is needed.
        RefundFailed = "REFUND_FAILED",
    }
}

names! {
    /// Why an order ended as `CANCELLED`.
    CancelReason {
        /// The payment service declined the charge.
        PaymentDeclined = "PAYMENT_DECLINED",
        /// Inventory could not serve every line.
        OutOfStock = "OUT_OF_STOCK",
        /// Not paid in time.
        Expired = "EXPIRED",
        /// Asked for through the API.
        CustomerRequest = "CUSTOMER_REQUEST",
        /// A collaborator could not be reached for as long as we try.
        DependencyUnavailable = "DEPENDENCY_UNAVAILABLE",
    }
}

/// How one status may follow another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The same already: accepted, nothing changes.
    Same,
    /// Only a saga does this.
    Saga,
    /// `UpdateOrderStatus` does this.
    Request,
    /// `CancelOrder` starts this; a saga carries it out.
    Cancel,
    /// Not allowed.
    Illegal,
}

impl OrderStatus {
    /// The table of statuses: this row, column `to`.
    pub fn rule(self, to: Self) -> Rule {
        use OrderStatus::{
            Cancelled, Cancelling, Confirmed, Delivered, Pending, Processing, Returned, Shipped,
        };
        match (self, to) {
            (from, to) if from == to => Rule::Same,
            (Cancelled, Cancelling) => Rule::Same,
            (Pending, Confirmed) | (Cancelling, Cancelled) => Rule::Saga,
            (Pending, Cancelling | Cancelled) | (Confirmed | Processing, Cancelling) => Rule::Cancel,
            (Confirmed, Processing)
            | (Processing, Shipped)
            | (Shipped, Delivered | Returned)
            | (Delivered, Returned) => Rule::Request,
            _ => Rule::Illegal,
        }
    }

    /// Whether a stored history may step from this status to `to`.
    pub fn may_become(self, to: Self) -> bool {
        matches!(self.rule(to), Rule::Saga | Rule::Request | Rule::Cancel)
    }

    /// What a caller may ask for from here, for error details and `allowed_next_statuses`.
    pub fn allowed_next(self) -> Vec<Self> {
        let mut next: Vec<Self> =
            Self::ALL.iter().copied().filter(|to| self.rule(*to) == Rule::Request).collect();
        if self.can_cancel() {
            next.push(Self::Cancelled);
        }
        next
    }

    /// Whether `CancelOrder` is accepted and would change something or join what runs.
    pub fn can_cancel(self) -> bool {
        matches!(self, Self::Pending | Self::Confirmed | Self::Processing | Self::Cancelling)
    }

    /// Whether there are forward moves that a hold could stop.
    pub fn can_hold(self) -> bool {
        matches!(self, Self::Pending | Self::Confirmed | Self::Processing | Self::Shipped)
    }

    /// Whether `RefundOrder` is accepted, if there is something left to give back.
    pub fn can_refund(self) -> bool {
        matches!(self, Self::Confirmed | Self::Processing | Self::Shipped | Self::Delivered | Self::Returned)
    }

    /// Whether nothing the table allows leaves this status.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Cancelled | Self::Returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract's table as text, row by row: a second, independent statement of the same rules.
    #[test]
    fn the_table_is_the_contract() {
        let rows = [
            "= S x x x C C x",
            "x = R x x C x x",
            "x x = R x C x x",
            "x x x = R x x R",
            "x x x x = x x R",
            "x x x x x = S x",
            "x x x x x = = x",
            "x x x x x x x =",
        ];
        for (from, row) in OrderStatus::ALL.iter().zip(rows) {
            for (to, cell) in OrderStatus::ALL.iter().zip(row.split(' ')) {
                let expected = match cell {
                    "=" => Rule::Same,
                    "S" => Rule::Saga,
                    "R" => Rule::Request,
                    "C" => Rule::Cancel,
                    _ => Rule::Illegal,
                };
                assert_eq!(from.rule(*to), expected, "{from} -> {to}");
            }
        }
    }
}
