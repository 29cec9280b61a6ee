//! How values are shown: secrets and passwords never are.

use super::load::Scalar;

/// Keys whose values are secrets.
const SECRETS: [&str; 1] = ["ids.key"];

/// Parts of a key's last name that make us hide the value even when we do not know the key.
const TELLING: [&str; 5] = ["key", "secret", "password", "token", "credential"];

/// Parameters of a URL that hold secrets.
const SECRET_PARAMETERS: [&str; 5] = ["password", "passwd", "secret", "token", "key"];

/// Whether the value of `key` is never shown: a secret, or an unknown key that sounds like one.
pub(super) fn hides(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or_default();
    // The number of metadata keys is no secret.
    SECRETS.contains(&key)
        || (key != "limits.metadata_keys" && TELLING.iter().any(|telling| name.contains(telling)))
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

/// Text with the password of a URL, if it is one, replaced by `***`.
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    // The last @ counts: an unescaped one may stand in the password.
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:***@{host}"),
            None => format!("***@{host}"),
        },
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        None => format!("{scheme}://{rest}"),
        Some((path, query)) => {
            let parameters: Vec<String> = query.split('&').map(masked_parameter).collect();
            format!("{scheme}://{path}?{}", parameters.join("&"))
        }
    }
}

fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _))
            if SECRET_PARAMETERS.iter().any(|secret| name.to_ascii_lowercase().contains(secret)) =>
        {
            format!("{name}=***")
        }
        _ => parameter.to_owned(),
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
            ("https://token@host", "https://***@host"),
            ("postgres://db/x?user=a&password=b", "postgres://db/x?user=a&password=***"),
            ("http://payment:80", "http://payment:80"),
        ] {
            assert_eq!(masked(given), expected);
        }
    }

    #[test]
    fn keys_that_sound_secret_are_hidden() {
        assert!(hides("ids.key") && hides("ids.kye_token") && hides("store.password"));
        assert!(!hides("limits.metadata_keys") && !hides("store.url"));
    }
}
