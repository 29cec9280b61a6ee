//! Callers with tokens: an issuer of our own, nodes that trust it, and clients that are somebody.

use std::path::PathBuf;

use order_service::auth::Algorithm;
use order_service::auth::mint::Signer;
use order_service::domain::access::Role;
use order_service::ports::clock::Clock;
use order_service::proto::order::order_service_client::OrderServiceClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use uuid::Uuid;

use super::node::{MachineClock, TestNode};

/// What stands in `iss`.
pub const ISSUER: &str = "https://issuer.test/";
/// What stands in `aud`.
pub const AUDIENCE: &str = "orders-test";

/// Seconds since 1970.
pub fn now() -> i64 {
    MachineClock::default().now().timestamp()
}

/// An issuer with one key, whose public half is in a file.
pub struct Issuer {
    pub signer: Signer,
    folder: TempDir,
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

impl Issuer {
    pub fn new() -> Self {
        let (signer, _) = Signer::generate(Algorithm::Es256).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let issuer = Self { signer, folder };
        std::fs::write(issuer.key_file(), issuer.signer.public_pem().unwrap()).unwrap();
        issuer
    }

    /// The public key, as PEM.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("issuer.pem")
    }

    /// Settings of a node that takes its tokens, which say in `user` what user the caller is.
    pub fn settings(&self) -> Vec<(String, String)> {
        let file = self.key_file().display().to_string();
        let mut settings = trusting();
        settings.push(("ORDER__AUTH__KEYS_FILE".to_owned(), file));
        settings
    }

    /// A node with these settings too, which takes its tokens. Its own client has none.
    pub async fn node(&self, settings: &[(&str, &str)]) -> TestNode {
        let all = self.settings();
        let all: Vec<(&str, &str)> =
            all.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(settings.iter().copied()).collect();
        TestNode::start_with(&all).await
    }

    /// A token for an hour.
    pub fn token(&self, subject: &str, roles: &[Role], user: Option<Uuid>) -> String {
        let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        let mut claims = claims(&json!({"sub": subject, "roles": roles}));
        if let Some(user) = user {
            claims["user"] = json!(user.to_string());
        }
        self.sign(&claims)
    }

    /// A token that says whatever it is told to.
    pub fn sign(&self, claims: &Value) -> String {
        self.signer.sign(&json!({"alg": "ES256", "typ": "JWT"}), claims).unwrap()
    }
}

/// Settings of a node that takes the issuer's tokens, but for where its keys are.
pub fn trusting() -> Vec<(String, String)> {
    [
        ("ORDER__AUTH__MODE", "jwt"),
        ("ORDER__AUTH__ISSUER", ISSUER),
        ("ORDER__AUTH__AUDIENCE", AUDIENCE),
        ("ORDER__AUTH__ALGORITHMS", "ES256"),
        ("ORDER__AUTH__USER_CLAIM", "user"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// Good claims of an administrator, with some changed; null removes one.
pub fn claims(changes: &Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "roles": ["admin"], "iat": now, "exp": now + 3_600
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// A request with a token.
pub fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Puts a token on each call.
#[derive(Clone)]
pub struct Bearing(AsciiMetadataValue);

impl Bearing {
    pub fn new(token: &str) -> Self {
        Self(format!("Bearer {token}").parse().unwrap())
    }
}

impl Interceptor for Bearing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A client that is somebody.
pub type KnownClient = OrderServiceClient<InterceptedService<Channel, Bearing>>;

/// A client over this connection that is somebody.
pub fn known(channel: Channel, token: &str) -> KnownClient {
    OrderServiceClient::with_interceptor(channel, Bearing::new(token))
}

impl TestNode {
    /// A client that is somebody; all of them share one connection.
    pub fn client_of(&self, token: &str) -> KnownClient {
        known(self.channel(), token)
    }
}
