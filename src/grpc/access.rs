//! Which calls are open to whom: one row an RPC, one column a role. What has no row is open to nobody.

use crate::domain::access::{Caller, Role};
use crate::domain::error::OrderError;
use crate::domain::ids::UserId;
use crate::domain::reach::Reach;
use crate::domain::text::Violation;

/// Header with the reason why a caller acts on another user's order.
pub(super) const ON_BEHALF_REASON: &str = "x-on-behalf-reason";

/// What a role may do with a call. Of several roles the one that may most counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cell {
    /// Nothing.
    Denied,
    /// Ask for the caller's own orders; all others do not exist.
    Own,
    /// Ask for any order, with a reason, which the history keeps.
    OnBehalf,
    /// Ask for any order.
    Any,
}

use Cell::{Any as ANY, Denied as NO, OnBehalf as BEHALF, Own as OWN};

/// The order of the columns.
const COLUMNS: [Role; 6] =
    [Role::Customer, Role::Support, Role::Warehouse, Role::Finance, Role::Service, Role::Admin];

/// The calls of one service.
#[derive(Debug)]
pub(super) struct Table {
    service: &'static str,
    rows: &'static [(&'static str, [Cell; 6])],
}

/// The public API. The first rows are those that are asked for most.
#[rustfmt::skip]
pub(super) const ORDERS: Table = Table {
    service: "order.v1.OrderService",
    rows: &[
        //                           customer support warehouse finance service admin
        ("GetOrder",                [OWN,     ANY,    ANY,      ANY,    ANY,    ANY]),
        ("GetOrderStatus",          [OWN,     ANY,    ANY,      ANY,    ANY,    ANY]),
        ("CreateOrder",             [OWN,     NO,     NO,       NO,     ANY,    ANY]),
        ("ListOrders",              [OWN,     ANY,    ANY,      ANY,    ANY,    ANY]),
        ("WatchOrder",              [OWN,     ANY,    ANY,      ANY,    ANY,    ANY]),
        ("ListOrderEvents",         [OWN,     ANY,    ANY,      ANY,    ANY,    ANY]),
        ("ListPaymentTransactions", [OWN,     ANY,    NO,       ANY,    ANY,    ANY]),
        ("CancelOrder",             [OWN,     BEHALF, NO,       NO,     ANY,    ANY]),
        // To CANCELLED it is a CancelOrder, and has to pass that row, too.
        ("UpdateOrderStatus",       [NO,      NO,     ANY,      NO,     ANY,    ANY]),
        ("AddOrderItem",            [OWN,     NO,     NO,       NO,     ANY,    ANY]),
        ("UpdateOrderItem",         [OWN,     NO,     NO,       NO,     ANY,    ANY]),
        ("RemoveOrderItem",         [OWN,     NO,     NO,       NO,     ANY,    ANY]),
        ("AddShipment",             [NO,      NO,     ANY,      NO,     ANY,    ANY]),
        ("HoldOrder",               [NO,      BEHALF, ANY,      NO,     ANY,    ANY]),
        ("ReleaseOrder",            [NO,      BEHALF, NO,       NO,     ANY,    ANY]),
        ("RefundOrder",             [NO,      NO,     NO,       BEHALF, ANY,    ANY]),
    ],
};

