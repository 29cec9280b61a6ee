//! Callers with roles: their tokens, and nodes that ask for them.

use order_service::auth::mint::Signer;
use order_service::clients::sim::catalogue;
use order_service::domain::access::Role;
use order_service::proto::order as pb;
use serde_json::json;
use tonic::Request;

use super::api::line;
use super::node::TestNode;
use super::tokens::{AUDIENCE, ISSUER, bearing, claims};

/// A user who orders.
pub const OWNER: &str = "20000000-0000-4000-8000-000000000001";
/// Another one.
pub const OTHER: &str = "20000000-0000-4000-8000-000000000002";
/// A user id that nobody has.
pub const WITHOUT: &str = "20000000-0000-4000-8000-000000000021";
/// No user at all.
pub const NOBODY: &str = "nobody";

/// What tokens are signed with: no file of a key has to be there for as long as nodes run.
const SECRET: &str = "what the tests and their nodes share";

/// Settings of a node that asks for such tokens.
pub fn settings() -> Vec<(&'static str, &'static str)> {
    vec![
        ("ORDER__AUTH__MODE", "jwt"),
        ("ORDER__AUTH__ISSUER", ISSUER),
        ("ORDER__AUTH__AUDIENCE", AUDIENCE),
        ("ORDER__AUTH__ALGORITHMS", "HS256"),
        ("ORDER__AUTH__SECRET", SECRET),
        ("ORDER__AUTH__USER_CLAIM", "user"),
    ]
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
        let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        let claims = claims(&json!({"sub": principal, "roles": roles, "user": user}));
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let token = Signer::shared(SECRET.as_bytes()).sign(&header, &claims).unwrap();
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

    /// What they prove it with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The request in their name.
    pub fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = bearing(&self.token, message);
        if let Some(reason) = self.reason {
            request.metadata_mut().insert("x-on-behalf-reason", reason.parse().unwrap());
        }
        request
    }
}

/// An item that the sample of two lines does not have.
pub fn another_item() -> pb::NewOrderItem {
    line(catalogue::product(4), 1)
}
