//! Who asks, and what they are to the service.

use std::sync::Arc;

use super::Timestamp;
use super::ids::UserId;

/// What a caller is to the service; what each may ask for stands in one table of `grpc`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// A user of the platform: own orders only.
    Customer,
    /// Helps customers; sees no full contact data.
    Support,
    /// Packs and sends; sees no money.
    Warehouse,
    /// Gives money back and reads ledgers; sees no addresses.
    Finance,
    /// Another service of the platform, which may act for a user.
    Service,
    /// Every right; what `auth.mode: dev` fills in.
    Admin,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Customer, Self::Support, Self::Warehouse, Self::Finance, Self::Service, Self::Admin];

    /// Its name in tokens, in events, and between nodes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Support => "support",
            Self::Warehouse => "warehouse",
            Self::Finance => "finance",
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Name of the principal, at most 200 characters; stands in events and history.
    pub principal: Arc<str>,
    /// What they are.
    pub roles: Arc<[Role]>,
    /// Whose orders are their own; none = nobody's.
    pub user: Option<UserId>,
    /// Why they act for somebody else, at most 200 characters; none = they did not say.
    pub reason: Option<Arc<str>>,
    /// From when on what proved who they are is good no more; none = it does not end by itself.
    pub until: Option<Timestamp>,
}

impl Caller {
    /// Whether they have that role.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}