/// What operators ask.
#[rustfmt::skip]
pub(super) const OPERATORS: Table = Table {
    service: "order.admin.v1.OrderAdminService",
    rows: &[
        //                           customer support warehouse finance service admin
        ("ListNodes",               [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("ListSlots",               [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("DrainNode",               [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("PlanCluster",             [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("ExplainOrder",            [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("ListStuckOrders",         [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("RetryStep",               [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("SkipStep",                [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("ResolvePayment",          [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("UnquarantineOrder",       [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("EraseUser",               [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("RewritePersonalData",     [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("RotateKeys",              [NO,      NO,     NO,       NO,     NO,     ANY]),
        ("EncryptExisting",         [NO,      NO,     NO,       NO,     NO,     ANY]),
    ],
};

/// The column of a role.
fn column(role: Role) -> Option<usize> {
    COLUMNS.iter().position(|column| *column == role)
}

impl Table {
    fn cell(&self, rpc: &str, caller: &Caller) -> Cell {
        self.cells(rpc, caller).max().unwrap_or(Cell::Denied)
    }

    /// The cells of all roles of the caller.
    fn cells(&self, rpc: &str, caller: &Caller) -> impl Iterator<Item = Cell> {
        let row = self.rows.iter().find(|(name, _)| *name == rpc).map(|(_, cells)| cells);
        caller.roles.iter().filter_map(move |role| row?.get(column(*role)?).copied())
    }

    fn has(&self, rpc: &str, caller: &Caller, wanted: Cell) -> bool {
        self.cells(rpc, caller).any(|cell| cell == wanted)
    }

    /// Lets a caller in, to so many orders.
    ///
    /// # Errors
    /// [`OrderError::Forbidden`] when none of the caller's roles may ask for this; [`OrderError::Invalid`] when a reason
    /// is due and there is none.
    pub(super) fn admit(&self, rpc: &str, caller: &Caller) -> Result<Reach, OrderError> {
        match self.cell(rpc, caller) {
            Cell::Denied => Err(OrderError::Forbidden {
                what: format!(
                    "{}/{rpc} is not open to {}; ask for a role that may call it",
                    self.service,
                    roles(caller)
                ),
            }),
            Cell::Own => Ok(Reach::Own(caller.user)),
            // On one's own order nobody acts for somebody else.
            Cell::OnBehalf if caller.reason.is_none() && self.has(rpc, caller, Cell::Own) => {
                Ok(Reach::Own(caller.user))
            }
            Cell::OnBehalf if caller.reason.is_none() => {
                let expected = "expected this header with the reason why you act on another user's order, \
                                1 to 200 characters";
                Err(OrderError::Invalid(vec![Violation::invalid(ON_BEHALF_REASON, expected)]))
            }
            Cell::OnBehalf | Cell::Any => Ok(Reach::All),
        }
    }
}

/// The caller's roles, for people.
fn roles(caller: &Caller) -> String {
    let names: Vec<&str> = caller.roles.iter().map(|role| role.name()).collect();
    match names.as_slice() {
        [] => "callers without a role".to_owned(),
        [one] => format!("the role {one}"),
        _ => format!("the roles {}", names.join(", ")),
    }
}

/// Whether a caller with this reach may order in the name of `user`.
///
/// # Errors
/// [`OrderError::Forbidden`] for another user.
pub(super) fn may_order_for(reach: Reach, user: UserId) -> Result<(), OrderError> {
    if reach.covers(user) {
        return Ok(());
    }
    let what = "orders may be created for the calling user only; set user_id to your own id";
    Err(OrderError::Forbidden { what: what.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::sync::Arc;

    use prost::Message;
    use prost_types::FileDescriptorSet;
    use uuid::Uuid;

    use super::*;
    use crate::proto::FILE_DESCRIPTOR_SET;

    const TABLES: [&Table; 2] = [&ORDERS, &OPERATORS];

    fn caller(roles: &[Role], reason: Option<&str>) -> Caller {
        Caller {
            principal: Arc::from("somebody"),
            roles: Arc::from(roles),
            user: Some(UserId(Uuid::from_u128(7))),
            reason: reason.map(Arc::from),
            until: None,
        }
    }

    /// Path of every RPC of ours, peers' apart: those are no calls of callers.
    fn described() -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let ours = set.file.iter().filter(|file| {
            let package = file.package();
            package.starts_with("order.") && package != "order.peer.v1"
        });
        ours.flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                service
                    .method
                    .iter()
                    .map(move |rpc| format!("{}.{}/{}", file.package(), service.name(), rpc.name()))
            })
        })
        .collect()
    }

    #[test]
    fn every_rpc_has_one_row_and_every_row_an_rpc() {
        let rows: Vec<String> = TABLES
            .iter()
            .flat_map(|table| table.rows.iter().map(|(rpc, _)| format!("{}/{rpc}", table.service)))
            .collect();
        let unique: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(unique.len(), rows.len(), "an RPC has two rows");
        assert_eq!(unique, described());
    }

    #[test]
    fn every_role_has_a_column() {
        let columns: BTreeSet<Option<usize>> = Role::ALL.into_iter().map(column).collect();
        assert_eq!(columns, (0..COLUMNS.len()).map(Some).collect());
    }

    #[test]
    fn what_has_no_row_and_who_has_no_role_is_refused() {
        let admin = caller(&[Role::Admin], Some("because"));
        assert!(matches!(ORDERS.admit("PurgeOrder", &admin), Err(OrderError::Forbidden { .. })));
        for (rpc, _) in ORDERS.rows.iter().chain(OPERATORS.rows) {
            for table in TABLES {
                let refused = table.admit(rpc, &caller(&[], Some("because")));
                assert!(matches!(refused, Err(OrderError::Forbidden { .. })), "{rpc}");
            }
        }
    }

    #[test]
    fn a_reason_is_due_where_the_table_says_so() {
        let support = caller(&[Role::Support], None);
        let Err(OrderError::Invalid(violations)) = ORDERS.admit("CancelOrder", &support) else {
            panic!("it was let in")
        };
        assert_eq!(violations.first().unwrap().field, ON_BEHALF_REASON);
        let told = caller(&[Role::Support], Some("a call of the customer"));
        assert_eq!(ORDERS.admit("CancelOrder", &told).unwrap(), Reach::All);
        assert_eq!(ORDERS.admit("GetOrder", &support).unwrap(), Reach::All);
    }

    #[test]
    fn of_several_roles_the_one_that_may_most_counts() {
        let own = ORDERS.admit("GetOrder", &caller(&[Role::Customer], None)).unwrap();
        assert_eq!(own, Reach::Own(Some(UserId(Uuid::from_u128(7)))));
        let both = caller(&[Role::Customer, Role::Warehouse], None);
        assert_eq!(ORDERS.admit("GetOrder", &both).unwrap(), Reach::All);
        assert_eq!(ORDERS.admit("CancelOrder", &both).unwrap(), own);
        let staff = [Role::Customer, Role::Support];
        assert_eq!(ORDERS.admit("CancelOrder", &caller(&staff, None)).unwrap(), own);
        assert_eq!(ORDERS.admit("CancelOrder", &caller(&staff, Some("ticket"))).unwrap(), Reach::All);
    }

    #[test]
    fn customers_order_for_themselves_only() {
        let (own, other) = (UserId(Uuid::from_u128(7)), UserId(Uuid::from_u128(8)));
        assert!(may_order_for(Reach::Own(Some(own)), own).is_ok());
        assert!(may_order_for(Reach::All, other).is_ok());
        for (reach, user) in [(Reach::Own(Some(own)), other), (Reach::Own(None), own)] {
            assert!(matches!(may_order_for(reach, user), Err(OrderError::Forbidden { .. })));
        }
    }
}
