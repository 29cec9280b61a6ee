//! Values with a form of their own: durations, addresses and URLs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rust_decimal::Decimal;

use super::postgres::PostgresUrl;
use super::sections::{CollaboratorUrl, SimulatorJournal, StoreUrl, UnsafeSetting};
use crate::domain::money::{Currency, parse_amount};

/// Reads a duration: a whole number with a unit (`250ms`, `5s`, `2m`, `1h`), or a bare number of milliseconds.
///
/// # Errors
/// Half a sentence that shows how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let factor: u64 = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("is not a duration; write it like 250ms, 5s, 2m or 1h".to_owned()),
    };
    digits
        .trim_end()
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| "is not a duration; write it like 250ms, 5s, 2m or 1h".to_owned())
}

/// A duration as it would be written in a file.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis.checked_div(factor).unwrap_or_default());
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

/// Reads `store.url`.
pub(super) fn store_url(text: &str) -> Result<StoreUrl, String> {
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return PostgresUrl::parse(text).map(StoreUrl::Postgres);
    }
    let path = text.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        Some(path) if !path.is_empty() && !path.starts_with(':') => Ok(StoreUrl::Sqlite(PathBuf::from(path))),
        _ => Err("is not the URL of a store; write it like sqlite:./data/orders.db or \
                  postgres://USER@HOST:5432/DATABASE"
            .to_owned()),
    }
}

/// Reads `store.application_name`.
pub(super) fn application_name(text: &str) -> Result<String, String> {
    // The server cuts longer ones and replaces other characters.
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_printable && (1..=63).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err("is not a name that Postgres shows; use 1 to 63 printable ASCII characters".to_owned())
}

/// Reads `store.allow_unsafe`.
pub(super) fn allow_unsafe(text: &str) -> Result<BTreeSet<UnsafeSetting>, String> {
    if text.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    let known = |name: &str| UnsafeSetting::ALL.into_iter().find(|setting| setting.name() == name);
    text.split(',').map(|name| known(name.trim())).collect::<Option<_>>().ok_or_else(|| {
        let names = UnsafeSetting::ALL.map(UnsafeSetting::name).join(", ");
        format!("is not a list of server settings; use {names} with commas between, or \"\" for none")
    })
}

/// Reads `risk.hold_from_amount`.
pub(super) fn amounts(text: &str) -> Result<Vec<(Currency, Decimal)>, String> {
    const FORM: &str =
        "is not a list of amounts; write it like \"1000.00 USD, 900.00 EUR\", or \"\" for none";
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut amounts: Vec<(Currency, Decimal)> = Vec::new();
    for one in text.split(',') {
        let (amount, code) = one.trim().split_once(' ').ok_or_else(|| FORM.to_owned())?;
        let currency = Currency::from_code(code.trim()).ok_or_else(|| FORM.to_owned())?;
        let amount = parse_amount(amount, currency).map_err(|_| FORM.to_owned())?;
        if amount < Decimal::ZERO || amounts.iter().any(|(other, _)| *other == currency) {
            return Err("has a negative amount or two of one currency; name each currency once".to_owned());
        }
        amounts.push((currency, amount));
    }
    Ok(amounts)
}

/// Reads the URL of a collaborator.
pub(super) fn collaborator_url(text: &str) -> Result<CollaboratorUrl, String> {
    const FORM: &str = "is not the URL of a collaborator; write sim:, http://HOST:PORT or https://HOST:PORT";
    if text == "sim:" {
        return Ok(CollaboratorUrl::Simulated);
    }
    let uri: http::Uri = text.parse().map_err(|_| FORM.to_owned())?;
    let authority = uri.authority().ok_or_else(|| FORM.to_owned())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
        return Err(FORM.to_owned());
    }
    if authority.as_str().contains('@') {
        return Err("holds a user or password, which would not be used; leave it out".to_owned());
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("holds a path, which gRPC does not use; leave it out".to_owned());
    }
    Ok(CollaboratorUrl::Grpc(text.trim_end_matches('/').to_owned()))
}

