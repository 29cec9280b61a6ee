//! What a token says, checked. Pure: the time is an argument.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::Refused;
use crate::domain::Timestamp;
use crate::domain::access::{Caller, Role};
use crate::domain::ids::UserId;
use crate::domain::text::{clean, contains_card_number};

/// Longest name of a principal, in characters.
const PRINCIPAL_CHARS: usize = 200;
/// Times further off than this are no times, in seconds since 1970: the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// By what the tokens of an issuer are checked.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) user_claim: String,
    pub(super) max_age: Option<Duration>,
    pub(super) leeway: Duration,
}

/// What a good token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verified {
    pub(super) caller: Caller,
    /// The last second at which it is good, leeway included, since 1970.
    pub(super) until: i64,
}

/// Checks the claims of a token whose signature is good.
pub(super) fn check(claims: &Map<String, Value>, rules: &Rules, now: Timestamp) -> Result<Verified, Refused> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(rules.issuer.as_str()) {
        return Err(Refused::Token("the token's issuer (iss) is none that this service trusts"));
    }
    let audience = rules.audience.as_str();
    let is_ours = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    };
    if !is_ours {
        return Err(Refused::Token("the token is not meant for this service (aud)"));
    }
    let until = lifetime(claims, rules, now.timestamp())?;
    let principal = text("sub").ok_or(Refused::Token("the token does not say for whom it is (sub)"))?;
    let caller = Caller {
        principal: principal_of(principal)?,
        roles: roles_of(claims.get("roles"))?,
        user: text(&rules.user_claim).and_then(|user| Uuid::try_parse(user).ok()).map(UserId),
        reason: None,
        until: Timestamp::from_timestamp(until, 0),
    };
    Ok(Verified { caller, until })
}

/// The last second at which the token is good; refused when that is over or it is not good yet.
fn lifetime(claims: &Map<String, Value>, rules: &Rules, now: i64) -> Result<i64, Refused> {
    let leeway = seconds(rules.leeway);
    let expires = second(claims, "exp")?;
    let expires = expires.ok_or(Refused::Token("the token does not say when it ends (exp)"))?;
    let mut until = expires.saturating_add(leeway);
    if now >= until {
        return Err(Refused::Token("the token has expired (exp); get a new one"));
    }
    let soonest = now.saturating_add(leeway);
    if second(claims, "nbf")?.is_some_and(|from| from > soonest) {
        return Err(Refused::Token("the token is not good yet (nbf)"));
    }
    let issued = second(claims, "iat")?;
    if issued.is_some_and(|issued| issued > soonest) {
        return Err(Refused::Token("the token was issued in the future (iat)"));
    }
    if let Some(max_age) = rules.max_age {
        let issued = issued.ok_or(Refused::Token("the token does not say when it was issued (iat)"))?;
        let last = issued.saturating_add(seconds(max_age)).saturating_add(leeway);
        if now >= last {
            return Err(Refused::Token("the token is too old (iat); get a new one"));
        }
        until = until.min(last);
    }
    Ok(until)
}

/// A time in seconds since 1970, its fraction cut.
fn second(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let second = value.as_i64().or_else(|| {
        let whole = value.as_f64()?.trunc();
        // In this range the conversion is exact.
        (0.0..=LAST_SECOND as f64).contains(&whole).then_some(whole as i64)
    });
    match second {
        Some(second) if (0..=LAST_SECOND).contains(&second) => Ok(Some(second)),
        _ => Err(Refused::Token("a time of the token (exp, nbf, iat) is no number of seconds since 1970")),
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(LAST_SECOND)
}

fn principal_of(text: &str) -> Result<Arc<str>, Refused> {
    let fits = !text.is_empty()
        && text.chars().count() <= PRINCIPAL_CHARS
        && clean(text).is_ok_and(|cleaned| cleaned == text);
    if !fits {
        return Err(Refused::Token("the token's sub is not a text of 1 to 200 characters without controls"));
    }
    // It is stored with what its owner does, where no card number may ever stand.
    if Uuid::try_parse(text).is_err() && contains_card_number(text) {
        return Err(Refused::Token("the token's sub holds a payment card number"));
    }
    Ok(Arc::from(text))
}

/// The roles we know, each once. Whoever has none is known, and may do nothing.
fn roles_of(value: Option<&Value>) -> Result<Arc<[Role]>, Refused> {
    let names = match value {
        None => return Ok(Arc::from([])),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(Refused::Token("the token's roles are no list of names")),
    };
    let mut roles: Vec<Role> = names.iter().filter_map(|name| Role::parse(name.as_str()?)).collect();
    roles.sort_unstable();
    roles.dedup();
    Ok(Arc::from(roles))
}
