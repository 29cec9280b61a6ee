//! Callers with roles: their tokens, and nodes that ask for them.

use std::sync::OnceLock;

use order_service::auth::mint::{DevelopmentKeys, Said, development_keys};
use order_service::clients::sim::catalogue;
use order_service::domain::access::Role;
use order_service::proto::order as pb;
use tempfile::TempDir;
use tonic::Request;

use super::api::line;
use super::node::TestNode;

/// A user who orders.
pub const OWNER: &str = "20000000-0000-4000-8000-000000000001";
/// Another one.
pub const OTHER: &str = "20000000-0000-4000-8000-000000000002";
/// A user id that nobody has.
pub const WITHOUT: &str = "20000000-0000-4000-8000-000000000021";
/// No user at all.
pub const NOBODY: &str = "nobody";

/// How long tokens are good for, in seconds.
const LIFETIME: i64 = 3_600;

/// The key pair that all tokens of this run are signed with.
fn keys() -> &'static DevelopmentKeys {
    static KEYS: OnceLock<(TempDir, DevelopmentKeys)> = OnceLock::new();
    let make = || {
        let folder = TempDir::new().unwrap();
        let keys = development_keys(folder.path()).unwrap();
        (folder, keys)
    };
    &KEYS.get_or_init(make).1
}

/// Settings of a node that asks for such tokens.
pub fn settings() -> Vec<(&'static str, &'static str)> {
    let keys_file = keys().public_file.to_str().unwrap();
    vec![("ORDER__AUTH__MODE", "jwt"), ("ORDER__AUTH__KEYS_FILE", keys_file)]
}

/// A node that asks for such tokens.
pub async fn start(more: &[(&str, &str)]) -> TestNode {
    let all: Vec<(&str, &str)> = settings().iter().chain(more).copied().collect();
    TestNode::start_with(&all).await
}

/// A caller.
#[derive(Clone, Debug)]
pub struct As {
    token: String,
    reason: Option<&'static str>,
}

impl As {
    /// Somebody with these roles who is that user.
    pub fn new(principal: &str, roles: &[Role], user: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "tokens are made by the machine's clock")]
        let issued = chrono::Utc::now().timestamp();
        let roles = roles.iter().map(|role| role.name().to_owned()).collect();
        let (subject, user) = (principal.to_owned(), Some(user.to_owned()));
        let token = keys().signer.token(&Said { subject, roles, user, issued, lifetime: LIFETIME }).unwrap();
        Self { token, reason: None }
    }

    /// Somebody with this role; a customer, and everybody else too, is the user `OWNER`.
    pub fn role(role: Role) -> Self {
        Self::new(role.name(), &[role], OWNER)
    }

    /// This user as a customer.
    pub fn customer(user: &str) -> Self {
        Self::new(user, &[Role::Customer], user)
    }

    /// The same, on behalf of somebody else.
    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// The request in their name.
    pub fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        if let Some(reason) = self.reason {
            metadata.insert("x-on-behalf-reason", reason.parse().unwrap());
        }
        request
    }
}

/// An item that the sample of two lines does not have.
pub fn another_item() -> pb::NewOrderItem {
    line(catalogue::product(4), 1)
}