/// Reads `simulator.journal`.
pub(super) fn simulator_journal(text: &str) -> Result<SimulatorJournal, String> {
    match text {
        "auto" => Ok(SimulatorJournal::Auto),
        "" => Ok(SimulatorJournal::None),
        path if path.trim() == path && !path.ends_with('/') => {
            Ok(SimulatorJournal::File(PathBuf::from(path)))
        }
        _ => {
            Err("is not the path of a file; write auto, a path like ./data/simulator.jsonl, or \"\" for none"
                .to_owned())
        }
    }
}

/// Reads `HOST:PORT`.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    let valid = text
        .parse::<http::uri::Authority>()
        .is_ok_and(|authority| authority.port_u16().is_some_and(|port| port > 0) && !text.contains('@'));
    if valid { Ok(text.to_owned()) } else { Err("is not HOST:PORT; write it like orders-1:50052".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("7", 7), (" 0s ", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5 days", "1.5s", "-1s", "5S", "99999999999999999999h", "18446744073709551615h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["250ms", "5s", "2m", "1h", "90s", "0s", "720h"] {
            assert_eq!(parse_duration(text).map(show_duration), Ok(text.to_owned()));
        }
    }

    #[test]
    fn urls() {
        assert_eq!(store_url("sqlite:a/b.db"), Ok(StoreUrl::Sqlite("a/b.db".into())));
        assert_eq!(store_url("sqlite:///a.db"), Ok(StoreUrl::Sqlite("/a.db".into())));
        assert!(matches!(store_url("postgres://u:p@h/db"), Ok(StoreUrl::Postgres(_))));
        assert!(matches!(store_url("postgresql://h/db"), Ok(StoreUrl::Postgres(_))));
        for bad in ["", "sqlite:", "sqlite::memory:", "a.db", "postgres:db", "postgres://h", "mysql://h"] {
            assert!(store_url(bad).is_err(), "{bad}");
        }
        assert_eq!(collaborator_url("sim:"), Ok(CollaboratorUrl::Simulated));
        assert_eq!(collaborator_url("http://h:1/"), Ok(CollaboratorUrl::Grpc("http://h:1".into())));
        for bad in ["", "sim", "h:1", "ftp://h", "http://u:p@h:1", "http://h/p", "http://", "http://h?x"] {
            assert!(collaborator_url(bad).is_err(), "{bad}");
        }
        assert!(host_port("orders-1:50052").is_ok() && host_port("[::1]:1").is_ok());
        for bad in ["h", "h:0", "h:x", "u@h:1", "http://h:1"] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_from_which_on_an_order_is_held() {
        let of =
            |text: &str, code: &str| (Currency::from_code(code).unwrap(), text.parse::<Decimal>().unwrap());
        assert_eq!(amounts(" "), Ok(Vec::new()));
        assert_eq!(amounts("1000.00 USD,90000 JPY"), Ok(vec![of("1000.00", "USD"), of("90000", "JPY")]));
        for bad in
            ["1000", "USD", "1000 usd", "1,5 EUR", "-1 USD", "1 USD, 2 USD", "1.001 USD", "1 XAU", "1 USD,"]
        {
            assert!(amounts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_accepted_although_unsafe() {
        assert_eq!(allow_unsafe(" "), Ok(BTreeSet::new()));
        assert_eq!(
            allow_unsafe("synchronous_commit, fsync,fsync"),
            Ok(BTreeSet::from([UnsafeSetting::Fsync, UnsafeSetting::SynchronousCommit]))
        );
        for bad in ["fsync,", "all", "FSYNC", "fsync full_page_writes"] {
            assert!(allow_unsafe(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_postgres_shows() {
        let (longest, longer) = ("n".repeat(63), "n".repeat(64));
        for good in ["o", "order-service @ node 1", &longest] {
            assert_eq!(application_name(good), Ok(good.to_owned()));
        }
        for bad in ["", "tab\t", "caf\u{e9}", &longer] {
            assert!(application_name(bad).is_err(), "{bad}");
        }
    }
}
