//! `token`: mint a token for development keys.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::order::duration;
use super::{ConfigFiles, Failure, load_config, tell};
use crate::app::{self, TokenWish};
use crate::domain::access::Role;

/// Longest life of a token: what `auth.max_age` takes by default.
const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Args, Debug)]
#[command(after_help = "\
The keys are made once, beside the store's file: development-signing-key.pem, which only you can read, and
development-public-key.pem, by which a node takes the tokens.

Examples:
  order-service token --print-config > jwt.yaml
  order-service serve --config jwt.yaml
  export ORDER_TOKEN=$(order-service token --role admin --sub ada)
  order-service order list
  order-service token --role customer --user 123e4567-e89b-12d3-a456-426614174000 --ttl 15m")]
pub(super) struct TokenArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// What the caller is: customer, support, warehouse, finance, service or admin; may be repeated.
    #[arg(long = "role", value_name = "ROLE", value_parser = role, default_value = "customer")]
    roles: Vec<String>,
    /// The user whose orders are the caller's own.
    #[arg(long, value_name = "UUID")]
    user: Option<Uuid>,
    /// Name of the principal, as it stands in events; the default is the user, else developer.
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// How long the token is good for, at most 24h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    ttl: Duration,
    /// The folder of the keys; the default is that of the store's file.
    #[arg(long, value_name = "FOLDER")]
    keys: Option<PathBuf>,
    /// Print the configuration of a node that takes these tokens, instead of a token.
    #[arg(long)]
    print_config: bool,
}

pub(super) fn run(files: &ConfigFiles, arguments: TokenArgs) -> Result<(), Failure> {
    let config = load_config(files)?;
    let wish = TokenWish {
        folder: arguments.keys,
        subject: arguments.sub,
        roles: arguments.roles,
        user: arguments.user.map(|user| user.to_string()),
        lifetime: arguments.ttl,
    };
    let made =
        app::development_token(&config, wish).map_err(|error| Failure::Sentence(format!("{error:#}")))?;
    if made.is_new {
        let file = made.public_file.display();
        tell(&format!(
            "keys for development were made; a node takes their tokens with auth.keys_file {file}"
        ));
    }
    let mut out = io::stdout().lock();
    match arguments.print_config {
        true => write!(out, "{}", made.settings)?,
        false => writeln!(out, "{}", made.token)?,
    }
    Ok(out.flush()?)
}

fn role(text: &str) -> Result<String, String> {
    Role::parse(text).map(|role| role.name().to_owned()).ok_or_else(|| {
        let names: Vec<&str> = Role::ALL.into_iter().map(Role::name).collect();
        format!("no role; use {}", names.join(", "))
    })
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        long if long > LONGEST => Err("too long; give it at most 24h".to_owned()),
        short if short.as_secs() == 0 => Err("too short; give it at least 1s".to_owned()),
        lifetime => Ok(lifetime),
    }
}
