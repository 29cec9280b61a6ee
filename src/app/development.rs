//! Tokens for development: what `order-service token` makes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::SystemClock;
use crate::auth::mint::{DEVELOPMENT_AUDIENCE, DEVELOPMENT_ISSUER, Said, development_keys};
use crate::config::{Config, Profile, StoreUrl};
use crate::ports::clock::Clock;

/// Where keys are kept when the store is not a file.
const FOLDER: &str = "./data";

/// For whom a token is wanted.
#[derive(Clone, Debug)]
pub struct TokenWish {
    /// Where the keys are; none = beside the store's file.
    pub folder: Option<PathBuf>,
    /// Name of the principal; none = the user, else `developer`.
    pub subject: Option<String>,
    /// Names of roles.
    pub roles: Vec<String>,
    /// The user that the caller is, if any.
    pub user: Option<String>,
    /// How long it is good for.
    pub lifetime: Duration,
}

/// A token for development, and how a node is told to take it.
pub struct DevelopmentToken {
    /// The token. It is a secret.
    pub token: String,
    /// Configuration of a node that takes it, in YAML.
    pub settings: String,
    /// The file of the public key.
    pub public_file: PathBuf,
    /// Whether the keys were made just now.
    pub is_new: bool,
}

/// Makes a token by the key pair for development, which is made first when there is none.
///
/// # Errors
/// In profile production, and when the keys can be neither read nor made.
pub fn development_token(config: &Config, wish: TokenWish) -> anyhow::Result<DevelopmentToken> {
    if config.profile == Profile::Production {
        bail!(
            "tokens for development are not made in profile production; get one from the issuer that is named in auth"
        );
    }
    let beside = match &config.store.url {
        StoreUrl::Sqlite(path) => path.parent().filter(|folder| !folder.as_os_str().is_empty()),
        StoreUrl::Postgres(_) => Some(Path::new(FOLDER)),
    };
    let folder = wish.folder.unwrap_or_else(|| beside.unwrap_or(Path::new(".")).to_owned());
    let keys = development_keys(&folder).map_err(|problem| anyhow!(problem))?;
    let subject = wish.subject.or_else(|| wish.user.clone()).unwrap_or_else(|| String::from("developer"));
    let said = Said {
        subject,
        roles: wish.roles,
        user: wish.user,
        issued: SystemClock.now().timestamp(),
        lifetime: i64::try_from(wish.lifetime.as_secs()).unwrap_or(i64::MAX),
    };
    let token = keys.signer.token(&said).map_err(|problem| anyhow!(problem))?;
    let public_file = std::path::absolute(&keys.public_file).unwrap_or(keys.public_file);
    let settings = format!(
        "auth:\n  mode: jwt\n  issuer: {DEVELOPMENT_ISSUER}\n  audience: {DEVELOPMENT_AUDIENCE}\n  algorithms: ES256\n  \
         keys_file: {:?}\n  user_claim: user\n",
        public_file.display().to_string()
    );
    Ok(DevelopmentToken { token, settings, public_file, is_new: keys.is_new })
}
