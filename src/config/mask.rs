//! How values are shown: secrets and passwords never are.

use super::load::Scalar;

/// Keys whose values are secrets.
const SECRETS: [&str; 5] =
    ["ids.key", "auth.secret", "privacy.kek", "privacy.old_keks", "privacy.export_secret"];

/// Parts of a key's last name that make us hide the value even when we do not know the key.
const TELLING: [&str; 5] = ["key", "secret", "password", "token", "credential"];

/// Keys that sound secret and are not: a number, and the path of public keys.
const HARMLESS: [&str; 2] = ["limits.metadata_keys", "auth.keys_file"];

/// Parameters of a URL whose values may be shown; a parameter that we do not know may hold a secret.
const HARMLESS_PARAMETERS: [&str; 9] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "port",
    "sslcert",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Whether the value of `key` is never shown: a secret, or an unknown key that sounds like one.
pub(super) fn hides(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or_default();
    SECRETS.contains(&key)
        || (!HARMLESS.contains(&key) && TELLING.iter().any(|telling| name.contains(telling)))
}

/// A value as it may be shown to anybody.
pub(super) fn shown(key: &str, value: &Scalar) -> String {
    if hides(key) {
        return "***".to_owned();
    }
    match value {
        Scalar::Flag(flag) => flag.to_string(),
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => format!("{:?}", masked(text)),
    }
}

/// Text with the passwords of a URL, if it is one or was meant to be one, replaced by `***`.
pub(super) fn masked(text: &str) -> String {
    if text.starts_with("sqlite:") {
        return text.to_owned();
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return masked_loose(text);
    };
    let rest = match rest.split_once('?') {
        // Either the ? stands unescaped in one password or the @ in another: nothing says where which ends.
        Some((_, query)) if query.contains('@') => return format!("{scheme}://***"),
        Some((place, query)) => {
            let parameters: Vec<String> = query.split('&').map(masked_parameter).collect();
            format!("{place}?{}", parameters.join("&"))
        }
        None => rest.to_owned(),
    };
    // The last @ counts: an unescaped one may stand in the password.
    match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:***@{host}"),
            None => format!("{scheme}://***@{host}"),
        },
        None => format!("{scheme}://{}", without_false_port(&rest)),
    }
}

fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if HARMLESS_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, _)) => format!("{name}=***"),
        // The rest of a value that holds an &.
        None if !parameter.is_empty() => "***".to_owned(),
        None => String::new(),
    }
}

/// `HOST:PORT/…` whose port is a password when the @ behind it was forgotten.
fn without_false_port(rest: &str) -> String {
    let behind_address = rest.find(']').unwrap_or(0);
    let (address, behind) = rest.split_at(behind_address);
    let end = behind.find(['/', '?', '#']).unwrap_or(behind.len());
    let (server, path) = behind.split_at(end);
    match server.split_once(':') {
        Some((host, port)) if !port.bytes().all(|byte| byte.is_ascii_digit()) && !are_servers(server) => {
            format!("{address}{host}:***{path}")
        }
        _ => rest.to_owned(),
    }
}

/// Whether it is `HOST:PORT,HOST:PORT`: some servers of a cluster.
fn are_servers(text: &str) -> bool {
    text.split(',').all(|server| {
        let port = server.split_once(':').map_or("", |(_, port)| port);
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// What is no URL, but holds a password as a URL without `//` or a list of `password=…` would.
fn masked_loose(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let named = ["password", "passwd"].iter().filter_map(|name| {
        let start = lower.find(name)?;
        let value = lower.get(start..)?.find('=')?;
        text.get(..=start.checked_add(value)?)
    });
    // Up to the end: it may be quoted, with spaces in it.
    if let Some(before) = named.min_by_key(|before| before.len()) {
        return format!("{before}***");
    }
    match text.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((name, host)) => format!("{name}:***@{host}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (given, expected) in [
            ("sqlite:./data/a@b.db", "sqlite:./data/a@b.db"),
            ("postgres://user:pw@db/orders", "postgres://user:***@db/orders"),
            ("postgres://user:p@w/x@db/orders", "postgres://user:***@db/orders"),
            ("redis://:pw@cache", "redis://:***@cache"),
            ("redis+cluster://u:pw@h:1,i:2", "redis+cluster://u:***@h:1,i:2"),
            ("rediss+cluster://h:1,i:2", "rediss+cluster://h:1,i:2"),
            ("redis+cluster://u:pw,1/h:1", "redis+cluster://u:***/h:1"),
            ("https://token@host", "https://***@host"),
            ("postgres://db/x?user=a&password=b", "postgres://db/x?user=a&password=***"),
            (
                "postgres://u@h/d?p%61ssword=b&sslmode=require",
                "postgres://***@h/d?p%61ssword=***&sslmode=require",
            ),
            ("postgres://h:1/d?password=a@b", "postgres://***"),
            ("postgres://h/d?password=a&b", "postgres://h/d?password=***&***"),
            ("postgres://u:a@h/d?password=a&host=b@c", "postgres://***"),
            ("postgres://u:p?w@h/d", "postgres://***"),
            ("postgres://u:p?password=w@h/d", "postgres://***"),
            ("postgres://u:p#w@h/d", "postgres://u:***@h/d"),
            ("postgres://u:pw/d", "postgres://u:***/d"),
            ("postgres://u:pw", "postgres://u:***"),
            ("postgres://[::1]:5432/d", "postgres://[::1]:5432/d"),
            ("postgres:u:pw@h/d", "postgres:***@h/d"),
            ("u:pw@h/d", "u:***@h/d"),
            ("host=h password='p w' dbname=d", "host=h password=***"),
            ("sqlite:///data/a@b.db", "sqlite:///data/a@b.db"),
            ("http://payment:80", "http://payment:80"),
            ("info,order_service=debug", "info,order_service=debug"),
            ("[::1]:50051", "[::1]:50051"),
        ] {
            assert_eq!(masked(given), expected);
        }
    }

    #[test]
    fn keys_that_sound_secret_are_hidden() {
        assert!(hides("ids.key") && hides("ids.kye_token") && hides("store.password"));
        assert!(hides("auth.secret") && !hides("auth.keys_file"));
        assert!(!hides("limits.metadata_keys") && !hides("store.url"));
    }
}
